//! Programs of raw instructions, their links, and what the kernel counts of programs. Numbers and structures are those of
//! `include/uapi/linux/bpf.h`.
//!
//! Knows nothing of what a program does: that is [`baselines`](super::baselines).

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

use anyhow::{Context as _, Result};

use super::{
    assembler::Instruction,
    bpf::{ById, Command, Info, address, bpf, bpf_fd, raw},
};

/// Where a program is attached: `enum bpf_attach_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum At {
    /// Packets that leave a socket.
    Egress = 1,
    /// IPv6 connects.
    Connect6 = 11,
}

impl At {
    /// `enum bpf_prog_type`.
    const fn program_type(self) -> u32 {
        match self {
            Self::Egress => 8,
            Self::Connect6 => 18,
        }
    }
}

/// A loaded program.
#[derive(Debug)]
pub struct BpfProgram {
    fd: OwnedFd,
    at: At,
}

#[derive(Default)]
#[repr(C)]
struct ProgLoad {
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

#[derive(Default)]
#[repr(C)]
struct LinkCreate {
    prog_fd: u32,
    target_fd: u32,
    attach_type: u32,
    flags: u32,
}

impl BpfProgram {
    /// Loads a program of that name, of which the kernel keeps 15 bytes.
    ///
    /// # Errors
    ///
    /// When the kernel refuses it; the verifier's log is part of the error.
    pub fn load(name: &str, at: At, instructions: &[Instruction]) -> Result<Self> {
        let license = c"GPL";
        let mut log = vec![0_u8; 1 << 16];
        let mut attr = ProgLoad {
            prog_type: at.program_type(),
            insn_count: u32::try_from(instructions.len()).context("count instructions")?,
            insns: address(instructions.as_ptr()),
            license: address(license.as_ptr()),
            log_level: 1,
            log_size: log.len() as u32,
            log_buf: address(log.as_mut_ptr()),
            expected_attach_type: at as u32,
            ..ProgLoad::default()
        };
        for (to, from) in attr.name.iter_mut().take(15).zip(name.bytes()) {
            *to = from;
        }
        // SAFETY: the attributes of BPF_PROG_LOAD; instructions and license are read, the log is written, all outlive the
        // call.
        let fd = unsafe { bpf_fd(Command::ProgLoad, &mut attr) }.with_context(|| {
            let said = log.split(|byte| *byte == 0).next().unwrap_or_default();
            format!(
                "load program {name}: {}",
                String::from_utf8_lossy(said).trim_end()
            )
        })?;
        Ok(Self { fd, at })
    }

    /// Attaches it to a cgroup, beside whatever is there. It is there until the link is dropped.
    ///
    /// # Errors
    ///
    /// When the kernel refuses it.
    pub fn attach(&self, cgroup: &impl AsFd) -> Result<BpfLink> {
        let mut attr = LinkCreate {
            prog_fd: raw(&self.fd),
            target_fd: raw(cgroup),
            attach_type: self.at as u32,
            flags: 0,
        };
        // SAFETY: the attributes of BPF_LINK_CREATE, without pointers.
        let fd = unsafe { bpf_fd(Command::LinkCreate, &mut attr) }.context("attach a program to a cgroup")?;
        Ok(BpfLink { _fd: fd })
    }

    /// What the kernel has counted of it.
    ///
    /// # Errors
    ///
    /// When the kernel does not tell.
    pub fn runs(&self) -> Result<Runs> {
        runs(&self.fd)
    }
}

/// A program at a cgroup. Dropping it detaches it.
#[derive(Debug)]
pub struct BpfLink {
    _fd: OwnedFd,
}

/// Somebody else's program, to be looked at.
#[derive(Debug)]
pub struct ObservedProgram {
    fd: OwnedFd,
}

impl ObservedProgram {
    /// The loaded program of that identifier.
    ///
    /// # Errors
    ///
    /// When there is none, or this process may not.
    pub fn of_id(id: u32) -> Result<Self> {
        let mut attr = ById {
            id,
            ..ById::default()
        };
        // SAFETY: the attributes of BPF_PROG_GET_FD_BY_ID, without pointers.
        let fd = unsafe { bpf_fd(Command::ProgFdById, &mut attr) }
            .with_context(|| format!("open program {id}"))?;
        Ok(Self { fd })
    }

