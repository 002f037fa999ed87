//! The only way a test may skip: [`need()`], with an enumerated reason.
//!
//! A test that runs, passes or fails. One whose need is unmet is *skipped*, which a strict run counts as a
//! failure, unless `not-applicable.toml` says for this test, need and place why it cannot apply there.
//!
//! | variable | meaning |
//! |---|---|
//! | `ENFORCER_PLACE` | where the tests run: `host` (the default), `vm`, or `systemd`, the guest with a distribution in it |
//! | `ENFORCER_KERNEL` | kernel line there, `6.12`, for rows that name one |
//! | `ENFORCER_TESTS_DIR` | directory of `not-applicable.toml` and `cases/`, where it is not that of the build |
//! | `ENFORCER_OUTCOMES` | file that each skipped and each not applicable test is appended to |
//! | `ENFORCER_STRICT` | `1`: an unmet need fails the test |

use std::{env, fmt, fs, fs::OpenOptions, io::Write as _, path::Path, path::PathBuf, process::Command};

use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::{clients, engine::Kind, stories};

/// Something a test needs and a machine may not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Need {
    /// The clients of `cargo xtask clients`, with everything that its set-up brings.
    Clients,
    /// `curl` on the path.
    Curl,
    /// A Docker engine and its command line, of the distribution's packages.
    Docker,
    /// Podman, and Docker's command line, of the distribution's packages.
    Podman,
    /// `java` and `javac` on the path.
    Java,
    /// `node` on the path.
    Node,
    /// A PostgreSQL server, of the distribution's packages.
    Postgres,
    /// `pgbouncer` on the path.
    Pgbouncer,
    /// `docker-compose` on the path.
    Compose,
    /// What `cargo xtask setup --for test` installs of npm.
    NodePackages,
    /// `python3` on the path.
    Python3,
    /// `nft` on the path.
    Nft,
    /// The kernel makes virtual cables.
    Veth,
    /// The kernel makes multipath TCP sockets.
    Mptcp,
    /// The kernel lets the test make an io_uring.
    IoUring,
    /// The kernel has `bpf_set_retval`: a rejection ends in the rule's errno, not in EPERM.
    SetRetval,
    /// The kernel calls connect6 programs for ping sockets.
    GovernedPing,
    /// The kernel lets programs see `IPV6_V6ONLY`.
    V6OnlyVisible,
    /// The machine is a guest of `cargo xtask vm`, made for the tests.
    Guest,
    /// The C library the tests and their client are built for is glibc.
    Glibc,
    /// `kernels.toml` has a record of the running kernel's line.
    KernelOnRecord,
    /// The whole repository is here.
    Repository,
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Clients => "client software is not installed: `cargo xtask setup --for clients`",
            Self::Curl => "curl is not installed",
            Self::Docker => "no package has brought a Docker engine",
            Self::Podman => "no package has brought Podman and Docker's command line",
            Self::Java => "java and javac are not installed",
            Self::Node => "node is not installed",
            Self::Postgres => "no package has brought a PostgreSQL server",
            Self::Pgbouncer => "pgbouncer is not installed",
            Self::Compose => "docker-compose is not installed",
            Self::NodePackages => "the packages of npm are not installed (`cargo xtask setup --for test`)",
            Self::Python3 => "python3 is not installed",
            Self::Nft => "nft is not installed",
            Self::Veth => "the kernel has no veth",
            Self::Mptcp => "the kernel has no multipath TCP",
            Self::IoUring => "the kernel has no io_uring, or it is switched off",
            Self::SetRetval => "the kernel has no bpf_set_retval",
            Self::GovernedPing => "the kernel does not govern ping sockets",
            Self::V6OnlyVisible => "the kernel does not let programs see IPV6_V6ONLY",
            Self::Guest => "this is no guest of `cargo xtask vm`",
            Self::Glibc => "the tests are not built for glibc",
            Self::KernelOnRecord => "kernels.toml has no record of this kernel's line",
            Self::Repository => "the repository is not here",
        })
    }
}

