//! A private apt: its own sources, lists and cache in a temporary folder, so that a package of another
//! suite can be had without the machine's own apt noticing.
//!
//! It trusts the keys the machine trusts, and asks the mirrors the machine asks.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;

use crate::workspace::{read, retried, run};

/// A repository the machine's own apt uses.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Repository {
    uri: String,
    suite: String,
}

/// The repositories of the Debian archive among the machine's own sources: address and suites.
#[derive(Debug)]
pub(crate) struct Sources {
    repositories: BTreeSet<Repository>,
    keyrings: BTreeSet<PathBuf>,
}

/// Where Debian keeps its archive's keys.
const DEBIAN_KEYRINGS: [&str; 2] = [
    "/usr/share/keyrings/debian-archive-keyring.gpg",
    "/usr/share/keyrings/debian-archive-keyring.pgp",
];

impl Sources {
    /// Asks apt, which knows its own formats, and reads only the keyrings' names from the files: apt does
    /// not tell those.
    ///
    /// # Errors
    ///
    /// Where apt cannot be asked.
    pub(crate) fn of_machine() -> Result<Self> {
        let targets = read(Command::new("apt-get").args([
            "indextargets",
            "--format",
            "$(REPO_URI) $(RELEASE) $(COMPONENT)",
            "Created-By: Packages",
        ]))?;
        let mut keyrings: BTreeSet<_> = DEBIAN_KEYRINGS.iter().map(PathBuf::from).collect();
        let parts = fs::read_dir("/etc/apt/sources.list.d")
            .into_iter()
            .flatten()
            .flatten();
        for path in parts
            .map(|entry| entry.path())
            .chain([PathBuf::from("/etc/apt/sources.list")])
        {
            keyrings.extend(keyrings_in(&fs::read_to_string(path).unwrap_or_default()));
        }
        keyrings.retain(|path| path.is_file());
        Ok(Self {
            repositories: main_repositories(&targets),
            keyrings,
        })
    }

    /// The machine's own repositories in the one-line format of sources.list(5).
    pub(crate) fn list(&self) -> String {
        self.repositories
            .iter()
            .map(|one| self.line(&one.uri, &one.suite))
            .collect()
    }

    fn line(&self, uri: &str, suite: &str) -> String {
        let keyrings: Vec<_> = self
            .keyrings
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        match keyrings.as_slice() {
            // The keys in /etc/apt/trusted.gpg.d then count.
            [] => format!("deb {uri} {suite} main\n"),
            some => format!("deb [signed-by={}] {uri} {suite} main\n", some.join(",")),
        }
    }

    /// Each mirror of the main archive with each suite worth asking for a package that the machine's own
    /// release may not have: its own suites first, then `others`.
    pub(crate) fn with_suites<'a>(&'a self, others: &[&'a str]) -> Vec<(&'a str, &'a str)> {
        let own = self
            .repositories
            .iter()
            .map(|one| (one.uri.as_str(), one.suite.as_str()));
        // Security and update suites live beside the main one, and lead nowhere else.
        let mirrors: BTreeSet<_> = self
            .repositories
            .iter()
            .filter(|one| !one.suite.contains('-') && !one.suite.contains('/'))
            .map(|one| one.uri.as_str())
            .collect();
        let mut all: Vec<_> = own.collect();
        for suite in others {
            for mirror in &mirrors {
                if !all.contains(&(*mirror, *suite)) {
                    all.push((*mirror, *suite));
                }
            }
        }
        all
    }
}

fn main_repositories(indextargets: &str) -> BTreeSet<Repository> {
    indextargets
        .lines()
        .filter_map(|line| match *line.split_whitespace().collect::<Vec<_>>() {
            [uri, suite, "main"] => Some(Repository {
                uri: uri.to_owned(),
                suite: suite.to_owned(),
            }),
            _ => None,
        })
        .collect()
}

/// Paths after `Signed-By:` (deb822) or `signed-by=` (one line); embedded keys and fingerprints are no paths.
fn keyrings_in(text: &str) -> Vec<PathBuf> {
    text.lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .filter_map(|line| {
            let at = line.to_ascii_lowercase().find("signed-by")?;
            let value = line
                .get(at + "signed-by".len()..)?
                .trim_start_matches([':', '=', ' ']);
            Some(
                value
                    .split([']', ',', ' '])
                    .map(str::trim)
                    .filter(|word| word.starts_with('/'))
                    .map(PathBuf::from),
            )
        })
        .flatten()
        .collect()
}

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
    pub(crate) fn open(sources: &Sources, uri: &str, suite: &str) -> Result<Self> {
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
            ("etc/sources.list", sources.line(uri, suite)),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keyrings_are_read_from_both_formats() {
        let deb822 = "Types: deb\nSigned-By: /usr/share/keyrings/a.gpg\n";
        let one_line =
            "deb [arch=amd64 signed-by=/k/b.gpg,/k/c.gpg] mirror suite main\n# deb [signed-by=/no] x y z\n";
        let embedded = "Signed-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n";
        assert_eq!(keyrings_in(deb822), [PathBuf::from("/usr/share/keyrings/a.gpg")]);
        assert_eq!(
            keyrings_in(one_line),
            [PathBuf::from("/k/b.gpg"), PathBuf::from("/k/c.gpg")]
        );
        assert!(keyrings_in(embedded).is_empty());
    }

    #[test]
    fn other_suites_are_asked_of_the_main_archive_after_the_machines_own() {
        let targets = "mirror:/debian/ bookworm main\nmirror:/debian/ bookworm-updates main\n\
                       mirror:/security/ bookworm-security main\nvendor:/repo/ stable pool\n";
        let sources = Sources {
            repositories: main_repositories(targets),
            keyrings: BTreeSet::new(),
        };
        assert_eq!(
            sources.with_suites(&["trixie-backports", "bookworm"]),
            [
                ("mirror:/debian/", "bookworm"),
                ("mirror:/debian/", "bookworm-updates"),
                ("mirror:/security/", "bookworm-security"),
                ("mirror:/debian/", "trixie-backports"),
            ]
        );
    }
}
