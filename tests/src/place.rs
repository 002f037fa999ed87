//! [`Place`]: where a process is put before it runs.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Write as _},
    os::fd::AsFd as _,
    os::unix::process::CommandExt as _,
    process::Command,
};

use anyhow::Result;

use crate::{
    cgroup::CgroupFixture,
    names::{self, NamesFixture},
    netns::{self, NetnsFixture},
    unique,
};

/// A place for a process. What is not given is that of the test.
#[derive(Clone, Copy, Debug, Default)]
pub struct Place<'fixture> {
    /// The cgroup it joins.
    pub cgroup: Option<&'fixture CgroupFixture>,
    /// The network namespace it enters.
    pub netns: Option<&'fixture NetnsFixture>,
    /// What it believes about names.
    pub names: Option<&'fixture NamesFixture>,
}

impl<'fixture> Place<'fixture> {
    /// In that cgroup and that network namespace.
    #[must_use]
    pub const fn new(cgroup: &'fixture CgroupFixture, netns: &'fixture NetnsFixture) -> Self {
        Self {
            cgroup: Some(cgroup),
            netns: Some(netns),
            names: None,
        }
    }

    /// In that network namespace, and the cgroup of the test.
    #[must_use]
    pub const fn outside(netns: &'fixture NetnsFixture) -> Self {
        Self {
            cgroup: None,
            netns: Some(netns),
            names: None,
        }
    }

    /// The same, with names.
    #[must_use]
    pub const fn with_names(mut self, names: &'fixture NamesFixture) -> Self {
        self.names = Some(names);
        self
    }

    /// A command that runs `program` here, with no signal ignored, whoever started the test. The process joins
    /// before its first instruction, so that all its sockets are made in the cgroup. It carries the mark by which
    /// [`CgroupFixture`] knows it as ours.
    ///
    /// # Errors
    ///
    /// When a file that the process needs for joining cannot be opened.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Result<Command> {
        let mut procs: Option<File> = self.cgroup.map(CgroupFixture::procs_file).transpose()?;
        let netns = self.netns.map(NetnsFixture::duplicate).transpose()?;
        let names = self.names.map(NamesFixture::replacements);
        let mut command = Command::new(program);
        command.env(unique::MARK_VARIABLE, unique::mark());
        if names.is_some() {
            // As host.conf has it on most machines: without either, a name has one address only.
            command.env("RESOLV_MULTI", "on");
        }
        let join = move || {
            heed_signals()?;
            if let Some(procs) = &mut procs {
                procs.write_all(b"0")?;
            }
            if let Some(netns) = &netns {
                netns::enter(netns.as_fd())?;
            }
            if let Some(replacements) = &names {
                names::enter(replacements)?;
            }
            Ok(())
        };
        // SAFETY: between fork and exec the closure makes system calls on what was prepared before: it
        // allocates nothing and takes no lock.
        unsafe { command.pre_exec(join) };
        Ok(command)
    }
}

/// Makes a command start its program with those signals ignored, as a shell does for what it runs in the
/// background, or `nohup`.
pub fn ignoring(command: &mut Command, signals: &'static [libc::c_int]) {
    let ignore = move || {
        for signal in signals {
            // SAFETY: ignoring runs no code.
            if unsafe { libc::signal(*signal, libc::SIG_IGN) } == libc::SIG_ERR {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes system calls only.
    unsafe { command.pre_exec(ignore) };
}

/// Gives signals that others may have left ignored (a shell does so to what it starts in the background, `nohup`
/// does) their default again: programs that were started with a signal ignored leave it so. Makes system calls
/// only, so it may be used between fork and exec.
fn heed_signals() -> io::Result<()> {
    for signal in [
        libc::SIGINT,
        libc::SIGQUIT,
        libc::SIGHUP,
        libc::SIGTERM,
        libc::SIGCHLD,
    ] {
        // SAFETY: the default disposition runs no code of ours.
        if unsafe { libc::signal(signal, libc::SIG_DFL) } == libc::SIG_ERR {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
