//! How the disk is made: a root by mmdebstrap, and a file system of it by mke2fs, without mounting anything.

use std::{
    fs::{self, File},
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};

use super::{DISK, INITRD, KERNEL};
use crate::debian::{self, install, output};

/// File with the release of the root's kernel.
pub(super) const RELEASE: &str = "release";

/// What the guest has beside the essential packages.
const PACKAGES: &[&str] = &[
    "apparmor",
    "busybox-static",
    "crun",
    "dbus",
    "docker.io",
    "initramfs-tools",
    "iproute2",
    "linux-image-cloud-amd64",
    "podman",
    "runc",
    "systemd",
    "systemd-sysv",
];

/// The engine's command line, in suites that have it apart.
const APART: &str = "docker-cli";

/// Files of packages that nobody reads there.
const LEFT_OUT: &[&str] = &[
    "/usr/share/doc/*",
    "/usr/share/info/*",
    "/usr/share/locale/*",
    "/usr/share/man/*",
];

/// As much as images and containers of the tests can fill; only what is written takes room.
const DISK_SIZE: &str = "6G";

const BEFORE: &str = include_str!("../guest/image-before.sh");
const AFTER: &str = include_str!("../guest/image-after.sh");

fn packages() -> Vec<&'static str> {
    let apart = install::has_candidate(APART).then_some(APART);
    PACKAGES.iter().copied().chain(apart).collect()
}

/// Everything that the disk depends on, but for the versions of packages: those it has until the recipe changes or
/// the folder is removed.
pub(super) fn recipe() -> String {
    let sources = debian::of_machine();
    let scripts = Sha256::digest([BEFORE, AFTER].concat());
    let scripts: String = scripts.iter().map(|byte| format!("{byte:02x}")).collect();
    let lines = sources.iter().map(debian::Source::line);
    lines
        .chain([format!(
            "packages {}\nwithout {}\nsize {DISK_SIZE}\nscripts {scripts}\n",
            packages().join(" "),
            LEFT_OUT.join(" ")
        )])
        .collect()
}

/// Makes the disk, and takes the kernel and its initial file system out of it.
pub(super) fn make(folder: &Path) -> Result<()> {
    let root = folder.join("root");
    let mut options: Vec<String> = LEFT_OUT
        .iter()
        .map(|pattern| format!("--dpkgopt=path-exclude={pattern}"))
        .collect();
    for (hook, name, script) in [("setup", "before.sh", BEFORE), ("customize", "after.sh", AFTER)] {
        let path = folder.join(name);
        fs::write(&path, script).with_context(|| format!("writing {}", path.display()))?;
        options.push(format!(
            "--{hook}-hook=sh {} \"$1\"",
            crate::vm::plan::quoted(&path.to_string_lossy())
        ));
    }
    debian::make_root(&root, &packages(), &options)?;
    let kernel = only(&root.join("boot"), "vmlinuz-")?;
    let initrd = only(&root.join("boot"), "initrd.img-")?;
    let release = kernel.file_name().map(|name| name.to_string_lossy().into_owned());
    let release = release.unwrap_or_default().replace("vmlinuz-", "linux-image-");
    for (from, to) in [(&kernel, KERNEL), (&initrd, INITRD)] {
        fs::copy(from, folder.join(to)).with_context(|| format!("copying {}", from.display()))?;
    }
    let disk = folder.join(DISK);
    File::create(&disk).with_context(|| format!("creating {}", disk.display()))?;
    let mut mke2fs = Command::new("mke2fs");
    mke2fs
        // Without a journal: nothing that the guest writes is ever read again.
        .args(["-q", "-F", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-d"])
        .args([&root, &disk])
        .arg(DISK_SIZE);
    output(&mut mke2fs)?;
    super::remove(&root)?;
    let path = folder.join(RELEASE);
    fs::write(&path, release).with_context(|| format!("writing {}", path.display()))
}

/// The file in a folder whose name begins so.
fn only(folder: &Path, beginning: &str) -> Result<PathBuf> {
    let entries = fs::read_dir(folder).with_context(|| format!("listing {}", folder.display()))?;
    let mut paths = entries.flatten().map(|entry| entry.path());
    paths
        .find(|path| {
            path.file_name()
                .is_some_and(|name| name.as_bytes().starts_with(beginning.as_bytes()))
        })
        .with_context(|| format!("looking for {beginning}… in {}: there is none", folder.display()))
}
