//! What an action does to a breakage: README's table "What helps when". Pure.

use serde::Serialize;

use super::fate::Fate;

/// What an action does to those who connect to the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Effect {
    /// They get to the host.
    Helps,
    /// They fail at once instead of late, and fail all the same.
    OnlyFaster,
    /// They get to an IPv4 address that is configured, if there is one to configure.
    NeedsAddress,
    /// Nothing changes.
    NoEffect,
    /// It would take away what works.
    Harms,
    /// It cannot be told from here.
    Unknown,
}

/// What is to be said of an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Advice {
    /// What it does.
    pub effect: Effect,
    /// Why.
    pub why: &'static str,
}

/// What counts beside what becomes of connects by IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Circumstances {
    /// There is an IPv6 address.
    pub(super) has_ipv6: bool,
    /// There are IPv6 addresses that work beside those that do not.
    pub(super) is_partly: bool,
    /// There is an IPv4 address; whether it works.
    pub(super) ipv4: Option<bool>,
    /// There is an IPv4 address that stands for an IPv6 one, and works.
    pub(super) has_twin: bool,
}

/// What reject and redirect do, by the table "What helps when".
pub(super) fn advice(broken: Option<Fate>, case: Circumstances) -> (Advice, Advice) {
    let say = |effect, why| Advice { effect, why };
    let Some(broken) = broken else {
        return match case.has_ipv6 {
            true => {
                let why = "a rule would take away what works";
                (say(Effect::Harms, why), say(Effect::Harms, why))
            }
            false => {
                let why = "there is no IPv6 address to act on";
                (say(Effect::NoEffect, why), say(Effect::NoEffect, why))
            }
        };
    };
    let redirect = if case.ipv4 == Some(true) {
        say(
            Effect::Helps,
            if broken.is_at_once() {
                "applications that have only the IPv6 address get to IPv4; others use IPv4 already"
            } else {
                "connects to the IPv6 address get to IPv4, also those of applications that have no other"
            },
        )
    } else if case.has_twin {
        say(
            Effect::Helps,
            "there is an IPv4 address that stands for it, and it works",
        )
    } else if case.ipv4.is_some() {
        say(
            Effect::NoEffect,
            "the IPv4 addresses of the host do not work either",
        )
    } else {
        say(
            Effect::NeedsAddress,
            "none is known to serve the same, by its name or by a NAT64",
        )
    };
    let reject = match broken {
        Fate::NoSockets => {
            let why = "the kernel makes no IPv6 sockets, so there is no connect to act on";
            return (say(Effect::NoEffect, why), say(Effect::NoEffect, why));
        }
        Fate::Denied | Fate::Redirected | Fate::Unknown => {
            let why = "the way without the program that acts already cannot be seen from here";
            return (say(Effect::Unknown, why), say(Effect::Unknown, why));
        }
        Fate::NoAddress | Fate::NoRoute => say(
            Effect::NoEffect,
            "the kernel ends such connects at once already, and C libraries list IPv4 first",
        ),
        _ if case.ipv4 == Some(true) || case.is_partly => say(
            Effect::Helps,
            "C libraries list the address last, and who tries it goes on at once",
        ),
        Fate::Slow => say(
            Effect::Harms,
            "it would make a failure of what succeeds, if slowly",
        ),
        _ => say(
            Effect::OnlyFaster,
            "there is nowhere else to go, so it fails all the same",
        ),
    };
    (reject, redirect)
}
