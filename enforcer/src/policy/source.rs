//! [`Source`]: the text of a policy file, and what turns byte offsets in it into lines and columns.
//!
//! Reads regular files only and bounded amounts of them; interprets nothing.

use std::{
    fs::{self, File},
    io::{self, Read},
    ops::Range,
    os::unix::fs::{FileTypeExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use super::{
    MAX_POLICY_BYTES,
    diagnostic::{Diagnostic, Excerpt, Location, Place, PolicyError, Severity},
    value::Problem,
};

/// How far into a line an excerpt may begin: an array of a million prefixes may stand on one line.
const MAX_EXCERPT_START: usize = 4096;
/// How much of a line is shown beyond the part that matters.
const MAX_EXCERPT_REST: usize = 160;
/// Distance between two known character counts, in bytes.
const BLOCK: usize = 4096;

/// What people write who mean standard input.
const STREAMS: [&str; 4] = ["-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"];

/// The text of a file and where its lines begin.
pub(super) struct Source {
    path: PathBuf,
    text: String,
    /// Byte offset of each line.
    line_starts: Vec<u32>,
    /// Characters that begin before byte 0, [`BLOCK`], 2 × [`BLOCK`], …: columns of a line as long as the
    /// file are still found at once.
    chars_before: Vec<u32>,
}

impl Source {
    /// Reads a policy file.
    pub(super) fn read(path: &Path) -> Result<Self, PolicyError> {
        let refuse =
            |problem: Problem| PolicyError::single(problem.at(Severity::Error, Place::File(path.to_owned())));
        let file = open_regular(path, "policy file").map_err(|problem| {
            refuse(if STREAMS.iter().any(|stream| path == Path::new(stream)) {
                problem.hint("only `enforcer check -` reads a stream")
            } else {
                problem
            })
        })?;
        Self::read_from(path, file)
    }

    /// Reads a policy from a stream, and no more of it than a policy may be long.
    pub(super) fn read_from(path: &Path, reader: impl Read) -> Result<Self, PolicyError> {
        let refuse =
            |problem: Problem| PolicyError::single(problem.at(Severity::Error, Place::File(path.to_owned())));
        let mut bytes = Vec::new();
        // One more than allowed: files of procfs and growing ones are longer than they say.
        reader
            .take(MAX_POLICY_BYTES + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| refuse(cannot_read("policy file", path, &error)))?;
        if bytes.len() as u64 > MAX_POLICY_BYTES {
            return Err(too_long(path));
        }
        let text = String::from_utf8(bytes)
            .map_err(|error| PolicyError::single(not_utf8(path, error.as_bytes())))?;
        Self::new(path.to_owned(), text)
    }

    /// Takes a text that is at hand, if it is not too long.
    pub(super) fn new(path: PathBuf, text: String) -> Result<Self, PolicyError> {
        if text.len() as u64 > MAX_POLICY_BYTES {
            return Err(too_long(&path));
        }
        let mut line_starts = vec![0];
        let mut chars_before = Vec::with_capacity(text.len() / BLOCK + 1);
        let mut chars = 0_u32;
        for (offset, &byte) in (0_u32..).zip(text.as_bytes()) {
            if (offset as usize).is_multiple_of(BLOCK) {
                chars_before.push(chars);
            }
            chars += u32::from(begins_character(byte));
            if byte == b'\n' {
                line_starts.push(offset + 1);
            }
        }
        let source = Self {
            path,
            text,
            line_starts,
            chars_before,
        };
        // TOML knows no such character. Whatever has one is no policy, and parsing it could take long.
        match source.text.find('\0') {
            None => Ok(source),
            Some(at) => {
                let problem = Problem::new("the policy file has a NUL character")
                    .hint("policy files are TOML, which is text; is this the right file?");
                let place = source.place(&(at..at + 1));
                Err(PolicyError::single(problem.at(Severity::Error, place)))
            }
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Line, from 1, of a byte offset.
    pub(super) fn line(&self, offset: usize) -> usize {
        self.line_starts
            .partition_point(|&start| start as usize <= offset)
    }

    /// Line and column of a byte offset.
    pub(super) fn position(&self, offset: usize) -> (usize, usize) {
        let offset = offset.min(self.text.len());
        let line = self.line(offset);
        let start = self.line_start(line);
        (line, self.characters(offset) - self.characters(start) + 1)
    }

    /// The place of a span of bytes, with an excerpt of its first line.
    pub(super) fn place(&self, span: &Range<usize>) -> Place {
        let (line, column) = self.position(span.start);
        let start = self.line_start(line);
        let rest = &self.text[start..];
        let text = &rest[..rest.find('\n').unwrap_or(rest.len())];
        let begin = span.start.min(self.text.len()) - start;
        let in_line = begin..(span.end.saturating_sub(start)).max(begin);
        Place::At(Location {
            file: self.path.clone(),
            line,
            column,
            excerpt: excerpt(text, in_line),
        })
    }

    /// The place of what begins at a position, to the end of its line.
    pub(super) fn place_at(&self, line: usize, column: usize) -> Place {
        let start = self.line_start(line);
        let text = self.text[start..].lines().next().unwrap_or_default();
        let skipped: usize = text.chars().take(column - 1).map(char::len_utf8).sum();
        self.place(&(start + skipped..start + text.trim_end().len()))
    }

    fn line_start(&self, line: usize) -> usize {
        self.line_starts.get(line - 1).map_or(0, |&start| start as usize)
    }

    /// Characters that begin before a byte offset.
    fn characters(&self, offset: usize) -> usize {
        let block = offset / BLOCK;
        // A text that ends exactly at a block's end has no count for the block after it.
        let known = block.min(self.chars_before.len().saturating_sub(1));
        let counted = self.chars_before.get(known).map_or(0, |&count| count as usize);
        let rest = &self.text.as_bytes()[known * BLOCK..offset];
        counted + rest.iter().filter(|&&byte| begins_character(byte)).count()
    }
}

/// The part of a line that can be shown. The span is cut to the line and to whole characters.
pub(super) fn excerpt(line: &str, span: Range<usize>) -> Option<Excerpt> {
    if span.start > MAX_EXCERPT_START {
        return None;
    }
    let line = line.strip_suffix('\r').unwrap_or(line);
    let floor = |at: usize| line.floor_char_boundary(at.min(line.len()));
    let start = floor(span.start);
    let end = floor(span.end.min(start + MAX_EXCERPT_REST)).max(start);
    Some(Excerpt {
        text: line[..floor(end + MAX_EXCERPT_REST)].to_owned(),
        span: start..end,
    })
}

/// Opens a file if it is a regular one: a fifo would block, a device might act.
pub(super) fn open_regular(path: &Path, what: &str) -> Result<File, Problem> {
    let check = |metadata: &fs::Metadata| {
        let kind = metadata.file_type();
        let found = if kind.is_file() {
            return Ok(());
        } else if kind.is_dir() {
            "a directory"
        } else if kind.is_fifo() {
            "a pipe"
        } else if kind.is_socket() {
            "a socket"
        } else {
            "a device"
        };
        Err(Problem::new(format!(
            "cannot read the {what} `{}`: it is {found}",
            path.display()
        ))
        .hint("give the path of a regular file"))
    };
    let refused = |error: io::Error| cannot_read(what, path, &error);
    check(&fs::metadata(path).map_err(refused)?)?;
    let file = File::options()
        .read(true)
        // Another file may stand there by now.
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
        .map_err(refused)?;
    check(&file.metadata().map_err(refused)?)?;
    Ok(file)
}

/// A file that could not be opened or read.
pub(super) fn cannot_read(what: &str, path: &Path, error: &io::Error) -> Problem {
    let problem = Problem::new(format!("cannot read the {what} `{}`: {error}", path.display()));
    match error.kind() {
        io::ErrorKind::NotFound if path.is_symlink() => {
            problem.hint("it is a symbolic link, and what it points to does not exist")
        }
        io::ErrorKind::PermissionDenied => problem.hint("run as a user who may read it"),
        _ => problem,
    }
}

/// A policy that is longer than policies may be.
fn too_long(path: &Path) -> PolicyError {
    let problem = Problem::new(format!(
        "the policy file is longer than {} MiB",
        MAX_POLICY_BYTES >> 20
    ))
    .hint("put long lists of prefixes into a `prefixes_file`, one prefix a line");
    PolicyError::single(problem.at(Severity::Error, Place::File(path.to_owned())))
}

/// The first byte that is not UTF-8.
fn not_utf8(path: &Path, bytes: &[u8]) -> Diagnostic {
    let valid = bytes.utf8_chunks().next().map_or("", |chunk| chunk.valid());
    let line_start = valid.rfind('\n').map_or(0, |newline| newline + 1);
    let place = Place::At(Location {
        file: path.to_owned(),
        line: valid.bytes().filter(|&byte| byte == b'\n').count() + 1,
        column: valid[line_start..].chars().count() + 1,
        excerpt: None,
    });
    Problem::new("the policy file is not UTF-8")
        .hint("policy files are TOML, which is UTF-8 text; is this the right file?")
        .at(Severity::Error, place)
}

/// Whether a byte of UTF-8 text is the first of its character.
const fn begins_character(byte: u8) -> bool {
    byte & 0b1100_0000 != 0b1000_0000
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(text: &str, offset: usize) -> (usize, usize) {
        Source::new("f".into(), text.to_owned()).unwrap().position(offset)
    }

    #[test]
    fn columns_count_characters_not_bytes() {
        assert_eq!(position("äöü = 1\n", "äöü ".len()), (1, 5));
        assert_eq!(position("a\n\u{1f600}b", "a\n\u{1f600}".len()), (2, 2));
    }

    #[test]
    fn the_end_of_a_text_has_a_position() {
        assert_eq!(position("", 0), (1, 1));
        assert_eq!(position("ab", 2), (1, 3));
        assert_eq!(position("ab\n", 3), (2, 1));
        let block = "ä".repeat(BLOCK / 2);
        assert_eq!(position(&block, BLOCK), (1, BLOCK / 2 + 1));
    }

    #[test]
    fn columns_are_right_in_lines_of_many_blocks() {
        let text = format!("x\n{}", "äb".repeat(10 * BLOCK));
        for pairs in [0, 1, BLOCK / 3, BLOCK, 5 * BLOCK + 7] {
            assert_eq!(position(&text, 2 + 3 * pairs), (2, 2 * pairs + 1));
        }
    }

    #[test]
    fn excerpts_are_cut_to_whole_characters_and_one_line() {
        let source = Source::new("f".into(), format!("a = \"{}\"\nb", "ä".repeat(5000))).unwrap();
        let Place::At(at) = source.place(&(4..source.text().len())) else {
            panic!("not a position")
        };
        let excerpt = at.excerpt.unwrap();
        assert!(excerpt.text.len() < 1000 && excerpt.text.is_char_boundary(excerpt.span.end));
        let Place::At(far) = source.place(&(9001..9003)) else {
            panic!("not a position")
        };
        assert_eq!((far.column, far.excerpt), (4504, None));
    }
}
