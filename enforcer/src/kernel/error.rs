//! What can go wrong between the controller and the kernel, and what a person can do about it.

use std::{error::Error, io, path::PathBuf};

use aya::{EbpfError, maps::MapError, programs::ProgramError};
use rustix::thread::{CapabilitySet, capabilities};
use thiserror::Error;

use super::attached::Overridden;

/// An operation on the kernel that failed. The cause is in [`source`](Error::source), never in the message.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum KernelError {
    /// The object's maps could not be created, or the object not be read.
    #[error("cannot create the BPF maps of {object}")]
    Object {
        /// Which object.
        object: &'static str,
        /// The cause.
        #[source]
        source: Box<EbpfError>,
    },
    /// The kernel refused a program.
    #[error("the kernel refused to load program {program}")]
    Load {
        /// Name of the program.
        program: &'static str,
        /// The cause: [`VerifierRefusal`] where the verifier said why.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// The object lacks something this controller expects: they were not built together.
    #[error("the embedded eBPF object has no {kind} named {name}")]
    Missing {
        /// `program` or `map`.
        kind: &'static str,
        /// Its name.
        name: &'static str,
    },
    /// A program could not be attached.
    #[error("cannot attach program {program} to cgroup {}", cgroup.display())]
    Attach {
        /// Name of the program.
        program: &'static str,
        /// Path of the cgroup.
        cgroup: PathBuf,
        /// The cause.
        #[source]
        source: Box<ProgramError>,
    },
    /// Attaching would keep a program of somebody else's from judging the cgroup's sockets.
    #[error(
        "will not attach to cgroup {}: the kernel would then no longer run program {} of cgroup {} ({}) for it, which was \
         attached with BPF_F_ALLOW_OVERRIDE",
        cgroup.display(), overridden.program, overridden.cgroup.display(), overridden.attach_type.name()
    )]
    Overrides {
        /// Path of the cgroup.
        cgroup: PathBuf,
        /// The other program.
        overridden: Overridden,
    },
    /// Which programs of others attaching would stop cannot be found out.
    #[error("cannot ask which programs are at cgroup {} and above it", cgroup.display())]
    Neighbours {
        /// Path of the cgroup.
        cgroup: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A map operation failed.
    #[error("cannot {operation} in map {map}")]
    Map {
        /// What was attempted.
        operation: &'static str,
        /// Name of the map.
        map: &'static str,
        /// The cause.
        #[source]
        source: Box<MapError>,
    },
    /// A limit of this process could not be raised.
    #[error("cannot raise the limit {limit}")]
    Limit {
        /// Name of the limit.
        limit: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// More policies or targets than the maps hold.
    #[error("{what} {count} exceed the limit of {limit}")]
    TooMany {
        /// What there is too much of.
        what: &'static str,
        /// How many were asked for.
        count: usize,
        /// How many there may be.
        limit: usize,
    },
}

/// What the verifier said last about a program that it refused: what comes before can be ten thousands of lines.
#[derive(Debug, Error)]
#[error("the verifier says: {log}")]
pub struct VerifierRefusal {
    log: String,
    #[source]
    source: io::Error,
}

impl KernelError {
    /// A program that the kernel did not take.
    pub(crate) fn load(program: &'static str, error: ProgramError) -> Self {
        let source = match error {
            ProgramError::LoadError {
                io_error,
                verifier_log,
            } => refusal(io_error, verifier_log.to_string()),
            other => Box::new(other),
        };
        Self::Load { program, source }
    }

    /// What a person can do about it, where something can be done.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        if let Self::Overrides { overridden, .. } = self {
            return Some(format!(
                "it may be a firewall: let whoever attached it do so with BPF_F_ALLOW_MULTI or a link, then both run; \
                 `bpftool prog show id {}` tells more of it",
                overridden.program
            ));
        }
        let errno = os_error(self)?;
        if lacks_privilege() {
            return Some(PRIVILEGES.to_owned());
        }
        let hint = match (self, errno) {
            (Self::Attach { .. }, libc::EPERM) => {
                "a program on this cgroup or one above was attached without BPF_F_ALLOW_MULTI; `enforcer doctor` and \
                 `bpftool cgroup tree` list them"
            }
            (Self::Attach { .. }, libc::E2BIG) => "the kernel allows 64 programs at one cgroup",
            (Self::Attach { .. }, libc::EBADF) => "the path is not a directory of the cgroup v2 hierarchy",
            (_, libc::EPERM) => PRIVILEGES,
            (_, libc::ENOSYS) => "this kernel is built without bpf(2) (CONFIG_BPF_SYSCALL)",
            (_, libc::ENOMEM | libc::ENOSPC) => "the kernel is short of memory for BPF maps",
            // Where it may not look ahead as it does otherwise, it ends in whatever errno it comes upon: EACCES, EINVAL, EFAULT.
            (Self::Load { .. }, errno)
                if lacks(CapabilitySet::PERFMON) && (errno == libc::EACCES || self.is_of_the_verifier()) =>
            {
                "verifiers of older kernels take the programs only from a process that has CAP_PERFMON too"
            }
            (Self::Load { .. }, _) if self.is_of_the_verifier() => REFUSED,
            (Self::Load { .. }, libc::EACCES | libc::E2BIG) => REFUSED,
            // Without words of the verifier's it is the kernel's own: it does not know the program's type.
            (Self::Load { .. }, libc::EINVAL) => {
                "this kernel may be built without cgroup BPF (CONFIG_CGROUP_BPF)"
            }
            _ => return None,
        };
        Some(hint.to_owned())
    }

    /// Whether the verifier said something to it.
    fn is_of_the_verifier(&self) -> bool {
        self.source()
            .is_some_and(|source| source.downcast_ref::<VerifierRefusal>().is_some())
    }
}

