//! [`ForeignProgram`]: a BPF program that somebody else has attached to a cgroup.
//!
//! By plain bpf(2), so that what enforcer finds is compared with what another program did in another way. The program
//! lets everything go on, or nothing. Numbers and structures are those of `include/uapi/linux/bpf.h`.

use std::{
    ffi::CString,
    fs::File,
    io,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::{ffi::OsStrExt as _, process::CommandExt as _},
    },
    path::Path,
    process::Command,
};

use anyhow::{Context as _, Result};
use rustix::{
    mount::{MountFlags, MountPropagationFlags, mount, mount_change},
    process::{Resource, Rlimit, setrlimit},
    thread::{UnshareFlags, unshare_unsafe},
};

use crate::cgroup::CgroupFixture;

/// `BPF_PROG_TYPE_CGROUP_SOCK_ADDR`.
const SOCK_ADDR: u32 = 18;

const PROG_LOAD: libc::c_long = 5;
const OBJ_PIN: libc::c_long = 6;
const PROG_ATTACH: libc::c_long = 8;
const PROG_DETACH: libc::c_long = 9;
const INFO_BY_FD: libc::c_long = 15;

/// `BPF_F_ALLOW_OVERRIDE`.
const ALLOW_OVERRIDE: u32 = 1;
/// `BPF_F_ALLOW_MULTI`.
const ALLOW_MULTI: u32 = 2;

/// Where it is attached.
#[derive(Clone, Copy, Debug)]
#[repr(u32)]
pub enum At {
    /// `BPF_CGROUP_INET4_CONNECT`
    Connect4 = 10,
    /// `BPF_CGROUP_INET6_CONNECT`
    Connect6 = 11,
}

/// What it allows others.
#[derive(Clone, Copy, Debug)]
pub enum Sharing {
    /// Others beside it and below.
    Multi,
    /// Nobody else at this cgroup; where somebody attaches below, it does not run.
    Override,
    /// Nobody else at this cgroup or below.
    Exclusive,
}

/// What it does to every connect.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub enum Verdict {
    /// It ends in EPERM.
    Reject = 0,
    /// It goes on.
    Allow = 1,
}

#[derive(Default)]
#[repr(C)]
struct Load {
    prog_type: u32,
    insn_count: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    flags: u32,
    name: [u8; 16],
    ifindex: u32,
    expected_attach_type: u32,
}

#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Attach {
    target_fd: u32,
    prog_fd: u32,
    attach_type: u32,
    flags: u32,
    replace_fd: u32,
}

#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Pin {
    path: u64,
    fd: u32,
    flags: u32,
}

#[derive(Default)]
#[repr(C)]
struct Info {
    fd: u32,
    length: u32,
    info: u64,
}

