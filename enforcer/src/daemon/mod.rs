//! Governing over time: from a plan to attachments that stand, events that flow, and an orderly end.
//!
//! [`Plan`] is what is to be governed by what; [`Governing`] holds everything that makes it so, and dropping it
//! ends it; [`signals`] is what people and systems say to this process meanwhile. What a verb does about each
//! thing that can wake it is the verb's (`commands/`).

pub mod signals;

mod plan;

mod governing;

pub use governing::{Governing, POLL_INTERVAL, Report, StartOptions, TargetReport};
pub use plan::{Plan, PlannedCgroup, PlannedTarget};