/// aya's message repeats its source, and speaks of the verifier also where that said nothing.
fn refusal(source: io::Error, log: String) -> Box<dyn Error + Send + Sync> {
    let lines: Vec<_> = log.trim().lines().collect();
    if lines.is_empty() {
        return Box::new(source);
    }
    let log = match lines.len().checked_sub(LAST_LINES) {
        None | Some(0) => lines.join("\n"),
        Some(left_out) => format!("({left_out} lines)\n{}", lines[left_out..].join("\n")),
    };
    Box::new(VerifierRefusal { log, source })
}

/// Lines of the verifier's that are shown: the instruction that it refused is among them.
const LAST_LINES: usize = 16;

const REFUSED: &str =
    "the verifier of this kernel refuses a program that others take: please report it, with `uname -r`";

const PRIVILEGES: &str = "enforcer needs root, or CAP_BPF and CAP_NET_ADMIN; inside a container also a seccomp profile that \
                          allows bpf(2)";

/// Whether this process lacks what loading takes. The errno does not tell: 7.2 gives EINVAL.
fn lacks_privilege() -> bool {
    lacks(CapabilitySet::BPF) || lacks(CapabilitySet::NET_ADMIN)
}

/// Whether this process has neither the capability nor CAP_SYS_ADMIN, which stands for each that loading takes
/// (`bpf_capable` and `perfmon_capable` of include/linux/capability.h, `bpf_prog_load` of kernel/bpf/syscall.c). Where
/// that cannot be told, it has.
fn lacks(capability: CapabilitySet) -> bool {
    let Ok(sets) = capabilities(None) else {
        return false;
    };
    !sets.effective.intersects(capability | CapabilitySet::SYS_ADMIN)
}

/// The operating system's error number at the bottom of a chain of errors.
pub(crate) fn os_error(error: &(dyn Error + 'static)) -> Option<i32> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(number) = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::raw_os_error)
        {
            return Some(number);
        }
        next = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(log: &str) -> String {
        let error = KernelError::Load {
            program: "probe",
            source: refusal(io::Error::from_raw_os_error(libc::EACCES), log.to_owned()),
        };
        assert!(error.hint().is_some_and(|hint| hint.contains("verifier")));
        let mut said = error.to_string();
        let mut next = error.source();
        while let Some(cause) = next {
            said += &format!(": {cause}");
            next = cause.source();
        }
        said
    }

    #[test]
    fn a_refusal_says_its_cause_once_and_the_verifiers_words_where_there_are_any() {
        assert_eq!(
            said(""),
            "the kernel refused to load program probe: Permission denied (os error 13)"
        );
        assert_eq!(
            said("R1 invalid mem access\n"),
            "the kernel refused to load program probe: the verifier says: R1 invalid mem access: Permission denied \
             (os error 13)"
        );
        let many: String = (1..=40).map(|line| format!("{line}: (bf) r1 = r0\n")).collect();
        let short = said(&many);
        assert!(
            short.contains("(24 lines)\n25: (bf)") && short.contains("40: (bf) r1 = r0:"),
            "{short}"
        );
        assert!(!short.contains("24: (bf)"), "{short}");
    }

    #[test]
    fn a_refusal_without_words_is_not_taken_for_the_verifiers() {
        let hint = |log: &str| {
            let error = KernelError::Load {
                program: "probe",
                source: refusal(io::Error::from_raw_os_error(libc::EINVAL), log.to_owned()),
            };
            error.hint().unwrap_or_default()
        };
        if lacks_privilege() {
            return;
        }
        assert!(hint("").contains("CONFIG_CGROUP_BPF"));
        assert!(hint("invalid func unknown#187").contains("verifier"));
    }
}
