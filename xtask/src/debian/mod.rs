//! What is had from the distribution: where this machine's apt gets its packages, a private apt that looks
//! into other suites without the machine noticing, and installing on the machine itself.

mod sources;

mod root;

pub(crate) mod install;

pub(crate) use self::{
    root::{Apt, Package, Suite, output},
    sources::{Source, of_machine},
};