/// # Safety
///
/// `attr` must be what the command expects, with valid pointers.
unsafe fn bpf<A>(command: libc::c_long, attr: &mut A) -> io::Result<i32> {
    // SAFETY: pointer and size are those of `attr`; the rest is the caller's.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<A>()) };
    match i32::try_from(result) {
        Ok(result) if result >= 0 => Ok(result),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A program at a cgroup. Dropping it detaches it.
#[derive(Debug)]
pub struct ForeignProgram {
    program: OwnedFd,
    cgroup: File,
    attach_type: u32,
    id: u32,
}

impl ForeignProgram {
    /// Loads a program of that name (15 bytes at most) and attaches it.
    ///
    /// # Errors
    ///
    /// When the kernel refuses either.
    pub fn attach(name: &str, cgroup: &CgroupFixture, at: At, sharing: Sharing) -> Result<Self> {
        Self::attach_with(name, cgroup, at, sharing, Verdict::Allow)
    }

    /// As [`attach`](Self::attach), a program with that verdict.
    ///
    /// # Errors
    ///
    /// As [`attach`](Self::attach).
    pub fn attach_with(
        name: &str,
        cgroup: &CgroupFixture,
        at: At,
        sharing: Sharing,
        verdict: Verdict,
    ) -> Result<Self> {
        let program = load(name, at, verdict).with_context(|| format!("load program {name}"))?;
        let id = id(&program).context("ask for the program's identifier")?;
        let path = cgroup.path();
        let cgroup = File::open(path).with_context(|| format!("open cgroup {}", path.display()))?;
        let mut attr = Attach {
            target_fd: raw(&cgroup),
            prog_fd: raw(&program),
            attach_type: at as u32,
            flags: match sharing {
                Sharing::Multi => ALLOW_MULTI,
                Sharing::Override => ALLOW_OVERRIDE,
                Sharing::Exclusive => 0,
            },
            replace_fd: 0,
        };
        // SAFETY: the attributes of BPF_PROG_ATTACH, without pointers.
        unsafe { bpf(PROG_ATTACH, &mut attr) }
            .with_context(|| format!("attach program {name} to cgroup {}", path.display()))?;
        Ok(Self {
            program,
            cgroup,
            attach_type: at as u32,
            id,
        })
    }

    /// The kernel's identifier of the program.
    #[must_use]
    pub const fn id(&self) -> u32 {
        self.id
    }

    /// Lets the command see a bpffs at that folder in which the program is pinned as `name`. Nobody else sees it.
    ///
    /// # Errors
    ///
    /// When the folder's path has a zero in it.
    pub fn pin_for(&self, command: &mut Command, folder: &Path, name: &str) -> Result<()> {
        let pin = CString::new(folder.join(name).as_os_str().as_bytes()).context("name a pin")?;
        let folder = CString::new(folder.as_os_str().as_bytes()).context("name a folder")?;
        let program = raw(&self.program);
        let prepare = move || -> io::Result<()> {
            // SAFETY: only the mount namespace becomes another; no memory is unshared.
            unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
            mount_change(c"/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
            mount(c"bpf", &*folder, c"bpf", MountFlags::empty(), None)?;
            let mut attr = Pin {
                path: pin.as_ptr().addr() as u64,
                fd: program,
                flags: 0,
            };
            // SAFETY: the attributes of BPF_OBJ_PIN; the path is a string that the closure owns.
            unsafe { bpf(OBJ_PIN, &mut attr) }?;
            Ok(())
        };
        // SAFETY: between fork and exec the closure makes system calls only: no allocation, no lock.
        unsafe { command.pre_exec(prepare) };
        Ok(())
    }
}

impl Drop for ForeignProgram {
    #[expect(clippy::print_stderr, reason = "drop cannot return what went wrong")]
    fn drop(&mut self) {
        let mut attr = Attach {
            target_fd: raw(&self.cgroup),
            prog_fd: raw(&self.program),
            attach_type: self.attach_type,
            ..Attach::default()
        };
        // SAFETY: the attributes of BPF_PROG_DETACH, without pointers.
        if let Err(error) = unsafe { bpf(PROG_DETACH, &mut attr) } {
            eprintln!("foreign program left behind: {error}");
        }
    }
}

fn raw(fd: &impl std::os::fd::AsRawFd) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

fn load(name: &str, at: At, verdict: Verdict) -> io::Result<OwnedFd> {
    // 5.10 counts programs of all of a user's processes against it. Where it may not be raised, it need not be.
    let unlimited = Rlimit {
        current: None,
        maximum: None,
    };
    let _ = setrlimit(Resource::Memlock, unlimited);
    // `r0 = verdict; exit`.
    let insns: [u64; 2] = [((verdict as u64) << 32) | 0xb7, 0x95];
    let insns = insns.map(u64::to_le_bytes);
    let license = c"GPL";
    let mut attr = Load {
        prog_type: SOCK_ADDR,
        insn_count: 2,
        insns: insns.as_ptr().addr() as u64,
        license: license.as_ptr().addr() as u64,
        expected_attach_type: at as u32,
        ..Load::default()
    };
    for (to, from) in attr.name.iter_mut().take(15).zip(name.bytes()) {
        *to = from;
    }
    // SAFETY: the attributes of BPF_PROG_LOAD; what they point to outlives the call.
    let fd = unsafe { bpf(PROG_LOAD, &mut attr) }?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// `struct bpf_prog_info` begins with the type and the identifier.
fn id(program: &OwnedFd) -> io::Result<u32> {
    let mut head = [0_u32; 2];
    let mut attr = Info {
        fd: program.as_raw_fd().cast_unsigned(),
        length: size_of_val(&head) as u32,
        info: head.as_mut_ptr().addr() as u64,
    };
    // SAFETY: the attributes of BPF_OBJ_GET_INFO_BY_FD; `head` has the length given and outlives the call.
    unsafe { bpf(INFO_BY_FD, &mut attr) }?;
    Ok(head[1])
}
