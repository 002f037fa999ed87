//! `rust-src` of exactly the compiler that builds: its `library/` folder, from whoever has it.
//!
//! Four ways, in this order: it is there; rustup; an archive given by hand or lying beside the clone; the
//! distribution's package of the same version. Whatever the way, the folder appears whole or not at all.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use sha2::{Digest as _, Sha256};

use crate::{
    debian::{Apt, Suite, install},
    prerequisites::{self, pinned_toolchain},
    workspace,
};

/// What [`bring`] will do, for lists.
pub(crate) const PLAN: &str = "by rustup; else from the archive named by RUST_SRC_ARCHIVE or beside the clone; else from Debian's rust-src";

/// Names the archive.
const ARCHIVE_VARIABLE: &str = "RUST_SRC_ARCHIVE";

/// SHA-256 of the archive of the pinned compiler's `library/` folder. Changes with `rust-toolchain.toml`.
const ARCHIVE_SHA256: &str = "4c5664da1382a93d6505a9c67184aa539273f7f78290fd620e166a9beeeb7652";

/// Suites of Debian to ask, the likeliest first, whichever the machine's own is. A compiler of one year is in
/// the backports to that year's stable, in testing, or in unstable.
const SUITES: [Suite; 5] = [
    Suite::Archive("trixie-backports"),
    Suite::Archive("forky"),
    Suite::Archive("sid"),
    Suite::Archive("trixie"),
    Suite::Archive("bookworm-backports"),
];

/// What lists call it.
pub(crate) fn name() -> String {
    format!("rust-src {}", pinned_toolchain())
}

fn home() -> Result<PathBuf> {
    prerequisites::rust_src_home(&workspace::rustc()).context("asking the compiler for its sysroot")
}

/// Whether the compiler has it.
///
/// # Errors
///
/// Where there is no compiler to ask.
pub(crate) fn is_there() -> Result<bool> {
    Ok(prerequisites::rust_src_witness(&home()?).is_file())
}

/// A way to bring it, given the folder in which `library/` shall lie.
type Way = fn(&Path) -> Result<()>;

/// Brings it, by the first way that works.
///
/// # Errors
///
/// Where none does: why each failed, and what a person can type.
pub(crate) fn bring() -> Result<()> {
    let home = home()?;
    let ways: [(&str, Way); 3] = [
        ("rustup", by_rustup),
        ("archive", by_archive),
        ("Debian's package", by_debian),
    ];
    let mut failures = Vec::new();
    for (way, bring) in ways {
        let outcome = bring(&home).and_then(|()| match is_there()? {
            true => Ok(()),
            false => bail!(
                "it said that it had worked, but {} is still not there",
                home.display()
            ),
        });
        match outcome {
            Ok(()) => {
                println!("{} unpacked below {} ({way})", name(), home.display());
                return Ok(());
            }
            Err(error) => {
                println!("{} by {way}: {error:#}", name());
                failures.push(format!("  {way}: {error:#}"));
            }
        }
    }
    bail!(
        "nobody could bring {}\n{}\nhint: any one of these does, typed on a machine that can reach the source:\n  \
         rustup component add rust-src --toolchain {}\n  \
         {ARCHIVE_VARIABLE}=/path/to/rust-src-{}.tar.xz cargo xtask setup\n  \
         cp -r /usr/src/rustc-{}/library {}     (from Debian's package rust-src of that version)",
        name(),
        failures.join("\n"),
        workspace::toolchain(),
        pinned_toolchain(),
        pinned_toolchain(),
        home.display(),
    )
}

fn by_rustup(_home: &Path) -> Result<()> {
    let Some(rustup) = workspace::program("rustup") else {
        bail!("there is no rustup")
    };
    let toolchain = workspace::toolchain();
    workspace::read(Command::new(rustup).args(["component", "add", "rust-src", "--toolchain", &toolchain]))
        .map(drop)
}

fn by_archive(home: &Path) -> Result<()> {
    let path = match env::var_os(ARCHIVE_VARIABLE) {
        Some(path) => PathBuf::from(path),
        None => archive_beside_the_clone()?,
    };
    let bytes = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
    check_sha256(&bytes, &path)?;
    let staging = Staging::beside(home)?;
    let tar = lzma_rust2::XzReader::new(bytes.as_slice(), true);
    tar::Archive::new(tar)
        .unpack(staging.path())
        .with_context(|| format!("unpacking {}", path.display()))?;
    staging.publish("library", home)
}

