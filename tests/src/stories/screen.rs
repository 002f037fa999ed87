//! [`Screen`]: where a story is told. Plain text, bold and dim on a terminal only; or to nobody, in a test.

use std::io::{self, Write as _};

use anstream::{AutoStream, stdout};
use anstyle::{AnsiColor, Style};
use anyhow::Result;

use crate::interrupt::Interrupt;

const HEADING: Style = Style::new().bold();
const SAID: Style = Style::new().dimmed();

/// Wide enough for each name in [`Screen::outcome`].
const NAME_WIDTH: usize = 12;

/// Between two columns of a table.
const GAP: usize = 2;

/// What stands in a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cell {
    /// A word or a number.
    Plain(String),
    /// What a person wants to see.
    Good(String),
    /// What a person suffers from.
    Bad(String),
}

impl Cell {
    /// Good if it is, and else bad.
    pub fn judged(text: impl Into<String>, good: bool) -> Self {
        if good {
            Self::Good(text.into())
        } else {
            Self::Bad(text.into())
        }
    }

    fn text(&self) -> &str {
        match self {
            Self::Plain(text) | Self::Good(text) | Self::Bad(text) => text,
        }
    }

    const fn style(&self) -> Style {
        match self {
            Self::Plain(_) => Style::new(),
            Self::Good(_) => AnsiColor::Green.on_default(),
            Self::Bad(_) => AnsiColor::Red.on_default(),
        }
    }
}

/// Where a story is told. An error means that nobody listens any more, or that the person has interrupted.
#[derive(Debug, Default)]
pub struct Screen {
    out: Option<AutoStream<io::Stdout>>,
    interrupt: Option<Interrupt>,
}

impl Screen {
    /// Standard output, until a signal comes.
    #[must_use]
    pub fn terminal(interrupt: Interrupt) -> Self {
        Self {
            out: Some(stdout()),
            interrupt: Some(interrupt),
        }
    }

    /// Nobody listens, and nobody interrupts.
    #[must_use]
    pub fn nobody() -> Self {
        Self::default()
    }

    /// Whether to go on.
    ///
    /// # Errors
    ///
    /// [`Interrupted`](crate::interrupt::Interrupted) once a signal came.
    pub fn go_on(&self) -> Result<()> {
        Ok(self.interrupt.as_ref().map_or(Ok(()), Interrupt::check)?)
    }

    fn line(&mut self, line: &str) -> Result<()> {
        self.go_on()?;
        if let Some(out) = &mut self.out {
            writeln!(out, "{line}")?;
        }
        Ok(())
    }

    /// Begins a part.
    ///
    /// # Errors
    ///
    /// When there is no reason to go on; so of all the others.
    pub fn heading(&mut self, heading: &str) -> Result<()> {
        self.line(&format!("\n{HEADING}{heading}{HEADING:#}\n"))
    }

    /// A line of text; an empty one is a gap.
    ///
    /// # Errors
    ///
    /// As [`heading`](Self::heading).
    pub fn text(&mut self, text: &str) -> Result<()> {
        self.line(format!("  {text}").trim_end())
    }

    /// What came of something, in a line.
    ///
    /// # Errors
    ///
    /// As [`heading`](Self::heading).
    pub fn outcome(&mut self, of: &str, outcome: &Cell) -> Result<()> {
        let style = outcome.style();
        self.text(&format!("{of:<NAME_WIDTH$}{style}{}{style:#}", outcome.text()))
    }

    /// What a program said.
    ///
    /// # Errors
    ///
    /// As [`heading`](Self::heading).
    pub fn said(&mut self, lines: &[String]) -> Result<()> {
        lines
            .iter()
            .try_for_each(|line| self.line(&format!("  {SAID}| {line}{SAID:#}")))
    }

    /// A table, with as much room for each column as it takes.
    ///
    /// # Errors
    ///
    /// As [`heading`](Self::heading).
    pub fn table(&mut self, head: &[&str], rows: &[Vec<Cell>]) -> Result<()> {
        let head: Vec<_> = head.iter().map(|text| Cell::Plain((*text).to_owned())).collect();
        let width = |column: usize| {
            let cells = rows.iter().chain([&head]).filter_map(|row| row.get(column));
            cells.map(|cell| cell.text().chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<_> = (0..head.len()).map(width).collect();
        let ruler: usize = widths.iter().map(|width| width + GAP).sum();
        let shown = |row: &[Cell]| {
            let cells = row.iter().zip(&widths).map(|(cell, width)| {
                let (style, text) = (cell.style(), cell.text());
                format!("{style}{text:<width$}{style:#}")
            });
            cells.collect::<Vec<_>>().join(&" ".repeat(GAP))
        };
        self.text(&shown(&head))?;
        self.text(&"-".repeat(ruler.saturating_sub(GAP)))?;
        rows.iter().try_for_each(|row| self.text(&shown(row)))
    }
}
