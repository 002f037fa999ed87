//! What is wrong with the way to a host: measured, told apart, and what helps.
//!
//! [`measure()`] makes real connects, from the network namespace of this process or of a target ([`inside`]), and
//! returns plain data ([`findings`]). [`diagnose`] is pure: from findings to a [`Verdict`], and what clients make of it
//! ([`clients`]) is computed from the measured connects. Nothing here changes the machine, decides about a connect of
//! anybody else, or prints. docs/probe.md says for people what is measured and how.

mod connect;
mod echo;
mod exchange;
mod measure;
mod option;
mod order;
mod reverse;
mod way;

pub mod clients;
pub mod findings;
pub mod inside;
pub mod judged;
pub mod subject;

mod advice;
mod fate;
mod prefix;
mod rule;
mod verdict;
mod words;

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

pub use self::{
    advice::{Advice, Effect},
    echo::Echoes,
    fate::{Fate, fate},
    findings::Findings,
    measure::{Asking, measure},
    rule::{Rule, RuleFor},
    subject::{Host, Subject},
    verdict::{Diagnosis, Ending, Only, Verdict, diagnose},
};

/// How long things may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// One connect, one handshake: what takes longer is called silent.
    pub each: Duration,
    /// Everything about one host.
    pub all: Duration,
}

/// How far a measurement has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Progress {
    /// Checks that are done.
    pub done: usize,
    /// Checks that are known of.
    pub known: usize,
    /// The last one that is done.
    pub last: String,
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} checks, {}", self.done, self.known, self.last)
    }
}
