//! Workloads whose connects no program of this host's kernel sees, or sees in another cgroup: those that processes give
//! away, and in words those that nothing gives away.

use std::{collections::BTreeMap, fs, path::Path};

use super::report::{Item, Level};

/// Processes that are named, at most, for each row.
const MAX_LISTED: usize = 8;

/// What a process's name says about the workloads behind it.
struct Row {
    /// Beginnings of the name of the program, as the process was started.
    names: &'static [&'static str],
    kind: &'static str,
    name: &'static str,
    follows: &'static str,
}

const VM: &str = "the guest's connects are made by the guest's own kernel: run enforcer in it";
const PROXY: &str = "what reaches it is connected again by the proxy, in the proxy's own cgroup: govern that one, or \
                     have the proxy prefer IPv4; the application only ever connects to the proxy";

const ROWS: &[Row] = &[
    Row {
        names: &["runsc", "containerd-shim-runsc"],
        kind: "gvisor",
        name: "gVisor sandboxes",
        follows: "their sockets are gVisor's own, and its network stack sends packets without connect(2): the programs \
                  never run for them (except with --network=host)",
    },
    Row {
        names: &["containerd-shim-kata", "kata-runtime", "kata-shim"],
        kind: "kata",
        name: "Kata containers",
        follows: "each is a virtual machine: the guest's kernel makes the connects, out of reach from here",
    },
    Row {
        names: &[
            "qemu-system-",
            "qemu-kvm",
            "kvm",
            "firecracker",
            "cloud-hypervisor",
            "crosvm",
            "VBoxHeadless",
            "vmware-vmx",
        ],
        kind: "vm",
        name: "virtual machines",
        follows: VM,
    },
    Row {
        names: &["envoy", "pilot-agent", "linkerd2-proxy", "ztunnel"],
        kind: "service-mesh",
        name: "service mesh proxies",
        follows: PROXY,
    },
    Row {
        names: &["docker-proxy", "rootlesskit", "rootlessport"],
        kind: "engine-proxy",
        name: "proxies of container engines",
        follows: "for ports that containers publish, the engine's proxy connects to the container, in the engine's \
                  cgroup; connects that containers make are judged as always",
    },
    Row {
        names: &[
            "haproxy",
            "squid",
            "tinyproxy",
            "privoxy",
            "cloud-sql-proxy",
            "cloud_sql_proxy",
            "pgbouncer",
        ],
        kind: "proxy",
        name: "forward proxies and poolers",
        follows: PROXY,
    },
];

const UNSEEN: &str = "a proxy elsewhere (HTTPS_PROXY, a sidecar in another pod) connects in its own name; sockets made \
                      outside a cgroup and used inside (socket activation, inherited or passed descriptors), raw \
                      sockets, SCTP, DCCP, UDP-Lite, and programs that send packets without the kernel's sockets (DPDK, \
                      AF_PACKET, AF_XDP, user-space VPNs) do not pass cgroup/connect6";

pub(super) fn examine() -> Vec<Item> {
    let mut found: BTreeMap<&'static str, Vec<String>> = BTreeMap::new();
    let mut looked = 0_u64;
    match fs::read_dir("/proc") {
        Ok(entries) => {
            for entry in entries.flatten() {
                let Some(pid) = entry
                    .file_name()
                    .to_str()
                    .and_then(|name| name.parse::<u32>().ok())
                else {
                    continue;
                };
                looked += 1;
                if let Some((row, name)) = recognised(&entry.path()) {
                    found.entry(row.kind).or_default().push(format!("{name}[{pid}]"));
                }
            }
        }
        Err(error) => {
            return vec![Item::unknown(
                "workloads",
                "workloads out of reach",
                format!("cannot list /proc: {error}"),
            )];
        }
    }
    let mut items: Vec<_> = ROWS
        .iter()
        .filter_map(|row| {
            let processes = found.remove(row.kind)?;
            Some(about(row, processes))
        })
        .collect();
    if items.is_empty() {
        items.push(
            Item::new(
                "workloads",
                "workloads out of reach",
                Level::Ok,
                format!("none recognised among {looked} processes"),
            )
            .number("processes", looked),
        );
    }
    items.push(
        Item::new(
            "workloads-unseen",
            "what cannot be recognised",
            Level::Ok,
            "not looked for",
        )
        .follows(UNSEEN),
    );
    items
}

fn about(row: &Row, processes: Vec<String>) -> Item {
    let shown = processes
        .iter()
        .take(MAX_LISTED)
        .cloned()
        .collect::<Vec<_>>()
        .join(", ");
    let more = processes.len().saturating_sub(MAX_LISTED);
    let state = match more {
        0 => shown,
        more => format!("{shown} and {more} more"),
    };
    Item::new("workload", row.name, Level::Note, state)
        .subject(row.kind)
        .follows(row.follows)
        .list("processes", processes)
}

/// The row of a process, and what it was started as.
fn recognised(folder: &Path) -> Option<(&'static Row, String)> {
    // The name of the thread is cut to 15 bytes and anyone's to choose; the first argument is what it was started as.
    // Kernel threads have none.
    let cmdline = fs::read(folder.join("cmdline")).ok()?;
    let first = cmdline.split(|byte| *byte == 0).next()?;
    let first = String::from_utf8_lossy(first);
    let name = first.rsplit('/').next()?;
    row_of(name).map(|row| (row, name.to_owned()))
}

fn row_of(name: &str) -> Option<&'static Row> {
    // `kvm` and `envoy` are whole names; what ends in a dash goes on.
    ROWS.iter().find(|row| {
        row.names.iter().any(|known| match name.strip_prefix(known) {
            Some("") => true,
            Some(rest) => known.ends_with('-') || rest.starts_with(['-', ' ', ':']),
            None => false,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_recognised_by_what_they_were_started_as() {
        for (name, kind) in [
            ("runsc-sandbox", Some("gvisor")),
            ("runsc", Some("gvisor")),
            ("containerd-shim-kata-v2", Some("kata")),
            ("qemu-system-x86_64", Some("vm")),
            ("kvm", Some("vm")),
            ("envoy", Some("service-mesh")),
            ("docker-proxy", Some("engine-proxy")),
            ("kvmtool-like", None),
            ("containerd-shim-runc-v2", None),
            ("bash", None),
        ] {
            assert_eq!(row_of(name).map(|row| row.kind), kind, "{name}");
        }
    }
}
