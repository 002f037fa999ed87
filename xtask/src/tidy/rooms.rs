//! The dependency rule of design and ARCHITECTURE.md: which room may name what.

use super::tree::{File, Finding, Token, Tree};

/// A word of code that only some rooms may use.
struct Boundary {
    words: &'static [&'static str],
    /// What must follow the word, if it is a macro or a call.
    followed_by: &'static [&'static str],
    /// Path prefixes where the rule holds.
    within: &'static [&'static str],
    /// Path prefixes that are exempt.
    except: &'static [&'static str],
    why: &'static str,
}

const BOUNDARIES: &[Boundary] = &[
    Boundary {
        words: &["aya", "aya_log", "aya_obj"],
        followed_by: &[],
        within: &["enforcer/src/", "enforcer-common/", "tests/", "xtask/"],
        except: &["enforcer/src/kernel/"],
        why: "only the room `kernel` names aya",
    },
    Boundary {
        words: &["anyhow"],
        followed_by: &[],
        within: &["enforcer/src/", "enforcer-common/", "enforcer-ebpf/"],
        except: &["enforcer/src/commands/", "enforcer/src/main.rs"],
        why: "only `commands`, `main`, `xtask` and `tests` use anyhow; other rooms have errors with types",
    },
    Boundary {
        words: &["print", "println", "eprint", "eprintln", "dbg"],
        followed_by: &["!"],
        within: &["enforcer/src/", "enforcer-common/"],
        except: &["enforcer/src/commands/", "enforcer/src/sinks/"],
        why: "only `sinks` and `commands` print",
    },
    Boundary {
        words: &["stdout", "stderr"],
        followed_by: &["(", ")"],
        within: &["enforcer/src/", "enforcer-common/"],
        except: &["enforcer/src/commands/", "enforcer/src/sinks/"],
        why: "only `sinks` and `commands` print",
    },
    Boundary {
        words: &["cfg_attr", "cfg"],
        followed_by: &[],
        within: &["enforcer-common/src/decide.rs"],
        except: &[],
        why: "decide() is the same text in the kernel, in `explain` and in tests",
    },
];

/// Every use of a word where it does not belong.
pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    tree.rust().flat_map(check_file).collect()
}

fn check_file(file: &File) -> Vec<Finding> {
    let path = file.path.to_string_lossy();
    let starts = |prefixes: &[&str]| prefixes.iter().any(|prefix| path.starts_with(prefix));
    let applicable: Vec<_> = BOUNDARIES
        .iter()
        .filter(|rule| starts(rule.within) && !starts(rule.except))
        .collect();
    if applicable.is_empty() {
        return Vec::new();
    }
    let tokens = file.tokens();
    let mut findings = Vec::new();
    for rule in applicable {
        for (index, token) in tokens.iter().enumerate() {
            if rule.is_broken_by(&tokens, index) {
                findings.push(file.finding(token.line, format!("`{}`: {}", token.text, rule.why)));
            }
        }
    }
    findings
}

impl Boundary {
    fn is_broken_by(&self, tokens: &[Token], index: usize) -> bool {
        let Some((first, rest)) = tokens.get(index..).and_then(<[_]>::split_first) else {
            return false;
        };
        let is_method_or_field = index
            .checked_sub(1)
            .is_some_and(|before| tokens[before].text == ".");
        // decide.rs has a test module, and that alone.
        let is_test_module = rest.get(1).is_some_and(|token| token.text == "test");
        self.words.contains(&first.text.as_str())
            && !is_method_or_field
            && !is_test_module
            && rest.len() >= self.followed_by.len()
            && self
                .followed_by
                .iter()
                .zip(rest)
                .all(|(wanted, token)| token.text == *wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> usize {
        check(&Tree::of(&[(path, text)])).len()
    }

    #[test]
    fn aya_is_for_the_kernel_room() {
        assert_eq!(
            found("enforcer/src/policy/compile.rs", "use aya::maps::HashMap;"),
            1
        );
        assert_eq!(
            found("tests/tests/connect.rs", "fn f() { aya::Ebpf::load(b\"\"); }"),
            1
        );
        assert_eq!(found("enforcer/src/kernel/loader.rs", "use aya::Ebpf;"), 0);
        assert_eq!(
            found(
                "enforcer/src/policy/compile.rs",
                "// aya\nconst A: &str = \"aya\";"
            ),
            0
        );
    }

    #[test]
    fn anyhow_is_for_the_outermost_rooms() {
        assert_eq!(
            found(
                "enforcer/src/targets/pid.rs",
                "fn f() -> anyhow::Result<()> { Ok(()) }"
            ),
            1
        );
        assert_eq!(found("enforcer/src/commands/run.rs", "use anyhow::Result;"), 0);
        assert_eq!(found("enforcer/src/main.rs", "use anyhow::Result;"), 0);
    }

    #[test]
    fn printing_is_for_sinks_and_commands() {
        assert_eq!(
            found("enforcer/src/events/hub.rs", "fn f() { println!(\"x\"); }"),
            1
        );
        assert_eq!(
            found(
                "enforcer/src/events/hub.rs",
                "fn f() { std::io::stderr().write(b\"x\"); }"
            ),
            1
        );
        assert_eq!(
            found(
                "enforcer/src/events/hub.rs",
                "fn f() { command.stdout(Stdio::piped()); }"
            ),
            0
        );
        assert_eq!(
            found("enforcer/src/sinks/live.rs", "fn f() { println!(\"x\"); }"),
            0
        );
    }

    #[test]
    fn decide_has_no_conditions_but_its_tests() {
        assert_eq!(
            found(
                "enforcer-common/src/decide.rs",
                "#[cfg(target_arch = \"bpf\")] fn f() {}"
            ),
            1
        );
        assert_eq!(
            found("enforcer-common/src/decide.rs", "#[cfg(test)] mod tests {}"),
            0
        );
    }
}
