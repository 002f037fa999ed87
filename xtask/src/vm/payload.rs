//! What a guest runs: the integration tests, `enforcer`, the tests' helper programs, and the few tools of the
//! host that tests call, each with the shared libraries it needs.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::BufReader,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use cargo_metadata::{Message, TargetKind};

use crate::{debian::output, workspace};

/// Folder of the package whose integration tests are run.
const TESTS: &str = "tests";
/// Folder of the package of the program under test.
const ENFORCER: &str = "enforcer";

/// Test binaries that are not run in guests, and why. A test that runs there and cannot do its work says so
/// itself, through `ENFORCER_OUTCOMES`; this is for what cannot even be started.
const NOT_IN_GUESTS: &[(&str, &str)] = &[(
    "clients",
    "guests hold no client software; what decides about connects is tested there without it",
)];

/// Programs of the host that tests call.
const TOOLS: &[Tool] = &[
    Tool {
        name: "ip",
        required: true,
    },
    Tool {
        name: "tc",
        required: false,
    },
    Tool {
        name: "nft",
        required: false,
    },
];

struct Tool {
    name: &'static str,
    /// Without it no guest is worth booting.
    required: bool,
}

/// One test binary and the tests that were asked for.
#[derive(Clone, Debug)]
pub(crate) struct TestBinary {
    /// Name of the cargo target.
    pub(crate) name: String,
    /// Where it is on the host.
    pub(crate) path: PathBuf,
    /// Its tests that pass the filters, as it lists them itself.
    pub(crate) tests: Vec<String>,
    /// Why it does not run in guests, if it does not.
    pub(crate) not_in_guests: Option<&'static str>,
    /// Whether a filter is the name of its file: then all of its tests run.
    pub(crate) whole: bool,
}

/// Everything that goes into every guest.
#[derive(Clone, Debug)]
pub(crate) struct Payload {
    /// Those that run, and those that do not.
    pub(crate) tests: Vec<TestBinary>,
    /// The filters that are not names of files, for those that do not run whole.
    pub(crate) filters: Vec<String>,
    /// Programs by name, for `/bin`.
    pub(crate) programs: BTreeMap<String, PathBuf>,
    /// Shared libraries and the loader; they have the same place in the guest.
    pub(crate) libraries: BTreeSet<PathBuf>,
}

/// Builds everything, strips it into `folder`, and finds the libraries.
///
/// # Errors
///
/// When the build fails, a tool of the host is missing, or a library is.
pub(crate) fn build(folder: &Path, filters: &[String]) -> Result<Payload> {
    let stripped = folder.join("stripped");
    fs::create_dir_all(&stripped).with_context(|| format!("creating {}", stripped.display()))?;
    let mut tests = Vec::new();
    let mut programs = BTreeMap::new();
    let built = built()?;
    let files: Vec<_> = built
        .iter()
        .filter(|it| it.kind == TargetKind::Test)
        .map(|it| it.name.clone())
        .collect();
    let test_filters = test_filters(filters, &files);
    for Built { name, kind, path } in built {
        match kind {
            TargetKind::Test => tests.push(TestBinary {
                whole: names_file(filters, &name),
                tests: if names_file(filters, &name) {
                    listed(&path, &[])?
                } else if test_filters.is_empty() && !filters.is_empty() {
                    // Every filter is the name of another file.
                    Vec::new()
                } else {
                    listed(&path, &test_filters)?
                },
                not_in_guests: NOT_IN_GUESTS.iter().find(|row| row.0 == name).map(|row| row.1),
                path: strip(&path, &stripped.join(&name))?,
                name,
            }),
            TargetKind::Bin => {
                let path = strip(&path, &stripped.join(&name))?;
                programs.insert(name, path);
            }
            _ => {}
        }
    }
    tests.retain(|binary| !binary.tests.is_empty());
    tests.sort_by(|left, right| left.name.cmp(&right.name));
    for tool in TOOLS {
        match which::which(tool.name) {
            Ok(path) => {
                programs.insert(tool.name.to_owned(), path);
            }
            Err(_) if !tool.required => {}
            Err(error) => {
                return Err(error).with_context(|| format!("looking for {}, which tests call", tool.name));
            }
        }
    }
    let mut libraries = BTreeSet::new();
    for path in programs.values().chain(tests.iter().map(|binary| &binary.path)) {
        libraries.extend(needed_libraries(path)?);
    }
    Ok(Payload {
        tests,
        filters: test_filters,
        programs,
        libraries,
    })
}

/// Whether one of the filters is the name of that test file, with or without its ending.
pub(crate) fn names_file(filters: &[String], file: &str) -> bool {
    filters
        .iter()
        .any(|filter| filter.strip_suffix(".rs").unwrap_or(filter) == file)
}

