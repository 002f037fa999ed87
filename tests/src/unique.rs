//! Names nobody else has, and the mark by which a fixture knows the processes it is responsible for.

use std::{
    path::PathBuf,
    process,
    sync::{
        LazyLock,
        atomic::{AtomicU32, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result};

/// Environment variable that every process started by a fixture carries, and hands on to its children.
pub(crate) const MARK_VARIABLE: &str = "ENFORCER_FIXTURE_MARK";

/// The value of [`MARK_VARIABLE`]: different in every process that uses fixtures, also across PID namespaces
/// and reboots, which the process identifier alone would not be.
pub(crate) fn mark() -> &'static str {
    static MARK: LazyLock<String> = LazyLock::new(|| {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        format!(
            "{}-{:x}",
            process::id(),
            since_epoch.as_nanos() & 0xffff_ffff_ffff
        )
    });
    &MARK
}

/// A name nobody else has: `<prefix>-<mark>-<count>`.
pub(crate) fn name(prefix: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("{prefix}-{}-{}", mark(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// A program of this build: the path in the environment variable, else the file of that name in the directory
/// of the running program or the one above it (test binaries lie in `deps/`).
pub(crate) fn built_program(name: &str, variable: &str) -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(variable) {
        let path = PathBuf::from(path);
        anyhow::ensure!(
            path.is_file(),
            "find {name} at {}, which {variable} names: no such file",
            path.display()
        );
        return Ok(path);
    }
    let running = std::env::current_exe().context("find the path of the running program")?;
    running
        .ancestors()
        .skip(1)
        .take(2)
        .map(|directory| directory.join(name))
        .find(|candidate| candidate.is_file())
        .with_context(|| {
            format!(
                "find {name} beside {} (hint: build it, or name it in {variable})",
                running.display()
            )
        })
}
