//! Socket options that no library wraps: numbers in, numbers out.

use std::{
    io, mem,
    os::fd::{AsFd, AsRawFd as _},
};

/// What the kernel knows of the longest packet on the way of a connected socket.
pub(super) fn path_mtu(socket: &impl AsFd, is_ipv6: bool) -> Option<u32> {
    let (level, option) = if is_ipv6 {
        (libc::IPPROTO_IPV6, libc::IPV6_MTU)
    } else {
        (libc::IPPROTO_IP, libc::IP_MTU)
    };
    let mut mtu: libc::c_int = 0;
    let mut length = libc::socklen_t::try_from(size_of_val(&mtu)).ok()?;
    // SAFETY: the kernel writes at most `length` octets to `mtu`, which has that many, and both outlive the call.
    let done = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            option,
            (&raw mut mtu).cast(),
            &raw mut length,
        )
    };
    (done == 0).then(|| u32::try_from(mtu).ok()).flatten()
}

/// How often the kernel has sent something again on a connection. On one that has just come about, that was the SYN.
pub(super) fn retransmits(socket: &impl AsFd) -> Option<u32> {
    // SAFETY: the structure is made of integers, for which zeroes are values.
    let mut info: libc::tcp_info = unsafe { mem::zeroed() };
    let mut length = libc::socklen_t::try_from(size_of_val(&info)).ok()?;
    // SAFETY: the kernel writes at most `length` octets to `info`, which has that many, and both outlive the call.
    let done = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut length,
        )
    };
    (done == 0).then_some(info.tcpi_total_retrans)
}

/// Sets a number at the level of IPv6.
pub(super) fn set_ipv6(socket: &impl AsFd, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of_val(&value)).map_err(io::Error::other)?;
    // SAFETY: the kernel reads `length` octets of `value`, which has that many and outlives the call.
    let done = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_IPV6,
            option,
            (&raw const value).cast(),
            length,
        )
    };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use super::*;

    #[test]
    fn what_is_not_connected_has_no_way_and_what_is_has_sent_nothing_again() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        assert_eq!(path_mtu(&socket, false), None);
        socket.connect(socket.local_addr().unwrap()).unwrap();
        assert!(path_mtu(&socket, false).unwrap() >= 1280);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert_eq!(retransmits(&stream), Some(0));
        assert_eq!(retransmits(&socket), None);
        assert!(set_ipv6(&socket, -1, 1).is_err());
    }
}