impl Need {
    /// Whether the need is met, as far as that can be seen from here; `None` where only the test knows.
    fn met(self) -> Option<bool> {
        let programs: &[&[&str]] = match self {
            Self::Curl => &[&["curl", "--version"]],
            Self::Java => &[&["java", "-version"], &["javac", "-version"]],
            Self::Node => &[&["node", "--version"]],
            Self::Pgbouncer => &[&["pgbouncer", "--version"]],
            Self::Compose => &[&["docker-compose", "version"]],
            Self::Python3 => &[&["python3", "--version"]],
            Self::Nft => &[&["nft", "--version"]],
            Self::Clients => {
                let sets = ["c", "go", "java", "node", "python"];
                return Some(sets.iter().all(|set| clients::installed(set).is_ok()));
            }
            Self::NodePackages => return Some(stories::packages().is_some()),
            Self::Docker => return Some(Kind::Docker.is_there()),
            Self::Podman => return Some(Kind::Podman.is_there()),
            Self::Postgres => return Some(postgres_programs().is_some()),
            Self::Glibc => return Some(cfg!(target_env = "gnu")),
            Self::Veth
            | Self::Mptcp
            | Self::IoUring
            | Self::Guest
            | Self::KernelOnRecord
            | Self::Repository
            | Self::SetRetval
            | Self::GovernedPing
            | Self::V6OnlyVisible => return None,
        };
        Some(programs.iter().all(|program| {
            Command::new(program[0])
                .args(&program[1..])
                .output()
                .is_ok_and(|output| output.status.success())
        }))
    }
}

/// Where Debian's packages put the programs of a PostgreSQL server, outside of the path because versions live side by
/// side: the directory of one of them.
#[must_use]
pub fn postgres_programs() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").ok()?.flatten();
    versions
        .map(|version| version.path().join("bin"))
        .filter(|programs| programs.join("postgres").is_file() && programs.join("initdb").is_file())
        .max()
}

/// A row of `not-applicable.toml`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NotApplicable {
    /// Name of the test, as it calls itself.
    pub test: String,
    /// What it needs and lacks.
    pub need: Need,
    /// Where: one of [`PLACES`].
    pub place: String,
    /// On which kernel line only, `5.10`; on all where absent.
    #[serde(default)]
    pub kernel: Option<String>,
    /// Why it cannot apply there.
    pub why: String,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct NotApplicableFile {
    #[serde(default)]
    row: Vec<NotApplicable>,
}

/// Where tests run.
pub const PLACES: [&str; 3] = ["host", "vm", "systemd"];

/// Which of [`PLACES`] this is.
#[must_use]
pub fn place() -> String {
    env::var("ENFORCER_PLACE").unwrap_or_else(|_| "host".to_owned())
}

/// The directory that holds `not-applicable.toml` and `cases/`.
#[must_use]
pub fn tests_directory() -> PathBuf {
    env::var_os("ENFORCER_TESTS_DIR").map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from)
}

/// Whether the test's need is met; if not, the outcome is recorded and the test must return. Looks for programs
/// and the C library itself; of every other need the test says whether it is met, by [`need_given`].
///
/// # Panics
///
/// In a strict run, when the need is unmet and no row excuses it; and when the outcome cannot be recorded.
#[must_use]
pub fn need(test: &str, need: Need) -> bool {
    need_given(test, need, need.met().unwrap_or(false))
}

/// As [`need()`], for what the test found out by itself.
///
/// # Panics
///
/// As [`need()`].
#[must_use]
#[expect(clippy::panic, reason = "failing the test is what it is for")]
pub fn need_given(test: &str, need: Need, met: bool) -> bool {
    if met {
        return true;
    }
    match Surroundings::of_this_run().and_then(|surroundings| surroundings.record(test, need)) {
        Ok(()) => false,
        Err(error) => panic!("{error:#}"),
    }
}

/// What of the environment decides about an unmet need.
struct Surroundings {
    place: String,
    kernel: Option<String>,
    rows: Vec<NotApplicable>,
    outcomes: Option<PathBuf>,
    strict: bool,
}

