//! Tests of [`super`] with real cgroups.

use std::ffi::CString;

use super::*;
use crate::targets::test_support::{Scratch, is_root};

fn error(hierarchy: &Hierarchy, path: impl AsRef<Path>) -> CgroupError {
    Cgroup::open(hierarchy, path.as_ref()).unwrap_err()
}

/// The cgroup id as the kernel itself gives it out: the file handle of a cgroup directory
/// (`FILEID_KERNFS`, `include/linux/exportfs.h`).
fn id_by_handle(path: &Path) -> u64 {
    #[repr(C, align(8))]
    struct Handle {
        bytes: u32,
        kind: i32,
        id: [u8; 8],
    }
    let mut handle = Handle {
        bytes: 8,
        kind: 0,
        id: [0; 8],
    };
    let mut mount_id = 0;
    let path = CString::new(path.as_os_str().as_encoded_bytes()).unwrap();
    // SAFETY: the path is NUL-terminated, the handle has the layout of `struct file_handle` with the 8 bytes of
    // room that it declares, and the kernel writes an int to the mount id.
    let result = unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            libc::AT_FDCWD,
            path.as_ptr(),
            std::ptr::from_mut(&mut handle),
            std::ptr::from_mut::<i32>(&mut mount_id),
            0,
        )
    };
    assert_eq!(result, 0, "name_to_handle_at: {}", io::Error::last_os_error());
    assert_eq!((handle.bytes, handle.kind), (8, 0xfe));
    u64::from_ne_bytes(handle.id)
}

#[test]
fn id_is_what_the_kernel_calls_the_cgroup() {
    if !is_root("targets::cgroup::id_is_what_the_kernel_calls_the_cgroup") {
        return;
    }
    let scratch = Scratch::new("id");
    assert_eq!(scratch.cgroup().id(), id_by_handle(&scratch.absolute()));
}

#[test]
fn every_way_of_writing_a_path_means_the_same_cgroup() {
    if !is_root("targets::cgroup::every_way_of_writing_a_path_means_the_same_cgroup") {
        return;
    }
    let scratch = Scratch::new("paths");
    let inner = scratch.child("in ner");
    let relative = scratch.path().join("in ner");
    for written in [
        relative.clone(),
        relative.strip_prefix("/").unwrap().to_owned(),
        scratch.absolute().join("in ner"),
        scratch.absolute().join("in ner/../in ner/."),
    ] {
        let opened = Cgroup::open(scratch.hierarchy(), &written).unwrap();
        assert_eq!(
            (opened.id(), opened.path()),
            (inner.id(), relative.as_path()),
            "{}",
            written.display()
        );
    }
}

#[test]
fn absent_cgroup_names_the_nearest_and_the_likest() {
    if !is_root("targets::cgroup::absent_cgroup_names_the_nearest_and_the_likest") {
        return;
    }
    let scratch = Scratch::new("absent");
    let unit = format!("web-{}.service", std::process::id());
    scratch.child(&unit);
    let mistyped = unit.replace("service", "servcie");
    let CgroupError::Absent { nearest, similar, .. } =
        error(scratch.hierarchy(), scratch.path().join(&mistyped))
    else {
        panic!("not absent")
    };
    assert_eq!(nearest, scratch.path());
    assert_eq!(similar, Some(scratch.path().join(&unit)));
    // A unit's name without its slice is found wherever it is.
    let by_name = error(scratch.hierarchy(), Path::new("/").join(&unit));
    assert_eq!(
        by_name.hint(),
        Some(format!("did you mean {}?", scratch.path().join(&unit).display()))
    );
    let unlike = error(scratch.hierarchy(), scratch.absolute().join("zzzz"));
    assert!(
        matches!(&unlike, CgroupError::Absent { similar: None, .. }),
        "{unlike:?}"
    );
    assert!(unlike.hint().unwrap().contains(scratch.path().to_str().unwrap()));
}

#[test]
fn file_is_not_a_cgroup_but_lies_in_one() {
    let hierarchy = Hierarchy::find().unwrap();
    for written in [
        PathBuf::from("/cgroup.procs"),
        hierarchy.mount_point().join("cgroup.procs"),
    ] {
        let error = error(&hierarchy, &written);
        assert!(
            matches!(&error, CgroupError::NotDirectory { within, .. } if within == Path::new("/")),
            "{error:?}"
        );
    }
}

#[test]
fn what_lies_outside_is_not_a_cgroup() {
    let hierarchy = Hierarchy::find().unwrap();
    for written in ["/sys/kernel", "/..", "/sys/no/such/thing"] {
        let error = error(&hierarchy, written);
        assert!(
            matches!(error, CgroupError::NotCgroup { .. }),
            "{written}: {error:?}"
        );
        assert!(error.hint().unwrap().contains("0::"));
    }
    let elsewhere = error(&hierarchy, "/usr/bin");
    assert!(
        matches!(
            elsewhere,
            CgroupError::Absent {
                is_elsewhere: true,
                ..
            }
        ),
        "{elsewhere:?}"
    );
    assert!(elsewhere.hint().unwrap().contains("no cgroup"));
}

#[test]
fn version_1_is_called_by_its_name_and_leads_to_version_2() {
    if !is_root("targets::cgroup::version_1_is_called_by_its_name_and_leads_to_version_2") {
        return;
    }
    let scratch = Scratch::new("v1");
    // Only hybrid hosts have a version 1 to ask; this one is said to have it in a folder of ours.
    let v1 = tempfile::tempdir().unwrap();
    let hierarchy = scratch.hierarchy().clone().beside_v1(v1.path());
    let written = v1.path().join(scratch.path().strip_prefix("/").unwrap());
    let error = error(&hierarchy, &written);
    assert!(error.to_string().contains("cgroup v1"), "{error}");
    assert!(error.hint().unwrap().contains(scratch.path().to_str().unwrap()));
}

#[test]
fn removed_cgroup_is_gone_even_if_its_name_is_not() {
    if !is_root("targets::cgroup::removed_cgroup_is_gone_even_if_its_name_is_not") {
        return;
    }
    let scratch = Scratch::new("gone");
    let old = scratch.child("x");
    assert!(!old.is_gone());
    fs::remove_dir(scratch.absolute().join("x")).unwrap();
    assert!(old.is_gone());
    let new = scratch.child("x");
    assert!(old.is_gone() && !new.is_gone());
    assert!(old.processes().is_err());
}

#[test]
fn processes_below_are_counted_once() {
    if !is_root("targets::cgroup::processes_below_are_counted_once") {
        return;
    }
    let mut scratch = Scratch::new("count");
    scratch.spawn_sleeper();
    let threaded = scratch.child("threaded");
    fs::write(scratch.absolute().join("threaded/cgroup.type"), "threaded").unwrap();
    let pid = scratch.spawn_sleeper();
    fs::write(scratch.absolute().join("threaded/cgroup.procs"), pid.to_string()).unwrap();
    assert_eq!(
        threaded.processes().unwrap(),
        [pid],
        "a threaded cgroup lists threads only"
    );
    assert_eq!(scratch.cgroup().count_processes().unwrap(), 2);
}
