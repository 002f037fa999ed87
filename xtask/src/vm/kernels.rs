//! Fetching the newest kernel of a line, and keeping it. What is kept is only what a boot needs: the image
//! and the modules that tests use.
//!
//! Nothing here boots anything.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use super::{lines::Line, modules, with_suffix};
use crate::debian::{Apt, Package};

/// The image in a kernel's folder.
const IMAGE: &str = "vmlinuz";
/// The folder of modules in a kernel's folder, each named by its place in the order of loading.
const MODULES: &str = "modules";
/// What the folder was made of; a folder with another one is made anew.
const STAMP: &str = "stamp";

/// A kernel that is ready to boot.
#[derive(Debug)]
pub(crate) struct Kernel {
    /// The line it is the newest of.
    pub(crate) line: &'static Line,
    /// Its package and version.
    pub(crate) package: String,
    /// The compressed image.
    pub(crate) image: PathBuf,
    /// The modules to load, in this order.
    pub(crate) modules: Vec<PathBuf>,
    /// Why it may not be the newest, if so.
    pub(crate) caveat: Option<String>,
}

/// Finds the newest kernel of the line and brings it into `cache`, unless it is there.
///
/// With `offline` set, or when the index cannot be fetched, what an earlier run left in `cache` is taken,
/// and the caveat says so.
///
/// # Errors
///
/// When the kernel is neither in `cache` nor to be had.
pub(crate) fn kernel(line: &'static Line, cache: &Path, offline: bool) -> Result<Kernel> {
    let folder = cache.join("kernels").join(line.name);
    let caveat = if offline {
        Some("not looked for a newer one (--offline)".to_owned())
    } else {
        newest(line, &cache.join("apt").join(line.name), &folder)
            .err()
            .map(|error| format!("not known to be the newest: {error:#}"))
    };
    match (kept(line, &folder), caveat) {
        (Ok(kernel), caveat) => Ok(Kernel { caveat, ..kernel }),
        (Err(error), None) => Err(error),
        (Err(_), Some(why)) => bail!(
            "finding a kernel of line {}: {why}\n\
             hint: only a first run needs the distribution's mirror: what it fetches is kept",
            line.name
        ),
    }
}

/// Brings the newest kernel of the line into `folder`. An error can leave an older one there.
fn newest(line: &Line, root: &Path, folder: &Path) -> Result<()> {
    let apt = Apt::open(root, line.suites)?;
    let updated = apt.update();
    let image = apt
        .newest(line.image)?
        .with_context(|| format!("searching for {}: the index has none", line.image));
    // An index that could not be read is the better reason for a package that is not in it.
    let image = match (image, &updated) {
        (Err(_), Err(error)) => bail!("{error:#}"),
        (image, _) => image?,
    };
    let release = image
        .name
        .strip_prefix(line.image_prefix)
        .with_context(|| {
            format!(
                "reading the release from {}: it does not begin as the line says",
                image.name
            )
        })?
        .to_owned();
    let mut packages = vec![image];
    if let Some(prefix) = line.modules_prefix {
        let pattern = format!("^{prefix}{}$", release.replace('+', r"\+").replace('.', r"\."));
        let modules = apt
            .newest(&pattern)?
            .with_context(|| format!("searching for {prefix}{release}: the index has none"))?;
        packages.push(modules);
    }
    let stamp = stamp(&packages);
    if fs::read_to_string(folder.join(STAMP)).is_ok_and(|kept| kept == stamp) {
        return updated;
    }
    let unfinished = with_suffix(folder, ".new");
    remove(&unfinished)?;
    let unpacked = unfinished.join("root");
    for package in &packages {
        apt.unpack(package, &unpacked)?;
    }
    collect(&unpacked, &release, &unfinished)?;
    remove(&unpacked)?;
    let path = unfinished.join(STAMP);
    fs::write(&path, stamp).with_context(|| format!("writing {}", path.display()))?;
    remove(folder)?;
    fs::rename(&unfinished, folder).with_context(|| format!("renaming {}", unfinished.display()))?;
    updated
}

/// Copies what a boot needs from the unpacked packages.
fn collect(unpacked: &Path, release: &str, folder: &Path) -> Result<()> {
    let places = [
        unpacked.join("boot").join(format!("vmlinuz-{release}")),
        unpacked.join("usr/lib/modules").join(release).join("vmlinuz"),
    ];
    let image = places.iter().find(|path| path.exists()).with_context(|| {
        format!(
            "looking for the image of {release}: no {}",
            places
                .each_ref()
                .map(|path| path.display().to_string())
                .join(", no ")
        )
    })?;
    fs::copy(image, folder.join(IMAGE)).with_context(|| format!("copying {}", image.display()))?;
    modules::collect(unpacked, release, &folder.join(MODULES))
}

/// What an earlier run left.
fn kept(line: &'static Line, folder: &Path) -> Result<Kernel> {
    let path = folder.join(STAMP);
    let stamp = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let modules = folder.join(MODULES);
    let mut modules = fs::read_dir(&modules)
        .with_context(|| format!("reading {}", modules.display()))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<io::Result<Vec<_>>>()?;
    modules.sort();
    Ok(Kernel {
        line,
        package: stamp.lines().next().unwrap_or_default().to_owned(),
        image: folder.join(IMAGE),
        modules,
        caveat: None,
    })
}

/// Everything the contents of a kernel's folder depend on.
fn stamp(packages: &[Package]) -> String {
    packages
        .iter()
        .map(|Package { name, version }| format!("{name} {version}\n"))
        .chain([format!("modules {}\n", modules::WANTED.join(" "))])
        .collect()
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", folder.display()))
        }
        _ => Ok(()),
    }
}
