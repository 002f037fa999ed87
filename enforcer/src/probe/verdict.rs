//! From findings to a verdict: what is wrong, what helps, what cannot, and with which rule. Pure; README "What helps when"
//! is the table that it keeps to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::Ipv6Net;
use serde::Serialize;

use super::{
    advice::{Advice, Circumstances, Effect, advice},
    fate::{Fate, fate},
    findings::{Address, Echo, End, Findings, Lookup, Twin},
    prefix::prefixes,
    rule::{Does, Draft, Rule, RuleFor},
    subject::write_place,
    words::list,
};

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Diagnosis {
    /// Nothing.
    Healthy,
    /// Nothing: there is no IPv6 address, so IPv6 says nothing here.
    Ipv4Only,
    /// IPv6 is well, or plays no part, and IPv4 is what fails.
    Ipv4Broken,
    /// Neither family leads to the host.
    BothBroken,
    /// The name does not exist, or has no address.
    NoSuchName,
    /// Nobody answers for the name.
    NoAnswer,
    /// The kernel makes no IPv6 sockets.
    NoIpv6,
    /// No source address.
    NoAddress,
    /// No route.
    NoRoute,
    /// A program rejects it.
    Denied,
    /// A program redirects it.
    Redirected,
    /// A packet filter of this host forbids it.
    Filtered,
    /// Nothing listens there.
    Refused,
    /// A router has no route.
    IcmpNoRoute,
    /// A router prohibits it.
    Prohibited,
    /// The address is not there.
    Unreachable,
    /// Nothing answers.
    BlackHole,
    /// Packets are lost before it succeeds.
    Slow,
    /// Long packets are lost on the way.
    PathMtu,
    /// No data comes through; why cannot be told.
    Stalls,
    /// Another server answers.
    Stranger,
    /// It ends in another error.
    Fails,
    /// It was not measured in time.
    Unknown,
}

/// That a host has IPv6 addresses and no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Only {
    /// The name has AAAA records and no A record.
    AaaaOnly,
    /// It is an address.
    Literal,
}

/// What a rule can do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ending {
    /// There is nothing to do.
    Healthy,
    /// A rule helps.
    Fixable,
    /// No rule helps.
    NotFixable,
    /// It was not measured in time.
    Unknown,
}

/// What follows from all that was measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// What is wrong.
    pub diagnosis: Diagnosis,
    /// Whether there is only IPv6.
    pub only: Option<Only>,
    /// What a rule can do.
    pub ending: Ending,
    /// All that in a sentence.
    pub sentence: String,
    /// What a reject does.
    pub reject: Advice,
    /// What a redirect does.
    pub redirect: Advice,
    /// Rules that are of use, the best first.
    pub rules: Vec<Rule>,
    /// What else is worth knowing.
    pub notes: Vec<String>,
}

/// Judges what was found, for who connects from a target that `run` knows by those arguments; by none for a command of
/// `exec`.
#[must_use]
pub fn diagnose(findings: &Findings, target: &[String]) -> Verdict {
    let case = Case::new(findings);
    let (diagnosis, ending) = case.diagnosis();
    let (reject, redirect) = advice(case.broken(), case.circumstances());
    Verdict {
        diagnosis,
        only: case.only,
        ending,
        sentence: case.sentence(diagnosis, ending, reject, redirect),
        reject,
        redirect,
        rules: case.rules(ending, reject, redirect, target),
        notes: case.notes(),
    }
}

/// What counts of the findings.
pub(super) struct Case<'found> {
    pub(super) findings: &'found Findings,
    pub(super) only: Option<Only>,
    /// Each IPv6 address and what becomes of connects to it.
    ipv6: Vec<(&'found Address, Ipv6Addr, Fate)>,
    /// What becomes of connects to IPv4 addresses; the best.
    ipv4: Option<Fate>,
    /// Whether an IPv4 address that stands for an IPv6 one works.
    twin: Option<&'found Twin>,
    /// No address speaks the protocol of the port: that is the server's business.
    other_protocol: bool,
}

