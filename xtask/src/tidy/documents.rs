//! What documents promise: links lead to something, commands they name exist, rows name existing tests.

use std::path::{Component, Path, PathBuf};

use clap::CommandFactory as _;
use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};

use super::tree::{File, Finding, Tree};
use crate::{Xtask, test::NotApplicable};

fn events(file: &File) -> impl Iterator<Item = (Event<'_>, usize)> {
    Parser::new_ext(&file.text, Options::ENABLE_TABLES)
        .into_offset_iter()
        .map(|(event, range)| (event, line_of(&file.text, range.start)))
}

fn line_of(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
}

/// Links to files, folders and headings of the repository that are not there.
pub(crate) fn links(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.markdown() {
        for (event, line) in events(file) {
            let (Event::Start(Tag::Link { dest_url, .. }) | Event::Start(Tag::Image { dest_url, .. })) =
                event
            else {
                continue;
            };
            if dest_url.contains("://") || dest_url.starts_with("mailto:") {
                continue;
            }
            let (path, heading) = dest_url.split_once('#').unwrap_or((&dest_url, ""));
            let target = resolve(&file.path, path);
            if !tree.has(&target) {
                findings.push(file.finding(line, format!("links to {path}, which is not there")));
            } else if !heading.is_empty() && !has_heading(tree, &target, heading) {
                findings.push(file.finding(
                    line,
                    format!(
                        "links to #{heading} in {}, which has no such heading",
                        target.display()
                    ),
                ));
            }
        }
    }
    findings
}

/// The path, relative to the root, that a link in `from` means. An empty one means the file itself.
fn resolve(from: &Path, link: &str) -> PathBuf {
    if link.is_empty() {
        return from.to_owned();
    }
    let mut resolved = match link.strip_prefix('/') {
        Some(_) => PathBuf::new(),
        None => from.parent().map(Path::to_owned).unwrap_or_default(),
    };
    for component in Path::new(link.trim_start_matches('/')).components() {
        match component {
            Component::ParentDir => {
                resolved.pop();
            }
            Component::Normal(name) => resolved.push(name),
            _ => {}
        }
    }
    resolved
}

fn has_heading(tree: &Tree, path: &Path, wanted: &str) -> bool {
    let Some(file) = tree.files.iter().find(|file| file.path == path) else {
        return false;
    };
    let mut heading: Option<String> = None;
    for (event, _) in events(file) {
        match event {
            Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
            Event::Text(text) | Event::Code(text) => {
                if let Some(heading) = &mut heading {
                    heading.push_str(&text);
                }
            }
            Event::End(TagEnd::Heading(_)) if heading.take().is_some_and(|text| anchor(&text) == wanted) => {
                return true;
            }
            _ => {}
        }
    }
    false
}

/// The anchor that code hosts make of a heading.
fn anchor(heading: &str) -> String {
    heading
        .chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
        .map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() })
        .collect()
}

/// `cargo xtask VERB` and `enforcer VERB` in documents whose verb, or one of whose options, does not exist.
pub(crate) fn commands(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.markdown() {
        let mut in_code = false;
        for (event, line) in events(file) {
            match event {
                Event::Start(Tag::CodeBlock(_)) => in_code = true,
                Event::End(TagEnd::CodeBlock) => in_code = false,
                Event::Code(code) => findings.extend(command_findings(tree, file, &code, line)),
                Event::Text(text) if in_code => {
                    for (index, code) in text.lines().enumerate() {
                        findings.extend(command_findings(tree, file, code, line + index));
                    }
                }
                _ => {}
            }
        }
    }
    findings
}

fn command_findings(tree: &Tree, file: &File, code: &str, line: usize) -> Vec<Finding> {
    let code = code.trim_start_matches(['$', '#', ' ']);
    let words: Vec<_> = code
        .split_whitespace()
        .skip_while(|word| *word == "sudo" || word.contains('='))
        .collect();
    let is_verb =
        |word: &str| word.chars().all(|c| c.is_ascii_lowercase() || c == '-') && !word.starts_with('-');
    match words.as_slice() {
        ["cargo", "xtask", verb, rest @ ..] if is_verb(verb) => xtask_findings(file, verb, rest, line),
        ["enforcer", verb, ..] if is_verb(verb) => {
            let room = Path::new("enforcer/src/commands");
            let exists = tree.has(&room.join(verb)) || tree.has(&room.join(verb).with_extension("rs"));
            let missing = format!("`enforcer {verb}`: there is no such command");
            Vec::from_iter((!exists).then(|| file.finding(line, missing)))
        }
        _ => Vec::new(),
    }
}

