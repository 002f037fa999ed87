//! What every Rust file looks like: an opening that says what it does, a length one can read, `unsafe` with
//! its reason, nothing unfinished.

use super::tree::{Finding, Tree};

/// A file longer than this is more than one room.
const MAX_LINES: usize = 500;

/// Words that promise work to somebody else. In halves, so that this file keeps its own rule.
const PROMISES: [&str; 3] = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X:")];

/// Files whose first line is not `//!`.
pub(crate) fn opening(tree: &Tree) -> Vec<Finding> {
    tree.rust()
        .filter(|file| !file.text.starts_with("//! "))
        .map(|file| file.finding(1, "does not open with `//!` and what it does and does not do"))
        .collect()
}

/// Files over [`MAX_LINES`].
pub(crate) fn length(tree: &Tree) -> Vec<Finding> {
    tree.rust()
        .filter_map(|file| {
            let lines = file.text.lines().count();
            (lines > MAX_LINES)
                .then(|| file.finding(0, format!("{lines} lines; {MAX_LINES} are enough for one room")))
        })
        .collect()
}

/// `unsafe` blocks and impls, also in macros, where clippy does not look.
pub(crate) fn safety(tree: &Tree) -> Vec<Finding> {
    tree.rust()
        .flat_map(|file| {
            let tokens = file.tokens();
            let places: Vec<_> = tokens
                .windows(2)
                .filter(|pair| pair[0].text == "unsafe" && ["{", "impl"].contains(&pair[1].text.as_str()))
                .map(|pair| pair[0].line)
                .collect();
            let lines: Vec<_> = file.text.lines().collect();
            let mut before = 0;
            let mut findings = Vec::new();
            for line in places {
                // Two on one line are one reason too few.
                if !says_why(lines.get(before..line).unwrap_or_default()) {
                    findings.push(
                        file.finding(line, "unsafe without a `// SAFETY:` comment of its own before it"),
                    );
                }
                before = line;
            }
            findings
        })
        .collect()
}

/// Whether a SAFETY comment stands on the last of these lines or before it, with at most two lines of code between: the
/// beginning of the statement. The lines begin after the last `unsafe`, whose reason is not this one's.
fn says_why(lines: &[&str]) -> bool {
    let mut code_lines = 0;
    for text in lines.iter().rev() {
        if text.contains("SAFETY:") {
            return true;
        }
        if !text.trim_start().starts_with("//") {
            code_lines += 1;
        }
        if code_lines > 3 {
            return false;
        }
    }
    false
}

/// Code that is not there yet, tests that do not run, promises.
pub(crate) fn unfinished(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.rust() {
        let tokens = file.tokens();
        let texts: Vec<_> = tokens.iter().map(|token| token.text.as_str()).collect();
        for (index, token) in tokens.iter().enumerate() {
            match texts.get(index..).unwrap_or_default() {
                [name @ ("todo" | "unimplemented"), "!", ..] => {
                    findings.push(file.finding(token.line, format!("{name}!()")));
                }
                ["#", "[", "ignore", ..] => {
                    findings.push(file.finding(token.line, "a test that does not run"))
                }
                _ => {}
            }
        }
    }
    let ours = ["rs", "sh", "toml", "md"];
    for file in tree
        .files
        .iter()
        .filter(|file| ours.iter().any(|extension| file.has_extension(extension)))
    {
        for (index, line) in file.text.lines().enumerate() {
            if let Some(promise) = PROMISES.iter().find(|promise| line.contains(**promise)) {
                findings.push(file.finding(
                    index + 1,
                    format!("{promise} is a promise; do it or say that it is not done"),
                ));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(check: fn(&Tree) -> Vec<Finding>, text: &str) -> Vec<usize> {
        check(&Tree::of(&[("a/src/b.rs", text)]))
            .iter()
            .map(|finding| finding.line)
            .collect()
    }

    #[test]
    fn files_open_with_inner_docs() {
        assert_eq!(lines(opening, "//! This room.\n"), [0; 0]);
        assert_eq!(lines(opening, "use std::fs;\n"), [1]);
        assert_eq!(lines(opening, "//!\n"), [1]);
    }

    #[test]
    fn five_hundred_lines_are_enough() {
        assert_eq!(lines(length, &"\n".repeat(500)), [0; 0]);
        assert_eq!(lines(length, &"\n".repeat(501)), [0]);
    }

    #[test]
    fn unsafe_needs_its_reason_nearby() {
        assert_eq!(
            lines(
                safety,
                "fn f() {\n    // SAFETY: checked.\n    let a =\n        unsafe { g() };\n}"
            ),
            [0; 0]
        );
        assert_eq!(lines(safety, "fn f() {\n    unsafe { g() };\n}"), [2]);
        assert_eq!(
            lines(
                safety,
                "fn f() {\n    // SAFETY: one.\n    unsafe { g() };\n    unsafe { h() };\n}"
            ),
            [4]
        );
        assert_eq!(
            lines(
                safety,
                "// SAFETY: one.\nfn f() { unsafe { g() }; unsafe { h() } }"
            ),
            [2]
        );
        assert_eq!(
            lines(safety, "// SAFETY: far.\n\n\n\n\nunsafe impl Send for A {}"),
            [6]
        );
        assert_eq!(
            lines(safety, "#[unsafe(no_mangle)]\nstatic A: u8 = 0; // unsafe {"),
            [0; 0]
        );
        assert_eq!(
            lines(safety, "macro_rules! m { () => {\n unsafe { g() } } }"),
            [2]
        );
    }

    #[test]
    fn nothing_is_left_for_later() {
        assert_eq!(
            lines(unfinished, "fn f() { todo!() }\nfn g() { unimplemented!(\"x\") }"),
            [1, 2]
        );
        assert_eq!(lines(unfinished, "#[test]\n#[ignore = \"slow\"]\nfn f() {}"), [2]);
        assert_eq!(lines(unfinished, &format!("// {}: later", PROMISES[0])), [1]);
        assert_eq!(
            lines(unfinished, "// a list of what is done\nfn ignore() {}"),
            [0; 0]
        );
    }
}
