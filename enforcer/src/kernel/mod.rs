//! The kernel side as the controller sees it, and the only room that names aya.
//!
//! [`Support`] is what the running kernel can do, found out by loading small programs. [`Kernel`] is the
//! loaded programs with their maps: compiled policies go in through [`Kernel::install`], cgroups are governed
//! through [`Kernel::attach`], records and counters come out. Nothing here knows what a target or a rule is
//! called.

mod error;
mod objects;
mod plain;

pub mod support;

mod attachment;
mod loader;
mod policies;

mod counters;
mod log;
mod ring;

pub use attachment::Attachment;
pub use error::{KernelError, VerifierRefusal};
pub use loader::{Kernel, LoadOptions};
pub use log::{BpfLog, BpfLogLevel};
pub use policies::Installed;
pub use ring::EventRing;
pub use support::Support;
