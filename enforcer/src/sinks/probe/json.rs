//! A line of JSON for each host. `docs/probe.md` documents every field, and a test here compares.

use std::{io, net::IpAddr};

use jiff::Timestamp;
use serde::Serialize;

use super::Probed;
use crate::{
    probe::{Fate, Findings, Verdict, clients::Clients, fate, judged::Judged},
    sinks::json::{rfc3339, to_line},
};

#[derive(Serialize)]
struct Line<'probed> {
    #[serde(serialize_with = "rfc3339")]
    time: Timestamp,
    from: Option<&'probed str>,
    verdict: &'probed Verdict,
    fates: Vec<AddressFate>,
    clients: &'probed Clients,
    judged: Judged,
    findings: &'probed Findings,
}

#[derive(Serialize)]
struct AddressFate {
    address: IpAddr,
    fate: Fate,
}

/// What was found, as one line.
///
/// # Errors
///
/// Whatever serialising fails with; writing to memory itself does not.
pub fn json(probed: &Probed) -> io::Result<String> {
    let of = |address: &crate::probe::findings::Address| AddressFate {
        address: address.address,
        fate: fate(address, probed.findings.ipv6_sockets),
    };
    to_line(&Line {
        time: probed.time,
        from: probed.from.as_deref(),
        verdict: &probed.verdict,
        fates: probed.findings.addresses.iter().map(of).collect(),
        clients: &probed.clients,
        judged: probed.judged,
        findings: &probed.findings,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::{super::text::tests::black_hole, *};

    /// Every key, with those of the objects below it: `findings.addresses.way.source`.
    fn keys(value: &Value, path: &str, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(object) => {
                for (key, value) in object {
                    let path = if path.is_empty() {
                        key.clone()
                    } else {
                        format!("{path}.{key}")
                    };
                    found.insert(path.clone());
                    // As another one that is documented.
                    if path == "findings.twins.address" {
                        continue;
                    }
                    keys(value, &path, found);
                }
            }
            Value::Array(values) => values.iter().for_each(|value| keys(value, path, found)),
            _ => {}
        }
    }

    #[test]
    fn every_field_is_documented_and_no_other() {
        let line = json(&black_hole()).unwrap();
        assert_eq!(line.matches('\n').count(), 1);
        let mut found = BTreeSet::new();
        keys(&serde_json::from_str(&line).unwrap(), "", &mut found);
        let documented: BTreeSet<_> = include_str!("../../../../docs/probe.md")
            .split("## JSON")
            .nth(1)
            .unwrap()
            .split("\n## ")
            .next()
            .unwrap()
            .lines()
            .filter_map(|line| {
                line.strip_prefix("| `")?
                    .split_once("` |")
                    .map(|(key, _)| key.to_owned())
            })
            .collect();
        assert_eq!(found, documented);
    }
}
