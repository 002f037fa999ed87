//! What the guest tests, as an archive that is read from a disk without a file system: a new one for each run costs
//! nothing but its writing.

use std::{fs::File, io::Write as _, path::Path};

use anyhow::{Context as _, Result};
use tar::{Builder, Header};

use crate::vm::payload::Payload;

const GUEST: &str = include_str!("../guest/systemd.sh");

/// The test binaries that a distribution can make a difference to.
const TESTED: &[&str] = &[
    "containers",
    "engines",
    "exec",
    "nesting",
    "target_lifetimes",
    "targets",
];

/// Programs of the payload that the guest has by itself.
const ITS_OWN: &[&str] = &["ip", "tc", "nft"];

/// Whether the test binary of that name is run there.
pub(crate) fn is_tested_there(name: &str) -> bool {
    TESTED.contains(&name)
}

/// Writes the archive. The libraries of programs built here are those of the guest, whose suite is the machine's.
///
/// # Errors
///
/// When a file cannot be read, or `path` cannot be written.
pub(crate) fn write(path: &Path, payload: &Payload, tests_folder: &Path, settings: &str) -> Result<()> {
    let attempt = || -> std::io::Result<()> {
        let mut archive = Builder::new(File::create(path)?);
        archive.sparse(false);
        for (name, text) in [
            ("guest.sh", GUEST),
            ("run-tests.sh", crate::vm::initramfs::RUN_TESTS),
            ("settings", settings),
        ] {
            let mut header = Header::new_gnu();
            header.set_mode(0o644);
            header.set_size(text.len() as u64);
            header.set_cksum();
            archive.append_data(&mut header, name, text.as_bytes())?;
        }
        for binary in &payload.tests {
            archive.append_path_with_name(&binary.path, format!("test-binaries/{}", binary.name))?;
        }
        let programs = payload.programs.iter();
        for (name, from) in programs.filter(|(name, _)| !ITS_OWN.contains(&name.as_str())) {
            archive.append_path_with_name(from, format!("bin/{name}"))?;
        }
        archive.append_dir_all("tests", tests_folder)?;
        archive.into_inner()?.flush()
    };
    attempt().with_context(|| format!("writing {}", path.display()))
}
