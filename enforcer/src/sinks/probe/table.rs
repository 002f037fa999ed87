//! Many hosts, a line each.

use super::{Probed, duration};
use crate::{
    probe::{Diagnosis, Ending, findings::End},
    sinks::report::one_line,
};

/// A table: what is wrong with each host, how long the first connect of each family took, and what helps. A host that
/// could not be looked at has a line that says why.
#[must_use]
pub fn table(hosts: &[(String, Result<&Probed, String>)]) -> String {
    let mut rows = vec![["HOST", "DIAGNOSIS", "IPv6", "IPv4", "WHAT HELPS"].map(str::to_owned)];
    for (host, probed) in hosts {
        rows.push(match probed {
            Ok(probed) => row(host, probed),
            Err(why) => [
                one_line(host),
                "not looked at".to_owned(),
                String::new(),
                String::new(),
                one_line(why),
            ],
        });
    }
    let width = |column: usize| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or_default()
    };
    let widths: [usize; 4] = std::array::from_fn(width);
    let mut text = String::new();
    for row in &rows {
        let cells = row
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:<width$}"));
        let line: Vec<_> = cells.chain([row[4].clone()]).collect();
        text.push_str(line.join("  ").trim_end());
        text.push('\n');
    }
    text
}

fn row(host: &str, probed: &Probed) -> [String; 5] {
    let connect = |is_ipv6: bool| {
        let of_family = probed
            .findings
            .addresses
            .iter()
            .filter(|it| it.address.is_ipv6() == is_ipv6);
        let first = of_family.flat_map(|it| it.connects.first()).next();
        first.map_or("-".to_owned(), |connect| match (connect.end, &connect.errno) {
            (End::Done, _) => duration(connect.time_us),
            (_, Some(errno)) => errno.clone(),
            _ => "no answer".to_owned(),
        })
    };
    let verdict = &probed.verdict;
    let helps = match (verdict.ending, verdict.rules.first()) {
        (Ending::Healthy, _) => "nothing needs help".to_owned(),
        (Ending::Fixable, Some(rule)) => rule.arguments.join(" "),
        (Ending::Unknown, _) => "not known".to_owned(),
        _ => "no rule".to_owned(),
    };
    [
        one_line(host),
        name(verdict.diagnosis),
        connect(true),
        connect(false),
        one_line(&helps),
    ]
}

/// As JSON has it.
pub(super) fn name(diagnosis: Diagnosis) -> String {
    serde_json::to_value(diagnosis)
        .ok()
        .and_then(|value| value.as_str().map(str::to_owned))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::{super::text::tests::black_hole, *};

    #[test]
    fn a_host_has_a_line_also_where_nothing_is_known() {
        let probed = black_hole();
        let hosts = [
            ("shop.example:443".to_owned(), Ok(&probed)),
            ("web:80".to_owned(), Err("the target has no process".to_owned())),
        ];
        assert_eq!(
            table(&hosts),
            "HOST              DIAGNOSIS      IPv6       IPv4    WHAT HELPS\n\
             shop.example:443  black-hole     no answer  3.0 ms  --reject 2001:db8:a::80/128\n\
             web:80            not looked at                     the target has no process\n"
        );
    }
}
