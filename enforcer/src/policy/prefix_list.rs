//! Prefixes files: one prefix a line, `#` begins a comment.
//!
//! Read line by line, so a million prefixes cost no more than themselves.

use std::{
    io::{BufRead, BufReader, Read},
    path::Path,
};

use enforcer_common::clause::MAX_ENTRIES;
use ipnet::Ipv6Net;

use super::{
    MAX_DIAGNOSTICS, MAX_PREFIXES_FILE_BYTES,
    diagnostic::{Diagnostic, Location, Place, Severity},
    source::{cannot_read, excerpt, open_regular},
    value::{Problem, parse_prefix},
};

/// The longest line, in bytes: far beyond any prefix with its comment.
const MAX_LINE_BYTES: u64 = 64 << 10;

/// What a prefixes file is called in messages.
const WHAT: &str = "prefixes file";

/// Reads a prefixes file and hands each mistake in it to `report`. The prefixes come back sorted, without
/// duplicates.
///
/// # Errors
///
/// [`Problem`] if the file cannot be read at all.
pub(super) fn read_prefixes(
    path: &Path,
    report: &mut dyn FnMut(Diagnostic),
) -> Result<Vec<Ipv6Net>, Problem> {
    let file = open_regular(path, WHAT)?;
    let mut reader = BufReader::new(file.take(MAX_PREFIXES_FILE_BYTES + 1));
    let too_many = MAX_ENTRIES as usize;
    let mut prefixes = Vec::new();
    let mut buffer = Vec::new();
    let mut bytes_read = 0;
    let mut mistakes = 0;
    for line in 1_usize.. {
        buffer.clear();
        let length = (&mut reader)
            .take(MAX_LINE_BYTES + 1)
            .read_until(b'\n', &mut buffer)
            .map_err(|error| cannot_read(WHAT, path, &error))? as u64;
        if length == 0 {
            break;
        }
        bytes_read += length;
        if bytes_read > MAX_PREFIXES_FILE_BYTES {
            return Err(Problem::new(format!(
                "the prefixes file `{}` is longer than {} MiB",
                path.display(),
                MAX_PREFIXES_FILE_BYTES >> 20
            )));
        }
        let mut refuse = |problem: Problem, text: &str, start: usize, end: usize| {
            report(problem.at(
                Severity::Error,
                Place::At(Location {
                    file: path.to_owned(),
                    line,
                    column: text[..start].chars().count() + 1,
                    excerpt: excerpt(text.trim_end_matches('\n'), start..end),
                }),
            ));
        };
        if length > MAX_LINE_BYTES {
            let problem = Problem::new(format!("the line is longer than {} KiB", MAX_LINE_BYTES >> 10));
            refuse(
                problem.hint("prefixes files have one prefix a line; is this the right file?"),
                "",
                0,
                0,
            );
            break;
        }
        let text = match str::from_utf8(&buffer) {
            Ok(text) => text,
            Err(error) => {
                let valid = buffer[..error.valid_up_to()].utf8_chunks().next();
                let valid = valid.map_or("", |chunk| chunk.valid());
                let problem = Problem::new(format!("the prefixes file `{}` is not UTF-8", path.display()));
                refuse(
                    problem.hint("prefixes files are text, one prefix a line; is this the right file?"),
                    valid,
                    valid.len(),
                    valid.len(),
                );
                break;
            }
        };
        let text = if line == 1 {
            text.trim_start_matches('\u{feff}')
        } else {
            text
        };
        let uncommented = text.split_once('#').map_or(text, |(before, _)| before);
        let written = uncommented.trim();
        if written.is_empty() {
            continue;
        }
        match parse_prefix(written) {
            Ok(prefix) => prefixes.push(prefix),
            Err(problem) => {
                let start = uncommented.len() - uncommented.trim_start().len();
                refuse(problem, text, start, start + written.len());
                mistakes += 1;
                if mistakes > MAX_DIAGNOSTICS {
                    break;
                }
            }
        }
        // Duplicates may still bring it down to what a policy can hold.
        if prefixes.len() > 2 * too_many {
            sort(&mut prefixes);
            if prefixes.len() > too_many {
                return Err(Problem::new(format!(
                    "the prefixes file `{}` has more than {too_many} different prefixes",
                    path.display()
                ))
                .hint("that is the most one policy can hold; wider prefixes may do"));
            }
        }
    }
    sort(&mut prefixes);
    prefixes.shrink_to_fit();
    Ok(prefixes)
}

/// Brings prefixes into the order that rules have them in.
pub(super) fn sort(prefixes: &mut Vec<Ipv6Net>) {
    prefixes.sort_unstable();
    prefixes.dedup();
}