impl<'found> Case<'found> {
    fn new(findings: &'found Findings) -> Self {
        let of = |address: &Address| fate(address, findings.ipv6_sockets);
        let connected: Vec<Fate> = findings
            .addresses
            .iter()
            .filter(|it| it.exchange.is_some())
            .map(of)
            .collect();
        let other_protocol = !connected.is_empty() && connected.iter().all(|fate| *fate == Fate::Stranger);
        let of = |address: &Address| match of(address) {
            Fate::Stranger if other_protocol => Fate::Works,
            fate => fate,
        };
        let ipv6: Vec<_> = findings
            .ipv6()
            .map(|(found, address)| (found, address, of(found)))
            .collect();
        let mut ipv4: Vec<Fate> = findings.ipv4().map(|(found, _)| of(found)).collect();
        ipv4.sort_by_key(|fate| (!is_usable(*fate), *fate == Fate::Slow));
        let only = (ipv4.is_empty() && !ipv6.is_empty()).then_some(if findings.names.is_some() {
            Only::AaaaOnly
        } else {
            Only::Literal
        });
        Self {
            findings,
            only,
            ipv4: ipv4.first().copied(),
            twin: findings.twins.iter().find(|twin| is_usable(of(&twin.address))),
            ipv6,
            other_protocol,
        }
    }

    /// The first IPv6 address, in the order of programs, whose connects do not go well.
    pub(super) fn broken(&self) -> Option<Fate> {
        let fates = self.ipv6.iter().map(|(.., fate)| *fate);
        fates.into_iter().find(|fate| *fate != Fate::Works)
    }

    /// Whether there are IPv6 addresses that work beside those that do not.
    fn is_partly(&self) -> bool {
        self.ipv6.iter().any(|(.., fate)| *fate == Fate::Works)
    }

    /// Whether IPv4 leads to the host.
    pub(super) fn has_ipv4(&self) -> bool {
        self.ipv4.is_some_and(is_usable)
    }

    fn circumstances(&self) -> Circumstances {
        Circumstances {
            has_ipv6: !self.ipv6.is_empty(),
            is_partly: self.is_partly(),
            ipv4: self.ipv4.map(is_usable),
            has_twin: self.twin.is_some(),
        }
    }

    fn diagnosis(&self) -> (Diagnosis, Ending) {
        let Some(broken) = self.broken() else {
            return match self.ipv4 {
                _ if self.findings.addresses.is_empty() => self.without_address(),
                Some(Fate::Unknown) => (Diagnosis::Unknown, Ending::Unknown),
                Some(fate) if !is_usable(fate) => (Diagnosis::Ipv4Broken, Ending::NotFixable),
                Some(_) if self.ipv6.is_empty() => (Diagnosis::Ipv4Only, Ending::Healthy),
                _ => (Diagnosis::Healthy, Ending::Healthy),
            };
        };
        if broken == Fate::Unknown || self.ipv4 == Some(Fate::Unknown) {
            return (Diagnosis::Unknown, Ending::Unknown);
        }
        if self.ipv4.is_some() && !self.has_ipv4() && !self.is_partly() {
            return (Diagnosis::BothBroken, Ending::NotFixable);
        }
        let (reject, redirect) = advice(Some(broken), self.circumstances());
        let helps = [reject, redirect]
            .iter()
            .any(|advice| advice.effect == Effect::Helps);
        let ending = if helps {
            Ending::Fixable
        } else {
            Ending::NotFixable
        };
        (self.of_fate(broken), ending)
    }

    fn without_address(&self) -> (Diagnosis, Ending) {
        let failed = self.findings.names.as_ref().is_some_and(|names| {
            [&names.aaaa, &names.a]
                .iter()
                .any(|said| said.state == Lookup::Failed)
        });
        let diagnosis = match (failed, self.findings.out_of_time) {
            (true, _) => Diagnosis::NoAnswer,
            (false, true) => return (Diagnosis::Unknown, Ending::Unknown),
            (false, false) => Diagnosis::NoSuchName,
        };
        (diagnosis, Ending::NotFixable)
    }

