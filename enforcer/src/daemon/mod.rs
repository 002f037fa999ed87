//! Governing over time: from a plan to attachments that stand, events that flow, and an orderly end.
//!
//! [`Plan`] is what is to be governed by what; [`Governing`] holds everything that makes it so, and dropping it
//! ends it; [`Living`] follows what changes meanwhile, names and times, and [`Now`] is what is true of them at a moment;
//! [`signals`] is what people and systems say to this process meanwhile. What a verb does about each thing that can wake
//! it is the verb's (`commands/`).

pub mod signals;

pub mod expiries;

mod now;

mod living;

mod plan;

mod flow;
mod tally;

mod control;
mod switch;

mod governing;

pub use control::Applied;
pub use governing::{Governing, POLL_INTERVAL, Report, StartOptions, TargetReport};
pub use living::{Coming, ExpectError, Living, NamedTarget, Said};
pub use now::{Now, request};
pub use plan::{Plan, PlannedCgroup, PlannedTarget};
