//! A private apt root: other suites of the mirror that this machine already uses, without changing anything
//! on the machine. It finds and downloads packages; it never installs one.
//!
//! The machine's whole apt configuration (proxies, credentials, time limits) is taken over, but for the
//! folders and for the hooks that run after an update.

use std::{
    cmp::Ordering,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use super::sources::{self, Source};

/// How often a fetch is tried.
const ATTEMPTS: u32 = 3;
/// What a mirror that has just failed is given before the next attempt.
const BETWEEN_ATTEMPTS: Duration = Duration::from_secs(2);

/// Suites by which the distribution's main repository is known among the machine's sources.
const ARCHIVE_SUITES: &[&str] = &[
    "oldoldstable",
    "oldstable",
    "stable",
    "testing",
    "unstable",
    "bullseye",
    "bookworm",
    "trixie",
    "forky",
    "sid",
];
/// The folder of the main repository on its mirrors, and that of the security updates beside it.
const ARCHIVE_FOLDER: &str = "/debian";
const SECURITY_FOLDER: &str = "/debian-security";

/// Where the keys of all suites are, older and newer name.
const KEYRINGS: &[&str] = &[
    "/usr/share/keyrings/debian-archive-keyring.gpg",
    "/usr/share/keyrings/debian-archive-keyring.pgp",
];

/// Settings of the machine that are not taken over: its folders, and programs run after an update.
const NOT_INHERITED: &[&str] = &[
    "Dir ",
    "Dir::",
    "APT::Update::",
    "DPkg::",
    "CommandLine",
    "Binary",
];

/// A suite of the distribution, by the repository it lives in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Suite {
    /// In the main repository.
    Archive(&'static str),
    /// In the repository of security updates, where the newest patch releases appear first.
    Security(&'static str),
}

impl Suite {
    /// What sources.list(5) calls it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Archive(name) | Self::Security(name) => name,
        }
    }
}

/// A package in the index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Package {
    /// Its name.
    pub(crate) name: String,
    /// Its version, as the distribution writes it.
    pub(crate) version: String,
}

/// A private apt root with an index of its own.
#[derive(Debug)]
pub(crate) struct Apt {
    config: PathBuf,
}

impl Apt {
    /// Lays out the root in `folder` for those suites. Reads no index yet; one that an earlier run left there
    /// can be searched without network.
    ///
    /// # Errors
    ///
    /// When the machine's apt sources cannot be read or name no Debian mirror, or `folder` cannot be written.
    pub(crate) fn open(folder: &Path, suites: &[Suite]) -> Result<Self> {
        let folder = &std::path::absolute(folder)?;
        for sub in ["lists/partial", "cache/archives/partial"] {
            let path = folder.join(sub);
            fs::create_dir_all(&path).with_context(|| format!("creating {}", path.display()))?;
        }
        let mirrors = Mirrors::of_this_machine()?;
        let sources: String = suites
            .iter()
            .map(|suite| {
                let mirror = match suite {
                    Suite::Archive(_) => &mirrors.archive,
                    Suite::Security(_) => &mirrors.security,
                };
                mirror.with_suite(suite.name()).line()
            })
            .collect();
        let config = folder.join("apt.conf");
        let inherited = output(Command::new("apt-config").arg("dump"))?;
        write(&folder.join("sources.list"), &sources)?;
        write(&folder.join("status"), "")?;
        write(&config, &configuration(folder, &inherited))?;
        Ok(Self { config })
    }

    /// Fetches the index anew.
    ///
    /// # Errors
    ///
    /// When any suite cannot be read. What could be read can be searched all the same.
    pub(crate) fn update(&self) -> Result<()> {
        retried(|| {
            let mut command = self.command("apt-get");
            command.args(["-qq", "-o", "APT::Update::Error-Mode=any", "update"]);
            output(&mut command).map(drop)
        })
    }

    /// The newest package whose name matches, or `None` if the index knows none.
    ///
    /// # Errors
    ///
    /// When the index cannot be searched.
    pub(crate) fn newest(&self, pattern: &str) -> Result<Option<Package>> {
        let found = output(
            self.command("apt-cache")
                .args(["search", "--names-only", pattern]),
        )?;
        let names: Vec<_> = found
            .lines()
            .filter_map(|line| line.split_whitespace().next())
            .collect();
        if names.is_empty() {
            return Ok(None);
        }
        let records = output(
            self.command("apt-cache")
                .args(["show", "--no-all-versions"])
                .args(names),
        )?;
        let mut newest: Option<Package> = None;
        for package in packages(&records) {
            let newer = match &newest {
                None => true,
                Some(best) => compare_versions(&package.version, &best.version)? == Ordering::Greater,
            };
            if newer {
                newest = Some(package);
            }
        }
        Ok(newest)
    }

