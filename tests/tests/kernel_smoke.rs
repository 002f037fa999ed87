//! What every machine that runs these tests must have, guests included. When one of these fails, look there
//! before believing any other test.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    net::{Ipv6Addr, TcpListener, TcpStream},
    path::Path,
};

use enforcer_tests::need::{Need, need_given};

/// The mount points of that file system type.
fn mounted(file_system: &str) -> io::Result<Vec<String>> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    Ok(mounts
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace().skip(1);
            let place = words.next()?;
            (words.next()? == file_system).then(|| place.to_owned())
        })
        .collect())
}

#[test]
fn a_cgroup_can_be_made_in_the_v2_hierarchy() {
    let places = mounted("cgroup2").unwrap();
    let root = places.first().expect("no cgroup2 file system is mounted");
    let name = format!("enforcer-smoke-{}", std::process::id());
    let cgroup = Path::new(root).join(name);
    fs::create_dir(&cgroup).unwrap();
    let members = fs::read_to_string(cgroup.join("cgroup.procs"));
    fs::remove_dir(&cgroup).unwrap();
    assert_eq!(members.unwrap(), "");
}

#[test]
fn the_kernel_describes_its_types() {
    let btf = fs::read("/sys/kernel/btf/vmlinux").unwrap();
    // The magic number of include/uapi/linux/btf.h, in host byte order.
    assert_eq!(btf[..2], 0xeb9f_u16.to_ne_bytes());
}

#[test]
fn ipv6_connects_on_loopback() {
    let listener = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (mut server, peer) = listener.accept().unwrap();
    assert_eq!(peer, client.local_addr().unwrap());
    client.write_all(b"over IPv6").unwrap();
    drop(client);
    let mut received = String::new();
    server.read_to_string(&mut received).unwrap();
    assert_eq!(received, "over IPv6");
}

#[test]
fn a_guest_is_the_machine_that_init_promised() {
    let in_guest = std::env::var("ENFORCER_PLACE").as_deref() == Ok("vm");
    if !need_given("a_guest_is_the_machine_that_init_promised", Need::Guest, in_guest) {
        return;
    }
    assert_eq!(mounted("cgroup2").unwrap(), ["/sys/fs/cgroup"]);
    assert_eq!(mounted("bpf").unwrap(), ["/sys/fs/bpf"]);
    assert_eq!(mounted("tracefs").unwrap(), ["/sys/kernel/tracing"]);
    for variable in [
        "ENFORCER_BIN",
        "ENFORCER_LAB",
        "ENFORCER_TESTS_DIR",
        "ENFORCER_KERNEL",
        "ENFORCER_OUTCOMES",
    ] {
        let value = std::env::var(variable).unwrap();
        assert!(
            !value.starts_with('/') || Path::new(&value).exists(),
            "{variable}={value}"
        );
    }
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let line = std::env::var("ENFORCER_KERNEL").unwrap();
    assert!(
        release.starts_with(line.trim_end_matches('x')),
        "{release} is not of line {line}"
    );
}
