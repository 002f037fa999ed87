//! Where this host keeps its cgroup v2 tree.
//!
//! Only version 2 counts: BPF programs of cgroup type attach to nothing else. On hybrid hosts it stands
//! beside the v1 controllers, usually at `/sys/fs/cgroup/unified`; so it is looked up in
//! `/proc/self/mountinfo`, never assumed. This file opens no cgroup; [`super::cgroup`] does.

use std::{
    ffi::OsString,
    fs, io,
    os::unix::ffi::{OsStrExt as _, OsStringExt as _},
    path::{Component, Path, PathBuf},
};

use procfs::process::MountInfo;

/// `CGROUP2_SUPER_MAGIC` (`include/uapi/linux/magic.h`): file system type of cgroup v2.
const CGROUP2_SUPER_MAGIC: rustix::fs::FsWord = 0x6367_7270;

const MOUNTINFO: &str = "/proc/self/mountinfo";

/// The cgroup v2 tree as this process sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    mount_point: PathBuf,
    mount_root: PathBuf,
    v1_mount_points: Vec<PathBuf>,
}

/// Why there is no cgroup v2 tree to work with.
#[derive(Debug, thiserror::Error)]
pub enum HierarchyError {
    /// The list of mounts cannot be read.
    #[error("cannot read the list of mounts, {MOUNTINFO}")]
    ReadMounts(#[source] io::Error),
    /// There are cgroup v1 hierarchies and no v2.
    #[error("this host mounts cgroup v1 only (at {}), and BPF programs attach to cgroup v2 only", first.display())]
    V1Only {
        /// One of the v1 mount points.
        first: PathBuf,
    },
    /// No cgroup file system is mounted at all.
    #[error("no cgroup v2 file system is mounted where this process can see it")]
    NotMounted,
    /// The mount is listed but something else is mounted over it, or it cannot be reached.
    #[error("cannot reach the cgroup v2 mount {}", mount_point.display())]
    Unreachable {
        /// As listed in mountinfo.
        mount_point: PathBuf,
        /// What `statfs` said; `None` where it found another file system in its place.
        #[source]
        source: Option<io::Error>,
    },
}

impl HierarchyError {
    /// What the person can do about it, if anything.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::ReadMounts(_) => Some("mount /proc".to_owned()),
            Self::V1Only { .. } => Some(
                "mount cgroup v2 beside it (`mkdir /run/cgroup2 && mount -t cgroup2 none /run/cgroup2`), \
                 or boot with systemd.unified_cgroup_hierarchy=1"
                    .to_owned(),
            ),
            Self::NotMounted => Some(
                "`ip netns exec` hides the cgroup tree, `nsenter --net=/run/netns/NAME` does not; elsewhere \
                 `mount -t cgroup2 none /sys/fs/cgroup` mounts it"
                    .to_owned(),
            ),
            Self::Unreachable { .. } => {
                Some("look at it with `findmnt -t cgroup2`: another mount may cover it".to_owned())
            }
        }
    }
}

impl Hierarchy {
    /// Finds the cgroup v2 mount of this process's mount namespace.
    ///
    /// Where several exist, the one that shows the most of the hierarchy by plain names is taken.
    ///
    /// # Errors
    ///
    /// [`HierarchyError`] where there is none, or none that can be reached.
    pub fn find() -> Result<Self, HierarchyError> {
        let mounts = parse_mounts(&fs::read(MOUNTINFO).map_err(HierarchyError::ReadMounts)?)
            .map_err(HierarchyError::ReadMounts)?;
        let mut failure = None;
        for candidate in Self::candidates(&mounts)? {
            match rustix::fs::statfs(&candidate.mount_point) {
                Ok(stat) if is_cgroup2(&stat) => return Ok(candidate),
                other => {
                    failure.get_or_insert(HierarchyError::Unreachable {
                        mount_point: candidate.mount_point,
                        source: other.err().map(io::Error::from),
                    });
                }
            }
        }
        Err(failure.unwrap_or(HierarchyError::NotMounted))
    }

    /// Every cgroup v2 mount listed, best first; never empty.
    fn candidates(mounts: &[Mount]) -> Result<Vec<Self>, HierarchyError> {
        let v1_mount_points: Vec<_> = mounts
            .iter()
            .filter(|mount| mount.fs_type == "cgroup")
            .map(|mount| mount.mount_point.clone())
            .collect();
        let mut found: Vec<_> = mounts
            .iter()
            .filter(|mount| mount.fs_type == "cgroup2")
            .map(|mount| Self {
                mount_point: mount.mount_point.clone(),
                mount_root: mount.root.clone(),
                v1_mount_points: v1_mount_points.clone(),
            })
            .collect();
        if found.is_empty() {
            return Err(match v1_mount_points.into_iter().next() {
                Some(first) => HierarchyError::V1Only { first },
                None => HierarchyError::NotMounted,
            });
        }
        // A root with `..` lies above this process's cgroup namespace: what lies on the way down has no name here.
        found.sort_by_key(|it| {
            let leaves_namespace = has_parent_component(&it.mount_root);
            (leaves_namespace, it.mount_root.components().count())
        });
        Ok(found)
    }

