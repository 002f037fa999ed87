//! Whatever bytes a policy is made of, it is a policy or there is a diagnostic with a place within the file; nothing
//! panics. A lighter version of what `fuzz/` does for hours.

use std::path::Path;

use proptest::{collection::vec, prelude::*, sample::select};

use super::{
    super::{
        PolicyFile,
        compile::compile,
        diagnostic::{Diagnostic, Place},
        live::Live,
    },
    property::cases,
};

/// What policies are made of, and what mistakes are made of.
const PIECES: [&str; 84] = [
    "version = 1\n",
    "version = 2\n",
    "version",
    "[defaults]\n",
    "mode = \"audit\"\n",
    "[[target]]\n",
    "[target]\n",
    "[[rule]]\n",
    "[rule]\n",
    "[[[",
    "]]",
    "name = \"a\"\n",
    "name = \"b\"\n",
    "name = \"\"\n",
    "name = 'ä\u{1f600}'\n",
    "cgroup = \"/a\"\n",
    "cgroup = \"a\"\n",
    "pid = 1\n",
    "pid = -1\n",
    "use = [\"a\"]\n",
    "use = []\n",
    "groups = [\"a\", \"b\"]\n",
    "groups = \"a\"\n",
    "prefix = \"2001:db8::/32\"\n",
    "prefix = \"2001:db8::1/32\"\n",
    "prefix = \"internet\"\n",
    "prefix = \"::/0\"\n",
    "prefix = \"10.0.0.0/8\"\n",
    "prefix = \"::ffff:0:0/96\"\n",
    "prefixes = [\"fe80::/10\", \"::1\"]\n",
    "prefixes = [1, [], {}]\n",
    "prefixes = [\n",
    "action = \"reject\"\n",
    "action = \"allow\"\n",
    "action = \"redirect\"\n",
    "action = \"rejekt\"\n",
    "to = \"192.0.2.1:5432\"\n",
    "to = \"[2001:db8::7]:80\"\n",
    "to = \"example.com\"\n",
    "errno = \"EACCES\"\n",
    "errno = \"EFOO\"\n",
    "errno = 111\n",
    "ports = [443, \"8000-8999\"]\n",
    "ports = [0, 65536, \"9-3\"]\n",
    "ports = []\n",
    "proto = \"tcp\"\n",
    "proto = \"sctp\"\n",
    "host = \"a.example\"\n",
    "host = \"*\"\n",
    "to_host = \"b.example:80\"\n",
    "to = \"embedded\"\n",
    "to = \"198.51.100.0/24\"\n",
    "to = \"2001:db8:9::/32\"\n",
    "resolve = \"target\"\n",
    "allow_private = true\n",
    "without_twin = \"allow\"\n",
    "transparent = false\n",
    "uid = 0\n",
    "uid = [0, \"5-9\", -1]\n",
    "enabled = false\n",
    "expires = \"2h\"\n",
    "expires = 2030-01-31T18:00:00Z\n",
    "expires = 2030-01-31\n",
    "rollout = 25\n",
    "rollout = 100\n",
    "by = \"process\"\n",
    "canary = [\"a\"]\n",
    "\n",
    "\r\n",
    "\r",
    "\t",
    " ",
    "#",
    "# comment\n",
    "\"",
    "\"\"\"",
    "'",
    "=",
    ",",
    ".",
    "{",
    "}",
    "\u{feff}",
    "\u{7f}",
];

/// The lines of a file as editors count them, each with its characters.
fn lines(bytes: &[u8]) -> Vec<usize> {
    bytes
        .split(|byte| *byte == b'\n')
        .map(|line| String::from_utf8_lossy(line).chars().count())
        .collect()
}

fn is_within(diagnostic: &Diagnostic, lines: &[usize]) -> bool {
    let within = |place: &Place| match place {
        Place::File(file) => file == Path::new("policy.toml"),
        Place::Argument(_) => false,
        // The column after the last character is where something is missing.
        Place::At(at) => at
            .line
            .checked_sub(1)
            .and_then(|index| lines.get(index))
            .is_some_and(|length| (1..=length + 1).contains(&at.column)),
    };
    diagnostic.place.as_ref().is_none_or(within)
        && diagnostic.related.iter().all(|related| within(&related.place))
}

/// Reads the bytes as a policy file, and shows everything there is to say.
fn read(bytes: &[u8]) -> Result<(), TestCaseError> {
    let lines = lines(bytes);
    let checked = PolicyFile::from_reader(Path::new("policy.toml"), bytes).and_then(|file| file.check());
    let diagnostics = match checked {
        Ok((policy, warnings)) => {
            prop_assert!(warnings.iter().all(|warning| !warning.is_error()));
            for groups in policy.group_sets() {
                prop_assert!(
                    compile(&policy.rules, &groups, &Live::default()).is_ok(),
                    "checked, and yet refused"
                );
            }
            warnings
        }
        Err(error) => {
            let placed = error
                .diagnostics()
                .iter()
                .any(|diagnostic| diagnostic.is_error() && diagnostic.place.is_some());
            prop_assert!(placed, "{error}");
            prop_assert!(error.is_about_file(), "{error}");
            error.diagnostics().to_vec()
        }
    };
    for diagnostic in &diagnostics {
        prop_assert!(is_within(diagnostic, &lines), "{diagnostic}");
        prop_assert!(!diagnostic.render(false).is_empty() && !diagnostic.render(true).is_empty());
    }
    Ok(())
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn any_bytes_are_a_policy_or_are_refused_with_a_place(bytes in vec(any::<u8>(), 0..600)) {
        read(&bytes)?;
    }

    #[test]
    fn any_text_is_a_policy_or_is_refused_with_a_place(text in any::<String>()) {
        read(text.as_bytes())?;
    }

    #[test]
    fn any_heap_of_pieces_is_a_policy_or_is_refused_with_a_place(
        pieces in vec(select(&PIECES[..]), 0..40),
        noise in proptest::option::weighted(0.2, (any::<proptest::sample::Index>(), any::<u8>())),
    ) {
        let mut bytes = format!("version = 1\n{}", pieces.concat()).into_bytes();
        if let Some((index, byte)) = noise {
            let at = index.index(bytes.len());
            bytes[at] = byte;
        }
        read(&bytes)?;
    }
}