    /// The package of that name whose version is wanted; a suite may hold several versions. `None` if the index
    /// knows none.
    ///
    /// # Errors
    ///
    /// When the index cannot be searched.
    pub(crate) fn version(&self, name: &str, wanted: impl Fn(&str) -> bool) -> Result<Option<Package>> {
        // `name | version | repository`, a line for each version; nothing for a name that nobody knows.
        let listed = output(self.command("apt-cache").args(["madison", name]))?;
        let mut versions = listed
            .lines()
            .filter_map(|line| line.split('|').nth(1))
            .map(str::trim);
        Ok(versions.find(|version| wanted(version)).map(|version| Package {
            name: name.to_owned(),
            version: version.to_owned(),
        }))
    }

    /// Downloads the package, checked against the index, and unpacks its files into `root`.
    ///
    /// # Errors
    ///
    /// When it cannot be fetched or unpacked.
    pub(crate) fn unpack(&self, package: &Package, root: &Path) -> Result<()> {
        let Package { name, version } = package;
        let downloads = with_suffix(root, ".download");
        fs::create_dir_all(&downloads).with_context(|| format!("creating {}", downloads.display()))?;
        retried(|| {
            let mut command = self.command("apt-get");
            command
                .args(["-qq", "download", &format!("{name}={version}")])
                .current_dir(&downloads);
            output(&mut command).map(drop)
        })?;
        let archive = fs::read_dir(&downloads)
            .with_context(|| format!("reading {}", downloads.display()))?
            .filter_map(Result::ok)
            .map(|entry| entry.path())
            .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
            .with_context(|| format!("downloading {name} {version}: apt-get left no package"))?;
        output(Command::new("dpkg-deb").arg("-x").args([&archive, root]))?;
        fs::remove_dir_all(&downloads).with_context(|| format!("removing {}", downloads.display()))
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        // Read before every other file of apt's, and it switches those off.
        command.env("APT_CONFIG", &self.config);
        command
    }
}

/// Where the distribution's repositories are, for this machine.
#[derive(Debug, PartialEq, Eq)]
struct Mirrors {
    archive: Source,
    security: Source,
}

impl Mirrors {
    fn of_this_machine() -> Result<Self> {
        let keyrings = KEYRINGS.iter().map(PathBuf::from).filter(|path| path.exists());
        let mirrors = Self::among(&sources::of_machine()).context(
            "looking for a Debian mirror among this machine's apt sources: none of them has a suite of Debian\n\
             hint: sources.list(5) says where apt looks for them",
        )?;
        Ok(mirrors.trusting(keyrings.collect()))
    }

    fn among(sources: &[Source]) -> Option<Self> {
        let archive = sources
            .iter()
            .find(|source| ARCHIVE_SUITES.contains(&source.suite.as_str()))?;
        let security = sources.iter().find(|source| source.suite.ends_with("-security"));
        // A machine without security updates among its sources: mirrors have them beside the archive.
        let beside = || Source {
            uri: archive.uri.replace(ARCHIVE_FOLDER, SECURITY_FOLDER),
            ..archive.clone()
        };
        Some(Self {
            archive: archive.clone(),
            security: security.cloned().unwrap_or_else(beside),
        })
    }

    /// With these keys besides: other suites may be signed by others than the machine's own.
    fn trusting(mut self, keyrings: Vec<PathBuf>) -> Self {
        for source in [&mut self.archive, &mut self.security] {
            source.keyrings.extend(keyrings.iter().cloned());
        }
        self
    }
}

