//! The images of the tests' containers: busybox, and the test client with its libraries; and one with nothing in it but
//! places for what is mounted. No registry is asked.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::client::Client;

/// Where the client is in it.
pub(super) const CLIENT: &str = "/bin/enforcer-test-client";

/// Writes the image's files as an archive into `directory`, and opens it for reading.
pub(super) fn archive(directory: &Path) -> Result<File> {
    let path = directory.join("image.tar");
    let file = File::create(&path).with_context(|| format!("create {}", path.display()))?;
    let mut archive = tar::Builder::new(file);
    // Engines do not know files with holes.
    archive.sparse(false);
    let busybox = ["/bin/busybox", "/usr/bin/busybox"]
        .map(PathBuf::from)
        .into_iter()
        .find(|path| path.is_file())
        .context("find busybox")?;
    let client = Client::program()?;
    let mut files: BTreeSet<(PathBuf, String)> = BTreeSet::new();
    for (program, place) in [(busybox, "/bin/busybox"), (client, CLIENT)] {
        for library in libraries(&program)? {
            let place = library.display().to_string();
            files.insert((library, place));
        }
        files.insert((program, place.to_owned()));
    }
    for (from, to) in files {
        let mut from_file = File::open(&from).with_context(|| format!("open {}", from.display()))?;
        archive
            .append_file(to.trim_start_matches('/'), &mut from_file)
            .with_context(|| format!("put {} into an image", from.display()))?;
    }
    archive
        .into_inner()
        .and_then(|file| file.sync_all())
        .with_context(|| format!("write {}", path.display()))?;
    File::open(&path).with_context(|| format!("open {}", path.display()))
}

/// Links at the root of a system that lead into `/usr`.
const LINKS: [&str; 4] = ["bin", "lib", "lib64", "sbin"];

/// Writes an image's files that has the machine's `/usr` to come, as an archive into `directory`, and opens it for reading.
pub(super) fn system(directory: &Path) -> Result<File> {
    let path = directory.join("system.tar");
    let file = File::create(&path).with_context(|| format!("create {}", path.display()))?;
    let write = || -> std::io::Result<()> {
        let mut archive = tar::Builder::new(file);
        for folder in ["etc", "tmp", "usr"] {
            archive.append_dir(folder, "/usr")?;
        }
        for link in LINKS {
            // Where it is a folder of its own, nothing of it can be had by mounting /usr.
            if let Ok(target) = fs::read_link(Path::new("/").join(link)) {
                let mut header = tar::Header::new_gnu();
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_size(0);
                header.set_mode(0o777);
                archive.append_link(&mut header, link, target)?;
            }
        }
        archive.into_inner()?.sync_all()
    };
    write().with_context(|| format!("write {}", path.display()))?;
    File::open(&path).with_context(|| format!("open {}", path.display()))
}

/// What ldd prints: `NAME => PATH (ADDRESS)`, or `PATH (ADDRESS)` for the loader; nothing of a static program.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd")
        .arg(program)
        .output()
        .with_context(|| format!("run ldd on {}", program.display()))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let paths = said
        .lines()
        .filter_map(|line| line.split("=>").last()?.split_whitespace().next());
    Ok(paths
        .filter(|path| path.starts_with('/'))
        .map(PathBuf::from)
        .collect())
}
