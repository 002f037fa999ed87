//! Words that stand in no file. Registries are reached through their clients' own configuration: who uses a
//! mirror must not find a host name here that goes around it.

use super::tree::{Finding, Tree};

/// In halves, so that this file keeps its own rule.
const HOSTS: [&str; 10] = [
    concat!("index.", "crates.io"),
    concat!("static.", "crates.io"),
    concat!("static.", "rust-lang.org"),
    concat!("deb.", "debian.org"),
    concat!("security.", "debian.org"),
    concat!("snapshot.", "debian.org"),
    concat!("archive.", "ubuntu.com"),
    concat!("registry.", "npmjs.org"),
    concat!("files.", "pythonhosted.org"),
    concat!("registry-1.", "docker.io"),
];

/// Every mention of a registry's host.
pub(crate) fn hosts(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in &tree.files {
        for (index, line) in file.text.lines().enumerate() {
            if let Some(host) = HOSTS.iter().find(|host| line.contains(**host)) {
                findings.push(file.finding(index + 1, format!("names the registry host {host}")));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_host_is_found_with_its_line() {
        let text = format!("first\ncurl {}\n", HOSTS[3]);
        let findings = hosts(&Tree::of(&[
            ("a.sh", &text),
            ("b.md", "https://doc.rust-lang.org"),
        ]));
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].line, 2);
    }
}
