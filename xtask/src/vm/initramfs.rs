//! The guests' only file system, as the archive the kernel unpacks at boot.
//!
//! Not compressed: a host without KVM unpacks slower than it copies.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{BufWriter, Cursor, Write as _},
    os::unix::ffi::OsStrExt as _,
    path::Path,
    sync::Arc,
};

use anyhow::{Context as _, Result};
use cpio::{NewcBuilder, newc::ModeFileType};

use super::{kernels::Kernel, payload::Payload};

const INIT: &str = include_str!("guest/init.sh");

/// What runs the tests, once a guest is set up, whoever has done that.
pub(crate) const RUN_TESTS: &str = include_str!("guest/run-tests.sh");

/// Where the repository's `tests` folder is in a guest.
pub(crate) const TESTS_FOLDER: &str = "/tests";

/// The folder whose programs init runs one after the other.
const BINARIES_FOLDER: &str = "/test-binaries";

/// A file system in the making. A copy shares the contents.
#[derive(Clone, Debug, Default)]
pub(crate) struct Initramfs {
    /// By path without the leading slash; a folder sorts before what is in it.
    nodes: BTreeMap<String, Node>,
}

#[derive(Clone, Debug)]
enum Node {
    Folder,
    Program(Arc<[u8]>),
    Data(Arc<[u8]>),
    Link(Arc<[u8]>),
}

impl Initramfs {
    /// What all guests have: busybox, init, the payload, and the tests' data.
    ///
    /// # Errors
    ///
    /// When a file cannot be read.
    pub(crate) fn new(busybox: &Path, payload: &Payload, tests_folder: &Path) -> Result<Self> {
        let mut new = Self::bare(busybox, INIT)?;
        new.add_data(
            "/etc/passwd",
            b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n",
        );
        new.add_data("/run-tests.sh", RUN_TESTS.as_bytes());
        new.add_data("/etc/group", b"root:x:0:\nnogroup:x:65534:\n");
        new.add_data("/etc/hosts", b"127.0.0.1 localhost guest\n::1 localhost guest\n");
        new.add_data(
            "/etc/nsswitch.conf",
            b"passwd: files\ngroup: files\nhosts: files dns\n",
        );
        new.add_data("/etc/resolv.conf", b"");
        for (name, path) in &payload.programs {
            new.add_program(&format!("/bin/{name}"), path)?;
        }
        for binary in payload
            .tests
            .iter()
            .filter(|binary| binary.not_in_guests.is_none())
        {
            new.add_program(&format!("{BINARIES_FOLDER}/{}", binary.name), &binary.path)?;
        }
        for path in &payload.libraries {
            new.add_program(&path.to_string_lossy(), path)?;
        }
        new.add_folder(TESTS_FOLDER);
        new.add_tree(TESTS_FOLDER, tests_folder)?;
        Ok(new)
    }

    /// Busybox and an init of the caller's.
    ///
    /// # Errors
    ///
    /// When busybox cannot be read.
    pub(crate) fn bare(busybox: &Path, init: &str) -> Result<Self> {
        let mut new = Self::default();
        new.add_program("/bin/busybox", busybox)?;
        new.insert("/bin/sh", Node::Link(b"busybox".as_slice().into()));
        new.insert("/init", Node::Program(init.as_bytes().into()));
        for folder in [
            "/dev",
            "/modules",
            "/proc",
            "/run",
            "/sys",
            "/tmp",
            BINARIES_FOLDER,
        ] {
            new.add_folder(folder);
        }
        Ok(new)
    }

    /// Adds what one kernel needs: its modules, and what the tests are told.
    ///
    /// # Errors
    ///
    /// When a module cannot be read.
    pub(crate) fn with_kernel(mut self, kernel: &Kernel, settings: &str) -> Result<Self> {
        for module in &kernel.modules {
            let name = module.file_name().unwrap_or_default().to_string_lossy();
            self.insert(&format!("/modules/{name}"), Node::Data(read(module)?));
        }
        self.add_data("/settings", settings.as_bytes());
        Ok(self)
    }

    /// Writes the archive, and says how many bytes it has.
    ///
    /// # Errors
    ///
    /// When `path` cannot be written.
    pub(crate) fn write(&self, path: &Path) -> Result<u64> {
        let attempt = || -> std::io::Result<u64> {
            let entries = self.nodes.iter().map(|(name, node)| {
                let (file_type, permissions, bytes) = match node {
                    Node::Folder => (ModeFileType::Directory, 0o755, Arc::default()),
                    Node::Program(bytes) => (ModeFileType::Regular, 0o755, Arc::clone(bytes)),
                    Node::Data(bytes) => (ModeFileType::Regular, 0o644, Arc::clone(bytes)),
                    Node::Link(target) => (ModeFileType::Symlink, 0o777, Arc::clone(target)),
                };
                let header = NewcBuilder::new(name)
                    .mode(permissions)
                    .set_mode_file_type(file_type);
                (header, Cursor::new(bytes))
            });
            let mut file = cpio::write_cpio(entries, BufWriter::new(File::create(path)?))?;
            file.flush()?;
            Ok(file.get_ref().metadata()?.len())
        };
        attempt().with_context(|| format!("writing {}", path.display()))
    }

    fn add_program(&mut self, path: &str, from: &Path) -> Result<()> {
        self.insert(path, Node::Program(read(from)?));
        Ok(())
    }

    fn add_data(&mut self, path: &str, bytes: &[u8]) {
        self.insert(path, Node::Data(bytes.into()));
    }

    fn add_folder(&mut self, path: &str) {
        self.insert(path, Node::Folder);
    }

    fn add_tree(&mut self, path: &str, from: &Path) -> Result<()> {
        let entries = fs::read_dir(from).with_context(|| format!("reading {}", from.display()))?;
        for entry in entries {
            let entry = entry.with_context(|| format!("reading {}", from.display()))?;
            let inner = format!("{path}/{}", entry.file_name().to_string_lossy());
            let kind = entry
                .file_type()
                .with_context(|| format!("reading {}", entry.path().display()))?;
            if kind.is_dir() {
                self.add_folder(&inner);
                self.add_tree(&inner, &entry.path())?;
            } else if kind.is_file() {
                self.insert(&inner, Node::Data(read(&entry.path())?));
            } else if kind.is_symlink() {
                let target = fs::read_link(entry.path())
                    .with_context(|| format!("reading {}", entry.path().display()))?;
                self.insert(&inner, Node::Link(target.as_os_str().as_bytes().into()));
            }
        }
        Ok(())
    }

    /// Inserts the node, and the folders above it.
    fn insert(&mut self, path: &str, node: Node) {
        let path = path.trim_start_matches('/');
        for (end, _) in path.match_indices('/') {
            self.nodes.entry(path[..end].to_owned()).or_insert(Node::Folder);
        }
        self.nodes.insert(path.to_owned(), node);
    }
}

fn read(path: &Path) -> Result<Arc<[u8]>> {
    fs::read(path)
        .map(Arc::from)
        .with_context(|| format!("reading {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folders_of_a_file_come_before_it() {
        let mut archive = Initramfs::default();
        archive.add_data("/a/b/c", b"contents");
        let names: Vec<_> = archive.nodes.keys().map(String::as_str).collect();
        assert_eq!(names, ["a", "a/b", "a/b/c"]);
        assert!(matches!(archive.nodes["a/b"], Node::Folder));
    }
}
