//! The report for people.

use std::fmt::Write as _;

use anstyle::{AnsiColor, Style};

use super::{
    Probed, duration,
    rows::{Mark, Row, of_address, of_names},
};
use crate::{
    probe::{Advice, Effect, Ending, RuleFor, clients::Fare},
    sinks::{live::Colour, report::one_line},
};

/// Columns of a line, at most; what is to be copied may be longer.
const WIDTH: usize = 110;

/// How far the marks go, and the names behind them.
const MARK_WIDTH: usize = 9;
const NAME_WIDTH: usize = 13;

/// The report: a section for the name, one for each address, what clients make of it, the verdict, and the rules.
#[must_use]
pub fn text(probed: &Probed, colour: Colour) -> String {
    let mut out = Out {
        text: String::new(),
        colour,
    };
    let findings = &probed.findings;
    let from = probed
        .from
        .as_ref()
        .map_or("this network namespace".to_owned(), |from| one_line(from));
    out.line(&format!("{}, port {}, from {from}", findings.host, findings.port));
    out.section(findings.names.as_ref().map(|_| "Name"), &of_names(findings));
    for found in &findings.addresses {
        out.section(Some(&found.address.to_string()), &of_address(found, findings));
    }
    for twin in &findings.twins {
        let title = match &twin.name {
            Some(name) => format!(
                "{}, of the same name as {} ({name})",
                twin.address.address, twin.of
            ),
            None => format!("{}, inside {} (RFC 6052)", twin.address.address, twin.of),
        };
        out.section(Some(&title), &of_address(&twin.address, findings));
    }
    if !findings.addresses.is_empty() {
        out.clients(probed);
    }
    out.verdict(probed);
    out.text
}

struct Out {
    text: String,
    colour: Colour,
}

impl Out {
    fn line(&mut self, text: &str) {
        self.text.push_str(text);
        self.text.push('\n');
    }

    fn styled(&self, style: Style, text: &str) -> String {
        match self.colour {
            Colour::Always => format!("{style}{text}{style:#}"),
            Colour::Never => text.to_owned(),
        }
    }

    fn section(&mut self, title: Option<&str>, rows: &[Row]) {
        if let Some(title) = title {
            self.line("");
            self.line(title);
        }
        for row in rows {
            self.row(row);
        }
    }

    fn row(&mut self, row: &Row) {
        let (word, style) = match row.mark {
            Mark::Ok => ("ok", AnsiColor::Green.on_default()),
            Mark::Note => ("note", AnsiColor::Cyan.on_default()),
            Mark::Broken => ("BROKEN", AnsiColor::Red.on_default().bold()),
            Mark::Unknown => ("unknown", AnsiColor::Magenta.on_default()),
        };
        let mark = self.styled(style, &format!("{word:<MARK_WIDTH$}"));
        let time = row
            .time_us
            .map(|time_us| format!(" ({})", duration(time_us)))
            .unwrap_or_default();
        self.entry(&mark, row.name, &format!("{}{time}", one_line(&row.state)));
        if let Some(means) = &row.means {
            self.more(&format!("so: {}", one_line(means)));
        }
        if let Some(copy) = &row.copy {
            self.line(&format!(
                "{}{}",
                " ".repeat(2 + MARK_WIDTH + NAME_WIDTH),
                one_line(copy)
            ));
        }
    }

    /// `mark name  text`, with what follows of the text below it. The mark is as wide as marks are, whatever its colour.
    fn entry(&mut self, mark: &str, name: &str, text: &str) {
        let indent = " ".repeat(2 + MARK_WIDTH + NAME_WIDTH);
        let beginning = format!("{}{name:<NAME_WIDTH$}", " ".repeat(2 + MARK_WIDTH));
        let options = textwrap::Options::new(WIDTH)
            .initial_indent(&beginning)
            .subsequent_indent(&indent)
            .break_words(false);
        let filled = textwrap::fill(text, options);
        let rest = filled.get(2 + MARK_WIDTH..).unwrap_or_default();
        self.line(&format!("  {mark}{rest}"));
    }

