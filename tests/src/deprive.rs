//! [`deprive`]: a program that may less than the test: capabilities taken away, and the kernel's answer to bpf(2)
//! replaced by the one that other machines give.
//!
//! A kernel that lacks something, or refuses, cannot be had on every machine that runs the tests. What the program
//! sees of such a kernel is the errno of one system call, and a seccomp filter gives just that; nothing else of the
//! kernel is pretended.

use std::{
    ffi::CString,
    io,
    os::unix::{ffi::OsStrExt as _, process::CommandExt as _},
    process::Command,
};

use rustix::{
    mount::{MountFlags, MountPropagationFlags, mount_change, mount_remount},
    process::{Resource, Rlimit, setrlimit},
    thread::{CapabilitySet, UnshareFlags, unshare_unsafe},
};

use crate::{
    cgroup,
    privileges::{become_nobody, limit_to},
};

/// What the program is not to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deprivation {
    /// Any capability: root as many containers have it, and what an unprivileged user has.
    AllCapabilities,
    /// Those capabilities.
    Capabilities(CapabilitySet),
    /// Root's files: it runs as `nobody`, with the capabilities that enforcing takes.
    Root,
    /// More descriptors than so many, and it may not raise that.
    Descriptors(u64),
    /// Cgroups that can be written: the file system is read-only, as container engines mount it.
    WritableCgroups,
    /// bpf(2): each call ends in that errno. ENOSYS is a kernel without `CONFIG_BPF_SYSCALL`, EPERM what the seccomp
    /// profile of a container engine answers.
    Bpf(i32),
    /// Loading of programs, `BPF_PROG_LOAD`: EINVAL is a kernel without `CONFIG_CGROUP_BPF`, which does not know the
    /// program type; EACCES is a verifier that refuses.
    BpfProgramLoad(i32),
}

/// `BPF_PROG_LOAD` (`include/uapi/linux/bpf.h`).
const BPF_PROG_LOAD: u32 = 5;

fn limit_descriptors(command: &mut Command, most: u64) {
    let limit = move || {
        let most = Some(most);
        let limit = Rlimit {
            current: most,
            maximum: most,
        };
        Ok(setrlimit(Resource::Nofile, limit)?)
    };
    // SAFETY: between fork and exec the closure makes one system call.
    unsafe { command.pre_exec(limit) };
}

/// Makes the command's process lose that before it executes its program.
///
/// # Panics
///
/// Where cgroups are to be read-only and there is no cgroup v2 mount.
pub fn deprive(command: &mut Command, deprivation: Deprivation) {
    let filter = match deprivation {
        Deprivation::Root => return become_nobody(command),
        Deprivation::Descriptors(most) => return limit_descriptors(command, most),
        Deprivation::WritableCgroups => return make_cgroups_read_only(command),
        Deprivation::AllCapabilities => return limit_to(command, CapabilitySet::empty()),
        Deprivation::Capabilities(lost) => return limit_to(command, CapabilitySet::all().difference(lost)),
        Deprivation::Bpf(errno) => filter(None, errno),
        Deprivation::BpfProgramLoad(errno) => filter(Some(BPF_PROG_LOAD), errno),
    };
    let lose = move || install(&filter);
    // SAFETY: between fork and exec the closure makes system calls on what was prepared before: it allocates
    // nothing and takes no lock.
    unsafe { command.pre_exec(lose) };
}

/// Gives the command a mount namespace in which the cgroup v2 mount is read-only.
#[expect(clippy::expect_used, reason = "a test that cannot go on fails")]
fn make_cgroups_read_only(command: &mut Command) {
    let mount_point = cgroup::mount_point().expect("there is a cgroup v2 mount");
    let mount_point = CString::new(mount_point.as_os_str().as_bytes()).expect("paths have no NUL");
    let remount = move || -> io::Result<()> {
        // SAFETY: a mount namespace of one's own puts no descriptor or memory of the process at risk.
        unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
        mount_change(c"/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
        let flags = MountFlags::BIND | MountFlags::RDONLY;
        Ok(mount_remount(mount_point.as_c_str(), flags, c"")?)
    };
    // SAFETY: between fork and exec the closure makes system calls only: no allocation, no lock.
    unsafe { command.pre_exec(remount) };
}

/// Offset of `nr` in `struct seccomp_data` (`include/uapi/linux/seccomp.h`).
const NUMBER_OFFSET: u32 = 0;
/// Offset of the low half of `args[0]` in it.
const FIRST_ARGUMENT_OFFSET: u32 = if cfg!(target_endian = "little") { 16 } else { 20 };

/// A filter that ends bpf(2), with that command only if one is given, in an errno.
fn filter(command: Option<u32>, errno: i32) -> Vec<libc::sock_filter> {
    let load = |offset| statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset);
    let jump = |value, otherwise| libc::sock_filter {
        jt: 0,
        jf: otherwise,
        ..statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, value)
    };
    let answer = |value| statement(libc::BPF_RET | libc::BPF_K, value);
    let refuse = answer(libc::SECCOMP_RET_ERRNO | (errno.unsigned_abs() & libc::SECCOMP_RET_DATA));
    let number = libc::SYS_bpf.unsigned_abs() as u32;
    match command {
        None => vec![
            load(NUMBER_OFFSET),
            jump(number, 1),
            refuse,
            answer(libc::SECCOMP_RET_ALLOW),
        ],
        Some(command) => vec![
            load(NUMBER_OFFSET),
            jump(number, 3),
            load(FIRST_ARGUMENT_OFFSET),
            jump(command, 1),
            refuse,
            answer(libc::SECCOMP_RET_ALLOW),
        ],
    }
}

fn statement(code: u32, k: u32) -> libc::sock_filter {
    libc::sock_filter {
        // The codes are below 256 (`include/uapi/linux/bpf_common.h`).
        code: code as u16,
        jt: 0,
        jf: 0,
        k,
    }
}

fn install(filter: &[libc::sock_filter]) -> io::Result<()> {
    let program = libc::sock_fprog {
        // A handful.
        len: filter.len() as u16,
        filter: filter.as_ptr().cast_mut(),
    };
    // SAFETY: the program and the instructions it points to live until the call returns, and the kernel only reads
    // them.
    let installed = unsafe {
        libc::prctl(
            libc::PR_SET_SECCOMP,
            libc::c_ulong::from(libc::SECCOMP_MODE_FILTER),
            &raw const program,
            0,
            0,
        )
    };
    if installed == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_capabilities_a_process_has_none() {
        let mut command = Command::new("sh");
        command.args(["-c", "grep CapEff /proc/self/status"]);
        deprive(&mut command, Deprivation::AllCapabilities);
        let output = command.output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert_eq!(
            said.split_whitespace().collect::<Vec<_>>(),
            ["CapEff:", "0000000000000000"]
        );
    }
}