    fn of_fate(&self, fate: Fate) -> Diagnosis {
        match fate {
            Fate::Works => Diagnosis::Healthy,
            Fate::NoSockets => Diagnosis::NoIpv6,
            Fate::NoAddress => Diagnosis::NoAddress,
            Fate::NoRoute => Diagnosis::NoRoute,
            Fate::Denied => Diagnosis::Denied,
            Fate::Redirected => Diagnosis::Redirected,
            Fate::Filtered => Diagnosis::Filtered,
            Fate::Refused => Diagnosis::Refused,
            Fate::RouterNoRoute => Diagnosis::IcmpNoRoute,
            Fate::Prohibited => Diagnosis::Prohibited,
            Fate::Unreachable => Diagnosis::Unreachable,
            Fate::Silent => Diagnosis::BlackHole,
            Fate::Slow => Diagnosis::Slow,
            Fate::LosesLongPackets => Diagnosis::PathMtu,
            Fate::Stalls
                if self
                    .ipv6
                    .iter()
                    .any(|(found, ..)| loses_long(found.echo.as_ref())) =>
            {
                Diagnosis::PathMtu
            }
            Fate::Stalls => Diagnosis::Stalls,
            Fate::Stranger => Diagnosis::Stranger,
            Fate::Fails => Diagnosis::Fails,
            Fate::Unknown => Diagnosis::Unknown,
        }
    }

    fn rules(&self, ending: Ending, reject: Advice, redirect: Advice, target: &[String]) -> Vec<Rule> {
        let Some(broken) = self.broken().filter(|_| ending != Ending::Unknown) else {
            return Vec::new();
        };
        let addresses: Vec<_> = self
            .ipv6
            .iter()
            .filter(|(.., fate)| *fate != Fate::Works)
            .copied()
            .collect();
        let wide = prefixes(self.findings, &addresses);
        let one_port = addresses.iter().all(|(.., fate)| fate.is_of_port());
        let draft = |purpose, prefixes: &[Ipv6Net], does| {
            Draft {
                purpose,
                host: &self.findings.host,
                prefixes,
                port: one_port.then_some(self.findings.port),
                does,
                reason: broken.reason(),
                target,
            }
            .rule()
        };
        let mut rules = Vec::new();
        match reject.effect {
            Effect::Helps => rules.push(draft(RuleFor::Ipv4AtOnce, &wide, Does::Reject)),
            Effect::OnlyFaster if self.only.is_some() && redirect.effect != Effect::Helps => {
                rules.push(draft(RuleFor::FailingFast, &wide, Does::Reject));
            }
            _ => {}
        }
        if redirect.effect == Effect::Helps {
            // What it leads to is this host and no other.
            let usable = |found: &Address| is_usable(fate(found, self.findings.ipv6_sockets));
            let ipv4 = self.findings.ipv4().find(|(found, _)| usable(found));
            let whole = ipv4.map(|(_, to)| {
                let own = addresses
                    .iter()
                    .map(|(_, address, _)| (*address).into())
                    .collect();
                (own, to)
            });
            // Another IPv6 address may have another twin.
            let part = self.twin.and_then(|twin| match twin.address.address {
                IpAddr::V4(to) => Some((vec![twin.of.into()], to)),
                IpAddr::V6(_) => None,
            });
            let redirect: Option<(Vec<Ipv6Net>, Ipv4Addr)> = whole.or(part);
            rules.extend(redirect.map(|(own, to)| draft(RuleFor::OnlyIpv6, &own, Does::RedirectTo(to))));
        }
        rules
    }

    fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if self.is_partly() && self.broken().is_some() {
            let works = self.ipv6.iter().filter(|(.., fate)| *fate == Fate::Works);
            let works: Vec<_> = works.map(|(_, address, _)| address.to_string()).collect();
            notes.push(format!("{} works: rules here do not cover it", list(&works)));
        }
        if self.other_protocol {
            notes.push("no address of the host speaks the protocol that the port suggests".to_owned());
        }
        if self.findings.left_out > 0 {
            notes.push(format!(
                "{} more addresses were not looked at",
                self.findings.left_out
            ));
        }
        if self.findings.out_of_time {
            notes.push("the deadline has passed: what is missing was not measured (--deadline)".to_owned());
        }
        if let Some(names) = &self.findings.names
            && !names.hosts_file.is_empty()
        {
            notes.push("the name is listed in /etc/hosts: programs do not ask nameservers for it".to_owned());
        }
        let large = self.ipv6.iter().filter_map(|(found, address, _)| {
            let learned = found.echo.as_ref()?.large.as_ref()?.learned?;
            Some(format!(
                "the way to {address} carries packets of {learned} octets, as a router says: that works"
            ))
        });
        notes.extend(large);
        notes
    }

    fn sentence(&self, diagnosis: Diagnosis, ending: Ending, reject: Advice, redirect: Advice) -> String {
        let mut place = String::new();
        // Writing to a string cannot fail.
        let _ = write_place(&mut place, &self.findings.host, self.findings.port);
        let rest = match (ending, reject.effect, redirect.effect) {
            (Ending::Healthy, ..) => "no rule is needed",
            (Ending::Unknown, ..) => "nothing can be said",
            (_, Effect::Helps, _) => "a reject lets clients use IPv4 at once",
            (_, Effect::NoEffect, Effect::Helps) => {
                "a reject changes nothing, a redirect helps who has only the IPv6 address"
            }
            (_, _, Effect::Helps) => "a redirect helps, and a reject only makes the failure fast",
            (_, Effect::OnlyFaster, Effect::NeedsAddress) => {
                "a reject only makes it fail at once, and a redirect needs an IPv4 address that you know to serve it"
            }
            (_, _, Effect::NeedsAddress) => {
                "a reject does not help, and a redirect needs an IPv4 address that you know to serve it"
            }
            _ => "no rule helps",
        };
        let what = match diagnosis {
            Diagnosis::Healthy if self.only.is_some() => {
                format!("IPv6 to {place} works, which is all that it has")
            }
            Diagnosis::Healthy => format!("IPv6 and IPv4 to {place} work"),
            Diagnosis::Ipv4Only => format!("{place} has no IPv6 address and works by IPv4"),
            Diagnosis::Ipv4Broken => {
                let ipv4 = self.ipv4.unwrap_or(Fate::Unknown).means();
                let other = if self.ipv6.is_empty() {
                    "there is no IPv6"
                } else {
                    "IPv6 works"
                };
                format!("IPv4 to {place} is what is broken ({other}): it {ipv4}")
            }
            Diagnosis::BothBroken => {
                let ipv6 = self.broken().unwrap_or(Fate::Unknown).means();
                let ipv4 = self.ipv4.unwrap_or(Fate::Unknown).means();
                format!("IPv6 to {place} {ipv6}, and IPv4 {ipv4}")
            }
            Diagnosis::NoSuchName => format!("{} has no address", self.findings.host),
            Diagnosis::NoAnswer => format!("nobody answers for the name {}", self.findings.host),
            _ => {
                let broken = self.broken().unwrap_or(Fate::Unknown).means();
                let other = match (self.only, self.has_ipv4()) {
                    (Some(Only::AaaaOnly), _) => ", and the name has no A record",
                    (Some(Only::Literal), _) => ", and an address has no other to fall back to",
                    (None, true) => ", and IPv4 works",
                    (None, false) => ", and IPv4 does not work either",
                };
                let partly = if self.is_partly() { "partly " } else { "" };
                format!("IPv6 to {place} {partly}{broken}{other}")
            }
        };
        format!("{what}: {rest}.")
    }
}

/// Whether a client gets to the host.
const fn is_usable(fate: Fate) -> bool {
    matches!(fate, Fate::Works | Fate::Slow)
}

fn loses_long(echo: Option<&Echo>) -> bool {
    echo.and_then(|echo| echo.large.as_ref())
        .is_some_and(|large| large.end == End::Silent)
}

#[cfg(test)]
#[path = "verdict_tests.rs"]
mod tests;