    /// Directory the hierarchy is mounted at.
    #[must_use]
    pub fn mount_point(&self) -> &Path {
        &self.mount_point
    }

    /// Cgroup that the mount shows as its top directory, as this process's cgroup namespace names it.
    ///
    /// `/` on a plain host. Inside a container that shares the host's cgroup namespace it is the container's
    /// own cgroup; above this namespace it begins with `/..`.
    #[must_use]
    pub fn mount_root(&self) -> &Path {
        &self.mount_root
    }

    /// Whether the top of the mount is the host's root cgroup, so that there is none above it.
    ///
    /// `false` in a cgroup namespace, and where a part of the tree was mounted.
    #[must_use]
    pub fn has_true_root(&self) -> bool {
        // Every cgroup but the root has the file (`CFTYPE_NOT_ON_ROOT`, kernel/cgroup/cgroup.c). Names do not tell: in a
        // cgroup namespace its top is called `/` as well.
        let absent = fs::symlink_metadata(self.mount_point.join("cgroup.type"));
        absent.is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
    }

    /// Whether hierarchies of version 1 are mounted beside it.
    #[must_use]
    pub fn is_hybrid(&self) -> bool {
        !self.v1_mount_points.is_empty()
    }

    /// Where a cgroup stands in the mount: `/a/b` for the directory `a/b` below the mount point.
    ///
    /// `cgroup` is named as in the `0::` line of `/proc/<pid>/cgroup`. `None` if this mount does not show it.
    #[must_use]
    pub fn locate(&self, cgroup: &Path) -> Option<PathBuf> {
        let below = cgroup.strip_prefix(&self.mount_root).ok()?;
        (!has_parent_component(below)).then(|| Path::new("/").join(below))
    }

    /// The file-system path of a cgroup named relative to the mount.
    pub(crate) fn absolute(&self, relative: &Path) -> PathBuf {
        let below = relative.strip_prefix("/").unwrap_or(relative);
        if below.as_os_str().is_empty() {
            self.mount_point.clone()
        } else {
            self.mount_point.join(below)
        }
    }

    /// The mount point of the cgroup v1 hierarchy that a file-system path lies in.
    pub(super) fn v1_mount_of(&self, path: &Path) -> Option<&Path> {
        // The v2 mount lies beneath the same tmpfs, never beneath a v1 mount.
        if path.starts_with(&self.mount_point) {
            return None;
        }
        self.v1_mount_points
            .iter()
            .map(PathBuf::as_path)
            .find(|mount| path.starts_with(mount))
    }
}

#[cfg(test)]
impl Hierarchy {
    /// As on a hybrid host with a v1 hierarchy mounted there.
    pub(super) fn beside_v1(mut self, mount_point: &Path) -> Self {
        self.v1_mount_points.push(mount_point.to_owned());
        self
    }
}

pub(super) fn is_cgroup2(stat: &rustix::fs::StatFs) -> bool {
    stat.f_type == CGROUP2_SUPER_MAGIC
}

fn has_parent_component(path: &Path) -> bool {
    path.components().any(|part| part == Component::ParentDir)
}

/// What matters of one line of mountinfo.
struct Mount {
    fs_type: String,
    mount_point: PathBuf,
    root: PathBuf,
}

/// Mounts of the two cgroup types.
///
/// Line by line and lossily: one mount point that is not UTF-8 must not hide all the others.
fn parse_mounts(mountinfo: &[u8]) -> io::Result<Vec<Mount>> {
    let mut mounts = Vec::new();
    for line in mountinfo
        .split(|&byte| byte == b'\n')
        .filter(|line| !line.is_empty())
    {
        let info = MountInfo::from_line(&String::from_utf8_lossy(line)).map_err(io::Error::other)?;
        if info.fs_type == "cgroup" || info.fs_type == "cgroup2" {
            mounts.push(Mount {
                fs_type: info.fs_type,
                mount_point: unescape(info.mount_point.as_os_str().as_bytes()),
                root: unescape(info.root.as_bytes()),
            });
        }
    }
    Ok(mounts)
}

