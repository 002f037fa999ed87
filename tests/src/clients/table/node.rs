//! Node's clients: each library with happy eyeballs (`autoSelectFamily`) on and off, and in the orders of addresses that
//! people set.

use super::{
    Client,
    Family::Node,
    Reject::{FirstOnly, TriesNext},
    Service::{Http, Postgres, Redis, WebSocket},
};

/// Where what is not Node's own is found.
const MODULES: &[(&str, &str)] = &[("NODE_PATH", "{node}/node_modules")];

/// The reason why a rejection does not help who is given IPv6 first whatever the kernel says.
const TOLD: &str = "takes the first address, and was told to put IPv6 there";

/// One library in four ways.
macro_rules! library {
    ($name:literal, $service:expr, $file:literal) => {
        [
            library!(@one $name, $service, $file, "on", "verbatim").rejected(TriesNext),
            library!(@one concat!($name, ", autoSelectFamily off"), $service, $file, "off", "verbatim"),
            library!(@one concat!($name, ", off, ipv4first"), $service, $file, "off", "ipv4first")
                .ipv4_first()
                .not_pictured(),
            library!(@one concat!($name, ", off, ipv6first"), $service, $file, "off", "ipv6first")
                .rejected(FirstOnly(TOLD))
                .not_pictured(),
        ]
    };
    (@one $name:expr, $service:expr, $file:literal, $selects:literal, $order:literal) => {
        Client::new(
            Node,
            $name,
            $service,
            &["node", concat!("{sources}/node/", $file), "{host}", "{port}", $selects, $order],
        )
        .with(MODULES)
    };
}

const NET: [Client; 4] = library!("Node net", Http, "by_net.js");
const FETCH: [Client; 4] = library!("Node fetch", Http, "by_fetch.js");
const PG: [Client; 4] = library!("pg", Postgres, "by_pg.js");
const SEQUELIZE: [Client; 4] = library!("Sequelize", Postgres, "by_sequelize.js");
const TYPEORM: [Client; 4] = library!("TypeORM", Postgres, "by_typeorm.js");
const WS: [Client; 4] = library!("ws", WebSocket, "by_ws.js");
const IOREDIS: [Client; 4] = library!("ioredis", Redis, "by_ioredis.js");

pub(super) const CLIENTS: [Client; 31] = [
    NET[0].contained(),
    NET[1].contained().stands(),
    NET[2],
    NET[3],
    library!(@one "Node net, on, ipv4first", Http, "by_net.js", "on", "ipv4first")
        .ipv4_first()
        .not_pictured(),
    library!(@one "Node net, on, ipv6first", Http, "by_net.js", "on", "ipv6first")
        .rejected(TriesNext)
        .not_pictured(),
    library!(@one "Node net, own lookup", Http, "by_own_lookup.js", "off", "verbatim").rejected(FirstOnly(
        "asks the nameserver by itself and takes the first answer: nobody asks the kernel",
    )),
    FETCH[0],
    FETCH[1],
    FETCH[2],
    FETCH[3],
    PG[0].contained(),
    PG[1].contained(),
    PG[2],
    PG[3],
    SEQUELIZE[0],
    SEQUELIZE[1],
    SEQUELIZE[2],
    SEQUELIZE[3],
    TYPEORM[0],
    TYPEORM[1],
    TYPEORM[2],
    TYPEORM[3],
    WS[0].contained(),
    WS[1].contained(),
    WS[2],
    WS[3],
    IOREDIS[0],
    IOREDIS[1],
    IOREDIS[2],
    IOREDIS[3],
];
