//! A target's own nameservers, asked from within: by a helper that reads the target's `resolv.conf` without leaving
//! its root, asks from its network namespace, and may do nothing else.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    ffi::CStr,
    fs, io,
    net::{IpAddr, Ipv4Addr, UdpSocket},
    os::unix::{
        fs::MetadataExt as _,
        process::{CommandExt as _, ExitStatusExt as _},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
};

use enforcer::names::{Change, Families, Follower, Note, Options, Request, Resolver};
use enforcer_tests::{
    cgroup::CgroupFixture,
    client::Client,
    deprive::{Deprivation, deprive},
    enforcer::Enforcer,
    lab::Nameserver,
    netns::NetnsFixture,
    place::Place,
    wait::{PATIENCE, eventually},
};
use rustix::{
    fs::{CWD, FileType, Mode, OFlags, mkdir, mknodat, open, symlink},
    mount::{MountFlags, MountPropagationFlags, mount, mount_change},
    process::{Pid, Signal},
    thread::{CapabilitySet, UnshareFlags, unshare_unsafe},
};
use tokio::{runtime, time::timeout};

const NAME: &str = "db.example";

/// Where containers of Docker's find their nameserver: nobody outside their network namespace reaches it.
const NAMESERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 11));
const RESOLV_CONF: &[u8] = b"nameserver 127.0.0.11\n";

/// What is at `/etc/resolv.conf` for a process.
#[derive(Clone, Copy, Debug)]
enum Etc {
    File,
    /// A link that says that.
    Link(&'static CStr),
    Pipe,
    Nothing,
    /// As long as that, in octets.
    Long(usize),
}

/// Gives the calling process a mount namespace of its own, with another `/etc`. Makes system calls only.
fn replace_etc(etc: Etc, padding: &[u8]) -> io::Result<()> {
    // SAFETY: after fork there is one thread, and only mounts and the working directory are unshared.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
    mount_change(c"/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    mount(
        c"tmpfs",
        c"/etc",
        c"tmpfs",
        MountFlags::empty(),
        Some(c"mode=755"),
    )?;
    let write = |path: &CStr, text: &[u8]| -> io::Result<()> {
        let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
        let file = open(path, flags, Mode::from_raw_mode(0o644))?;
        let mut left = text;
        while !left.is_empty() {
            left = &left[rustix::io::write(&file, left)?..];
        }
        Ok(())
    };
    mkdir(c"/etc/run", Mode::from_raw_mode(0o755))?;
    write(c"/etc/run/x", RESOLV_CONF)?;
    let path = c"/etc/resolv.conf";
    match etc {
        Etc::File => write(path, RESOLV_CONF),
        Etc::Link(target) => Ok(symlink(target, path)?),
        Etc::Pipe => Ok(mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o644), 0)?),
        Etc::Nothing => Ok(()),
        Etc::Long(length) => {
            write(path, RESOLV_CONF)?;
            let file = open(
                path,
                OFlags::WRONLY | OFlags::APPEND | OFlags::CLOEXEC,
                Mode::empty(),
            )?;
            let mut left = &padding[..length - RESOLV_CONF.len()];
            while !left.is_empty() {
                left = &left[rustix::io::write(&file, left)?..];
            }
            Ok(())
        }
    }
}

/// A workload with a network namespace, a cgroup and an `/etc` of its own.
struct Target {
    _client: Client,
    cgroup: CgroupFixture,
    netns: NetnsFixture,
}

impl Target {
    fn new(etc: Etc) -> Self {
        let netns = NetnsFixture::new().unwrap();
        let cgroup = CgroupFixture::new("names").unwrap();
        let mut command = Client::command(&Place::new(&cgroup, &netns)).unwrap();
        let padding = vec![b'#'; 128 << 10];
        // SAFETY: between fork and exec the closure makes system calls only.
        unsafe { command.pre_exec(move || replace_etc(etc, &padding)) };
        let client = Client::start_by(command).unwrap();
        Self {
            _client: client,
            cgroup,
            netns,
        }
    }

    fn nameserver(&self, records: &[(&str, &str)]) -> Nameserver {
        let records = records
            .iter()
            .map(|(name, address)| (*name, address.parse().unwrap()));
        Nameserver::start(&self.netns, NAMESERVER, records).unwrap()
    }

