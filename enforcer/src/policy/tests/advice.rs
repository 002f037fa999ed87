//! The warning about servers that look at where a connect comes from: when it is given, and that it is given once.

use super::{check, lines};

/// The warnings about it that a policy of these redirects gives rise to.
fn warned(redirects: &[(&str, &str)]) -> Vec<String> {
    let rules: String = (1..)
        .zip(redirects)
        .map(|(number, (to, more))| {
            format!(
                "[[rule]]\nname = \"r{number}\"\nprefix = \"2001:db8:{number}::/48\"\naction = \"redirect\"\n\
                 to = \"{to}\"\n{more}\n"
            )
        })
        .collect();
    let (_, warnings) = check(&format!("version = 1\n{rules}")).unwrap();
    let about = |line: &String| line.contains("IPv4 address then");
    lines(&warnings).into_iter().filter(about).collect()
}

#[test]
fn a_known_service_is_known_by_the_port_asked_for_or_gone_to() {
    for (to, more, service) in [
        ("192.0.2.1", "ports = [5432]", "PostgreSQL (port 5432)"),
        ("192.0.2.1:6543", "", "PostgreSQL (port 6543)"),
        ("192.0.2.1:2525", "ports = [\"20-30\"]", "SMTP (port 25)"),
        ("192.0.2.1", "ports = [80, 27017]", "MongoDB (port 27017)"),
    ] {
        let expected = format!(
            "policy.toml:2:1: warning: `r1` moves {service} to IPv4: the server sees this host's IPv4 address then"
        );
        assert_eq!(warned(&[(to, more)]), [expected]);
    }
}

#[test]
fn nothing_is_said_where_nothing_changes_for_the_server_or_nobody_knows_the_service() {
    for (to, more) in [
        ("192.0.2.1", ""),
        ("192.0.2.1:443", "ports = [443]"),
        ("192.0.2.1", "ports = [\"1-65535\"]"),
        ("127.0.0.1:6543", "ports = [5432]"),
        ("[2001:db8:f::1]:5432", "ports = [5432]"),
    ] {
        assert_eq!(warned(&[(to, more)]), [""; 0], "{to} {more}");
    }
}

#[test]
fn it_is_said_once_of_all_rules() {
    let database = ("192.0.2.1", "ports = [5432]");
    let mail = ("192.0.2.2", "ports = [25]");
    let two = warned(&[("192.0.2.3", ""), database, mail]);
    assert_eq!(two.len(), 1);
    assert!(
        two[0].contains("`r2` moves PostgreSQL (port 5432) to IPv4, and so does one more rule: "),
        "{two:?}"
    );
    let three = warned(&[database, mail, mail]);
    assert_eq!(three.len(), 1);
    assert!(three[0].contains(", and so do 2 more rules: "), "{three:?}");
}
