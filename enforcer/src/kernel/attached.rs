//! Which programs are at a cgroup, whoever attached them.

use std::{
    collections::HashMap,
    ffi::CString,
    fs, io,
    os::{
        fd::{AsFd, AsRawFd as _},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
    time::SystemTime,
};

use aya::programs::loaded_programs;
use rustix::fs::{Mode, OFlags};

use super::{error::os_error, syscall};
use crate::targets::Cgroup;

/// Where in a socket's life enforcer attaches programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
pub enum AttachType {
    /// `BPF_CGROUP_INET4_CONNECT`
    Connect4 = 10,
    /// `BPF_CGROUP_INET6_CONNECT`
    Connect6 = 11,
    /// `BPF_CGROUP_UDP6_SENDMSG`
    Sendmsg6 = 15,
    /// `BPF_CGROUP_UDP6_RECVMSG`
    Recvmsg6 = 20,
    /// `BPF_CGROUP_INET6_GETPEERNAME`
    Getpeername6 = 30,
}

impl AttachType {
    /// All of them, in the order in which they are reported.
    pub const ALL: [Self; 5] = [
        Self::Connect6,
        Self::Sendmsg6,
        Self::Getpeername6,
        Self::Recvmsg6,
        Self::Connect4,
    ];

    /// As `bpftool` and the sections of objects call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connect4 => "connect4",
            Self::Connect6 => "connect6",
            Self::Sendmsg6 => "sendmsg6",
            Self::Recvmsg6 => "recvmsg6",
            Self::Getpeername6 => "getpeername6",
        }
    }
}

/// How many programs the kernel takes at one cgroup for one attach type.
pub const MAX_PROGRAMS: usize = syscall::MAX_PROGRAMS;

/// What whoever attached a program allows to programs of others, by the flags of `BPF_PROG_ATTACH`. A link always
/// allows what [`Sharing::Multi`] does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// No flags: the kernel attaches no other there or below.
    Exclusive,
    /// `BPF_F_ALLOW_OVERRIDE`: no other there, and for cgroups below that get one of their own, the kernel no longer
    /// runs this one (`compute_effective_progs`, kernel/bpf/cgroup.c).
    Override,
    /// `BPF_F_ALLOW_MULTI`: all run.
    Multi,
}

impl Sharing {
    /// `BPF_F_ALLOW_OVERRIDE` (`include/uapi/linux/bpf.h`).
    const ALLOW_OVERRIDE: u32 = 1 << 0;
    /// `BPF_F_ALLOW_MULTI` (`include/uapi/linux/bpf.h`).
    const ALLOW_MULTI: u32 = 1 << 1;

    const fn of_flags(flags: u32) -> Self {
        if flags & Self::ALLOW_MULTI != 0 {
            Self::Multi
        } else if flags & Self::ALLOW_OVERRIDE != 0 {
            Self::Override
        } else {
            Self::Exclusive
        }
    }
}

/// The programs at one cgroup for one attach type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// The kernel's identifiers. There is one at most unless several may share the cgroup.
    pub programs: Vec<u32>,
    /// What the kernel allows besides. Says nothing where there is no program.
    pub sharing: Sharing,
}

/// The programs attached to that cgroup itself.
///
/// # Errors
///
/// EPERM without CAP_NET_ADMIN; EINVAL where the kernel does not know the attach type.
pub fn programs_at(cgroup: &impl AsFd, attach_type: AttachType) -> io::Result<Attached> {
    let attached = syscall::programs_at(cgroup, attach_type as u32)?;
    Ok(Attached {
        sharing: Sharing::of_flags(attached.flags),
        programs: attached.programs,
    })
}

/// A program of somebody else's that the kernel would stop running for a cgroup as soon as another is attached there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overridden {
    /// Where it is attached, relative to the v2 mount.
    pub cgroup: PathBuf,
    /// For what.
    pub attach_type: AttachType,
    /// The kernel's identifier.
    pub program: u32,
}