    /// Follows the name as this target and does that with it, in the network namespace of the test.
    fn follow(&self, allow_private: bool, work: impl AsyncFnOnce(&mut Follower)) {
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut follower = Follower::new(Options {
                // Read for nobody here.
                resolv_conf: PathBuf::from("/nowhere/resolv.conf"),
                hosts: PathBuf::from("/nowhere/hosts"),
                helper: Enforcer::program().unwrap(),
            });
            follower.set_target(7, vec![self.cgroup.path().to_owned()]);
            let request = Request {
                name: NAME.parse().unwrap(),
                families: Families::Both,
                resolver: Resolver::Target(7),
                allow_private,
            };
            follower.follow([request]).unwrap();
            work(&mut follower).await;
        });
    }

    /// What came of the first round: addresses, and notes.
    fn asked(&self, allow_private: bool) -> (Vec<String>, Vec<Note>) {
        let mut found = (Vec::new(), Vec::new());
        self.follow(allow_private, async |follower| {
            let change = change(follower).await;
            assert!(change.settled);
            let (_, answers) = follower.answers().next().unwrap();
            let aaaa = answers.aaaa.iter().map(|seen| seen.address.to_string());
            let a = answers.a.iter().map(|seen| seen.address.to_string());
            found = (aaaa.chain(a).collect(), change.notes);
        });
        found
    }

    fn why_not(&self) -> String {
        let (addresses, notes) = self.asked(false);
        assert!(addresses.is_empty(), "{addresses:?}");
        let why = |note: &Note| match note {
            Note::Failed { why, .. } => Some(why.clone()),
            _ => None,
        };
        notes.first().and_then(why).unwrap()
    }
}

async fn change(follower: &mut Follower) -> Change {
    timeout(PATIENCE, follower.changed()).await.unwrap()
}

#[test]
fn a_target_is_asked_from_its_network_namespace_whatever_links_lead_to_its_file() {
    for etc in [
        Etc::File,
        Etc::Link(c"../etc/run/x"),
        // Absolute: from the target's root. There is no such file in the test's.
        Etc::Link(c"/etc/run/x"),
        Etc::Link(c"../../../../../../etc/run/x"),
        Etc::Long(64 << 10),
    ] {
        let target = Target::new(etc);
        let nameserver = target.nameserver(&[(NAME, "2001:db8::1"), (NAME, "192.0.2.1")]);
        assert_eq!(
            target.asked(false),
            (vec!["2001:db8::1".to_owned(), "192.0.2.1".to_owned()], vec![]),
            "{etc:?}"
        );
        // Only sockets of that namespace reach a nameserver on its loopback interface.
        let asked = nameserver.asked();
        assert!(
            !asked.is_empty() && asked.iter().all(|asked| asked.from.ip().is_loopback()),
            "{asked:?}"
        );
    }
    assert!(
        !Path::new("/etc/run/x").exists(),
        "the test shows nothing on a machine that has this file"
    );
}

#[test]
fn what_is_no_short_regular_file_is_refused() {
    for (etc, expected) in [
        (Etc::Pipe, "not a regular file"),
        (Etc::Link(c"/etc/run"), "not a regular file"),
        (Etc::Link(c"/dev/null"), "not a regular file"),
        (Etc::Long(65 << 10), "longer than 65536 octets"),
        (Etc::Nothing, "No such file or directory (os error 2)"),
        // A link that leads to what is open in the one who follows it, wherever that is.
        (Etc::Link(c"/proc/self/fd/0"), "os error"),
    ] {
        let target = Target::new(etc);
        let _nameserver = target.nameserver(&[(NAME, "192.0.2.1")]);
        let why = target.why_not();
        assert!(
            why.starts_with("cannot read /etc/resolv.conf of process ") && why.contains(expected),
            "{etc:?}: {why}"
        );
    }
}

#[test]
fn a_target_may_not_point_into_the_host_unless_its_policy_says_so() {
    let target = Target::new(Etc::File);
    let private = [
        (NAME, "127.0.0.1"),
        (NAME, "169.254.169.254"),
        (NAME, "fd00:ec2::254"),
    ];
    let _nameserver = target.nameserver(&[private[0], private[1], private[2], (NAME, "10.0.0.1")]);
    let (addresses, notes) = target.asked(false);
    assert_eq!(addresses, ["10.0.0.1"]);
    assert_eq!(notes.len(), 3, "{notes:?}");
    assert!(notes.iter().all(|note| note.hint().is_some()), "{notes:?}");
    let (addresses, notes) = target.asked(true);
    assert_eq!(
        addresses,
        ["fd00:ec2::254", "10.0.0.1", "127.0.0.1", "169.254.169.254"]
    );
    assert_eq!(notes, []);
}

#[test]
fn a_target_without_a_process_cannot_be_asked() {
    let cgroup = CgroupFixture::new("names").unwrap();
    let target = Target::new(Etc::File);
    target.follow(false, async |follower| {
        follower.set_target(7, vec![cgroup.path().to_owned()]);
        let change = change(follower).await;
        assert!(
            matches!(&change.notes[..], [Note::Failed { why, .. }] if why == "the target has no process"),
            "{change:?}"
        );
    });
}

