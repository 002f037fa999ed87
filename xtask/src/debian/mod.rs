//! What is had from the distribution: where this machine's apt gets its packages, a private apt that looks
//! into other suites without the machine noticing, making a root beside the machine's, and installing on the
//! machine itself.

mod sources;

mod root;

mod bootstrap;

pub(crate) mod install;

pub(crate) use self::{
    bootstrap::{MMDEBSTRAP, make_root},
    root::{Apt, Package, Suite, output},
    sources::{Source, of_machine},
};
