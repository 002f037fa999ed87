//! `cargo xtask tidy`: the rules that no compiler and no lint keeps.
//!
//! Each check reads the repository's files and returns what it found; none changes anything. Rust is read as
//! tokens, so words in comments and strings are not mistaken for code.

mod tree;

mod rooms;

mod source;

mod manifests;

mod documents;

mod words;

use std::process::ExitCode;

use anyhow::Result;

use self::tree::Finding;
pub(crate) use self::tree::Tree;

/// One rule, kept by a program.
pub(crate) type Check = fn(&Tree) -> Vec<Finding>;

/// All rules, in the order in which they are reported.
pub(crate) const CHECKS: &[(&str, Check)] = &[
    ("only the right rooms", rooms::check),
    ("files open with what they do", source::opening),
    ("files of at most 500 lines", source::length),
    ("unsafe says why it is sound", source::safety),
    ("nothing unfinished", source::unfinished),
    ("manifests inherit", manifests::inherit),
    ("crates know whom they may", manifests::know),
    ("rows name existing tests", documents::not_applicable),
    ("links lead somewhere", documents::links),
    ("documented commands exist", documents::commands),
    ("no registry hosts", words::hosts),
];

/// The verb: every finding of every check.
///
/// # Errors
///
/// Where the repository cannot be read.
pub(crate) fn run() -> Result<ExitCode> {
    let tree = Tree::read()?;
    let findings: Vec<_> = CHECKS.iter().flat_map(|(_, check)| check(&tree)).collect();
    for finding in &findings {
        println!("{finding}");
    }
    Ok(if findings.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// One check, for `cargo xtask test`.
///
/// # Errors
///
/// The findings, one a line.
pub(crate) fn outcome(tree: &Tree, check: Check) -> Result<(), String> {
    let findings = check(tree);
    if findings.is_empty() {
        return Ok(());
    }
    Err(findings
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("\n"))
}
