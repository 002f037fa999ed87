//! From the names of workloads to the cgroups they are: found, opened, waited for, and made for a command.
//!
//! [`hierarchy`] finds the cgroup v2 tree, [`cgroup`] opens one in it, [`pid`] goes from a process to its
//! cgroup, [`container`] from a name that an [`engine`] knows to a process and its cgroup; [`resolve`] puts them together into targets, [`nesting`] says how those lie to each other, [`wait`]
//! follows those that come and go, [`child`] makes one for a command. This room attaches nothing, knows no policy, and prints nothing.

pub mod hierarchy;

mod processes;

pub mod cgroup;

pub mod pid;

pub mod engine;

pub mod container;

pub mod resolve;

pub mod nesting;

mod watch;

pub mod wait;

pub mod child;

#[cfg(test)]
pub(crate) mod test_support;

pub use self::{
    cgroup::{Cgroup, CgroupError},
    child::{ExecCgroup, ExecCgroupError},
    container::ContainerError,
    hierarchy::{Hierarchy, HierarchyError},
    nesting::Nesting,
    pid::{PidError, own_cgroup_path},
    resolve::{Note, Request, ResolveError, ResolvedTarget},
    wait::{VanishWatch, WaitError},
    watch::WatchError,
};
