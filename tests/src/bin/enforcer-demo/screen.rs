//! How the demo looks: plain text, bold and dim on a terminal only.

use std::io::{self, Write as _};

use anstream::{AutoStream, stderr, stdout};
use anstyle::{AnsiColor, Style};
use anyhow::Result;

use crate::clients::Outcome;

const HEADING: Style = Style::new().bold();
const EVENT: Style = Style::new().dimmed();
const GOOD: Style = AnsiColor::Green.on_default();
const BAD: Style = AnsiColor::Red.on_default();

/// Wide enough for the name of each client.
const NAME_WIDTH: usize = 15;

/// Wide enough for each outcome that is meant to happen.
const OUTCOME_WIDTH: usize = 34;

/// Standard output. An error means that nobody reads it any more.
pub(crate) struct Screen {
    out: AutoStream<io::Stdout>,
}

impl Screen {
    pub(crate) fn new() -> Self {
        Self { out: stdout() }
    }

    /// A line as it is.
    pub(crate) fn line(&mut self, line: &str) -> Result<()> {
        Ok(writeln!(self.out, "{line}")?)
    }

    /// An empty line.
    pub(crate) fn gap(&mut self) -> Result<()> {
        self.line("")
    }

    /// Begins a part.
    pub(crate) fn heading(&mut self, heading: &str) -> Result<()> {
        self.line(&format!("\n{HEADING}{heading}{HEADING:#}\n"))
    }

    /// A line of text.
    pub(crate) fn text(&mut self, text: &str) -> Result<()> {
        self.line(&format!("  {text}"))
    }

    /// A client begins; the rest of its line comes when it has ended.
    pub(crate) fn begin(&mut self, client: &str) -> Result<()> {
        write!(self.out, "  {client:<NAME_WIDTH$}")?;
        Ok(self.out.flush()?)
    }

    /// The client that began has ended.
    pub(crate) fn end(&mut self, outcome: &Outcome) -> Result<()> {
        let style = style(outcome);
        self.line(&format!("{style}{outcome}{style:#}"))
    }

    /// A line that enforcer wrote.
    pub(crate) fn event(&mut self, line: &str) -> Result<()> {
        self.line(&format!("  {EVENT}| {line}{EVENT:#}"))
    }

    /// The table at the end.
    pub(crate) fn table<'row>(
        &mut self,
        rows: impl Iterator<Item = (&'static str, &'row Outcome, &'row Outcome)>,
    ) -> Result<()> {
        self.text(&format!(
            "{:<NAME_WIDTH$}{:<OUTCOME_WIDTH$}after",
            "client", "before"
        ))?;
        self.text(&"-".repeat(NAME_WIDTH + OUTCOME_WIDTH + OUTCOME_WIDTH / 2 + 3))?;
        for (name, before, after) in rows {
            let (was, is) = (style(before), style(after));
            let before = before.to_string();
            self.text(&format!(
                "{name:<NAME_WIDTH$}{was}{before:<OUTCOME_WIDTH$}{was:#}{is}{after}{is:#}"
            ))?;
        }
        Ok(())
    }

    /// Why the demo ends early, on standard error. If nobody reads that either, nobody is there.
    pub(crate) fn problem(&mut self, problem: &str) {
        let _ = writeln!(stderr(), "\n{problem}");
    }
}

const fn style(outcome: &Outcome) -> Style {
    match outcome {
        Outcome::Connected { .. } => GOOD,
        Outcome::GaveUp(_) | Outcome::Failed(_) => BAD,
    }
}
