//! Who keeps a program attached: processes that hold a descriptor of it or of its link, and files in bpffs.
//!
//! The kernel remembers which user loaded a program, and not which process; but a program that nobody holds, nobody
//! pinned and no cgroup keeps is gone.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use procfs::process::Process;

use super::sight;
use crate::kernel::attached::{pinned_program, program_in_fdinfo};

/// Files of bpffs that are looked at, at most.
const MAX_PINS: usize = 10_000;

/// What keeps programs alive, by the program's identifier.
#[derive(Debug, Default)]
pub(super) struct Holders {
    processes: BTreeMap<u32, BTreeSet<String>>,
    pins: BTreeMap<u32, BTreeSet<String>>,
    /// Whether there were processes that could not be looked into, or that /proc does not list.
    pub(super) incomplete: bool,
}

impl Holders {
    pub(super) fn find() -> Self {
        let mut found = Self {
            incomplete: !sight::is_initial_pid_namespace(),
            ..Self::default()
        };
        found.look_at_processes();
        found.look_at_pins();
        found
    }

    /// `name[pid]` of each process that holds it.
    pub(super) fn processes(&self, program: u32) -> Vec<String> {
        list(&self.processes, program)
    }

    /// Each file of bpffs that stands for it.
    pub(super) fn pins(&self, program: u32) -> Vec<String> {
        list(&self.pins, program)
    }

    fn look_at_processes(&mut self) {
        let Ok(entries) = fs::read_dir("/proc") else {
            self.incomplete = true;
            return;
        };
        let own = std::process::id();
        let pids = entries
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        for pid in pids.filter(|pid| *pid != own) {
            let folder = PathBuf::from(format!("/proc/{pid}"));
            match fs::read_dir(folder.join("fd")) {
                Ok(descriptors) => {
                    for descriptor in descriptors.flatten() {
                        self.look_at_descriptor(pid, &folder, &descriptor.path());
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => self.incomplete = true,
                // It ended meanwhile.
                Err(_) => {}
            }
        }
    }

    fn look_at_descriptor(&mut self, pid: u32, folder: &Path, descriptor: &Path) {
        // `anon_inode:bpf-prog` and `anon_inode:bpf_link`.
        let is_bpf = fs::read_link(descriptor)
            .is_ok_and(|target| target.as_os_str().as_bytes().starts_with(b"anon_inode:bpf"));
        if !is_bpf {
            return;
        }
        let fdinfo = folder
            .join("fdinfo")
            .join(descriptor.file_name().unwrap_or_default());
        let program = fs::read_to_string(fdinfo)
            .ok()
            .and_then(|text| program_in_fdinfo(&text));
        if let Some(program) = program {
            let name = fs::read_to_string(folder.join("comm")).unwrap_or_default();
            let holder = format!("{}[{pid}]", name.trim_end());
            self.processes.entry(program).or_default().insert(holder);
        }
    }

    fn look_at_pins(&mut self) {
        let Ok(mounts) = Process::myself().and_then(|process| process.mountinfo()) else {
            self.incomplete = true;
            return;
        };
        let mut folders: Vec<PathBuf> = mounts
            .into_iter()
            .filter(|mount| mount.fs_type == "bpf")
            .map(|mount| mount.mount_point)
            .collect();
        let mut seen = 0;
        while let Some(folder) = folders.pop() {
            let Ok(entries) = fs::read_dir(&folder) else {
                self.incomplete = true;
                continue;
            };
            for entry in entries.flatten() {
                seen += 1;
                if seen > MAX_PINS {
                    self.incomplete = true;
                    return;
                }
                let path = entry.path();
                match entry.file_type() {
                    Ok(kind) if kind.is_dir() => folders.push(path),
                    Ok(kind) if kind.is_file() => match pinned_program(&path) {
                        Ok(Some(program)) => {
                            let shown = path.display().to_string();
                            self.pins.entry(program).or_default().insert(shown);
                        }
                        Ok(None) => {}
                        Err(_) => self.incomplete = true,
                    },
                    _ => {}
                }
            }
        }
    }
}

fn list(found: &BTreeMap<u32, BTreeSet<String>>, program: u32) -> Vec<String> {
    found
        .get(&program)
        .map(|names| names.iter().cloned().collect())
        .unwrap_or_default()
}