    /// Identifiers of the maps it uses.
    ///
    /// # Errors
    ///
    /// When the kernel does not tell.
    pub fn maps(&self) -> Result<Vec<u32>> {
        let mut ids = vec![0_u32; 256];
        let mut info = ProgInfo {
            map_count: ids.len() as u32,
            map_ids: address(ids.as_mut_ptr()),
            ..ProgInfo::default()
        };
        program_info(&self.fd, &mut info).context("ask which maps a program uses")?;
        ids.truncate(info.map_count as usize);
        Ok(ids)
    }

    /// What the kernel has counted of it.
    ///
    /// # Errors
    ///
    /// When the kernel does not tell.
    pub fn runs(&self) -> Result<Runs> {
        runs(&self.fd)
    }
}

/// What the kernel has counted of a program while [`Statistics`] were on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Runs {
    /// How long it ran, in nanoseconds.
    pub time_ns: u64,
    /// How often it ran.
    pub count: u64,
}

impl Runs {
    /// Nanoseconds for each run since then; not a number where it did not run.
    #[must_use]
    pub fn each_ns_since(&self, before: &Self) -> f64 {
        (self.time_ns - before.time_ns) as f64 / (self.count - before.count) as f64
    }
}

/// `struct bpf_prog_info`, up to what is read of it.
#[derive(Default)]
#[repr(C)]
struct ProgInfo {
    prog_type: u32,
    id: u32,
    tag: [u8; 8],
    jited_len: u32,
    xlated_len: u32,
    jited: u64,
    xlated: u64,
    load_time: u64,
    uid: u32,
    map_count: u32,
    map_ids: u64,
    name: [u8; 16],
    ifindex: u32,
    gpl: u32,
    netns_dev: u64,
    netns_ino: u64,
    ksym_count: u32,
    func_len_count: u32,
    ksyms: u64,
    func_lens: u64,
    btf_id: u32,
    func_info_size: u32,
    func_info: u64,
    func_info_count: u32,
    line_info_count: u32,
    line_info: u64,
    jited_line_info: u64,
    jited_line_info_count: u32,
    line_info_size: u32,
    jited_line_info_size: u32,
    tag_count: u32,
    tags: u64,
    run_time_ns: u64,
    run_count: u64,
}

fn program_info(program: &OwnedFd, info: &mut ProgInfo) -> io::Result<()> {
    let mut attr = Info {
        fd: raw(program),
        length: size_of::<ProgInfo>() as u32,
        info: address(std::ptr::from_mut(info)),
    };
    // SAFETY: the attributes of BPF_OBJ_GET_INFO_BY_FD; `info` has the length given, its pointers are null or the
    // caller's, and it outlives the call.
    unsafe { bpf(Command::InfoByFd, &mut attr) }?;
    Ok(())
}

fn runs(program: &OwnedFd) -> Result<Runs> {
    let mut info = ProgInfo::default();
    program_info(program, &mut info).context("ask how often a program ran")?;
    Ok(Runs {
        time_ns: info.run_time_ns,
        count: info.run_count,
    })
}

/// The kernel counts how long programs run while this is held. Counting costs time itself, the same for every program.
#[derive(Debug)]
pub struct Statistics {
    _fd: OwnedFd,
}

impl Statistics {
    /// Begins to count.
    ///
    /// # Errors
    ///
    /// Before 5.8, or without CAP_SYS_ADMIN.
    pub fn enable() -> Result<Self> {
        // `BPF_STATS_RUN_TIME`.
        let mut kind = 0_u32;
        // SAFETY: the attributes of BPF_ENABLE_STATS, without pointers.
        let fd =
            unsafe { bpf_fd(Command::EnableStats, &mut kind) }.context("let the kernel time programs")?;
        Ok(Self { _fd: fd })
    }
}
