//! [`Diagnostic`]: one problem of a policy, told so that a person can mend it.
//!
//! A diagnostic carries the few characters of the file that it is about, so it outlives the file's text. It
//! is text for people: nothing decides by looking into one, but for its severity.

use std::{error, fmt, ops::Range, path::PathBuf};

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};

use super::rule::Origin;

/// Whether a policy with this problem can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// It cannot.
    Error,
    /// It can, but probably does not do what was meant.
    Warning,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
        })
    }
}

/// A position in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// The file, as the user named it.
    pub file: PathBuf,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What stands there; absent where it is too far into a long line to be shown.
    pub excerpt: Option<Excerpt>,
}

/// One line of a file, and the part of it that matters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Excerpt {
    /// The line without its end, cut off some way after the span if it is long.
    pub text: String,
    /// Bytes of `text` that matter; lies on character boundaries.
    pub span: Range<usize>,
}

/// What a diagnostic is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A file as a whole.
    File(PathBuf),
    /// A position in a file.
    At(Location),
    /// A rule of the command line, as written: `--reject 2001:db8::/32`.
    Argument(String),
}

impl fmt::Display for Place {
    /// `file`, `file:line:column`, or the argument.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::At(at) => write!(f, "{}:{}:{}", at.file.display(), at.line, at.column),
            Self::Argument(text) => f.write_str(text),
        }
    }
}

impl From<&Origin> for Place {
    /// Without an excerpt: the file's text is not at hand.
    fn from(origin: &Origin) -> Self {
        match origin {
            Origin::Argument(text) => Self::Argument(text.clone()),
            Origin::File { path, line, column } => Self::At(Location {
                file: path.clone(),
                line: *line,
                column: *column,
                excerpt: None,
            }),
        }
    }
}

/// Another place that has to do with a diagnostic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Related {
    /// What is there.
    pub message: String,
    /// Where.
    pub place: Place,
}

/// One problem of a policy. Its [`Display`](fmt::Display) is one line, `file:line:column: error: message`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong; one line, no full stop.
    pub message: String,
    /// What it is about; `None` if that is the command line as a whole.
    pub place: Option<Place>,
    /// Said right beneath the excerpt.
    pub label: Option<String>,
    /// A way out.
    pub hint: Option<String>,
    /// Other places that have to do with it.
    pub related: Vec<Related>,
}

impl Diagnostic {
    /// A diagnostic without label, hint and related places.
    #[must_use]
    pub fn new(severity: Severity, message: impl Into<String>, place: Option<Place>) -> Self {
        Self {
            severity,
            message: message.into(),
            place,
            label: None,
            hint: None,
            related: Vec::new(),
        }
    }

    /// Whether it keeps the policy from being used.
    #[must_use]
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }

    /// The form for people, over several lines: message, place with its line of text, hint. No line end
    /// after the last line. With `colour` it has ANSI escape sequences.
    #[must_use]
    pub fn render(&self, colour: bool) -> String {
        let level = match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let mut group = with_place(
            Group::with_title(level.primary_title(self.message.as_str())),
            self.place.as_ref(),
            self.label.as_deref(),
        );
        let hint = Level::HELP.with_name("hint");
        // Beneath a title alone there is nothing that it could hang on.
        let mut apart = None;
        match &self.hint {
            Some(text) if self.place.is_some() => group = group.element(hint.message(text.as_str())),
            Some(text) => apart = Some(Group::with_title(hint.primary_title(text.as_str()))),
            None => {}
        }
        let mut report = vec![group];
        report.extend(self.related.iter().map(|related| {
            with_place(
                Group::with_title(Level::NOTE.secondary_title(related.message.as_str())),
                Some(&related.place),
                None,
            )
        }));
        let renderer = if colour {
            Renderer::styled()
        } else {
            Renderer::plain()
        };
        let told = renderer.render(&report);
        match apart {
            Some(hint) => format!("{told}\n{}", renderer.render(&[hint])),
            None => told,
        }
    }

    /// Position to sort by: files in the order of their names, and in them lines and columns; then arguments.
    pub(super) fn sort_key(&self) -> (u8, PathBuf, usize, usize) {
        match &self.place {
            Some(Place::File(path)) => (0, path.clone(), 0, 0),
            Some(Place::At(at)) => (0, at.file.clone(), at.line, at.column),
            Some(Place::Argument(_)) => (1, PathBuf::new(), 0, 0),
            None => (2, PathBuf::new(), 0, 0),
        }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{place}: ")?;
        }
        write!(f, "{}: {}", self.severity, self.message)
    }
}

/// Adds what is known of a place to a part of a report.
fn with_place<'a>(group: Group<'a>, place: Option<&'a Place>, label: Option<&'a str>) -> Group<'a> {
    let (source, span, path, line) = match place {
        None => return group,
        Some(Place::File(path)) => {
            return group.element(annotate_snippets::Origin::path(path.display().to_string()));
        }
        Some(Place::Argument(text)) => (text.as_str(), 0..text.len(), None, 1),
        Some(Place::At(at)) => match &at.excerpt {
            Some(excerpt) => (
                excerpt.text.as_str(),
                excerpt.span.clone(),
                Some(at.file.display().to_string()),
                at.line,
            ),
            None => {
                let origin = annotate_snippets::Origin::path(at.file.display().to_string())
                    .line(at.line)
                    .char_column(at.column);
                let group = group.element(origin);
                return match label {
                    Some(label) => group.element(Level::NOTE.message(label)),
                    None => group,
                };
            }
        },
    };
    group.element(
        Snippet::source(source)
            .line_numbering(path.is_some())
            .path(path.unwrap_or_else(|| "command line".to_owned()))
            .line_start(line)
            .annotation(AnnotationKind::Primary.span(span).label(label)),
    )
}

/// The form for people of several diagnostics, a blank line after each.
#[must_use]
pub fn render(diagnostics: &[Diagnostic], colour: bool) -> String {
    diagnostics
        .iter()
        .map(|diagnostic| diagnostic.render(colour) + "\n\n")
        .collect()
}

/// A policy that cannot be used, and everything that is known about why, warnings included.
#[derive(Clone, Debug)]
pub struct PolicyError {
    diagnostics: Vec<Diagnostic>,
}

impl PolicyError {
    pub(super) fn new(diagnostics: Vec<Diagnostic>) -> Self {
        Self { diagnostics }
    }

    pub(super) fn single(diagnostic: Diagnostic) -> Self {
        Self::new(vec![diagnostic])
    }

    /// All problems in the order of the file, those of the command line last.
    #[must_use]
    pub fn diagnostics(&self) -> &[Diagnostic] {
        &self.diagnostics
    }

    /// Whether a file is at fault (exit code 3), rather than only arguments (exit code 2).
    #[must_use]
    pub fn is_about_file(&self) -> bool {
        let in_file = |place: &Place| matches!(place, Place::File(_) | Place::At(_));
        self.diagnostics.iter().filter(|d| d.is_error()).any(|d| {
            d.place.as_ref().is_some_and(in_file) || d.related.iter().any(|related| in_file(&related.place))
        })
    }

    /// The form for people of all problems, a blank line after each. With `colour` it has ANSI escape
    /// sequences.
    #[must_use]
    pub fn render(&self, colour: bool) -> String {
        render(&self.diagnostics, colour)
    }
}

impl fmt::Display for PolicyError {
    /// One line a problem.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, diagnostic) in self.diagnostics.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{diagnostic}")?;
        }
        Ok(())
    }
}

impl error::Error for PolicyError {}
