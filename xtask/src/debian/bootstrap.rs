//! Making a Debian root with mmdebstrap, of the suite and from the mirror that the machine itself uses.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use super::{Source, of_machine, output};

/// The program.
pub(crate) const MMDEBSTRAP: &str = "mmdebstrap";

/// Makes a root with apt, these packages, and what they depend on; `more` are further options.
///
/// # Errors
///
/// When mmdebstrap fails; what it said is in the message.
pub(crate) fn make_root(root: &Path, packages: &[&str], more: &[String]) -> Result<()> {
    let parent = root.parent().context("the root has no parent folder")?;
    fs::create_dir_all(parent).with_context(|| format!("making {}", parent.display()))?;
    let sources: String = of_machine().iter().map(Source::line).collect();
    let name = root.file_name().unwrap_or_default().to_string_lossy();
    let list = parent.join(format!("{name}.list"));
    fs::write(&list, sources).with_context(|| format!("writing {}", list.display()))?;
    let mut command = Command::new(MMDEBSTRAP);
    command.args(["--quiet", "--variant=apt", "--include", &packages.join(",")]);
    for option in acquire_options()? {
        command.arg("--aptopt").arg(option);
    }
    // The suite is in the list's lines.
    output(command.args(more).arg("").arg(root).arg(&list))?;
    fs::remove_file(&list).with_context(|| format!("removing {}", list.display()))
}

/// Files of the machine's apt configuration that say how packages are fetched.
fn acquire_options() -> Result<Vec<PathBuf>> {
    let folder = Path::new("/etc/apt/apt.conf.d");
    let entries = fs::read_dir(folder).with_context(|| format!("listing {}", folder.display()))?;
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| fs::read_to_string(path).is_ok_and(|text| text.starts_with("Acquire::")));
    paths.sort();
    Ok(paths)
}
