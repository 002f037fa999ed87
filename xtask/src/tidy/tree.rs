//! The repository's files in memory, and Rust as a flat list of tokens.

use std::{
    ffi::OsStr,
    fmt, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use proc_macro2::{Delimiter, TokenStream, TokenTree};
use walkdir::{DirEntry, WalkDir};

use crate::workspace;

/// A place where a rule is broken.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    /// Relative to the repository's root.
    pub(crate) path: PathBuf,
    /// Counted from 1; 0 for the whole file.
    pub(crate) line: usize,
    pub(crate) what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.path.display())?;
        if self.line > 0 {
            write!(f, "{}:", self.line)?;
        }
        write!(f, " {}", self.what)
    }
}

/// A text file.
pub(crate) struct File {
    /// Relative to the repository's root.
    pub(crate) path: PathBuf,
    pub(crate) text: String,
}

impl File {
    pub(crate) fn has_extension(&self, extension: &str) -> bool {
        self.path.extension() == Some(OsStr::new(extension))
    }

    pub(crate) fn finding(&self, line: usize, what: impl Into<String>) -> Finding {
        Finding {
            path: self.path.clone(),
            line,
            what: what.into(),
        }
    }

    /// The file's tokens; empty where it does not lex, which the compiler will say better.
    pub(crate) fn tokens(&self) -> Vec<Token> {
        let mut tokens = Vec::new();
        if let Ok(stream) = self.text.parse::<TokenStream>() {
            flatten(stream, &mut tokens);
        }
        tokens
    }
}

/// A token, with groups cut into what opens and what closes them.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Token {
    /// An identifier, a punctuation character, a bracket, or empty for a literal.
    pub(crate) text: String,
    /// Counted from 1.
    pub(crate) line: usize,
}

fn flatten(stream: TokenStream, tokens: &mut Vec<Token>) {
    for tree in stream {
        let line = tree.span().start().line;
        let mut push = |text: String, line| tokens.push(Token { text, line });
        match tree {
            TokenTree::Ident(ident) => push(ident.to_string(), line),
            TokenTree::Punct(punct) => push(punct.as_char().to_string(), line),
            TokenTree::Literal(_) => push(String::new(), line),
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    Delimiter::Parenthesis => ("(", ")"),
                    Delimiter::Brace => ("{", "}"),
                    Delimiter::Bracket => ("[", "]"),
                    Delimiter::None => ("", ""),
                };
                push(open.to_owned(), line);
                let end = group.span_close().end().line;
                flatten(group.stream(), tokens);
                tokens.push(Token {
                    text: close.to_owned(),
                    line: end,
                });
            }
        }
    }
}

/// Every text file of the repository.
pub(crate) struct Tree {
    pub(crate) files: Vec<File>,
}

impl Tree {
    /// Reads the repository, without what builds leave behind.
    ///
    /// # Errors
    ///
    /// Where a file cannot be read.
    pub(crate) fn read() -> Result<Self> {
        let root = workspace::root();
        let mut files = Vec::new();
        for entry in WalkDir::new(&root)
            .sort_by_file_name()
            .into_iter()
            .filter_entry(is_ours)
        {
            let entry = entry.context("reading the repository")?;
            if !entry.file_type().is_file() {
                continue;
            }
            let path = entry.path();
            let bytes = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
            // What is not UTF-8 is no text.
            if let Ok(text) = String::from_utf8(bytes) {
                let path = path.strip_prefix(&root).unwrap_or(path).to_owned();
                files.push(File { path, text });
            }
        }
        Ok(Self { files })
    }

    pub(crate) fn rust(&self) -> impl Iterator<Item = &File> {
        self.files.iter().filter(|file| file.has_extension("rs"))
    }

    pub(crate) fn markdown(&self) -> impl Iterator<Item = &File> {
        self.files.iter().filter(|file| file.has_extension("md"))
    }

    /// Whether a file or folder of that path, relative to the root, is there.
    pub(crate) fn has(&self, path: &Path) -> bool {
        self.files.iter().any(|file| file.path.starts_with(path))
    }

    /// A repository of these files, for tests of checks.
    #[cfg(test)]
    pub(crate) fn of(files: &[(&str, &str)]) -> Self {
        let file = |(path, text): &(&str, &str)| File {
            path: PathBuf::from(path),
            text: (*text).to_owned(),
        };
        Self {
            files: files.iter().map(file).collect(),
        }
    }
}

fn is_ours(entry: &DirEntry) -> bool {
    let name = entry.file_name().to_string_lossy();
    let hidden = name.starts_with('.') && ![".cargo", ".ci", ".github", ".gitignore"].contains(&&*name);
    entry.depth() == 0 || !(hidden || (name == "target" && entry.file_type().is_dir()))
}