fn xtask_findings(file: &File, verb: &str, rest: &[&str], line: usize) -> Vec<Finding> {
    let xtask = Xtask::command();
    let Some(command) = xtask.find_subcommand(verb) else {
        return vec![file.finding(line, format!("`cargo xtask {verb}`: there is no such verb"))];
    };
    // What follows the first plain word of a verb that runs another one belongs to that one.
    let hands_on = command.get_arguments().any(clap::Arg::is_trailing_var_arg_set);
    let options = rest
        .iter()
        .take_while(|word| !["--", "#"].contains(*word) && (!hands_on || word.starts_with("--")));
    options
        .map(|word| word.trim_matches(|c| "[](),;".contains(c)))
        .filter_map(|word| word.strip_prefix("--"))
        .map(|option| option.split('=').next().unwrap_or(option))
        .filter(|option| {
            let known = command
                .get_arguments()
                .any(|argument| argument.get_long() == Some(option));
            !known && *option != "help"
        })
        .map(|option| file.finding(line, format!("`cargo xtask {verb}` has no option --{option}")))
        .collect()
}

/// Rows of `tests/not-applicable.toml` for tests that do not exist (any more).
pub(crate) fn not_applicable(tree: &Tree) -> Vec<Finding> {
    const PATH: &str = "tests/not-applicable.toml";
    let Some(file) = tree.files.iter().find(|file| file.path == Path::new(PATH)) else {
        return Vec::new();
    };
    let rows = match NotApplicable::parse(&file.text) {
        Ok(rows) => rows,
        Err(error) => return vec![file.finding(0, format!("{error:#}"))],
    };
    let functions: Vec<_> = tree
        .rust()
        .flat_map(|file| {
            let tokens = file.tokens();
            let names = tokens
                .windows(2)
                .filter(|pair| pair[0].text == "fn")
                .map(|pair| pair[1].text.clone());
            names.collect::<Vec<_>>()
        })
        .collect();
    rows.tests()
        .filter(|test| {
            !functions
                .iter()
                .any(|function| Some(function.as_str()) == test.rsplit("::").next())
        })
        .map(|test| file.finding(0, format!("there is no test {test}")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whats(findings: &[Finding]) -> Vec<&str> {
        findings.iter().map(|finding| finding.what.as_str()).collect()
    }

    #[test]
    fn links_are_followed_from_where_they_stand() {
        let tree = Tree::of(&[
            (
                "docs/a.md",
                "# One `two`, three\n[up](../README.md) [self](#one-two-three) [b](b.md)\n",
            ),
            (
                "README.md",
                "[a](docs/a.md#one-two-three) [docs](docs) [gone](docs/a.md#four) [web](https://x)\n",
            ),
        ]);
        assert_eq!(
            whats(&links(&tree)),
            [
                "links to b.md, which is not there",
                "links to #four in docs/a.md, which has no such heading"
            ]
        );
    }

    #[test]
    fn documented_commands_are_those_that_exist() {
        let text = "Run `cargo xtask setup --for demo` or `cargo xtask fly`.\n`cargo xtask fresh --keep test --yes`\n\n```sh\n\
                    sudo cargo xtask test --yes --fast\nenforcer run --pid 1\nenforcer stop\n```\n";
        let tree = Tree::of(&[("README.md", text), ("enforcer/src/commands/run.rs", "")]);
        let findings = commands(&tree);
        assert_eq!(
            whats(&findings),
            [
                "`cargo xtask fly`: there is no such verb",
                "`cargo xtask test` has no option --fast",
                "`enforcer stop`: there is no such command",
            ]
        );
        assert_eq!(
            findings.iter().map(|finding| finding.line).collect::<Vec<_>>(),
            [1, 5, 7]
        );
    }

    #[test]
    fn rows_for_tests_that_are_gone_are_found() {
        let table = "[[row]]\ntest = \"mptcp::subflows\"\nwhy = \"5.10 has none\"\n\
                     [[row]]\ntest = \"gone\"\nwhy = \"x\"\n";
        let tree = Tree::of(&[
            ("tests/not-applicable.toml", table),
            ("tests/tests/mptcp.rs", "#[test]\nfn subflows() {}"),
        ]);
        assert_eq!(whats(&not_applicable(&tree)), ["there is no test gone"]);
    }
}
