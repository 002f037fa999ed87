//! What the running kernel can do, as far as the loader acts on it: the rows of the [table](super::features) without
//! which nothing works, and those that have a global.

use enforcer_common::errno::{self, Errno};

use super::{
    KernelError, btf,
    features::{FEATURES, Global, Probe, Without},
    probing::{Probes, is_of_the_moment},
    side_by_side::side_by_side,
    undisturbed::undisturbed,
};

/// What the running kernel can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Support {
    /// [`Global::SetRetval`]: an errno of the rule's choice.
    pub set_retval: bool,
    /// [`Global::Comm`]: the thread's name in events.
    pub comm: bool,
    /// [`Global::V6only`]: the bits of byte 19 of `struct sock_common` that hold `IPV6_V6ONLY`.
    pub v6only_mask: Option<u8>,
}

impl Support {
    /// Probes the running kernel. Raises this process's locked-memory limit first, without which a 5.10 kernel
    /// refuses even the smallest program.
    ///
    /// # Errors
    ///
    /// When the kernel refuses the smallest possible program: enforcing is impossible here, or this process
    /// may not.
    pub fn probe() -> Result<Self, KernelError> {
        undisturbed(Self::probe_each)
    }

    fn probe_each() -> Result<Self, KernelError> {
        // Both read all of the kernel's BTF, each for itself.
        let (probes, v6only_mask) = side_by_side(Probes::open, btf::v6only_mask);
        let mut probes = probes?;
        let mut support = Self {
            set_retval: false,
            comm: false,
            v6only_mask: None,
        };
        for feature in FEATURES {
            // What else nothing works without, loading the programs shows.
            let (Probe::Program(name) | Probe::ProgramAndV6only(name)) = feature.probe else {
                continue;
            };
            match (probes.load(name)?, feature.without) {
                (Ok(()), _) => support.set(feature.global, v6only_mask),
                (Err(source), without) if without == Without::Impossible || is_of_the_moment(&source) => {
                    return Err(KernelError::load(name, source));
                }
                (Err(error), _) => ::log::debug!("without {}: {error}", feature.name),
            }
        }
        Ok(support)
    }

    fn set(&mut self, global: Option<Global>, v6only_mask: Option<u8>) {
        match global {
            Some(Global::SetRetval) => self.set_retval = true,
            Some(Global::Comm) => self.comm = true,
            Some(Global::V6only) => self.v6only_mask = v6only_mask,
            None => {}
        }
    }

    /// What the loader writes into that global: whether the programs may rely on the feature.
    #[must_use]
    pub const fn has(&self, global: Global) -> bool {
        match global {
            Global::SetRetval => self.set_retval,
            Global::Comm => self.comm,
            Global::V6only => self.v6only_mask.is_some(),
        }
    }

    /// The number a caller gets from a connect rejected with that errno.
    #[must_use]
    pub const fn errno_caller(&self, errno: Errno) -> Errno {
        if self.set_retval { errno } else { errno::EPERM }
    }
}
