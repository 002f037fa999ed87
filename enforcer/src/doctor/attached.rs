//! Programs that somebody has attached to cgroups where enforcer's go too: whose, where, and what they can do to us.

use std::{
    collections::HashMap,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use jiff::Timestamp;

use super::{
    holders::Holders,
    report::{Item, Level},
};
use crate::{
    kernel::attached::{AttachType, MAX_PROGRAMS, ProgramFacts, Sharing, loaded, programs_at},
    targets::Hierarchy,
};

/// Cgroups that are looked at, at most.
const MAX_CGROUPS: usize = 20_000;

const NAME: &str = "programs on cgroups";

/// Programs at one cgroup.
struct Found {
    /// Relative to the mount.
    cgroup: PathBuf,
    attach_type: AttachType,
    programs: Vec<u32>,
    sharing: Sharing,
}

pub(super) fn examine(hierarchy: &Hierarchy) -> Vec<Item> {
    let mut walk = Walk {
        incomplete: !hierarchy.has_true_root(),
        ..Walk::default()
    };
    let found = match walk.all(hierarchy.mount_point()) {
        Ok(found) => found,
        Err(error) => {
            let why = if error.raw_os_error() == Some(libc::EPERM) {
                "asking needs CAP_NET_ADMIN".to_owned()
            } else {
                error.to_string()
            };
            return vec![Item::unknown("attached-programs", NAME, why)];
        }
    };
    let count: usize = found.iter().map(|it| it.programs.len()).sum();
    let types: Vec<_> = AttachType::ALL.iter().map(|it| it.name()).collect();
    let noun = if walk.seen == 1 { "cgroup" } else { "cgroups" };
    let looked = format!("{} {noun} for {}", walk.seen, types.join(", "));
    let mut summary = Item::new(
        "attached-programs",
        NAME,
        if count == 0 { Level::Ok } else { Level::Note },
        match count {
            0 => format!("none (looked at {looked})"),
            _ => format!("{count} (looked at {looked})"),
        },
    )
    .number("programs", count as u64)
    .number("cgroups", walk.seen as u64);
    if walk.incomplete {
        summary = Item {
            level: Level::Unknown,
            follows: Some(format!(
                "not all of them: some could not be opened, are above what this process sees, or there are more than \
                 {MAX_CGROUPS}"
            )),
            ..summary
        };
    }
    let mut items = vec![summary];
    if count > 0 {
        let facts = loaded();
        let holders = Holders::find();
        for it in &found {
            for program in &it.programs {
                items.push(about_program(it, *program, facts.as_ref(), &holders));
            }
            items.extend(kept_out(it));
        }
    }
    items
}

/// What keeps enforcer's programs out of that cgroup, or of those below it. At the root it keeps them out everywhere.
fn kept_out(found: &Found) -> Vec<Item> {
    let place = found.cgroup.display();
    let everywhere = if found.cgroup == Path::new("/") {
        Level::Blocks
    } else {
        Level::Limits
    };
    let state = format!("{place} ({})", found.attach_type.name());
    let about = |item: Item, follows: &str| item.subject(place.to_string()).follows(follows.to_owned());
    let let_in = Some("whoever attached it can do so with BPF_F_ALLOW_MULTI, or with a link");
    let mut items = Vec::new();
    if found.programs.len() >= MAX_PROGRAMS {
        let follows = format!("the kernel takes {MAX_PROGRAMS} programs there: enforcer cannot attach");
        items.push(about(
            Item::new("full", "no room for another", Level::Limits, state.clone()),
            &follows,
        ));
    }
    match found.sharing {
        Sharing::Exclusive => {
            let follows = "enforcer cannot attach to this cgroup, nor to any below it: EPERM";
            let item = Item::new("exclusive", "attached exclusively", everywhere, state);
            items.push(about(item, follows).hint(let_in));
        }
        Sharing::Override => {
            let follows = "enforcer cannot attach to this cgroup (EPERM), and will not attach below it: the kernel \
                           would no longer run this program there. Only where a cgroup in between has programs already \
                           does it not run there anyway";
            let item = Item::new("override", "gives way to others", everywhere, state);
            items.push(about(item, follows).hint(let_in));
        }
        Sharing::Multi => {}
    }
    items
}

fn about_program(
    found: &Found,
    program: u32,
    facts: Result<&HashMap<u32, ProgramFacts>, &io::Error>,
    holders: &Holders,
) -> Item {
    let place = found.cgroup.display().to_string();
    let facts = facts.ok().and_then(|facts| facts.get(&program));
    let name = facts
        .map(|facts| facts.name.as_str())
        .filter(|name| !name.is_empty());
    // The kernel cuts names to 15 bytes.
    let ours = name.is_some_and(|name| name.starts_with("enforcer_"));
    let processes = holders.processes(program);
    let pins = holders.pins(program);

    let mut state = format!("{place}: {} (id {program}", name.unwrap_or("name unknown"));
    let mut item = Item::new(
        "attached-program",
        format!("at {}", found.attach_type.name()),
        Level::Note,
        "",
    )
    .subject(place)
    .text("attach_type", found.attach_type.name())
    .number("id", program.into());
    if let Some(name) = name {
        item = item.text("name", name);
    }
    if let Some(uid) = facts.and_then(|facts| facts.uid) {
        state.push_str(&format!(", loaded by uid {uid}"));
        item = item.number("uid", uid.into());
    }
    let loaded_at = facts
        .and_then(|facts| facts.loaded_at)
        .and_then(|time| Timestamp::try_from(time).ok())
        .and_then(|time| Timestamp::from_second(time.as_second()).ok());
    if let Some(time) = loaded_at {
        state.push_str(&format!(" at {time}"));
        item = item.text("loaded_at", time.to_string());
    }
    if !processes.is_empty() {
        state.push_str(&format!(", held by {}", processes.join(", ")));
    }
    if !pins.is_empty() {
        state.push_str(&format!(", pinned as {}", pins.join(", ")));
    }
    if processes.is_empty() && pins.is_empty() {
        let nobody = if holders.incomplete {
            ", held by nobody that could be looked into"
        } else {
            ", held by nobody that was found: if it was attached without a link, it stays until the cgroup goes"
        };
        state.push_str(nobody);
    }
    state.push(')');
    let follows = match (ours, found.attach_type) {
        (true, _) => {
            "another enforcer's: where both govern, both judge each connect, a reject of either stands, and each \
             reports an event"
        }
        // What enforcer has to do with these is an item of its own.
        (false, AttachType::Connect6) if found.sharing != Sharing::Multi => "judges the same connects",
        (false, AttachType::Connect6) => {
            "in cgroups below this one it runs after enforcer's: from Linux 5.18 on it can turn a reject into success, \
             it can choose another errno, and it sees the address a redirect leads to; here both run"
        }
        (false, AttachType::Sendmsg6) => "judges the same datagrams of unconnected UDP sockets",
        (false, AttachType::Getpeername6) => "can change the peer's address that applications see",
        (false, AttachType::Recvmsg6) => "can change the source of datagrams that applications see",
        (false, AttachType::Connect4) => "judges IPv4 connects, which enforcer leaves alone",
    };
    Item { state, ..item }
        .list("held_by", processes)
        .list("pinned_at", pins)
        .follows(follows)
}

#[derive(Default)]
struct Walk {
    seen: usize,
    incomplete: bool,
}

impl Walk {
    /// Parents before children.
    ///
    /// # Errors
    ///
    /// When the kernel does not answer for the top.
    fn all(&mut self, mount_point: &Path) -> io::Result<Vec<Found>> {
        let mut found = Vec::new();
        let mut waiting = vec![PathBuf::new()];
        while let Some(below) = waiting.pop() {
            if self.seen == MAX_CGROUPS {
                self.incomplete = true;
                break;
            }
            let top = below.as_os_str().is_empty();
            let path = if top {
                mount_point.to_owned()
            } else {
                mount_point.join(&below)
            };
            match Self::one(&path, &below, &mut found) {
                Ok(children) => {
                    self.seen += 1;
                    waiting.extend(children);
                }
                Err(error) if top => return Err(error),
                // It went away meanwhile.
                Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)) => {}
                Err(_) => self.incomplete = true,
            }
        }
        found
            .sort_by(|left, right| (&left.cgroup, left.attach_type).cmp(&(&right.cgroup, right.attach_type)));
        Ok(found)
    }

    fn one(path: &Path, below: &Path, found: &mut Vec<Found>) -> io::Result<Vec<PathBuf>> {
        let cgroup = File::open(path)?;
        for attach_type in AttachType::ALL {
            match programs_at(&cgroup, attach_type) {
                Ok(attached) if attached.programs.is_empty() => {}
                Ok(attached) => found.push(Found {
                    cgroup: Path::new("/").join(below),
                    attach_type,
                    programs: attached.programs,
                    sharing: attached.sharing,
                }),
                // A kernel that does not know the attach type has nothing there.
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
                Err(error) => return Err(error),
            }
        }
        let mut children = Vec::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                children.push(below.join(entry.file_name()));
            }
        }
        Ok(children)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn levels(
        cgroup: &str,
        attach_type: AttachType,
        programs: usize,
        sharing: Sharing,
    ) -> Vec<(&'static str, Level)> {
        let found = Found {
            cgroup: cgroup.into(),
            attach_type,
            programs: vec![1; programs],
            sharing,
        };
        kept_out(&found)
            .iter()
            .map(|item| (item.item, item.level))
            .collect()
    }

    #[test]
    fn what_shares_keeps_nobody_out_until_there_is_no_room() {
        assert_eq!(levels("/a", AttachType::Connect6, 63, Sharing::Multi), []);
        let full = [("full", Level::Limits)];
        assert_eq!(levels("/a", AttachType::Connect6, 64, Sharing::Multi), full);
    }

    #[test]
    fn what_does_not_share_keeps_enforcer_out_and_at_the_root_everywhere() {
        for attach_type in AttachType::ALL {
            for (sharing, item) in [(Sharing::Exclusive, "exclusive"), (Sharing::Override, "override")] {
                assert_eq!(levels("/a", attach_type, 1, sharing), [(item, Level::Limits)]);
                assert_eq!(levels("/", attach_type, 1, sharing), [(item, Level::Blocks)]);
            }
        }
    }
}
