//! Client software that is no system package: what the lock files below `tests/clients` pin, and what is compiled of the
//! sources there, installed below the target folder.
//!
//! Each set lies in a folder of its own, `target/clients/NAME`, with a stamp in it that is written last and holds the sum
//! of the files it was made from. So a set counts as there only if it is whole, and of these very files.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use sha2::{Digest as _, Sha256};

use super::Purpose;
use crate::workspace;

/// Where the files lie, below the repository's root.
const SOURCES: &str = "tests/clients";

/// Where the sets go, below the target folder.
const INSTALLED: &str = "clients";

/// The file in a set that says what it was made from.
const STAMP: &str = ".made-from";

/// Things installed together, by one program.
pub(crate) struct Set {
    /// Its folder's name, and what lists call it.
    pub(crate) name: &'static str,
    /// What it is for.
    pub(crate) why: &'static str,
    /// The files it is made from, below [`SOURCES`].
    made_from: &'static [&'static str],
    /// The commands that make it, in order, given the folders of its files and of the set.
    commands: fn(&Path, &Path) -> Vec<Command>,
}

const SETS: &[Set] = &[
    Set {
        name: "node",
        why: "clients from npm: pg, sequelize, typeorm, ws, ioredis",
        made_from: &["node/package.json", "node/package-lock.json"],
        commands: |sources, set| {
            let mut copy = Command::new("cp");
            for file in ["package.json", "package-lock.json"] {
                copy.arg(sources.join("node").join(file));
            }
            copy.arg(set);
            let mut npm = Command::new("npm");
            // No package's own program runs here.
            npm.args([
                "ci",
                "--ignore-scripts",
                "--no-audit",
                "--no-fund",
                "--loglevel=error",
            ])
            .current_dir(set);
            vec![copy, npm]
        },
    },
    Set {
        name: "python",
        why: "clients from PyPI: requests, aiohttp, aiodns, psycopg, asyncpg, redis",
        made_from: &["python/requirements.txt"],
        commands: |sources, set| {
            let mut venv = Command::new("python3");
            venv.args(["-m", "venv"]).arg(set);
            let mut pip = Command::new(set.join("bin/python"));
            // What has no wheel would run its own program to be built.
            pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"])
                .args(["--require-hashes", "--only-binary=:all:", "--requirement"])
                .arg(sources.join("python/requirements.txt"));
            vec![venv, pip]
        },
    },
    Set {
        name: "c",
        why: "clients written in C: on musl, c-ares, libpq",
        made_from: &["c/arrival.h", "c/plain.c", "c/cares.c", "c/libpq.c"],
        commands: |sources, set| {
            let compile = |compiler: &str, more: &[&str], source: &str, program: &str, library: &[&str]| {
                let mut command = Command::new(compiler);
                command
                    .args(["-O2", "-Wall", "-Wextra"])
                    .args(more)
                    .arg("-o")
                    .arg(set.join(program));
                command.arg(sources.join("c").join(source)).args(library);
                command
            };
            vec![
                compile("musl-gcc", &["-static"], "plain.c", "musl", &[]),
                compile("cc", &[], "cares.c", "cares", &["-lcares"]),
                compile(
                    "cc",
                    &["-I/usr/include/postgresql"],
                    "libpq.c",
                    "libpq",
                    &["-lpq"],
                ),
            ]
        },
    },
    Set {
        name: "go",
        why: "a client written in Go",
        made_from: &["go/client.go"],
        commands: |sources, set| {
            let mut go = Command::new("go");
            // The distribution's compiler and its library are all that it takes.
            go.envs([
                ("GO111MODULE", "off"),
                ("GOTOOLCHAIN", "local"),
                ("GOPROXY", "off"),
            ])
            .env("GOCACHE", set.join("cache"))
            .args(["build", "-o"])
            .arg(set.join("client"))
            .arg(sources.join("go/client.go"));
            vec![go]
        },
    },
    Set {
        name: "java",
        why: "clients written in Java",
        made_from: &[
            "java/Arrival.java",
            "java/ByHttpClient.java",
            "java/ByJdbc.java",
            "java/BySocket.java",
        ],
        commands: |sources, set| {
            let mut javac = Command::new("javac");
            javac.arg("-d").arg(set);
            for class in ["Arrival", "ByHttpClient", "ByJdbc", "BySocket"] {
                javac.arg(sources.join("java").join(class).with_extension("java"));
            }
            vec![javac]
        },
    },
];

/// The sets that a purpose needs and the target folder lacks.
///
/// # Errors
///
/// Where a file that they are made from cannot be read.
pub(crate) fn missing(purpose: Purpose) -> Result<Vec<&'static Set>> {
    let mut missing = Vec::new();
    if purpose >= Purpose::Clients {
        for set in SETS {
            if !set.is_there()? {
                missing.push(set);
            }
        }
    }
    Ok(missing)
}

impl Set {
    /// What will be done, for lists.
    pub(crate) fn plan(&self) -> String {
        let commands = (self.commands)(
            Path::new(SOURCES),
            &Path::new("target").join(INSTALLED).join(self.name),
        );
        let shown: Vec<_> = commands.iter().map(workspace::shown).collect();
        shown.join(" && ")
    }

    /// Makes it. One that is there in another form goes first.
    ///
    /// # Errors
    ///
    /// Where a command of it fails three times.
    pub(crate) fn bring(&self) -> Result<()> {
        let sum = self.sum()?;
        let folder = self.folder()?;
        println!("{} (takes up to a minute)", self.plan());
        workspace::retried(|| self.make(&folder))
            .with_context(|| format!("installing the clients of {}", self.name))?;
        let stamp = folder.join(STAMP);
        fs::write(&stamp, sum).with_context(|| format!("writing {}", stamp.display()))
    }

    fn make(&self, folder: &Path) -> Result<()> {
        if folder.exists() {
            fs::remove_dir_all(folder).with_context(|| format!("removing {}", folder.display()))?;
        }
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        for mut command in (self.commands)(&sources(), folder) {
            let program = command.get_program().to_string_lossy().into_owned();
            if !program.contains('/') && workspace::program(&program).is_none() {
                bail!("there is no {program}");
            }
            workspace::run(&mut command)?;
        }
        Ok(())
    }

    fn is_there(&self) -> Result<bool> {
        let stamp = fs::read_to_string(self.folder()?.join(STAMP));
        let sum = self.sum()?;
        Ok(stamp.is_ok_and(|stamp| stamp == sum))
    }

    fn folder(&self) -> Result<PathBuf> {
        Ok(workspace::target_dir()?.join(INSTALLED).join(self.name))
    }

    /// SHA-256 of everything it is made from.
    fn sum(&self) -> Result<String> {
        let mut sum = Sha256::new();
        for file in self.made_from {
            let path = sources().join(file);
            let text = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
            sum.update(Sha256::digest(&text));
        }
        Ok(sum.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

fn sources() -> PathBuf {
    workspace::root().join(SOURCES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_sets_are_made_from_is_there() {
        for set in SETS {
            assert_eq!(set.sum().unwrap().len(), 64, "{}", set.name);
        }
    }

    #[test]
    fn lock_files_record_no_download_addresses() {
        let text = fs::read_to_string(sources().join("node/package-lock.json")).unwrap();
        assert!(text.contains("\"integrity\""));
        assert!(
            !text.contains("\"resolved\""),
            "npm install --omit-lockfile-registry-resolved"
        );
        let text = fs::read_to_string(sources().join("python/requirements.txt")).unwrap();
        assert!(text.contains("--hash=sha256:"));
        assert!(!text.contains("://"));
    }
}
