//! A list of hosts, as `--all` reads it: one a line; `#` begins a comment.

use std::{
    fs::File,
    io::{self, Read as _},
    path::Path,
};

use anyhow::{Context as _, anyhow};

use super::super::exit::{Exit, Failure};
use crate::probe::Subject;

/// Octets of a list. At one host a second that is a day.
const MAX_BYTES: u64 = 1 << 20;

/// The hosts in a file; `-` is standard input.
pub(super) fn read(file: &Path) -> Result<Vec<Subject>, Failure> {
    let mut text = String::new();
    let done = if file == Path::new("-") {
        io::stdin().lock().take(MAX_BYTES).read_to_string(&mut text)
    } else {
        File::open(file).and_then(|open| open.take(MAX_BYTES).read_to_string(&mut text))
    };
    done.with_context(|| format!("cannot read the list of hosts {}", file.display()))
        .map_err(|error| Failure::new(Exit::Argument, error))?;
    parse(&text).map_err(|mistakes| {
        let mistakes = mistakes.join("\n");
        Failure::rendered(Exit::Argument, format!("error: {}:\n{mistakes}", file.display()))
    })
}

/// The hosts of a text, or every line that is none.
fn parse(text: &str) -> Result<Vec<Subject>, Vec<String>> {
    let mut subjects: Vec<Subject> = Vec::new();
    let mut mistakes = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        match line.parse::<Subject>() {
            Ok(subject) if subjects.contains(&subject) => {}
            Ok(subject) => subjects.push(subject),
            Err(error) => {
                let hint = error
                    .hint()
                    .map(|hint| format!(" (hint: {hint})"))
                    .unwrap_or_default();
                mistakes.push(format!("  line {number}: {line:?}: {:#}{hint}", anyhow!(error)));
            }
        }
    }
    if subjects.is_empty() && mistakes.is_empty() {
        mistakes.push("  there is no host in it".to_owned());
    }
    if mistakes.is_empty() {
        Ok(subjects)
    } else {
        Err(mistakes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_a_line_with_comments_each_once() {
        let text = "# mine\nshop.example:80\n\n  [2001:db8::1]:5432  # database\nshop.example:80\n";
        let shown: Vec<_> = parse(text).unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["shop.example:80", "[2001:db8::1]:5432"]);
    }

    #[test]
    fn every_mistake_is_named_with_its_line() {
        let mistakes = parse("shop.example\nhttps://shop.example\n\na b\n").unwrap_err();
        assert_eq!(mistakes.len(), 2, "{mistakes:?}");
        assert!(
            mistakes[0].contains("line 2") && mistakes[0].contains("hint: "),
            "{mistakes:?}"
        );
        assert!(mistakes[1].contains("line 4"), "{mistakes:?}");
        assert!(parse("# nothing\n").is_err());
    }
}