/// A line of `/proc/PID/status`.
fn status(pid: u32, key: &str) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    Some(line.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// A helper of the test's own, that waits for a nameserver which never answers. Killed on drop.
struct Helper(Child);

impl Helper {
    fn start(target: &Target) -> Self {
        let child = Command::new(Enforcer::program().unwrap())
            .args([
                "ask-inside",
                "--parent",
                &std::process::id().to_string(),
                "--cgroup",
            ])
            .arg(target.cgroup.path())
            .args(["--", NAME])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self(child)
    }

    /// Waits until it has asked its first question.
    fn wait_until_it_asks(&self, silent: &UdpSocket) {
        silent.set_read_timeout(Some(PATIENCE)).unwrap();
        silent.recv(&mut [0; 512]).unwrap();
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        let _ended_before = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_helper_that_asks_has_no_privilege_and_ends_with_who_started_it() {
    let target = Target::new(Etc::File);
    let silent = target
        .netns
        .run(|| Ok(UdpSocket::bind((NAMESERVER, 53))?))
        .unwrap();
    // A thread counts as the one who started it.
    let mut helper = thread::scope(|scope| {
        let start = || {
            let helper = Helper::start(&target);
            helper.wait_until_it_asks(&silent);
            let pid = helper.0.id();
            for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
                assert_eq!(status(pid, set).unwrap(), "0000000000000000", "{set}");
            }
            assert_eq!(status(pid, "NoNewPrivs").unwrap(), "1");
            assert_eq!(status(pid, "Uid").unwrap(), "65534 65534 65534 65534");
            assert_eq!(status(pid, "Gid").unwrap(), "65534 65534 65534 65534");
            assert_eq!(status(pid, "Groups").unwrap(), "");
            // What may not be traced or dumped has files in /proc that belong to root, whoever it runs as.
            let owner = fs::metadata(format!("/proc/{pid}/environ")).unwrap().uid();
            assert_eq!(owner, 0);
            let netns = |pid| fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
            let members = target.cgroup.processes().unwrap();
            assert_eq!(netns(pid), netns(members[0]));
            assert!(!members.contains(&pid), "it governs, and is not governed");
            helper
        };
        scope.spawn(start).join().unwrap()
    });
    let status = helper.0.wait().unwrap();
    assert_eq!(status.signal(), Some(Signal::KILL.as_raw()));
}

#[test]
fn a_helper_whose_parent_is_another_does_nothing() {
    let target = Target::new(Etc::File);
    let said = Command::new(Enforcer::program().unwrap())
        .args(["ask-inside", "--parent", "1", "--cgroup"])
        .arg(target.cgroup.path())
        .args(["--", NAME])
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8(said.stdout).unwrap(),
        "{\"unable\":{\"why\":\"the process that wanted to know is gone\"}}\n"
    );
}

/// Whoever stays root owns what root owns, without any capability.
#[test]
fn a_helper_that_cannot_become_nobody_asks_nobody() {
    let target = Target::new(Etc::File);
    for lost in [CapabilitySet::SETUID, CapabilitySet::SETGID] {
        let mut command = Command::new(Enforcer::program().unwrap());
        command
            .args([
                "ask-inside",
                "--parent",
                &std::process::id().to_string(),
                "--cgroup",
            ])
            .arg(target.cgroup.path())
            .args(["--", NAME]);
        deprive(&mut command, Deprivation::Capabilities(lost));
        let said = command.output().unwrap();
        assert_eq!(
            String::from_utf8(said.stdout).unwrap(),
            "{\"unable\":{\"why\":\"cannot become nobody: user 0 without CAP_SETUID and CAP_SETGID stays the owner of \
             what root owns\"}}\n"
        );
    }
}

#[test]
fn nothing_is_left_of_a_helper_that_is_no_longer_wanted() {
    let target = Target::new(Etc::File);
    let silent = target
        .netns
        .run(|| Ok(UdpSocket::bind((NAMESERVER, 53))?))
        .unwrap();
    silent.set_nonblocking(true).unwrap();
    let mut helper = None;
    target.follow(false, async |follower| {
        let asked = async {
            while silent.recv(&mut [0; 512]).is_err() {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            change = follower.changed() => panic!("{change:?}"),
            () = asked => {}
        }
        // Of this test's children, the one that asks.
        let own = std::process::id().to_string();
        helper = fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse::<u32>().ok())
            .filter(|pid| status(*pid, "PPid").as_ref() == Some(&own))
            .find(|pid| {
                let path = target.cgroup.path().to_str().unwrap();
                fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| {
                    line.split(|octet| *octet == 0)
                        .any(|word| word == path.as_bytes())
                })
            });
    });
    let helper = helper.expect("a helper");
    let pid = Pid::from_raw(i32::try_from(helper).unwrap()).unwrap();
    // Killed; whether somebody has collected its end is another matter.
    eventually("the helper to end", PATIENCE, || {
        rustix::process::test_kill_process(pid).is_err()
            || status(helper, "State").is_none_or(|state| state.starts_with('Z'))
    })
    .unwrap();
}
