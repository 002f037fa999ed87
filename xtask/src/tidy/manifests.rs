//! What every Cargo.toml looks like: lints, versions and the rest come from the workspace, and a crate depends
//! on whom it may.

use toml::{Table, Value};

use super::tree::{File, Finding, Tree};

/// Keys of `[package]` that the workspace sets for all.
const INHERITED: [&str; 5] = ["version", "edition", "rust-version", "license", "publish"];

/// Dependencies a crate may have at run time, where that is limited.
const MAY_KNOW: &[(&str, &[&str])] = &[
    // no_std, compiled for BPF too.
    ("enforcer-common", &["network-types", "zerocopy"]),
    (
        "enforcer-ebpf",
        &["aya-ebpf", "aya-log-ebpf", "enforcer-common", "network-types"],
    ),
];

/// Crates that must compile where enforcer cannot yet.
const MUST_NOT_KNOW: &[(&str, &[&str])] = &[(
    "xtask",
    &[
        "enforcer",
        "enforcer-common",
        "enforcer-ebpf",
        "enforcer-tests",
        "aya",
    ],
)];

/// The manifests of member crates. The root's has no package, and fuzz/ is a workspace of its own by cargo-fuzz's custom.
fn members(tree: &Tree) -> impl Iterator<Item = (&File, Table)> {
    tree.files
        .iter()
        .filter(|file| file.path.ends_with("Cargo.toml") && !file.path.starts_with("fuzz"))
        .filter_map(|file| Some((file, file.text.parse::<Table>().ok()?)))
        .filter(|(_, manifest)| manifest.contains_key("package"))
}

/// Dependencies of every kind: section, name, value.
fn dependencies(manifest: &Table) -> impl Iterator<Item = (&'static str, &String, &Value)> {
    ["dependencies", "dev-dependencies", "build-dependencies"]
        .into_iter()
        .flat_map(|section| {
            let table = manifest.get(section).and_then(Value::as_table);
            table
                .into_iter()
                .flatten()
                .map(move |(name, value)| (section, name, value))
        })
}

fn is_inherited(value: Option<&Value>) -> bool {
    value
        .and_then(|value| value.get("workspace"))
        .and_then(Value::as_bool)
        == Some(true)
}

/// Members that set for themselves what the workspace sets for all.
pub(crate) fn inherit(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (file, manifest) in members(tree) {
        if !is_inherited(manifest.get("lints")) {
            findings.push(file.finding(0, "lints are not inherited: `[lints] workspace = true`"));
        }
        let package = manifest.get("package");
        for key in INHERITED {
            let value = package.and_then(|package| package.get(key));
            // The eBPF programs have a licence of their own: the kernel wants GPL.
            let has_its_own_licence = key == "license" && value.is_some_and(Value::is_str);
            if !is_inherited(value) && !has_its_own_licence {
                findings.push(file.finding(0, format!("{key} is not inherited: `{key}.workspace = true`")));
            }
        }
        for (section, name, value) in dependencies(&manifest) {
            if !is_inherited(Some(value)) {
                findings.push(file.finding(
                    0,
                    format!("{section}: the version of {name} belongs into the workspace"),
                ));
            }
        }
    }
    findings
}

/// Members that depend on whom they must not.
pub(crate) fn know(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (file, manifest) in members(tree) {
        let package = manifest
            .get("package")
            .and_then(|package| package.get("name"))
            .and_then(Value::as_str);
        let of = |table: &'static [(&str, &[&str])]| {
            table
                .iter()
                .find(|(name, _)| Some(*name) == package)
                .map(|(_, others)| *others)
        };
        let (may, must_not) = (of(MAY_KNOW), of(MUST_NOT_KNOW));
        for (section, name, _) in dependencies(&manifest) {
            let refused = must_not.is_some_and(|others| others.contains(&name.as_str()))
                || section == "dependencies" && may.is_some_and(|others| !others.contains(&name.as_str()));
            if refused {
                let package = package.unwrap_or_default();
                findings.push(file.finding(0, format!("{package} must not depend on {name}")));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "[package]\nname = \"x\"\nversion.workspace = true\nedition.workspace = true\n\
        rust-version.workspace = true\nlicense.workspace = true\npublish.workspace = true\n\
        [dependencies]\na = { workspace = true }\n[lints]\nworkspace = true\n";

    fn found(check: fn(&Tree) -> Vec<Finding>, text: &str) -> usize {
        check(&Tree::of(&[("x/Cargo.toml", text)])).len()
    }

    #[test]
    fn everything_is_inherited() {
        assert_eq!(found(inherit, GOOD), 0);
        assert_eq!(
            found(inherit, &GOOD.replace("[lints]\nworkspace = true\n", "")),
            1
        );
        assert_eq!(
            found(
                inherit,
                &GOOD.replace("edition.workspace = true", "edition = \"2021\"")
            ),
            1
        );
        assert_eq!(found(inherit, &GOOD.replace("{ workspace = true }", "\"1\"")), 1);
        assert_eq!(found(inherit, "[workspace]\nmembers = []\n"), 0);
    }

    #[test]
    fn the_common_crate_knows_nobody() {
        let common = GOOD.replace("\"x\"", "\"enforcer-common\"");
        assert_eq!(found(know, &common), 1);
        assert_eq!(found(know, &common.replace("a =", "zerocopy =")), 0);
        assert_eq!(
            found(know, &common.replace("[dependencies]", "[dev-dependencies]")),
            0
        );
    }

    #[test]
    fn xtask_compiles_before_enforcer_can() {
        let xtask = GOOD.replace("\"x\"", "\"xtask\"");
        assert_eq!(found(know, &xtask), 0);
        assert_eq!(found(know, &xtask.replace("a =", "enforcer =")), 1);
    }
}
