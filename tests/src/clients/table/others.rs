//! All clients but Node's.

use super::{
    Answer::{Line, Said},
    Client,
    Family::{CAres, Curl, Dig, Git, Go, Java, Libpq, Musl, Python, Redis, Rust, Ssh, Wget},
    Reject::TriesNext,
    Service::{Dns, Http, Https, Postgres, Redis as RedisServer, Smtp, Ssh as SshServer},
};

/// What the address is asked by that a PostgreSQL server was reached at.
const ASK: &str = "select host(inet_server_addr())";

/// The Java clients' own classes and the driver's.
const CLASSES: &str = "{java}:/usr/share/java/postgresql.jar";
/// A JVM that starts quickly: it is for one connect.
const QUICK: &str = "-XX:TieredStopAtLevel=1";
const SERIAL: &str = "-XX:+UseSerialGC";
/// The order that the C library gives.
const SYSTEM_ORDER: &str = "-Djava.net.preferIPv6Addresses=system";
const IPV6_FIRST: &str = "-Djava.net.preferIPv6Addresses=true";

pub(super) const CLIENTS: [Client; 35] = [
    Client::new(
        Curl,
        "curl",
        Http,
        &[
            "curl",
            "-q",
            "-sS",
            "--noproxy",
            "*",
            "-w",
            "%{time_total}e3",
            "http://{authority}/",
        ],
    )
    .rejected(TriesNext)
    .contained(),
    // A minute late is not at all.
    Client::new(
        Curl,
        "curl, happy eyeballs off",
        Http,
        &[
            "curl",
            "-q",
            "-sS",
            "--noproxy",
            "*",
            "--happy-eyeballs-timeout-ms",
            "60000",
            "-w",
            "%{time_total}e3",
            "http://{authority}/",
        ],
    )
    .rejected(TriesNext)
    .contained()
    .stands(),
    Client::new(
        Wget,
        "wget",
        Http,
        &["wget", "--no-config", "-q", "-O", "-", "http://{authority}/"],
    )
    .says(Said)
    .rejected(TriesNext)
    .stands(),
    Client::new(
        Git,
        "git, https",
        Https,
        &[
            "git",
            "-c",
            "http.sslCAInfo={ca}",
            "ls-remote",
            "https://{url-host}/repository",
        ],
    )
    .says(Said)
    .rejected(TriesNext)
    .stands(),
    Client::new(
        Ssh,
        "ssh",
        SshServer,
        &[
            "ssh",
            "-F",
            "none",
            "-v",
            "-o",
            "BatchMode=yes",
            "-o",
            "StrictHostKeyChecking=no",
            "-o",
            "UserKnownHostsFile=/dev/null",
            "nobody@{host}",
            "true",
        ],
    )
    .says(Line("remote software version"))
    .rejected(TriesNext)
    .stands(),
    Client::new(
        Libpq,
        "psql",
        Postgres,
        &[
            "psql",
            "-X",
            "-At",
            "-c",
            ASK,
            "postgresql://app@{authority}/postgres",
        ],
    )
    .says(Said)
    .rejected(TriesNext)
    .stands(),
    Client::new(Libpq, "libpq", Postgres, &["{c}/libpq", "{host}", "{port}"])
        .rejected(TriesNext)
        .contained(),
    Client::new(
        Redis,
        "redis-cli",
        RedisServer,
        &["redis-cli", "-h", "{host}", "-p", "{port}", "CLIENT", "INFO"],
    )
    .says(Said)
    // hiredis asks for IPv4 first, and for IPv6 where there is none.
    .ipv4_first()
    .rejected(TriesNext)
    .stands(),
    Client::new(
        Dig,
        "dig, UDP",
        Dns,
        &["dig", "@{host}", super::super::services::QUESTION, "A"],
    )
    .says(Said)
    .rejected(TriesNext)
    .unmovable("binds its socket to IPv6 alone (`IPV6_V6ONLY`), and the kernel moves no such socket to IPv4")
    .stands(),
    Client::new(
        Python,
        "Python socket",
        Http,
        &["{python}", "{sources}/python/by_socket.py", "{host}", "{port}"],
    )
    .rejected(TriesNext)
    .contained()
    .stands(),
    Client::new(
        Python,
        "Python urllib",
        Http,
        &["{python}", "{sources}/python/by_urllib.py", "{host}", "{port}"],
    )
    .rejected(TriesNext),
    Client::new(
        Python,
        "requests",
        Https,
        &[
            "{python}",
            "{sources}/python/by_requests.py",
            "{host}",
            "{port}",
            "{ca}",
        ],
    )
    .rejected(TriesNext),
    Client::new(
        Python,
        "aiohttp",
        Http,
        &[
            "{python}",
            "{sources}/python/by_aiohttp.py",
            "{host}",
            "{port}",
            "threads",
        ],
    )
    .rejected(TriesNext),
    Client::new(
        Python,
        "aiohttp, aiodns (c-ares)",
        Http,
        &[
            "{python}",
            "{sources}/python/by_aiohttp.py",
            "{host}",
            "{port}",
            "c-ares",
        ],
    )
    .rejected(TriesNext),
    Client::new(
        Python,
        "psycopg",
        Postgres,
        &["{python}", "{sources}/python/by_psycopg.py", "{host}", "{port}"],
    )
    .rejected(TriesNext),
    Client::new(
        Python,
        "asyncpg",
        Postgres,
        &["{python}", "{sources}/python/by_asyncpg.py", "{host}", "{port}"],
    )
    .rejected(TriesNext),
    Client::new(
        Python,
        "redis-py",
        RedisServer,
        &["{python}", "{sources}/python/by_redis.py", "{host}", "{port}"],
    )
    .rejected(TriesNext),
    Client::new(
        Python,
        "smtplib",
        Smtp,
        &["{python}", "{sources}/python/by_smtplib.py", "{host}", "{port}"],
    )
    .rejected(TriesNext),
    // The JVM's own order is IPv4 first.
    Client::new(
        Java,
        "Java Socket",
        Http,
        &[
            "java", QUICK, SERIAL, "-cp", CLASSES, "BySocket", "{host}", "{port}",
        ],
    )
    .ipv4_first(),
    Client::new(
        Java,
        "Java Socket, system order",
        Http,
        &[
            "java",
            QUICK,
            SERIAL,
            SYSTEM_ORDER,
            "-cp",
            CLASSES,
            "BySocket",
            "{host}",
            "{port}",
        ],
    )
    .stands(),
    Client::new(
        Java,
        "Java Socket, IPv6 first",
        Http,
        &[
            "java", QUICK, SERIAL, IPV6_FIRST, "-cp", CLASSES, "BySocket", "{host}", "{port}",
        ],
    )
    .rejected(super::Reject::FirstOnly(
        "takes the first address, and was told to put IPv6 there",
    )),
    Client::new(
        Java,
        "Java HttpClient",
        Http,
        &[
            "java",
            QUICK,
            SERIAL,
            "-cp",
            CLASSES,
            "ByHttpClient",
            "{host}",
            "{port}",
        ],
    )
    .ipv4_first()
    .not_pictured(),
    Client::new(
        Java,
        "Java HttpClient, system order",
        Http,
        &[
            "java",
            QUICK,
            SERIAL,
            SYSTEM_ORDER,
            "-cp",
            CLASSES,
            "ByHttpClient",
            "{host}",
            "{port}",
        ],
    ),
    Client::new(
        Java,
        "JDBC",
        Postgres,
        &[
            "java", QUICK, SERIAL, "-cp", CLASSES, "ByJdbc", "{host}", "{port}",
        ],
    )
    .ipv4_first()
    .not_pictured(),
    Client::new(
        Java,
        "JDBC, system order",
        Postgres,
        &[
            "java",
            QUICK,
            SERIAL,
            SYSTEM_ORDER,
            "-cp",
            CLASSES,
            "ByJdbc",
            "{host}",
            "{port}",
        ],
    ),
    Client::new(Go, "Go net", Http, &["{go}/client", "{host}", "{port}"])
        .with(&[("GODEBUG", "netdns=go")])
        .rejected(TriesNext),
    Client::new(
        Go,
        "Go net, one after the other",
        Http,
        &["{go}/client", "{host}", "{port}", "sequential"],
    )
    .with(&[("GODEBUG", "netdns=go")])
    .rejected(TriesNext)
    .stands(),
    Client::new(
        Go,
        "Go net, C library's resolver",
        Http,
        &["{go}/client", "{host}", "{port}", "sequential"],
    )
    .with(&[("GODEBUG", "netdns=cgo")])
    .rejected(TriesNext),
    Client::new(Rust, "Rust std", Http, &["{rust}", "std", "{host}", "{port}"])
        .rejected(TriesNext)
        .stands(),
    Client::new(Rust, "tokio", Http, &["{rust}", "tokio", "{host}", "{port}"]).rejected(TriesNext),
    Client::new(Rust, "hyper", Http, &["{rust}", "hyper", "{url-host}", "{port}"]).rejected(TriesNext),
    Client::new(
        Rust,
        "reqwest",
        Https,
        &["{rust}", "reqwest", "{url-host}", "{port}", "{ca}"],
    )
    .rejected(TriesNext),
    Client::new(Musl, "musl", Http, &["{c}/musl", "{host}", "{port}"])
        .rejected(TriesNext)
        .contained()
        .stands(),
    Client::new(CAres, "c-ares", Http, &["{c}/cares", "{host}", "{port}"])
        .rejected(TriesNext)
        .stands(),
    Client::new(
        CAres,
        "c-ares, first answer only",
        Http,
        &["{c}/cares", "{host}", "{port}", "first"],
    ),
];