impl Surroundings {
    fn of_this_run() -> Result<Self> {
        Ok(Self {
            place: place(),
            kernel: env::var("ENFORCER_KERNEL").ok(),
            rows: rows(&tests_directory().join("not-applicable.toml"))?,
            outcomes: env::var_os("ENFORCER_OUTCOMES").map(PathBuf::from),
            strict: env::var_os("ENFORCER_STRICT").is_some_and(|strict| strict == "1"),
        })
    }

    /// Records that a need is unmet; an error if that fails the test.
    fn record(&self, test: &str, need: Need) -> Result<()> {
        let excused = self.rows.iter().find(|row| {
            row.test == test
                && row.need == need
                && row.place == self.place
                && (row.kernel.is_none() || row.kernel == self.kernel)
        });
        let line = match excused {
            Some(row) => format!("n/a\t{test}\t{}", row.why),
            None => format!("skipped\t{test}\t{need}"),
        };
        if let Some(path) = &self.outcomes {
            // One write to a file opened for appending: test binaries that run side by side do not mix.
            OpenOptions::new()
                .create(true)
                .append(true)
                .open(path)
                .and_then(|mut file| file.write_all(format!("{line}\n").as_bytes()))
                .with_context(|| format!("record an outcome in {}", path.display()))?;
        }
        anyhow::ensure!(
            excused.is_some() || !self.strict,
            "{test} was skipped in a strict run: {need} (hint: a row in not-applicable.toml, if it can never apply here)"
        );
        Ok(())
    }
}

/// The rows of a file.
fn rows(path: &Path) -> Result<Vec<NotApplicable>> {
    let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let file: NotApplicableFile =
        toml::from_str(&text).with_context(|| format!("understand {}", path.display()))?;
    for row in &file.row {
        anyhow::ensure!(
            PLACES.contains(&row.place.as_str()) && !row.why.trim().is_empty(),
            "understand {}: the row for {} needs a place, one of {}, and a reason",
            path.display(),
            row.test,
            PLACES.join(", ")
        );
    }
    Ok(file.row)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn surroundings(outcomes: &Path, strict: bool) -> Surroundings {
        Surroundings {
            place: "vm".to_owned(),
            kernel: Some("5.10".to_owned()),
            rows: [("excused", None), ("old", Some("5.10")), ("older", Some("4.19"))]
                .map(|(test, kernel)| NotApplicable {
                    test: test.to_owned(),
                    need: Need::Mptcp,
                    place: "vm".to_owned(),
                    kernel: kernel.map(str::to_owned),
                    why: "because".to_owned(),
                })
                .to_vec(),
            outcomes: Some(outcomes.to_owned()),
            strict,
        }
    }

    #[test]
    fn outcomes_are_recorded_and_only_a_row_for_this_need_and_place_excuses() {
        let directory = tempfile::tempdir().unwrap();
        let outcomes = directory.path().join("outcomes");
        let lax = surroundings(&outcomes, false);
        for (test, need) in [
            ("excused", Need::Mptcp),
            ("old", Need::Mptcp),
            ("older", Need::Mptcp),
            ("excused", Need::Veth),
        ] {
            lax.record(test, need).unwrap();
        }
        assert_eq!(
            fs::read_to_string(&outcomes).unwrap(),
            "n/a\texcused\tbecause\n\
             n/a\told\tbecause\n\
             skipped\tolder\tthe kernel has no multipath TCP\n\
             skipped\texcused\tthe kernel has no veth\n"
        );
        let strict = surroundings(&outcomes, true);
        strict.record("excused", Need::Mptcp).unwrap();
        let error = strict.record("older", Need::Mptcp).unwrap_err().to_string();
        assert!(error.starts_with("older was skipped in a strict run"), "{error}");
    }

    #[test]
    fn the_rows_of_the_repository_are_understood() {
        rows(&tests_directory().join("not-applicable.toml")).unwrap();
    }
}
