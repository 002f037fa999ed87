//! `up` and `down`, and what is kept of each standing lab: a file in [`FOLDER`] that says which process it is.
//!
//! A number alone would not do: it may have come to mean another process. So the file also says when that process
//! started and when the machine did, and `down` signals a descriptor of the process after it has compared them.

use std::{
    env,
    fs::{self, DirBuilder, File},
    io::{self, BufRead as _, BufReader, ErrorKind, Read as _, Seek as _, Write as _},
    net::IpAddr,
    os::{
        fd::OwnedFd,
        unix::{
            fs::{DirBuilderExt as _, MetadataExt as _},
            process::CommandExt as _,
        },
    },
    path::PathBuf,
    process::{Child, Command, ExitCode, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use enforcer_tests::{
    lab::{Breakage, ECHO_PORT, HTTP_PORT, NAME, NAMESERVER, PREFIX, SERVER_IPV4, SERVER_IPV6},
    wait::PATIENCE,
};
use procfs::process::Process;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal, setsid},
};
use serde::{Deserialize, Serialize};

use crate::hold;

/// Where the files are.
const FOLDER: &str = "/run/enforcer-lab";

/// A standing lab.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Standing {
    name: String,
    breakage: String,
    /// The process that holds it.
    pid: i32,
    /// When that started, in clock ticks since boot (proc_pid_stat(5)).
    start_ticks: u64,
    /// Which boot that was.
    boot: String,
    /// The process on the client's side.
    anchor: u32,
}

impl Standing {
    /// Held by this process.
    pub(crate) fn of_this_process(name: &str, breakage: Breakage, anchor: u32) -> Result<Self> {
        let stat = Process::myself()
            .and_then(|process| process.stat())
            .context("read /proc/self/stat")?;
        Ok(Self {
            name: name.to_owned(),
            breakage: breakage.to_string(),
            pid: stat.pid,
            start_ticks: stat.starttime,
            boot: boot()?,
            anchor,
        })
    }

    /// The process that holds it, if it is still that process.
    fn process(&self) -> Result<Option<OwnedFd>> {
        let pid = Pid::from_raw(self.pid).with_context(|| format!("understand process {}", self.pid))?;
        // The descriptor comes first: from then on the number cannot come to mean another process.
        let process = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(process) => process,
            Err(rustix::io::Errno::SRCH) => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("open process {}", self.pid)),
        };
        let started = Process::new(self.pid).and_then(|process| process.stat());
        let is_it = started.is_ok_and(|stat| stat.starttime == self.start_ticks) && boot()? == self.boot;
        // One that has ended and that nobody has waited for still has its number and its start.
        let is_running = !has_ended(&process, Duration::ZERO)?;
        Ok((is_it && is_running).then_some(process))
    }
}

fn boot() -> Result<String> {
    let path = "/proc/sys/kernel/random/boot_id";
    let id = fs::read_to_string(path).with_context(|| format!("read {path}"))?;
    Ok(id.trim_end().to_owned())
}

/// The folder of standing labs.
pub(crate) struct Registry {
    folder: PathBuf,
}

/// The folder, as long as it is one's own: other `up`s and `down`s wait. It is removed with the last lab.
struct Locked {
    registry: Registry,
    _lock: File,
}

impl Drop for Locked {
    fn drop(&mut self) {
        // The kernel refuses while there are labs.
        let _ = fs::remove_dir(&self.registry.folder);
    }
}

impl Registry {
    /// The folder. A holder needs no more: while it runs, nobody writes a file in the place of its own.
    pub(crate) fn new() -> Self {
        Self {
            folder: PathBuf::from(FOLDER),
        }
    }

    /// Makes the folder where there is none, and waits until nobody else is changing what is in it.
    fn lock(self) -> Result<Locked> {
        let locked = || loop {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&self.folder)?;
            let lock = match File::open(&self.folder) {
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                other => other?,
            };
            lock.lock()?;
            // Whoever had it may have removed it.
            let is_there = fs::metadata(&self.folder).map(|found| found.ino());
            if is_there.ok() == Some(lock.metadata()?.ino()) {
                return Ok::<_, io::Error>(lock);
            }
        };
        let lock = locked().with_context(|| format!("lock {FOLDER}"))?;
        Ok(Locked {
            registry: self,
            _lock: lock,
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name).with_extension("json")
    }

