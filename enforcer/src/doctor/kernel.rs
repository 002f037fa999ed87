//! The kernel: its release, each feature of the table, whether it takes the real programs, and how it treats BPF.

use std::{fs, io, path::Path};

use procfs::process::Process;

use super::{
    privileges::Privileges,
    report::{Item, Level},
};
use crate::kernel::{
    KernelError, Presence, Support,
    features::{Feature, Without},
    survey, verify,
};

const JIT: &str = "/proc/sys/net/core/bpf_jit_enable";
const LOCKDOWN: &str = "/sys/kernel/security/lockdown";

pub(super) fn examine(privileges: &Privileges) -> Vec<Item> {
    let mut items = vec![release()];
    items.extend(
        survey()
            .into_iter()
            .map(|(feature, presence)| about(feature, presence, privileges.suffice())),
    );
    items.extend(programs(privileges.suffice()));
    items.extend([jit(), lockdown(), bpffs()]);
    items
}

fn release() -> Item {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy();
    let machine = uname.machine().to_string_lossy();
    Item::new("release", "release", Level::Ok, format!("{release} ({machine})"))
        .text("release", release)
        .text("machine", machine)
}

/// `may`: whether this process has what the kernel asks of one that loads programs.
fn about(feature: &Feature, presence: Presence, may: bool) -> Item {
    let item = |level, state: String| Item::new("feature", feature.name, level, state).subject(feature.id);
    let presence = match presence {
        Presence::Absent(why) if !may && feature.probe.takes_privilege() => Presence::Unknown(why),
        other => other,
    };
    match (presence, feature.without) {
        (Presence::Present, _) => item(Level::Ok, "yes".to_owned()).text("found", "yes"),
        (Presence::Absent(why), without) => {
            let level = match without {
                Without::Impossible => Level::Blocks,
                Without::Instead(_) => Level::Limits,
                Without::Fine(_) => Level::Note,
            };
            item(level, "no".to_owned())
                .follows(without.text())
                .text("found", "no")
                .text("cause", why)
        }
        // The kernel refuses for a reason that is not among the capabilities: nothing can be loaded all the same.
        (Presence::Unknown(why), Without::Impossible) if may => {
            item(Level::Blocks, format!("cannot tell: {why}"))
                .follows(feature.without.text())
                .hint(Some("a seccomp profile or a security module may forbid bpf(2)"))
                .text("found", "unknown")
                .text("cause", why)
        }
        (Presence::Unknown(why), _) => item(Level::Unknown, format!("cannot tell: {why}"))
            .text("found", "unknown")
            .text("cause", why),
    }
}

/// The real programs: what the kernel takes them for is worth more than every probe.
fn programs(may: bool) -> Vec<Item> {
    const NAME: &str = "enforcer's programs";
    if !may {
        return vec![Item::unknown(
            "program",
            NAME,
            "this process may not load programs",
        )];
    }
    let verified = Support::probe().and_then(|support| verify(&support));
    match verified {
        Ok(programs) => programs
            .into_iter()
            .map(|(name, instructions)| {
                let state = match instructions {
                    Some(count) => format!("loads; {count} instructions verified"),
                    None => "loads".to_owned(),
                };
                let item = Item::new("program", name, Level::Ok, state).subject(name);
                match instructions {
                    Some(count) => item.number("verified_instructions", count.into()),
                    None => item,
                }
            })
            .collect(),
        Err(error) => vec![refused(NAME, &error)],
    }
}

fn refused(name: &str, error: &KernelError) -> Item {
    let causes = std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
    let said: Vec<_> = causes
        .filter_map(|error| error.to_string().lines().next().map(str::to_owned))
        .collect();
    Item::new("program", name, Level::Blocks, said.join(": "))
        .follows(Without::Impossible.text())
        .hint(error.hint())
}

fn jit() -> Item {
    const NAME: &str = "JIT compiler for BPF";
    match fs::read_to_string(JIT) {
        Ok(text) => match text.trim() {
            "0" => Item::new("jit", NAME, Level::Note, "off")
                .follows("programs are interpreted: each governed connect takes a few microseconds longer")
                .hint(Some("sysctl net.core.bpf_jit_enable=1")),
            "2" => Item::new(
                "jit",
                NAME,
                Level::Note,
                "on, and every program is written to the kernel's log",
            ),
            _ => Item::new("jit", NAME, Level::Ok, "on"),
        },
        Err(error) => unreadable("jit", NAME, JIT, &error),
    }
}

fn lockdown() -> Item {
    const NAME: &str = "lockdown";
    match fs::read_to_string(LOCKDOWN) {
        // `none [integrity] confidentiality`: the one in brackets holds.
        Ok(text) => match in_brackets(&text) {
            Some("confidentiality") => Item::new("lockdown", NAME, Level::Limits, "confidentiality")
                .follows("programs cannot read kernel memory, so IPV6_V6ONLY is not seen"),
            Some(mode) => Item::new("lockdown", NAME, Level::Ok, mode),
            None => Item::unknown("lockdown", NAME, format!("{LOCKDOWN} says {:?}", text.trim())),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound && Path::new("/sys/kernel").is_dir() => {
            Item::new(
                "lockdown",
                NAME,
                Level::Ok,
                "not in this kernel, or securityfs is not mounted",
            )
        }
        Err(error) => unreadable("lockdown", NAME, LOCKDOWN, &error),
    }
}

fn in_brackets(text: &str) -> Option<&str> {
    Some(text.split_once('[')?.1.split_once(']')?.0)
}

fn bpffs() -> Item {
    const NAME: &str = "bpffs";
    let mounts = match Process::myself().and_then(|process| process.mountinfo()) {
        Ok(mounts) => mounts,
        Err(error) => return Item::unknown("bpffs", NAME, error),
    };
    match mounts.into_iter().find(|mount| mount.fs_type == "bpf") {
        Some(mount) => {
            let place = mount.mount_point.display().to_string();
            Item::new("bpffs", NAME, Level::Ok, format!("mounted at {place}")).text("mount_point", place)
        }
        None => Item::new("bpffs", NAME, Level::Ok, "not mounted")
            .follows("nothing for `run` and `exec`: they pin nothing, and what they attach ends with them"),
    }
}

fn unreadable(item: &'static str, name: &str, path: &str, error: &io::Error) -> Item {
    Item::unknown(item, name, format!("cannot read {path}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::features::by_id;

    #[test]
    fn a_missing_feature_blocks_only_if_nothing_works_without_it() {
        let absent = || Presence::Absent("no".to_owned());
        let level = |id| about(by_id(id).unwrap(), absent(), true).level;
        assert_eq!(level("connect6"), Level::Blocks);
        assert_eq!(level("set-retval"), Level::Limits);
        assert_eq!(level("mptcp"), Level::Note);
    }

    #[test]
    fn what_cannot_be_asked_blocks_only_a_process_that_should_be_able_to() {
        let unknown = || Presence::Unknown("Operation not permitted".to_owned());
        let level = |may| about(by_id("connect6").unwrap(), unknown(), may).level;
        assert_eq!((level(true), level(false)), (Level::Blocks, Level::Unknown));
        let refused = Presence::Absent("Invalid argument".to_owned());
        let refused = about(by_id("connect6").unwrap(), refused, false);
        assert_eq!(refused.level, Level::Unknown);
    }

    #[test]
    fn the_mode_of_lockdown_is_the_one_in_brackets() {
        assert_eq!(
            in_brackets("none [integrity] confidentiality\n"),
            Some("integrity")
        );
        assert_eq!(in_brackets("nonsense"), None);
    }
}
