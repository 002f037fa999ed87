//! [`Table`]: rows of bad input, each with what must come of it.

use std::{fmt::Write as _, process::Command};

use enforcer_tests::{
    client::Client,
    enforcer::{Enforcer, is_ready},
    process::Finished,
    scene::{A, Scene},
    wait::PATIENCE,
};

/// Longest input and first line that are shown whole, in characters.
const SHOWN: (usize, usize) = (60, 160);

/// What must come of a row: nothing on stdout, nothing governed, no panic, and this.
pub(crate) struct Refusal<'row> {
    /// Exit code.
    pub(crate) code: i32,
    /// Part of what is said about the cause.
    pub(crate) cause: &'row str,
    /// Part of what is said after it: the way out.
    pub(crate) hint: &'row str,
}

/// What must come of something that was governed: no panic, connects as before, and this.
pub(crate) struct Ending<'row> {
    /// Exit code; `None` where a signal ended it.
    pub(crate) code: Option<i32>,
    /// Part of what is said.
    pub(crate) said: &'row str,
}

/// The rows that have been tried. Failures are collected, so that one bad row does not hide the others.
pub(crate) struct Table<'scene> {
    scene: &'scene Scene,
    client: Client,
    rows: usize,
    shown: String,
    wrong: Vec<String>,
}

impl<'scene> Table<'scene> {
    /// An empty table; in the scene, connects succeed as long as nobody is governed.
    pub(crate) fn new(title: &str, scene: &'scene Scene) -> Self {
        let mut client = scene.client().unwrap();
        scene.connects(&mut client, A).unwrap();
        Self {
            scene,
            client,
            rows: 0,
            shown: format!("\n{title}\n"),
            wrong: Vec::new(),
        }
    }

    /// The command that runs enforcer with these arguments, outside of the scene's cgroup.
    pub(crate) fn command<'a>(&self, arguments: impl IntoIterator<Item = &'a &'a str>) -> Command {
        Enforcer::command(&self.scene.outside(), arguments).unwrap()
    }

    /// Runs the command, whose input is called `input`.
    pub(crate) fn row(&mut self, input: &str, command: Command, refusal: &Refusal<'_>) {
        let finished = Enforcer::start(command).unwrap().finish(PATIENCE).unwrap();
        let wrong = faults(&finished, &finished.stderr.join("\n"), refusal);
        // Warnings and notes may come first.
        let mut lines = finished.stderr.iter();
        let first = lines.find(|line| line.contains("error: "));
        self.note(input, &finished, first, wrong);
    }

    /// Takes what came of something that was governed.
    pub(crate) fn ended(&mut self, input: &str, finished: &Finished, ending: &Ending<'_>) {
        let said = finished.stderr.join("\n");
        let mut wrong = Vec::new();
        if finished.status.code() != ending.code {
            wrong.push(format!("{}, not {:?}", finished.status, ending.code));
        }
        if said.contains("panicked") {
            wrong.push("it panicked".to_owned());
        }
        if !said.contains(ending.said) {
            wrong.push(format!("no word of {:?}", ending.said));
        }
        self.note(input, finished, finished.stderr.last(), wrong);
    }

    /// Adds a row with the line to be shown, and whatever is wrong with it.
    fn note(&mut self, input: &str, finished: &Finished, line: Option<&String>, mut wrong: Vec<String>) {
        if let Err(error) = self.scene.connects(&mut self.client, A) {
            wrong.push(format!("something stayed attached: {error:#}"));
        }
        let below = self.scene.cgroups_below().unwrap();
        if !below.is_empty() {
            wrong.push(format!("cgroups stayed: {below:?}"));
        }
        let code = finished.status.code();
        let code = code.map_or_else(|| "-".to_owned(), |code| code.to_string());
        let (input_width, _) = SHOWN;
        writeln!(
            self.shown,
            "  {:<input_width$}  {code:>3}  {}",
            shortened(input, SHOWN.0),
            shortened(line.map_or("", String::as_str), SHOWN.1)
        )
        .unwrap();
        self.rows += 1;
        if !wrong.is_empty() {
            let said = finished.stderr.join("\n");
            self.wrong.push(format!("{input}: {}\n{said}", wrong.join("; ")));
        }
    }

    /// Shows the table.
    ///
    /// # Panics
    ///
    /// With every row that was not refused as it must be.
    #[expect(
        clippy::print_stdout,
        reason = "the test harness shows it where that was asked for"
    )]
    pub(crate) fn finish(self) {
        // In one piece: other tables are being filled at the same time.
        println!("{}", self.shown);
        assert!(self.rows > 0, "an empty table shows nothing");
        assert!(self.wrong.is_empty(), "{}", self.wrong.join("\n\n"));
    }
}

fn faults(finished: &Finished, said: &str, refusal: &Refusal<'_>) -> Vec<String> {
    let mut wrong = Vec::new();
    if finished.status.code() != Some(refusal.code) {
        wrong.push(format!("{}, not {}", finished.status, refusal.code));
    }
    if !finished.stdout.is_empty() {
        wrong.push(format!("on stdout: {:?}", finished.stdout));
    }
    if finished.stderr.iter().any(|line| is_ready(line)) {
        wrong.push("it governed".to_owned());
    }
    if said.contains("panicked") || said.contains("RUST_BACKTRACE") {
        wrong.push("it panicked".to_owned());
    }
    match said.split_once(refusal.cause) {
        None => wrong.push(format!("no word of {:?}", refusal.cause)),
        Some((_, after)) if !after.contains(refusal.hint) => {
            wrong.push(format!("no way out such as {:?}", refusal.hint));
        }
        Some(_) => {}
    }
    wrong
}

fn shortened(text: &str, width: usize) -> String {
    let text = text.replace('\n', "\\n");
    if text.chars().count() <= width {
        return text;
    }
    text.chars().take(width - 1).chain(['…']).collect()
}
