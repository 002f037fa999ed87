//! The way to an address, as the kernel sees it without sending anything.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    time::Instant,
};

use futures_util::StreamExt as _;
use rtnetlink::{
    Handle, RouteMessageBuilder,
    packet_route::route::{RouteAddress, RouteAttribute, RouteType},
};
use rustix::net::{AddressFamily, SocketType, netdevice::index_to_name, socket};

use super::{connect::micros, findings::Way, option::path_mtu, words::errno};

/// Asks for a source address as C libraries do, and for the route.
pub(super) async fn way(to: SocketAddr, routes: Option<&Handle>) -> Way {
    let start = Instant::now();
    let mut way = Way::default();
    match source(to) {
        Ok((source, mtu)) => {
            way.source = Some(source);
            way.mtu = mtu;
        }
        Err(error) => way.errno = Some(errno(&error)),
    }
    if let Some(handle) = routes {
        route(to.ip(), handle, &mut way).await;
    }
    way.time_us = micros(start);
    way
}

/// The source address of a UDP socket that is connected there, and the longest packet that goes there.
pub(super) fn source(to: SocketAddr) -> io::Result<(IpAddr, Option<u32>)> {
    let from: IpAddr = match to {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((from, 0))?;
    socket.connect(to)?;
    let source = socket.local_addr()?.ip().to_canonical();
    Ok((source, path_mtu(&socket, to.is_ipv6() && source.is_ipv6())))
}

/// What the routing table says: `ip route get`.
async fn route(to: IpAddr, handle: &Handle, way: &mut Way) {
    let message = match to {
        IpAddr::V4(to) => RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(to, 32)
            .build(),
        IpAddr::V6(to) => RouteMessageBuilder::<Ipv6Addr>::new()
            .destination_prefix(to, 128)
            .build(),
    };
    let mut request = handle.route().get(message);
    // The builder fills in what a route to be added has.
    let header = &mut request.message_mut().header;
    *header = rtnetlink::packet_route::route::RouteHeader {
        address_family: header.address_family,
        destination_prefix_length: header.destination_prefix_length,
        ..Default::default()
    };
    let Some(Ok(found)) = request.execute().next().await else {
        // It says with an error what the socket said already.
        return;
    };
    way.dead_end = match found.header.kind {
        RouteType::BlackHole => Some("blackhole"),
        RouteType::Unreachable => Some("unreachable"),
        RouteType::Prohibit => Some("prohibit"),
        _ => None,
    }
    .map(str::to_owned);
    for attribute in found.attributes {
        match attribute {
            RouteAttribute::Gateway(RouteAddress::Inet(gateway)) => way.gateway = Some(gateway.into()),
            RouteAttribute::Gateway(RouteAddress::Inet6(gateway)) => way.gateway = Some(gateway.into()),
            RouteAttribute::Oif(index) => way.interface = interface(index),
            _ => {}
        }
    }
}

fn interface(index: u32) -> Option<String> {
    let socket = socket(AddressFamily::INET, SocketType::DGRAM, None).ok()?;
    index_to_name(&socket, index).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_way_to_loopback_is_known_to_everybody() {
        let (connection, handle, _) = rtnetlink::new_connection().unwrap();
        let conversation = tokio::spawn(connection);
        let found = way("127.0.0.1:9".parse().unwrap(), Some(&handle)).await;
        assert_eq!(found.source, Some(Ipv4Addr::LOCALHOST.into()));
        assert_eq!(found.interface.as_deref(), Some("lo"), "{found:?}");
        assert!(found.mtu.is_some_and(|mtu| mtu >= 1280), "{found:?}");
        assert_eq!((found.gateway, found.errno), (None, None));
        conversation.abort();
    }
}
