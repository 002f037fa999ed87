//! Container engines, found by the sockets they listen on. Nothing is asked of them but whether they accept a
//! connection.

use std::{
    collections::BTreeSet,
    env, fs, io,
    os::unix::fs::FileTypeExt as _,
    path::{Path, PathBuf},
};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use super::report::{Item, Level};

/// What listens where, when it runs as root.
const SOCKETS: &[(&str, &str)] = &[
    ("Docker", "/run/docker.sock"),
    ("Docker", "/var/run/docker.sock"),
    ("Podman", "/run/podman/podman.sock"),
    ("containerd", "/run/containerd/containerd.sock"),
    ("containerd", "/run/k3s/containerd/containerd.sock"),
    ("CRI-O", "/run/crio/crio.sock"),
    ("CRI-O", "/var/run/crio/crio.sock"),
];

/// And when it runs as a user: below each folder of [`USERS`].
const ROOTLESS: &[(&str, &str)] = &[
    ("Docker", "docker.sock"),
    ("Podman", "podman/podman.sock"),
    ("containerd", "containerd-rootless/containerd.sock"),
];

/// `XDG_RUNTIME_DIR` of each user who is logged in.
const USERS: &str = "/run/user";

/// A socket that is there.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Socket {
    path: PathBuf,
    engine: &'static str,
    /// Whose it is, if not root's.
    user: Option<String>,
}

pub(super) fn examine() -> Vec<Item> {
    let mut items = Vec::new();
    let docker_host = env::var("DOCKER_HOST").ok().filter(|value| !value.is_empty());
    let mut found = sockets(Path::new("/"));
    if let Some(value) = docker_host {
        match value.strip_prefix("unix://") {
            Some(path) => {
                found.insert(Socket {
                    path: PathBuf::from(path),
                    engine: "Docker",
                    user: None,
                });
            }
            None => items.push(
                Item::new(
                    "engine",
                    "Docker",
                    Level::Note,
                    format!("DOCKER_HOST is {value}: not asked"),
                )
                .subject(value)
                .follows("an engine on another host has no containers here"),
            ),
        }
    }
    items.extend(found.iter().map(about));
    if items.is_empty() {
        items.push(
            Item::new(
                "engines",
                "container engines",
                Level::Ok,
                "no socket of one found",
            )
            .follows("containers can be governed all the same, with --pid or --cgroup"),
        );
    }
    items
}

/// The sockets below `root` that exist, each once though several paths lead to it.
fn sockets(root: &Path) -> BTreeSet<Socket> {
    let mut found = BTreeSet::new();
    let mut seen = BTreeSet::new();
    let mut add = |engine, path: PathBuf, user| {
        let is_socket = fs::metadata(&path).is_ok_and(|it| it.file_type().is_socket());
        let real = fs::canonicalize(&path).unwrap_or_else(|_| path.clone());
        if is_socket && seen.insert(real) {
            found.insert(Socket { path, engine, user });
        }
    };
    for (engine, path) in SOCKETS {
        add(engine, root.join(path.trim_start_matches('/')), None);
    }
    let users = fs::read_dir(root.join(USERS.trim_start_matches('/')));
    for user in users.into_iter().flatten().flatten() {
        for (engine, path) in ROOTLESS {
            let name = user.file_name().to_string_lossy().into_owned();
            add(engine, user.path().join(path), Some(name));
        }
    }
    found
}

fn about(socket: &Socket) -> Item {
    let path = socket.path.display().to_string();
    let (level, answer) = match accepts(&socket.path) {
        Ok(()) => (Level::Ok, "accepts connections".to_owned()),
        Err(error) => match error.raw_os_error() {
            Some(libc::ECONNREFUSED) => (Level::Note, "nobody listens".to_owned()),
            Some(libc::EACCES) => (Level::Unknown, "this process may not connect".to_owned()),
            Some(libc::EAGAIN) => (Level::Note, "does not take more connections now".to_owned()),
            _ => (Level::Unknown, error.to_string()),
        },
    };
    let kind = if socket.user.is_some() {
        "rootless"
    } else {
        "rootful"
    };
    let name = match &socket.user {
        Some(user) => format!("{}, rootless (uid {user})", socket.engine),
        None => socket.engine.to_owned(),
    };
    let item = Item::new("engine", name, level, format!("{path}: {answer}"))
        .subject(path)
        .text("engine", socket.engine)
        .text("kind", kind)
        .text("answer", answer);
    if socket.user.is_some() {
        item.follows(
            "its containers are cgroups below that user's slice and can be governed by root only, with --container \
             (DOCKER_HOST or CONTAINER_HOST names this socket), --pid or --cgroup; connects are judged in the container, before slirp4netns or pasta carries them out",
        )
    } else {
        item
    }
}

/// Connects, without waiting, and closes.
fn accepts(path: &Path) -> io::Result<()> {
    let socket = socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::{fs::symlink, net::UnixListener};

    use super::*;

    #[test]
    fn sockets_are_found_once_rootless_ones_apart_and_files_are_none() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        fs::create_dir_all(root.join("run/user/1000/podman")).unwrap();
        fs::create_dir_all(root.join("run/crio")).unwrap();
        fs::create_dir_all(root.join("var")).unwrap();
        symlink(root.join("run"), root.join("var/run")).unwrap();
        fs::write(root.join("run/crio/crio.sock"), "").unwrap();
        let _docker = UnixListener::bind(root.join("run/docker.sock")).unwrap();
        let podman = UnixListener::bind(root.join("run/user/1000/podman/podman.sock")).unwrap();
        drop(podman);

        let found: Vec<_> = sockets(root).into_iter().collect();
        assert_eq!(found.len(), 2, "{found:?}");
        assert_eq!((found[0].engine, found[0].user.as_deref()), ("Docker", None));
        assert_eq!(
            (found[1].engine, found[1].user.as_deref()),
            ("Podman", Some("1000"))
        );
        assert!(about(&found[0]).state.ends_with("accepts connections"));
        assert!(about(&found[1]).state.ends_with("nobody listens"));
    }
}