fn configuration(folder: &Path, inherited: &str) -> String {
    let folder = folder.display();
    let own = format!(
        "Dir::State \"{folder}\";\n\
         Dir::State::lists \"{folder}/lists\";\n\
         Dir::State::status \"{folder}/status\";\n\
         Dir::Cache \"{folder}/cache\";\n\
         Dir::Etc::sourcelist \"{folder}/sources.list\";\n\
         Dir::Etc::sourceparts \"/dev/null\";\n\
         Dir::Etc::preferences \"/dev/null\";\n\
         Dir::Etc::preferencesparts \"/dev/null\";\n\
         Dir::Etc::main \"/dev/null\";\n\
         Dir::Etc::parts \"/dev/null\";\n\
         APT::Architecture \"amd64\";\n\
         APT::Sandbox::User \"root\";\n\
         Acquire::Languages \"none\";\n\
         Acquire::Retries \"3\";\n"
    );
    inherited
        .lines()
        .filter(|line| !NOT_INHERITED.iter().any(|setting| line.starts_with(setting)))
        .flat_map(|line| [line, "\n"])
        .chain([own.as_str()])
        .collect()
}

/// The packages in records of the form `Package: NAME`, `Version: VERSION`.
fn packages(records: &str) -> impl Iterator<Item = Package> {
    records.split("\n\n").filter_map(|record| {
        let field = |name| {
            record
                .lines()
                .find_map(|line| line.strip_prefix(name))
                .map(str::trim)
        };
        Some(Package {
            name: field("Package:")?.to_owned(),
            version: field("Version:")?.to_owned(),
        })
    })
}

/// Orders versions as the distribution does.
fn compare_versions(left: &str, right: &str) -> Result<Ordering> {
    for (relation, ordering) in [("gt", Ordering::Greater), ("lt", Ordering::Less)] {
        let status = Command::new("dpkg")
            .args(["--compare-versions", left, relation, right])
            .status()
            .context("running dpkg")?;
        if status.success() {
            return Ok(ordering);
        }
    }
    Ok(Ordering::Equal)
}

fn retried(mut attempt: impl FnMut() -> Result<()>) -> Result<()> {
    for _ in 1..ATTEMPTS {
        if attempt().is_ok() {
            return Ok(());
        }
        thread::sleep(BETWEEN_ATTEMPTS);
    }
    attempt()
}

/// The path with more at its end.
fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

/// What the command prints on stdout; when it fails, the error holds what it printed on stderr.
///
/// # Errors
///
/// When the command cannot be run or does not succeed.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("running {program}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{program} ended with {}: {}", output.status, said.trim());
    }
    String::from_utf8(output.stdout).with_context(|| format!("reading what {program} prints"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn source(uri: &str, suite: &str) -> Source {
        Source {
            uri: uri.to_owned(),
            suite: suite.to_owned(),
            keyrings: BTreeSet::new(),
        }
    }

    #[test]
    fn the_machines_mirror_is_taken_and_foreign_sources_are_not() {
        let other = source("http://other.example/apt/", "nodistro");
        let archive = source("http://mirror.example/debian/", "bookworm");
        let security = source("http://security.example/", "bookworm-security");
        let mirrors = Mirrors::among(&[other.clone(), archive.clone(), security.clone()]);
        assert_eq!(mirrors, Some(Mirrors { archive, security }));
        assert_eq!(Mirrors::among(&[other]), None);
    }

    #[test]
    fn security_updates_are_looked_for_beside_the_archive() {
        for end in ["", "/"] {
            let archive = source(&format!("http://mirror.example/debian{end}"), "sid");
            assert_eq!(
                Mirrors::among(&[archive]).map(|mirrors| mirrors.security.uri),
                Some(format!("http://mirror.example/debian-security{end}"))
            );
        }
    }

    #[test]
    fn hooks_and_folders_of_the_machine_are_left_out_and_the_rest_is_kept() {
        let inherited = "Acquire::http::Timeout \"9\";\nDir \"/\";\nDir::Etc \"etc/apt\";\n\
                         APT::Update::Post-Invoke:: \"rm -f x\";\n";
        let text = configuration(Path::new("/root-of-ours"), inherited);
        assert!(text.starts_with("Acquire::http::Timeout \"9\";\nDir::State "));
        assert!(!text.contains("Post-Invoke"));
    }

    #[test]
    fn versions_are_ordered_by_number_not_by_letter() {
        assert_eq!(
            compare_versions("6.12.9-1", "6.12.117-1").unwrap(),
            Ordering::Less
        );
        assert_eq!(compare_versions("6.1.2-1", "6.1.2-1").unwrap(), Ordering::Equal);
    }
}
