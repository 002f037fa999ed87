//! What memory processes and the kernel's BPF maps take, as the kernel accounts for it.

use std::{collections::BTreeMap, fs};

use anyhow::{Context as _, Result};

/// Memory of a process, in MiB.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ProcessMemory {
    /// Resident now (`VmRSS`).
    pub resident_mib: f64,
    /// The most that ever was (`VmHWM`).
    pub peak_mib: f64,
}

/// The memory of a process.
///
/// # Errors
///
/// When there is no such process.
pub fn of_process(pid: u32) -> Result<ProcessMemory> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let mib = |name: &str| -> Result<f64> {
        let value = text.lines().find_map(|line| line.strip_prefix(name));
        let value = value.with_context(|| format!("find {name} in {path}"))?;
        let number = value.trim().trim_end_matches("kB").trim();
        let kib: f64 = number
            .parse()
            .with_context(|| format!("understand {name} of {path}: {value}"))?;
        Ok(kib / 1024.0)
    };
    Ok(ProcessMemory {
        resident_mib: mib("VmRSS:")?,
        peak_mib: mib("VmHWM:")?,
    })
}

/// How many descriptors a process has.
///
/// # Errors
///
/// When there is no such process.
pub fn descriptors(pid: u32) -> Result<usize> {
    let path = format!("/proc/{pid}/fd");
    Ok(fs::read_dir(&path)
        .with_context(|| format!("read {path}"))?
        .count())
}

/// Bytes of each BPF map that a process has open, by the map's identifier, as the kernel tells them (`memlock` in
/// `fdinfo`; from 6.4 on that is what is in use).
///
/// # Errors
///
/// When there is no such process.
pub fn maps(pid: u32) -> Result<BTreeMap<u32, u64>> {
    let path = format!("/proc/{pid}/fdinfo");
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(&path).with_context(|| format!("read {path}"))? {
        let entry = entry.with_context(|| format!("read {path}"))?;
        // It may have been closed meanwhile.
        let text = fs::read_to_string(entry.path()).unwrap_or_default();
        let number = |name: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(name))?;
            value.trim().parse::<u64>().ok()
        };
        if let (Some(id), Some(bytes)) = (number("map_id:"), number("memlock:")) {
            found.insert(u32::try_from(id).context("read a map's identifier")?, bytes);
        }
    }
    Ok(found)
}