    fn more(&mut self, text: &str) {
        let indent = " ".repeat(2 + MARK_WIDTH + NAME_WIDTH);
        let options = textwrap::Options::new(WIDTH)
            .initial_indent(&indent)
            .subsequent_indent(&indent)
            .break_words(false);
        let filled = textwrap::fill(text, options);
        self.line(&filled);
    }

    fn clients(&mut self, probed: &Probed) {
        self.line("\nClients, computed from these connects, looking the name up aside");
        let blank = " ".repeat(MARK_WIDTH);
        self.entry(&blank, "two at once", &fare(&probed.clients.happy_eyeballs));
        self.more(
            "so: as browsers and curl do, with happy eyeballs (RFC 8305): the other family after 250 ms",
        );
        self.entry(&blank, "one by one", &fare(&probed.clients.one_by_one));
        self.more("so: as most libraries do, in the order above");
    }

    fn verdict(&mut self, probed: &Probed) {
        let verdict = &probed.verdict;
        let style = match verdict.ending {
            Ending::Healthy => AnsiColor::Green.on_default().bold(),
            Ending::Fixable | Ending::Unknown => AnsiColor::Yellow.on_default().bold(),
            Ending::NotFixable => AnsiColor::Red.on_default().bold(),
        };
        self.line("\nVerdict");
        for line in textwrap::wrap(&verdict.sentence, WIDTH - 2) {
            let line = self.styled(style, &line);
            self.line(&format!("  {line}"));
        }
        let blank = " ".repeat(MARK_WIDTH);
        self.entry(&blank, "reject", &advice(verdict.reject));
        self.entry(&blank, "redirect", &advice(verdict.redirect));
        for note in verdict.notes.iter().chain(&probed.judged.notes()) {
            self.entry(&blank, "note", &one_line(note));
        }
        for rule in &verdict.rules {
            let purpose = match rule.purpose {
                RuleFor::Ipv4AtOnce => "Rule: clients use IPv4 at once",
                RuleFor::OnlyIpv6 => "Rule: whoever connects to the IPv6 address gets to IPv4",
                RuleFor::FailingFast => "Rule: it fails at once (it makes nothing reachable)",
            };
            // As they are, so that they can be copied.
            let _ = write!(
                self.text,
                "\n{purpose}\n\n{}\n  {}\n",
                rule.rule,
                one_line(&rule.command)
            );
        }
    }
}

fn fare(fare: &Fare) -> String {
    let hangs: Vec<_> = fare.hangs_at.iter().map(ToString::to_string).collect();
    match (fare.address, fare.time_us) {
        (Some(address), Some(time_us)) => format!("{address} after {}", duration(time_us)),
        (Some(address), None) => format!(
            "hangs at {}, until its own patience or the kernel's (two minutes each) ends; then {address}",
            hangs.join(", ")
        ),
        (None, Some(time_us)) => format!("fails after {}", duration(time_us)),
        (None, None) => format!("hangs at {}, and fails in the end", hangs.join(", ")),
    }
}

fn advice(advice: Advice) -> String {
    let effect = match advice.effect {
        Effect::Helps => "helps",
        Effect::OnlyFaster => "only makes the failure fast",
        Effect::NeedsAddress => "helps, to an address that you configure",
        Effect::NoEffect => "no effect",
        Effect::Harms => "must not be used",
        Effect::Unknown => "cannot be told",
    };
    format!("{effect}: {}", advice.why)
}