/// Undoes the octal escapes of `/proc/self/mountinfo` (`\040` is a space; proc(5)), which procfs leaves in.
fn unescape(text: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, tail)) = rest.split_first() {
        let octal = tail
            .get(..3)
            .filter(|_| first == b'\\')
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match octal {
            Some(byte) => {
                out.push(byte);
                rest = &tail[3..];
            }
            None => {
                out.push(first);
                rest = tail;
            }
        }
    }
    PathBuf::from(OsString::from_vec(out))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(mountinfo: &str) -> Result<Vec<Hierarchy>, HierarchyError> {
        Hierarchy::candidates(&parse_mounts(mountinfo.as_bytes()).unwrap())
    }

    fn first(mountinfo: &str) -> Hierarchy {
        candidates(mountinfo).unwrap().remove(0)
    }

    const HYBRID: &str = "\
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 22 0:24 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
31 30 0:25 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory
39 30 0:33 / /sys/fs/cgroup/unified rw,relatime shared:10 - cgroup2 cgroup2 rw
";

    #[test]
    fn hybrid_host_has_v2_beside_the_controllers() {
        let found = first(HYBRID);
        assert_eq!(found.mount_point(), Path::new("/sys/fs/cgroup/unified"));
        assert_eq!(found.mount_root(), Path::new("/"));
        assert_eq!(
            found.v1_mount_of(Path::new("/sys/fs/cgroup/memory/docker/abc")),
            Some(Path::new("/sys/fs/cgroup/memory"))
        );
        assert_eq!(found.v1_mount_of(Path::new("/sys/fs/cgroup/unified/a")), None);
    }

    #[test]
    fn v1_only_is_called_by_its_name() {
        let v1 = HYBRID
            .lines()
            .filter(|line| !line.contains("cgroup2"))
            .collect::<Vec<_>>()
            .join("\n");
        let error = candidates(&v1).unwrap_err();
        assert!(
            matches!(&error, HierarchyError::V1Only { first } if first == Path::new("/sys/fs/cgroup/memory"))
        );
        assert!(error.to_string().contains("cgroup v1 only"));
        assert!(error.hint().is_some());
    }

    #[test]
    fn no_cgroups_at_all_is_another_error() {
        assert!(matches!(
            candidates("22 1 254:0 / / rw - ext4 /dev/vda rw\n"),
            Err(HierarchyError::NotMounted)
        ));
    }

    #[test]
    fn container_in_the_hosts_cgroup_namespace_sees_its_own_cgroup_as_top() {
        let found = first("40 30 0:33 /docker/abc /sys/fs/cgroup ro,nosuid master:10 - cgroup2 cgroup rw\n");
        assert_eq!(found.locate(Path::new("/docker/abc")), Some(PathBuf::from("/")));
        assert_eq!(
            found.locate(Path::new("/docker/abc/x")),
            Some(PathBuf::from("/x"))
        );
        assert_eq!(found.locate(Path::new("/docker/other")), None);
    }

    #[test]
    fn mount_from_above_the_namespace_locates_what_it_can_name() {
        let found = first("40 30 0:33 /.. /sys/fs/cgroup rw - cgroup2 cgroup rw\n");
        assert_eq!(
            found.locate(Path::new("/../sibling")),
            Some(PathBuf::from("/sibling"))
        );
        assert_eq!(
            found.locate(Path::new("/")),
            None,
            "the way down from above has no name here"
        );
    }

    #[test]
    fn cgroup_above_the_namespace_is_not_located() {
        assert_eq!(first(HYBRID).locate(Path::new("/../..")), None);
        assert_eq!(
            first(HYBRID).locate(Path::new("/a/b")),
            Some(PathBuf::from("/a/b"))
        );
    }

    #[test]
    fn mount_that_shows_everything_is_preferred() {
        let found = first(
            "40 30 0:33 /.. /c rw - cgroup2 none rw\n41 30 0:33 /a/b /b rw - cgroup2 none rw\n42 30 0:33 / /a rw - cgroup2 none rw\n",
        );
        assert_eq!(found.mount_point(), Path::new("/a"));
    }

    #[test]
    fn escapes_and_stray_bytes_do_not_hide_the_mount() {
        let mut text = b"21 1 8:1 / /media/\xff\xfe rw - vfat /dev/sdb1 rw\n".to_vec();
        text.extend_from_slice(b"42 30 0:33 / /my\\040cgroups rw - cgroup2 none rw\n");
        let found = Hierarchy::candidates(&parse_mounts(&text).unwrap())
            .unwrap()
            .remove(0);
        assert_eq!(found.mount_point(), Path::new("/my cgroups"));
        assert_eq!(unescape(br"a\134040\1"), PathBuf::from(r"a\040\1"));
    }

    #[test]
    fn this_host_has_one() {
        let found = Hierarchy::find().unwrap();
        let stat = rustix::fs::statfs(found.mount_point()).unwrap();
        assert!(is_cgroup2(&stat));
        assert_eq!(found.absolute(Path::new("/")), found.mount_point());
    }
}