/// `../shared/rust-src-*.tar.xz`, seen from the repository's root. The pinned compiler's, if it is there.
fn archive_beside_the_clone() -> Result<PathBuf> {
    let folder = workspace::root().join("../shared");
    let mut archives: Vec<_> = fs::read_dir(&folder)
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default();
    archives.retain(|path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("rust-src-") && name.ends_with(".tar.xz")
    });
    archives.sort_by_key(|path| (!path.to_string_lossy().contains(pinned_toolchain()), path.clone()));
    match archives.into_iter().next() {
        Some(path) => Ok(path),
        None => bail!(
            "{ARCHIVE_VARIABLE} is not set, and there is no rust-src-*.tar.xz in a folder `shared` beside the clone"
        ),
    }
}

fn check_sha256(bytes: &[u8], path: &Path) -> Result<()> {
    let sum: String = Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    if sum != ARCHIVE_SHA256 {
        bail!(
            "{} is not the archive this repository knows: its SHA-256 is {sum}, and that of {} is {ARCHIVE_SHA256}",
            path.display(),
            name()
        );
    }
    Ok(())
}

fn by_debian(home: &Path) -> Result<()> {
    if !install::is_there() {
        bail!("this system has no apt");
    }
    let mut asked = Vec::new();
    for suite in SUITES {
        let folder = tempfile::Builder::new().prefix("enforcer-apt-").tempdir();
        let folder = folder.context("making a folder for a private apt root")?;
        let apt = Apt::open(folder.path(), &[suite])?;
        match apt.update().and_then(|()| apt.version("rust-src", is_ours)) {
            Ok(Some(package)) => {
                println!("{}: rust-src {} is in {}", name(), package.version, suite.name());
                let staging = Staging::beside(home)?;
                let unpacked = staging.path().join("package");
                apt.unpack(&package, &unpacked)?;
                return staging.publish(
                    &format!("package/usr/src/rustc-{}/library", pinned_toolchain()),
                    home,
                );
            }
            Ok(None) => asked.push(suite.name().to_owned()),
            Err(error) => asked.push(format!("{} ({error:#})", suite.name())),
        }
    }
    bail!("no suite has it; asked were: {}", asked.join(", "))
}

/// Whether a Debian version is the pinned compiler's: `1.95.0+dfsg1-1~bpo13+1`.
fn is_ours(version: &str) -> bool {
    version
        .strip_prefix(pinned_toolchain())
        .is_some_and(|rest| rest.starts_with(['+', '-', '~']))
}

/// A folder beside the place where `library/` shall be, so that putting it there is one rename.
struct Staging {
    folder: tempfile::TempDir,
}

impl Staging {
    fn beside(home: &Path) -> Result<Self> {
        fs::create_dir_all(home).with_context(|| format!("making {}", home.display()))?;
        let folder = tempfile::Builder::new()
            .prefix(".enforcer-setup-")
            .tempdir_in(home)
            .with_context(|| format!("making a folder in {}", home.display()))?;
        Ok(Self { folder })
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Moves the unpacked `library` to its place.
    fn publish(self, library: &str, home: &Path) -> Result<()> {
        let from = self.path().join(library);
        let to = home.join("library");
        if !from.join("core/Cargo.toml").is_file() {
            bail!("what was unpacked holds no {library}/core");
        }
        if to.exists() {
            // Without its witness it is a torso; nothing uses it.
            fs::remove_dir_all(&to).with_context(|| format!("removing the incomplete {}", to.display()))?;
        }
        fs::rename(&from, &to).with_context(|| format!("moving {library} to {}", to.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pinned_compiler_is_a_full_version() {
        assert_eq!(pinned_toolchain().split('.').count(), 3);
        assert!(
            pinned_toolchain()
                .split('.')
                .all(|part| part.parse::<u32>().is_ok())
        );
    }

    #[test]
    fn only_the_same_version_is_ours() {
        let ours = pinned_toolchain();
        assert!(is_ours(&format!("{ours}+dfsg1-1~bpo13+1")));
        assert!(is_ours(&format!("{ours}-1")));
        assert!(!is_ours(&format!("{ours}1+dfsg1-1")));
        assert!(!is_ours("1.63.0+dfsg1-2"));
    }

    #[test]
    fn an_archive_with_another_sum_is_refused() {
        let error = check_sha256(b"something else", Path::new("given.tar.xz")).unwrap_err();
        assert!(
            error.to_string().contains("given.tar.xz is not the archive"),
            "{error}"
        );
    }

    #[test]
    fn a_folder_is_published_whole_or_not_at_all() {
        let home = tempfile::tempdir().unwrap();
        let staging = Staging::beside(home.path()).unwrap();
        fs::create_dir_all(staging.path().join("library/std")).unwrap();
        staging.publish("library", home.path()).unwrap_err();
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0);

        let staging = Staging::beside(home.path()).unwrap();
        fs::create_dir_all(staging.path().join("library/core")).unwrap();
        fs::write(staging.path().join("library/core/Cargo.toml"), "").unwrap();
        staging.publish("library", home.path()).unwrap();
        assert!(home.path().join("library/core/Cargo.toml").is_file());
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
    }
}
