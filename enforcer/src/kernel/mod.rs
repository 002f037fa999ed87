//! The kernel side as the controller sees it, and the only room that names aya.
//!
//! [`features`] is the one table of what kernels lack, [`survey`] asks for all of it, [`Support`] is what of it the
//! loader acts on, found out by loading small programs. [`Kernel`] is the
//! loaded programs with their maps: compiled policies go in through [`Kernel::install`], cgroups are governed
//! through [`Kernel::attach`], records and counters come out. Nothing here knows what a target or a rule is
//! called.

mod error;
mod kept;
mod objects;
mod plain;
mod side_by_side;
mod undisturbed;

mod btf;
mod syscall;

pub mod features;
mod probing;
pub mod support;
mod verification;

pub mod attached;

mod attachment;
mod generations;
mod links;
mod loader;
mod policies;

mod counters;
mod datagrams;
mod log;
mod ring;

pub use attachment::Attachment;
pub use counters::Losses;
pub use datagrams::DatagramCounts;
pub use error::{KernelError, VerifierRefusal};
pub use loader::{Kernel, LoadOptions};
pub use log::{BpfLog, BpfLogLevel};
pub use policies::{Content, Installed};
pub use probing::{Presence, survey};
pub use ring::EventRing;
pub use support::Support;
pub use verification::verify;