    /// Writes the lab's file, whole or not at all.
    fn remember(&self, standing: &Standing) -> Result<()> {
        let path = self.path(&standing.name);
        let write = || {
            let mut file = tempfile::NamedTempFile::new_in(&self.folder)?;
            serde_json::to_writer(&mut file, standing)?;
            file.persist(&path)?;
            Ok::<_, anyhow::Error>(())
        };
        write().with_context(|| format!("write {}", path.display()))
    }

    /// Removes the lab's file; that it is gone is fine.
    fn forget(&self, name: &str) -> Result<()> {
        let path = self.path(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("remove {}", path.display()))
            }
            _ => Ok(()),
        }
    }

    /// Removes the lab's file if it speaks of that process, and not of one that holds a lab of the same name.
    pub(crate) fn forget_own(&self, standing: &Standing) -> Result<()> {
        let found = self.find(&standing.name)?;
        let is_own = found.is_some_and(|found| {
            (found.pid, found.start_ticks, &found.boot)
                == (standing.pid, standing.start_ticks, &standing.boot)
        });
        if is_own {
            self.forget(&standing.name)?;
        }
        Ok(())
    }

    fn find(&self, name: &str) -> Result<Option<Standing>> {
        let path = self.path(name);
        match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text)
                .map(Some)
                .with_context(|| format!("understand {}", path.display())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
        }
    }
}

/// Names of the standing labs, sorted.
pub(crate) fn names() -> Result<Vec<String>> {
    let entries = match fs::read_dir(FOLDER) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.with_context(|| format!("list {FOLDER}"))?,
    };
    let mut names: Vec<_> = entries
        .flatten()
        .map(|entry| PathBuf::from(entry.file_name()))
        .filter(|file| file.extension().is_some_and(|extension| extension == "json"))
        .filter_map(|file| Some(file.file_stem()?.to_str()?.to_owned()))
        .collect();
    names.sort();
    Ok(names)
}

/// A name becomes that of a file.
fn check_name(name: &str) -> Result<()> {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    ensure!(
        !name.is_empty() && name.len() <= 64 && name.chars().all(is_plain),
        "{name:?} cannot be a lab's name\nhint: a name is made of the letters a to z, digits and hyphens"
    );
    Ok(())
}

/// Makes a lab that stands until `down`, and says how to enter it. One that stands already is that lab.
pub(crate) fn up(name: &str, breakage: Breakage) -> Result<ExitCode> {
    check_name(name)?;
    let locked = Registry::new().lock()?;
    let registry = &locked.registry;
    if let Some(standing) = registry.find(name)?
        && standing.process()?.is_some()
    {
        ensure!(
            standing.breakage == breakage.name(),
            "lab {name} is up with another breakage, {}\nhint: give this one another name, or remove that one: \
             cargo xtask lab down {name}",
            standing.breakage
        );
        describe(&standing, breakage, "is up already");
        return Ok(ExitCode::SUCCESS);
    }
    // What a holder left that was killed.
    registry.forget(name)?;
    let standing = start_holder(registry, name, breakage).with_context(|| format!("bring lab {name} up"))?;
    describe(&standing, breakage, "is up");
    Ok(ExitCode::SUCCESS)
}

/// Starts the process in the background, waits until its lab stands, and remembers it.
fn start_holder(registry: &Registry, name: &str, breakage: Breakage) -> Result<Standing> {
    // Without a name: nothing of it stays, whoever is interrupted.
    let mut complaints = tempfile::tempfile().context("make a file for what goes wrong")?;
    let stderr = complaints.try_clone().context("open that file twice")?;
    let program = env::current_exe().context("find the path of this program")?;
    let mut command = Command::new(program);
    command
        .args([hold::VERB, name, breakage.name()])
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(stderr);
    // SAFETY: between fork and exec the closure makes one system call: no allocation, no lock.
    unsafe { command.pre_exec(|| Ok(setsid().map(drop)?)) };
    let mut holder = command.spawn().context("start its process")?;
    let kept = keep(&mut holder, registry);
    // One that was not told to keep its lab removes it now, and ends.
    drop(holder.stdin.take());
    if let Ok(Some(standing)) = kept {
        return Ok(standing);
    }
    let status = holder.wait().context("wait for its process")?;
    kept?;
    let mut why = String::new();
    complaints
        .rewind()
        .and_then(|()| complaints.read_to_string(&mut why))
        .context("read what went wrong")?;
    let why = why.trim_end().trim_start_matches("error: ");
    if why.is_empty() {
        bail!("its process ended with {status}");
    }
    bail!("{why}");
}

