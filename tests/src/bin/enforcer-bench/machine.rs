//! What machine was measured: figures mean nothing without.

use std::fs;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

/// The machine and its kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) processor: String,
    pub(crate) cpus: usize,
    pub(crate) memory_gib: u64,
    /// What makes the machine up if it is none of metal.
    pub(crate) virtualised: bool,
    pub(crate) kernel: String,
    /// How the CPU's clock is governed, or that nobody says.
    pub(crate) governor: String,
    /// What the kernel does against flaws of the CPU, those that cost something.
    pub(crate) mitigations: Vec<String>,
    /// Whether BPF is compiled to machine code.
    pub(crate) jit: bool,
}

impl Machine {
    pub(crate) fn find() -> Result<Self> {
        let cpuinfo = read("/proc/cpuinfo")?;
        let line = |name: &str| {
            let line = cpuinfo.lines().find(|line| line.starts_with(name))?;
            line.split_once(':').map(|(_, value)| value.trim().to_owned())
        };
        let system = rustix::system::uname();
        let meminfo = read("/proc/meminfo")?;
        let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
        let total = total.and_then(|value| value.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
        let governor = fs::read_to_string("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor");
        Ok(Self {
            processor: line("model name").unwrap_or_else(|| system.machine().to_string_lossy().into_owned()),
            cpus: cpuinfo
                .lines()
                .filter(|line| line.starts_with("processor"))
                .count(),
            memory_gib: total.unwrap_or(0).div_ceil(1 << 20),
            virtualised: line("flags").is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor")),
            kernel: system.release().to_string_lossy().into_owned(),
            governor: governor.map_or_else(|_| "not visible".to_owned(), |text| text.trim().to_owned()),
            mitigations: mitigations()?,
            jit: fs::read_to_string("/proc/sys/net/core/bpf_jit_enable")
                .is_ok_and(|value| value.trim() != "0"),
        })
    }

    /// What it says of itself, each with its name.
    pub(crate) fn facts(&self) -> [(&'static str, String); 5] {
        let virtualised = if self.virtualised { ", virtual machine" } else { "" };
        [
            (
                "machine",
                format!(
                    "{}, {} CPUs, {} GiB{virtualised}",
                    self.processor, self.cpus, self.memory_gib
                ),
            ),
            ("kernel", self.kernel.clone()),
            (
                "BPF",
                if self.jit {
                    "compiled to machine code"
                } else {
                    "interpreted"
                }
                .to_owned(),
            ),
            ("governor", self.governor.clone()),
            (
                "mitigations",
                if self.mitigations.is_empty() {
                    "none".to_owned()
                } else {
                    self.mitigations.join("; ")
                },
            ),
        ]
    }
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("read {path}"))
}

fn mitigations() -> Result<Vec<String>> {
    let directory = "/sys/devices/system/cpu/vulnerabilities";
    let Ok(entries) = fs::read_dir(directory) else {
        return Ok(vec!["not visible".to_owned()]);
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.with_context(|| format!("read {directory}"))?;
        let text = fs::read_to_string(entry.path()).unwrap_or_default();
        if let Some(what) = text.trim().strip_prefix("Mitigation: ") {
            found.push(format!("{}: {what}", entry.file_name().to_string_lossy()));
        }
    }
    found.sort_unstable();
    Ok(found)
}