#[cfg(test)]
pub(super) mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::probe::{
        Findings,
        clients::clients,
        diagnose,
        findings::{
            Address, Back, By, Connect, Echo, End, Exchange, Large, Lookup, Names, Order, Protocol, Reverse,
            Said, Twin, Way,
        },
        judged::Judged,
    };

    fn address(text: &str) -> Address {
        let silent = text.contains(':');
        Address {
            address: text.parse().unwrap(),
            way: Way {
                source: Some("2001:db8:77::2".parse().unwrap()),
                gateway: Some("2001:db8:77::1".parse().unwrap()),
                interface: Some("uplink".to_owned()),
                mtu: Some(1500),
                time_us: 90,
                ..Way::default()
            },
            connects: vec![Connect {
                end: if silent { End::Silent } else { End::Done },
                errno: None,
                retransmits: None,
                time_us: if silent { 5_000_000 } else { 3_000 },
            }],
            echo: silent.then_some(Echo {
                end: End::Done,
                why: None,
                time_us: 400,
                large: Some(Large {
                    octets: 1500,
                    end: End::Silent,
                    learned: None,
                }),
            }),
            exchange: Some(Exchange {
                protocol: Protocol::Tls,
                end: End::Done,
                detail: "TLSv1_3".to_owned(),
                time_us: 2_000,
            }),
            reverse: Some(Reverse {
                state: Back::Wrong,
                names: vec!["old.example".to_owned()],
                ttl_secs: Some(60),
                record: Some("1.113.0.203.in-addr.arpa. IN PTR shop.example.".to_owned()),
                why: None,
                time_us: 700,
            }),
        }
    }

    /// A host with everything that there can be, so that every field and every row shows.
    pub(in super::super) fn black_hole() -> Probed {
        let said = |address: &str| Said {
            state: Lookup::Found,
            addresses: vec![address.parse().unwrap()],
            ttl_secs: Some(60),
            why: None,
        };
        let (six, four) = ("2001:db8:a::80", "203.0.113.1");
        let findings = Findings {
            host: "shop.example".to_owned(),
            port: 443,
            ipv6_sockets: true,
            names: Some(Names {
                aaaa: said(six),
                a: said(four),
                hosts_file: Vec::new(),
                time_us: 1_200,
            }),
            order: Order {
                by: By::Getaddrinfo,
                addresses: vec![six.parse().unwrap(), four.parse().unwrap()],
                error: None,
                time_us: Some(800),
            },
            nat64: Some(vec!["64:ff9b::/96".to_owned()]),
            addresses: vec![address(six), address(four)],
            twins: vec![Twin {
                of: six.parse().unwrap(),
                name: Some("shop.example".to_owned()),
                address: address("203.0.113.2"),
            }],
            ..Findings::default()
        };
        Probed {
            time: Timestamp::UNIX_EPOCH,
            from: None,
            clients: clients(&findings),
            judged: Judged::default(),
            verdict: diagnose(&findings, &[]),
            findings,
        }
    }

    #[test]
    fn a_report_says_what_was_found_and_ends_with_what_can_be_pasted() {
        let shown = text(&black_hole(), Colour::Never);
        for expected in [
            "shop.example, port 443, from this network namespace\n\nName\n",
            "  ok       AAAA         2001:db8:a::80 (TTL 60 s) (1.2 ms)\n",
            "  ok       getaddrinfo  2001:db8:a::80, 203.0.113.1 (0.8 ms)\n                        so: programs try IPv6 first\n",
            "\n2001:db8:a::80\n  ok       way",
            "  BROKEN   connect      no answer (5.0 s)\n",
            "so: that name does not have this address; this record is missing:\n                        1.113.0.203.in-addr.arpa. IN PTR shop.example.\n",
            "           two at once  203.0.113.1 after 253 ms\n",
            "           one by one   hangs at 2001:db8:a::80",
            "\nVerdict\n  IPv6 to shop.example:443 is a black hole",
            "           reject       helps: ",
            "action = \"reject\"\n",
            "\n  enforcer exec --reject 2001:db8:a::80/128 -- COMMAND\n",
        ] {
            assert!(shown.contains(expected), "{expected:?} in\n{shown}");
        }
    }

    #[test]
    fn colour_changes_nothing_but_itself() {
        let coloured = text(&black_hole(), Colour::Always);
        assert_ne!(coloured, text(&black_hole(), Colour::Never));
        assert_eq!(
            anstream::adapter::strip_str(&coloured).to_string(),
            text(&black_hole(), Colour::Never)
        );
    }

    #[test]
    fn what_others_say_stays_within_its_line() {
        let mut hostile = black_hole();
        let reverse = hostile.findings.addresses[0].reverse.as_mut().unwrap();
        reverse.names = vec!["x\n\x1b[2J".to_owned()];
        let shown = text(&hostile, Colour::Never);
        assert!(shown.contains("x\\n\\u{1b}[2J"), "{shown}");
    }
}
