//! A guest that is what most production hosts are: systemd, cgroup version 2 alone, Docker with systemd's cgroups, and
//! Podman. The other guests show kernels; this one shows a distribution.
//!
//! Its disk is made once, of the machine's own suite, and kept; what is tested comes on a second one, as an archive.

mod payload;
mod root;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

pub(crate) use self::payload::{is_tested_there, write as write_payload};
use crate::workspace;

/// What `--image` and the tests call it.
pub(crate) const SYSTEMD: &str = "systemd";

/// Kernel arguments beside those of all guests: what systemd says goes to its journal, not between the kernel's lines.
pub(crate) const ARGUMENTS: &str = "root=/dev/vda rw rootfstype=ext4 systemd.log_target=journal systemd.show_status=false \
     systemd.machine_id=00000000000000000000000000000001";

/// Memory of the guest: engines, and four containers at a time.
pub(crate) const MEMORY_MIB: u64 = 1536;

/// What the folder was made by; a folder with another one is made anew.
const STAMP: &str = "stamp";
const DISK: &str = "disk.img";
const KERNEL: &str = "vmlinuz";
const INITRD: &str = "initrd.img";

/// A disk that is ready to boot.
#[derive(Debug)]
pub(crate) struct Image {
    /// Its kernel's package, as far as the kernel's file name tells.
    pub(crate) package: String,
    /// The compressed kernel.
    pub(crate) kernel: PathBuf,
    /// The initial file system that its distribution made for it.
    pub(crate) initrd: PathBuf,
    /// The disk.
    pub(crate) disk: PathBuf,
}

/// The image, from `cache` if it was made by this recipe.
///
/// # Errors
///
/// When it has to be made and cannot be: that takes root, mmdebstrap and the distribution's mirror.
pub(crate) fn image(cache: &Path) -> Result<Image> {
    let folder = cache.join("images").join(SYSTEMD);
    let recipe = root::recipe();
    let stamp = folder.join(STAMP);
    if fs::read_to_string(&stamp).is_ok_and(|kept| kept == recipe) {
        return kept(&folder);
    }
    if !workspace::is_root() {
        bail!("making a guest with systemd needs root\nhint: run it as root once: what it makes is kept");
    }
    super::say("systemd: making a disk, which takes a minute or two");
    remove(&folder)?;
    fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    root::make(&folder)?;
    fs::write(&stamp, recipe).with_context(|| format!("writing {}", stamp.display()))?;
    kept(&folder)
}

fn kept(folder: &Path) -> Result<Image> {
    let package = folder.join(root::RELEASE);
    Ok(Image {
        package: fs::read_to_string(&package).with_context(|| format!("reading {}", package.display()))?,
        kernel: folder.join(KERNEL),
        initrd: folder.join(INITRD),
        disk: folder.join(DISK),
    })
}

/// Removes a folder; `--one-file-system`, because mmdebstrap mounts things in a root that it makes.
fn remove(folder: &Path) -> Result<()> {
    let mut command = std::process::Command::new("rm");
    crate::debian::output(
        command
            .args(["--recursive", "--force", "--one-file-system"])
            .arg(folder),
    )
    .map(drop)
}
