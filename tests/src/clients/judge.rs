//! What must come of a client: the promises of `docs/clients.md`, one function.
//!
//! Outcomes are judged wherever they are measured; times only where the machine is left alone meanwhile.

use serde::{Deserialize, Serialize};

use super::{
    measure::Measured,
    table::{Client, Reject},
    world::Mode,
};
use crate::lab::Breakage;

/// What is allowed beside a factor, and beside the time to a name that cannot be broken.
const SLACK_MS: f64 = 100.0;

/// A client against a breakage, in each mode.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Cells {
    /// Nobody governs it.
    pub without: Measured,
    /// The broken prefix is rejected.
    pub reject: Measured,
    /// The name, or the broken prefix, is redirected.
    pub redirect: Measured,
    /// To a name with an IPv4 address only, where nobody governs it.
    pub plain: Measured,
}

impl Cells {
    /// The one of a mode.
    #[must_use]
    pub const fn of(&self, mode: Mode) -> &Measured {
        match mode {
            Mode::Without => &self.without,
            Mode::Reject => &self.reject,
            Mode::Redirect => &self.redirect,
        }
    }
}

/// What must come of a client in a mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// It talks to the server by IPv6.
    ByIpv6,
    /// It talks to the server by IPv4.
    ByIpv4,
    /// It ends without.
    Fails,
    /// What came of it without enforcer.
    Unchanged,
    /// Whatever its breakage does to it.
    Anything,
}

/// Whether a client may wait there for minutes, when nobody governs it.
#[must_use]
pub const fn hangs(breakage: Breakage) -> bool {
    matches!(
        breakage,
        Breakage::BlackHole | Breakage::AaaaOnly | Breakage::Literal
    )
}

/// What must come of that client against that breakage in that mode.
#[must_use]
pub fn expected(client: &Client, breakage: Breakage, mode: Mode) -> Expected {
    match (breakage, mode) {
        (Breakage::Healthy, _) if client.ipv4_first => Expected::ByIpv4,
        (Breakage::Healthy, _) => Expected::ByIpv6,
        (Breakage::AaaaOnly | Breakage::Literal, Mode::Without) => Expected::Fails,
        (_, Mode::Without) => Expected::Anything,
        // There is nowhere else to go, and its socket cannot be moved.
        (Breakage::AaaaOnly | Breakage::Literal, Mode::Redirect) if client.unmovable.is_some() => {
            Expected::Fails
        }
        (_, Mode::Redirect) => Expected::ByIpv4,
        // The kernel answers such a connect at once by itself, and C libraries know that.
        (Breakage::NoAddress | Breakage::NoRoute, Mode::Reject) => Expected::Unchanged,
        // There is nowhere else to go.
        (Breakage::AaaaOnly | Breakage::Literal, Mode::Reject) => Expected::Fails,
        (_, Mode::Reject) if client.ipv4_first => Expected::ByIpv4,
        (_, Mode::Reject) => match client.reject {
            Reject::TriesNext | Reject::Sorts => Expected::ByIpv4,
            Reject::FirstOnly(_) => Expected::Fails,
        },
    }
}

/// What is not as it must be; empty when all is well.
#[must_use]
pub fn judge(client: &Client, breakage: Breakage, cells: &Cells, times: bool) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut say = |mode: Mode, what: String| {
        let found = cells.of(mode);
        wrong.push(format!("{}, {breakage}, {mode}: {what}: {found:?}", client.name));
    };
    if !cells.plain.arrived() {
        say(
            Mode::Without,
            format!("does not reach a plain IPv4 name ({:?})", cells.plain),
        );
    }
    for mode in Mode::ALL {
        let found = cells.of(mode);
        let expected = expected(client, breakage, mode);
        let is_so = match expected {
            Expected::ByIpv6 => found.by_ipv6(),
            Expected::ByIpv4 => found.arrived() && !found.by_ipv6(),
            Expected::Fails => !found.arrived(),
            Expected::Unchanged => {
                (found.arrived(), found.by_ipv6()) == (cells.without.arrived(), cells.without.by_ipv6())
            }
            Expected::Anything => true,
        };
        if !is_so {
            say(mode, format!("is not {expected:?}"));
        }
        // Where a failure is what must come, it is listed, and was asserted above.
        let is_listed = expected == Expected::Fails || (mode == Mode::Reject && breakage == Breakage::Slow);
        if cells.without.arrived() && !found.arrived() && !is_listed {
            say(mode, "was a success and is none".to_owned());
        }
        if !times || mode == Mode::Without {
            continue;
        }
        if found.ms > 2.0 * cells.without.ms + SLACK_MS {
            say(
                mode,
                format!("takes longer than {:.1} ms without", cells.without.ms),
            );
        }
        let is_promised = mode == Mode::Reject && expected == Expected::ByIpv4;
        if is_promised && found.ms > cells.plain.ms + SLACK_MS {
            say(
                mode,
                format!("takes longer than {:.1} ms to a plain name", cells.plain.ms),
            );
        }
    }
    wrong
}
