//! The machine's own apt sources, read from their files: apt itself tells them only after it has fetched its
//! lists, and a fresh machine has none.
//!
//! Formats: sources.list(5), both the one-line and the deb822 style.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// One suite of one mirror, with the keys that sign it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Source {
    pub(super) uri: String,
    pub(super) suite: String,
    /// Empty where the keys of `/etc/apt/trusted.gpg.d` count.
    pub(super) keyrings: BTreeSet<PathBuf>,
}

impl Source {
    /// Another suite of the same mirror, signed by the same keys.
    pub(super) fn with_suite(&self, suite: &str) -> Self {
        Self {
            suite: suite.to_owned(),
            ..self.clone()
        }
    }

    /// As a line of `sources.list`.
    pub(crate) fn line(&self) -> String {
        let Self { uri, suite, keyrings } = self;
        let keyrings: Vec<_> = keyrings.iter().map(|path| path.display().to_string()).collect();
        match keyrings.as_slice() {
            [] => format!("deb {uri} {suite} main\n"),
            some => format!("deb [signed-by={}] {uri} {suite} main\n", some.join(",")),
        }
    }
}

/// The sources of the machine that have a component `main`, in the order of their files.
pub(crate) fn of_machine() -> Vec<Source> {
    let folder = Path::new("/etc/apt/sources.list.d");
    let mut paths: Vec<_> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    paths.sort();
    paths.insert(0, PathBuf::from("/etc/apt/sources.list"));
    let mut sources = Vec::new();
    for path in paths {
        // A file that cannot be read is one that apt cannot read either.
        let text = fs::read_to_string(&path).unwrap_or_default();
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("list") => sources.extend(text.lines().filter_map(one_line)),
            Some("sources") => sources.extend(text.split("\n\n").flat_map(deb822)),
            _ => {}
        }
    }
    sources
}

/// `deb [option=value …] uri suite component…`
fn one_line(line: &str) -> Option<Source> {
    let rest = line.split('#').next()?.trim().strip_prefix("deb ")?.trim_start();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => ("", rest),
    };
    let mut words = rest.split_whitespace();
    let (uri, suite) = (words.next()?, words.next()?);
    let signed_by = options
        .split_whitespace()
        .find_map(|option| option.strip_prefix("signed-by="));
    words.any(|component| component == "main").then(|| Source {
        uri: uri.to_owned(),
        suite: suite.to_owned(),
        keyrings: keyrings(signed_by.unwrap_or_default()),
    })
}

/// A stanza: each of its addresses with each of its suites.
fn deb822(stanza: &str) -> Vec<Source> {
    let stanza: Vec<_> = stanza.lines().filter(|line| !line.starts_with('#')).collect();
    let field = |name: &str| -> String {
        let mut lines = stanza.iter().skip_while(|line| {
            !line
                .split_once(':')
                .is_some_and(|(field, _)| field.eq_ignore_ascii_case(name))
        });
        let first = lines
            .next()
            .and_then(|line| line.split_once(':'))
            .map_or("", |(_, value)| value);
        let continued = lines.take_while(|line| line.starts_with([' ', '\t']));
        std::iter::once(first)
            .chain(continued.copied())
            .collect::<Vec<_>>()
            .join(" ")
    };
    let has = |name: &str, word: &str| field(name).split_whitespace().any(|one| one == word);
    if !has("Types", "deb") || !has("Components", "main") || has("Enabled", "no") {
        return Vec::new();
    }
    let (uris, suites, keyrings) = (field("URIs"), field("Suites"), keyrings(&field("Signed-By")));
    let every = uris
        .split_whitespace()
        .flat_map(|uri| suites.split_whitespace().map(move |suite| (uri, suite)));
    every
        .map(|(uri, suite)| Source {
            uri: uri.to_owned(),
            suite: suite.to_owned(),
            keyrings: keyrings.clone(),
        })
        .collect()
}

/// The paths among the values of signed-by. Embedded keys and fingerprints are left to apt's own trust.
fn keyrings(signed_by: &str) -> BTreeSet<PathBuf> {
    if signed_by.contains("-----BEGIN") {
        return BTreeSet::new();
    }
    let words = signed_by.split(|c: char| c == ',' || c.is_whitespace());
    words
        .filter(|word| word.starts_with('/'))
        .map(PathBuf::from)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(sources: &[Source]) -> String {
        sources.iter().map(Source::line).collect()
    }

    #[test]
    fn one_line_sources() {
        let text = "# deb mirror:/x y main\ndeb-src mirror:/x y main\ndeb mirror:/d bookworm main contrib # own\n\
                    deb [arch=amd64 signed-by=/k/a.gpg,/k/b.gpg] mirror:/d bookworm-updates main\n\
                    deb mirror:/vendor stable pool\n";
        let sources: Vec<_> = text.lines().filter_map(one_line).collect();
        assert_eq!(
            lines(&sources),
            "deb mirror:/d bookworm main\ndeb [signed-by=/k/a.gpg,/k/b.gpg] mirror:/d bookworm-updates main\n"
        );
    }

    #[test]
    fn deb822_sources() {
        let stanza = "# comment\nTypes: deb deb-src\nURIs: mirror:/d\nSuites: bookworm\n bookworm-updates\n\
                      components: main\nSigned-By: /k/a.gpg";
        assert_eq!(
            lines(&deb822(stanza)),
            "deb [signed-by=/k/a.gpg] mirror:/d bookworm main\n\
             deb [signed-by=/k/a.gpg] mirror:/d bookworm-updates main\n"
        );
        assert!(deb822(&format!("{stanza}\nEnabled: no")).is_empty());
        let embedded = stanza.replace(
            "/k/a.gpg",
            "\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mDME\n /abc",
        );
        assert!(lines(&deb822(&embedded)).starts_with("deb mirror:/d bookworm main\n"));
    }
}
