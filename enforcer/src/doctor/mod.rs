//! What this machine offers, item by item, with what follows from it.
//!
//! [`examine`] looks once and returns plain data; `sinks` makes text of it. Nothing here changes the machine, attaches
//! a program or sends a packet (except to the system's resolver, where that is asked for). What cannot be looked at,
//! for want of privilege or of a file, is an item too: a doctor who skips a question does not say so by silence.

mod report;

mod kernel;
mod privileges;

mod attached;
mod cgroups;
mod holders;

mod ipv6;

mod engines;
mod listeners;
mod workloads;

mod sight;

pub use report::{Detail, Item, Level, Report, Section};

use crate::targets::Hierarchy;

/// What to do besides looking.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Ask the system's resolver for the NAT64 prefix of this network.
    pub lookup: bool,
}

/// Examines this machine as this process sees it.
///
/// Needs a tokio runtime with time. Should run in a process that does nothing else meanwhile: for moments it changes
/// the process's limits.
pub async fn examine(options: Options) -> Report {
    let privileges = privileges::Privileges::of_this_process();
    let mut report = Report::default();
    report.section(Section::Kernel, kernel::examine(&privileges));
    report.section(Section::Privileges, privileges.items());
    let hierarchy = Hierarchy::find();
    report.section(Section::Cgroups, cgroups::examine(hierarchy.as_ref()));
    if let Ok(hierarchy) = &hierarchy {
        report.section(Section::Attached, attached::examine(hierarchy));
    }
    report.section(Section::Ipv6, ipv6::examine(options.lookup).await);
    report.section(Section::Engines, engines::examine());
    report.section(Section::Workloads, workloads::examine());
    report
}