/// Waits for the line that says that the lab stands, remembers the lab and says so; `None` where no line comes.
fn keep(holder: &mut Child, registry: &Registry) -> Result<Option<Standing>> {
    let (Some(stdin), Some(stdout)) = (&mut holder.stdin, holder.stdout.take()) else {
        return Ok(None);
    };
    let mut line = String::new();
    BufReader::new(stdout)
        .read_line(&mut line)
        .context("wait for its process")?;
    if line.is_empty() {
        return Ok(None);
    }
    let standing = serde_json::from_str(&line).context("understand its process")?;
    registry.remember(&standing)?;
    writeln!(stdin, "{}", hold::KEEP).context("tell its process")?;
    Ok(Some(standing))
}

fn describe(standing: &Standing, breakage: Breakage, state: &str) {
    let Standing { name, anchor, .. } = standing;
    let enter = format!("nsenter --target {anchor} --net --mount");
    println!("lab {name} {state}: {}\n", breakage.description());
    let addresses: Vec<_> = breakage.addresses().iter().map(IpAddr::to_string).collect();
    match addresses[..] {
        [] => println!("  name        none"),
        _ => println!("  name        {NAME}: {}", addresses.join(", ")),
    }
    println!(
        "  server      {SERVER_IPV6} and {SERVER_IPV4}: HTTP at port {HTTP_PORT}, echo at port {ECHO_PORT}"
    );
    println!("  nameserver  {NAMESERVER}");
    println!("  prefix      {PREFIX}, for rules\n");
    println!("  enter it    {enter} COMMAND");
    println!("  remove it   cargo xtask lab down {name}");
}

/// Removes those labs, or all. One that is not up is no error.
pub(crate) fn down(wanted: &[&str]) -> Result<ExitCode> {
    let locked = Registry::new().lock()?;
    let registry = &locked.registry;
    let all = names()?;
    let wanted = if wanted.is_empty() {
        all.iter().map(String::as_str).collect()
    } else {
        wanted.to_vec()
    };
    if wanted.is_empty() {
        println!("no lab is up");
    }
    for name in wanted {
        check_name(name)?;
        let what = match registry.find(name)? {
            None => "is not up",
            Some(standing) => match standing.process()? {
                None => "had ended by itself",
                Some(process) => {
                    end(&process).with_context(|| format!("end process {} of lab {name}", standing.pid))?;
                    "is down"
                }
            },
        };
        registry.forget(name)?;
        println!("lab {name} {what}");
    }
    Ok(ExitCode::SUCCESS)
}

/// Ends a process and waits until it is gone.
fn end(process: &OwnedFd) -> Result<()> {
    match pidfd_send_signal(process, Signal::TERM) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => {}
        Err(error) => return Err(error).context("send it SIGTERM"),
    }
    ensure!(
        has_ended(process, PATIENCE)?,
        "it has not ended within {PATIENCE:?}"
    );
    Ok(())
}

/// Whether a process has ended, or does within that time.
fn has_ended(process: &OwnedFd, within: Duration) -> Result<bool> {
    let limit = Timespec::try_from(within).context("understand the time limit")?;
    loop {
        match poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&limit)) {
            Ok(count) => return Ok(count > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("ask whether a process has ended"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_that_of_a_file_in_the_folder() {
        for name in ["black-hole", "2"] {
            check_name(name).unwrap();
        }
        for name in ["", ".lock", "../x", "a/b", "A", "a b"] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }

    #[test]
    fn a_process_with_the_number_and_another_start_is_not_the_labs() {
        let mut standing = Standing::of_this_process("test", Breakage::Healthy, 0).unwrap();
        assert!(standing.process().unwrap().is_some());
        standing.start_ticks -= 1;
        assert!(standing.process().unwrap().is_none());
    }
}
