//! A private apt: its own sources, lists and cache in a temporary folder, so that a package of another
//! suite can be had without the machine's own apt noticing.
//!
//! It trusts the keys the machine trusts, and asks the mirrors the machine asks.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;

use super::sources::Source;
use crate::workspace::{read, retried, run};

/// One mirror and suite, with lists and cache of its own.
pub(crate) struct AptRoot {
    folder: TempDir,
}

impl AptRoot {
    /// Fetches the lists of that suite.
    ///
    /// # Errors
    ///
    /// Where the mirror has no such suite, or is out of reach.
    pub(crate) fn open(source: &Source) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("enforcer-apt-")
            .tempdir()
            .context("making a folder for a private apt root")?;
        for below in ["state/lists/partial", "cache/archives/partial", "etc"] {
            let path = folder.path().join(below);
            fs::create_dir_all(&path).with_context(|| format!("making {}", path.display()))?;
        }
        let root = Self { folder };
        for (name, text) in [
            ("etc/sources.list", source.line()),
            ("state/status", String::new()),
        ] {
            let path = root.path().join(name);
            fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        }
        read(root.apt("apt-get").arg("update")).map(|_said| root)
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn apt(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        for (option, below) in [
            ("Dir::State", "state"),
            ("Dir::State::Lists", "state/lists"),
            ("Dir::State::status", "state/status"),
            ("Dir::Cache", "cache"),
            ("Dir::Etc::SourceList", "etc/sources.list"),
        ] {
            command
                .arg("-o")
                .arg(format!("{option}={}", self.path().join(below).display()));
        }
        for option in [
            "Dir::Etc::SourceParts=/dev/null",
            "Dir::Etc::Preferences=/dev/null",
            "Dir::Etc::PreferencesParts=/dev/null",
            // The user `_apt` may not write into our folder.
            "APT::Sandbox::User=",
            // Neither translations nor contents nor what others have hooked in.
            "Acquire::Languages=none",
            "APT::Update::Post-Invoke::=",
            "APT::Update::Post-Invoke-Success::=",
            "Acquire::Retries=3",
            "APT::Update::Error-Mode=any",
        ] {
            command.args(["-o", option]);
        }
        command.env("LC_ALL", "C").current_dir(self.path());
        command
    }

    /// The newest version of a package whose version satisfies `wanted`, if the suite has one.
    ///
    /// # Errors
    ///
    /// Where apt cannot be asked.
    pub(crate) fn version(&self, package: &str, wanted: impl Fn(&str) -> bool) -> Result<Option<String>> {
        // `package | version | repository`, newest first.
        let said = read(self.apt("apt-cache").args(["madison", package]))?;
        let versions = said
            .lines()
            .filter_map(|line| line.split('|').nth(1))
            .map(str::trim);
        Ok(versions
            .into_iter()
            .find(|version| wanted(version))
            .map(str::to_owned))
    }

    /// Downloads that version and unpacks its files into `to`. No script of the package runs.
    ///
    /// # Errors
    ///
    /// Where it cannot be had.
    pub(crate) fn unpack(&self, package: &str, version: &str, to: &Path) -> Result<()> {
        let name = format!("{package}={version}");
        retried(|| read(self.apt("apt-get").args(["download", &name])).map(drop))?;
        let entries = fs::read_dir(self.path()).context("listing the private apt root")?;
        let deb = entries
            .flatten()
            .map(|entry| entry.path())
            .find(|path| path.extension().is_some_and(|extension| extension == "deb"));
        let Some(deb) = deb else {
            bail!("apt-get said that it had downloaded {name}, but there is no such file")
        };
        run(Command::new("dpkg-deb").arg("-x").arg(deb).arg(to))
    }
}