/// The filters that are not names of files: those of tests.
fn test_filters(filters: &[String], files: &[String]) -> Vec<String> {
    filters
        .iter()
        .filter(|filter| {
            !files
                .iter()
                .any(|file| names_file(std::slice::from_ref(*filter), file))
        })
        .cloned()
        .collect()
}

struct Built {
    name: String,
    kind: TargetKind,
    path: PathBuf,
}

/// The integration tests, and the programs of both packages, fresh or not. Built by the command that
/// `cargo xtask test` builds them by.
fn built() -> Result<Vec<Built>> {
    let mut command = workspace::cargo();
    command
        .args([
            "build",
            "--quiet",
            "--all-targets",
            "--message-format=json-render-diagnostics",
        ])
        .args(workspace::HOST)
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let mut child = command.spawn().context("running cargo")?;
    let stdout = child.stdout.take().context("running cargo: it has no stdout")?;
    let mut built = Vec::new();
    for message in Message::parse_stream(BufReader::new(stdout)) {
        let Message::CompilerArtifact(artifact) = message.context("reading what cargo says")? else {
            continue;
        };
        let is_of = |folder| artifact.manifest_path == workspace::root().join(folder).join("Cargo.toml");
        let (Some(path), Some(kind)) = (artifact.executable.clone(), artifact.target.kind.first()) else {
            continue;
        };
        // A program's own unit tests are built under its name too.
        let wanted = match kind {
            TargetKind::Test => is_of(TESTS),
            TargetKind::Bin => !artifact.profile.test && (is_of(TESTS) || is_of(ENFORCER)),
            _ => false,
        };
        if wanted {
            built.push(Built {
                name: artifact.target.name.clone(),
                kind: kind.clone(),
                path: path.into_std_path_buf(),
            });
        }
    }
    let status = child.wait().context("waiting for cargo")?;
    if !status.success() {
        bail!("`{}` ended with {status}", workspace::shown(&command));
    }
    Ok(built)
}

/// The tests in a binary that pass the filters.
fn listed(binary: &Path, filters: &[String]) -> Result<Vec<String>> {
    let mut command = Command::new(binary);
    let listed = output(command.args(["--list", "--format", "terse"]).args(filters))?;
    Ok(listed
        .lines()
        .filter_map(|line| line.strip_suffix(": test"))
        .map(str::to_owned)
        .collect())
}

/// Debug information is nine tenths of a test binary, and each byte is loaded by the emulator.
fn strip(from: &Path, to: &Path) -> Result<PathBuf> {
    output(Command::new("strip").arg("-o").args([to, from]))?;
    Ok(to.to_owned())
}

fn needed_libraries(binary: &Path) -> Result<BTreeSet<PathBuf>> {
    let output = Command::new("ldd")
        .arg(binary)
        .output()
        .with_context(|| format!("running ldd on {}", binary.display()))?;
    // It also fails on a static binary, which needs nothing.
    libraries(&String::from_utf8_lossy(&output.stdout))
        .with_context(|| format!("finding the libraries of {}", binary.display()))
}

/// Paths in what ldd prints: `NAME => PATH (ADDRESS)`, or `PATH (ADDRESS)` for the loader.
fn libraries(ldd: &str) -> Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    for line in ldd.lines() {
        let (name, place) = line.split_once("=>").unwrap_or((line, line));
        if place.trim() == "not found" {
            bail!("{} is not installed", name.trim());
        }
        if let Some(path) = place
            .split_whitespace()
            .next()
            .filter(|path| path.starts_with('/'))
        {
            found.insert(PathBuf::from(path));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_and_the_loader_are_found_and_the_vdso_is_none() {
        let found = libraries(
            "\tlinux-vdso.so.1 (0x00007ffd)\n\
             \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
             \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n",
        )
        .unwrap();
        let expected = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"];
        assert!(found.iter().map(PathBuf::as_path).eq(expected.map(Path::new)));
        assert!(libraries("\tstatically linked\n").unwrap().is_empty());
    }

    #[test]
    fn a_filter_is_a_file_or_part_of_a_tests_name() {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let (filters, files) = (
            words(&["exec", "run.rs", "reject"]),
            words(&["exec", "exec_endings", "run"]),
        );
        let named: Vec<_> = files.iter().filter(|file| names_file(&filters, file)).collect();
        assert_eq!(named, ["exec", "run"]);
        assert_eq!(test_filters(&filters, &files), ["reject"]);
    }

    #[test]
    fn a_missing_library_is_named() {
        let error = libraries("\tlibabsent.so.1 => not found\n").unwrap_err();
        assert!(error.to_string().contains("libabsent.so.1"));
    }
}
