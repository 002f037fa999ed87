//! TCP connects to one address, and how they end.

use std::{
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use tokio::net::TcpStream;

use super::{
    findings::{Connect, End},
    option::retransmits,
    words::errno,
};

/// When a second connect is begun beside the first: it is by then that the kernel sends a SYN again. Two that end alike say
/// more than one, whose packet anybody can have lost; and they may take different ways.
const SECOND_AFTER: Duration = Duration::from_secs(1);

/// Connects once, or twice where the first takes long. What comes back with them is the first connection.
pub(super) async fn connect(to: SocketAddr, limit: Duration) -> (Vec<Connect>, Option<TcpStream>) {
    let first = once(to, limit);
    tokio::pin!(first);
    if let Ok((connect, stream)) = tokio::time::timeout(SECOND_AFTER, &mut first).await {
        return (vec![connect], stream);
    }
    // It has as long as is left for the first, so that both end by the limit.
    let second = once(to, limit.saturating_sub(SECOND_AFTER));
    let ((first, stream), (second, _)) = tokio::join!(first, second);
    (vec![first, second], stream)
}

async fn once(to: SocketAddr, limit: Duration) -> (Connect, Option<TcpStream>) {
    let start = Instant::now();
    let done = tokio::time::timeout(limit, TcpStream::connect(to)).await;
    let connect = |end, errno| Connect {
        end,
        errno,
        retransmits: None,
        time_us: micros(start),
    };
    match done {
        Ok(Ok(stream)) => {
            let connect = Connect {
                retransmits: retransmits(&stream),
                ..connect(End::Done, None)
            };
            (connect, Some(stream))
        }
        // The kernel gave up: nobody answered it either.
        Ok(Err(error)) if error.raw_os_error() == Some(libc::ETIMEDOUT) => {
            (connect(End::Silent, Some(errno(&error))), None)
        }
        Ok(Err(error)) => (connect(End::Failed, Some(errno(&error))), None),
        Err(_elapsed) => (connect(End::Silent, None), None),
    }
}

/// The time since then.
pub(super) fn micros(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX)
}

/// Whether the kernel makes IPv6 sockets.
pub(super) fn makes_ipv6_sockets() -> bool {
    let made = std::net::UdpSocket::bind((std::net::Ipv6Addr::UNSPECIFIED, 0));
    !matches!(made, Err(error) if is_unsupported(&error))
}

fn is_unsupported(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EAFNOSUPPORT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_listener_is_connected_to_at_once_and_nobody_refuses() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap();
        let (connects, stream) = connect(to, Duration::from_secs(60)).await;
        assert!(stream.is_some());
        assert_eq!((connects[0].end, connects[0].retransmits), (End::Done, Some(0)));
        drop((stream, listener));
        let (connects, stream) = connect(to, Duration::from_secs(60)).await;
        assert!(stream.is_none());
        assert_eq!(
            (connects[0].end, connects[0].errno.as_deref()),
            (End::Failed, Some("ECONNREFUSED"))
        );
    }
}