/// The program that no longer judges the cgroup's sockets once enforcer's are attached to it, if there is one.
///
/// The kernel runs the programs of the nearest cgroup that has any, and of those above it only the ones that allow
/// others beside them. So that nearest one is all there is to look at, and nothing changes where the cgroup itself has
/// programs already.
///
/// # Errors
///
/// EPERM where this process may not ask; ENOENT and ENODEV when the cgroup was removed.
pub fn overridden_by_attaching(cgroup: &Cgroup) -> io::Result<Option<Overridden>> {
    for attach_type in AttachType::ALL {
        if !programs_at(cgroup, attach_type)?.programs.is_empty() {
            continue;
        }
        let mut directory = cgroup.as_fd().try_clone_to_owned()?;
        for path in cgroup.path().ancestors().skip(1) {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            directory = rustix::fs::openat(&directory, "..", flags, Mode::empty())?;
            let above = programs_at(&directory, attach_type)?;
            let Some(program) = above.programs.first() else {
                continue;
            };
            if above.sharing == Sharing::Override {
                return Ok(Some(Overridden {
                    cgroup: path.to_owned(),
                    attach_type,
                    program: *program,
                }));
            }
            break;
        }
    }
    Ok(None)
}

/// What the kernel tells of a loaded program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramFacts {
    /// Its name, cut to 15 bytes by the kernel.
    pub name: String,
    /// User that loaded it.
    pub uid: Option<u32>,
    /// When it was loaded.
    pub loaded_at: Option<SystemTime>,
}

/// Every loaded program by its identifier.
///
/// # Errors
///
/// EPERM without CAP_SYS_ADMIN.
pub fn loaded() -> io::Result<HashMap<u32, ProgramFacts>> {
    let mut found = HashMap::new();
    for program in loaded_programs() {
        let program = match program {
            Ok(program) => program,
            // It went between two calls.
            Err(error) if os_error(&error) == Some(libc::ENOENT) => continue,
            Err(error) => {
                return Err(
                    os_error(&error).map_or_else(|| io::Error::other(error), io::Error::from_raw_os_error)
                );
            }
        };
        let facts = ProgramFacts {
            name: String::from_utf8_lossy(program.name()).into_owned(),
            uid: program.created_by_uid(),
            loaded_at: program.loaded_at(),
        };
        found.insert(program.id(), facts);
    }
    Ok(found)
}

/// Identifier of the program that a file in bpffs stands for, itself or through a link; `None` for a map.
///
/// # Errors
///
/// When it cannot be opened.
pub fn pinned_program(path: &Path) -> io::Result<Option<u32>> {
    let path = CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)?;
    let opened = syscall::open_pinned(&path)?;
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", opened.as_raw_fd()))?;
    Ok(program_in_fdinfo(&text))
}

/// The program that a descriptor is of, from the text of its `fdinfo`: `bpf_prog_show_fdinfo` and
/// `bpf_link_show_fdinfo` of kernel/bpf/syscall.c write `prog_id:`, followed by a tab and the number.
#[must_use]
pub fn program_in_fdinfo(text: &str) -> Option<u32> {
    text.lines()
        .find_map(|line| line.strip_prefix("prog_id:"))
        .and_then(|number| number.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_may_do_is_known_by_the_flags() {
        assert_eq!(Sharing::of_flags(0), Sharing::Exclusive);
        assert_eq!(Sharing::of_flags(1), Sharing::Override);
        assert_eq!(Sharing::of_flags(2), Sharing::Multi);
    }

    #[test]
    fn a_program_is_known_by_its_descriptor_and_a_map_is_none() {
        assert_eq!(
            program_in_fdinfo("pos:\t0\nlink_id:\t4\nprog_tag:\tab\nprog_id:\t17\n"),
            Some(17)
        );
        assert_eq!(program_in_fdinfo("pos:\t0\nmap_type:\t2\nmap_id:\t3\n"), None);
    }
}
