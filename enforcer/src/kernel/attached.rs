//! Which programs are at a cgroup, whoever attached them.

use std::{
    collections::HashMap,
    ffi::CString,
    fs, io,
    os::{
        fd::{AsFd, AsRawFd as _},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
    time::SystemTime,
};

use aya::programs::loaded_programs;

use super::{error::os_error, syscall};

/// Where in a socket's life a program can be attached, those that concern enforcer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
pub enum AttachType {
    /// `BPF_CGROUP_INET4_CONNECT`
    Connect4 = 10,
    /// `BPF_CGROUP_INET6_CONNECT`
    Connect6 = 11,
    /// `BPF_CGROUP_UDP6_SENDMSG`
    Sendmsg6 = 15,
    /// `BPF_CGROUP_INET6_GETPEERNAME`
    Getpeername6 = 30,
}

impl AttachType {
    /// All of them, in the order in which they are reported.
    pub const ALL: [Self; 4] = [Self::Connect6, Self::Sendmsg6, Self::Getpeername6, Self::Connect4];

    /// As `bpftool` and the sections of objects call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connect4 => "connect4",
            Self::Connect6 => "connect6",
            Self::Sendmsg6 => "sendmsg6",
            Self::Getpeername6 => "getpeername6",
        }
    }
}

/// How many programs the kernel takes at one cgroup for one attach type.
pub const MAX_PROGRAMS: usize = syscall::MAX_PROGRAMS;

/// The programs at one cgroup for one attach type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// The kernel's identifiers.
    pub programs: Vec<u32>,
    /// Attached exclusively: nobody can attach another below.
    pub exclusive: bool,
}

/// The programs attached to that cgroup itself.
///
/// # Errors
///
/// EPERM without CAP_NET_ADMIN; EINVAL where the kernel does not know the attach type.
pub fn programs_at(cgroup: &impl AsFd, attach_type: AttachType) -> io::Result<Attached> {
    let attached = syscall::programs_at(cgroup, attach_type as u32)?;
    Ok(Attached {
        exclusive: attached.flags == 0 && !attached.programs.is_empty(),
        programs: attached.programs,
    })
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
    fn a_program_is_known_by_its_descriptor_and_a_map_is_none() {
        assert_eq!(
            program_in_fdinfo("pos:\t0\nlink_id:\t4\nprog_tag:\tab\nprog_id:\t17\n"),
            Some(17)
        );
        assert_eq!(program_in_fdinfo("pos:\t0\nmap_type:\t2\nmap_id:\t3\n"), None);
    }
}
