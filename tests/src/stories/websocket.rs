//! A chat bridge, which joins a hundred rooms by a WebSocket each: what it goes through where packets vanish, and where a
//! router says that there is no route, with happy eyeballs and without.

use std::{fmt, process::Command};

use anyhow::{Context as _, Result};
use rustix::process::Signal;
use serde::Deserialize;
use serde_json::Value;

use super::{Cell, Screen, Setting, node, setting};
use crate::{
    lab::{Breakage, NAME, SERVER_IPV4, SERVER_IPV6},
    place::Place,
    process::{Running, Stream, end_with_parent},
    wait::PATIENCE,
};

/// Where the chat listens.
const PORT: u16 = 8080;

/// How many rooms there are.
pub const ROOMS: usize = 100;

/// After how many it gives up with enforcer. It takes milliseconds; this is for machines that are slow.
const CONNECTS_MS: u64 = 60_000;

/// No attempt may take longer, in milliseconds.
pub const GOAL_MS: f64 = 100.0;

/// Where the bridge is, and how it is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Circumstance {
    /// What is broken.
    pub breakage: Breakage,
    /// Whether Node tries several addresses.
    pub happy_eyeballs: bool,
    /// After how many milliseconds the bridge gives an attempt up without enforcer. Its own default is ten seconds.
    timeout_ms: u64,
}

impl Circumstance {
    /// All of them. Without happy eyeballs packets that vanish are timeouts, and what the router says is ENETUNREACH, when
    /// the kernel has asked it a second time, after a second.
    pub const ALL: [Self; 3] = [
        Self {
            breakage: Breakage::BlackHole,
            happy_eyeballs: false,
            timeout_ms: 1_500,
        },
        Self {
            breakage: Breakage::IcmpNoRoute,
            happy_eyeballs: false,
            timeout_ms: 10_000,
        },
        Self {
            breakage: Breakage::BlackHole,
            happy_eyeballs: true,
            timeout_ms: 10_000,
        },
    ];
}

impl fmt::Display for Circumstance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let setting = if self.happy_eyeballs { "on" } else { "off" };
        write!(f, "{}, happy eyeballs {setting}", self.breakage)
    }
}

/// What the bridge went through, by its own account and by the network's.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Account {
    /// Attempts to join a room.
    pub attempts: usize,
    /// Those that ended in ENETUNREACH.
    pub enetunreach: usize,
    /// Those that the bridge gave up.
    pub timeouts: usize,
    /// Those that joined.
    pub successes: usize,
    /// Those that ended otherwise.
    pub others: usize,
    /// How long an attempt took in the mean, in milliseconds.
    pub mean_ms: f64,
    /// How long the slowest took.
    pub slowest_ms: f64,
    /// TCP sockets with which it tried to connect, as the kernel counts them.
    #[serde(default)]
    pub sockets: usize,
    /// Questions to the nameserver.
    #[serde(default)]
    pub questions: usize,
    /// What enforcer saw of it.
    #[serde(default)]
    pub events: Vec<Value>,
}

/// What came of it in a circumstance.
#[derive(Clone, Debug)]
pub struct Chapter {
    /// Where.
    pub circumstance: Circumstance,
    /// Without enforcer.
    pub before: Account,
    /// With it.
    pub after: Account,
    /// Once more, in a single room, when it had ended.
    pub undone: Account,
}

/// The story as it went.
#[derive(Clone, Debug)]
pub struct Told {
    /// One for each circumstance.
    pub chapters: Vec<Chapter>,
}

/// Tells it.
///
/// # Errors
///
/// When the world cannot be made, or the person interrupts.
pub fn tell(screen: &mut Screen) -> Result<Told> {
    let mut chapters = Vec::new();
    for circumstance in Circumstance::ALL {
        chapters.push(chapter(screen, circumstance)?);
    }
    let told = Told { chapters };
    screen.heading("Before and after")?;
    let rows = told.chapters.iter().flat_map(|chapter| {
        [("before", &chapter.before), ("after", &chapter.after)].map(|(when, account)| {
            let mut row = vec![
                Cell::Plain(chapter.circumstance.to_string()),
                Cell::Plain(when.to_owned()),
            ];
            row.extend(account.cells());
            row
        })
    });
    let head = [
        "the bridge",
        "",
        "attempts",
        "ENETUNREACH",
        "timeouts",
        "successes",
        "mean",
        "slowest",
        "sockets",
        "DNS queries",
    ];
    screen.table(&head, &rows.collect::<Vec<_>>())?;
    screen.text("")?;
    screen.text("The questions are the same: enforcer changes what connect(2) answers, and no name.")?;
    Ok(told)
}

fn chapter(screen: &mut Screen, circumstance: Circumstance) -> Result<Chapter> {
    let setting = Setting::new("websocket", circumstance.breakage)?;
    let _chat = chat(&setting)?;
    screen.heading(&circumstance.to_string())?;
    screen.text(&format!(
        "{NAME} is {SERVER_IPV6} ({}) and {SERVER_IPV4}.",
        circumstance.breakage.description()
    ))?;
    screen.text("")?;
    let before = bridge(screen, &setting, circumstance, ROOMS)?;
    screen.text("")?;
    let governing = setting.govern(screen, "websocket/policy.toml")?;
    let with_enforcer = Circumstance {
        timeout_ms: CONNECTS_MS,
        ..circumstance
    };
    let after = bridge(screen, &setting, with_enforcer, ROOMS)?;
    let events = governing.end(screen)?;
    screen.text("")?;
    screen.text("enforcer has ended; one room more:")?;
    let undone = bridge(screen, &setting, circumstance, 1)?;
    let rejected = events
        .iter()
        .filter(|event| event["proto"] == "tcp" && event["verdict"] == "reject");
    Ok(Chapter {
        circumstance,
        before,
        after: Account {
            // Those never became connects in the kernel's count.
            sockets: after.sockets + rejected.count(),
            events,
            ..after
        },
        undone,
    })
}

/// Starts the chat, on IPv4: packets by IPv6 do not get that far.
fn chat(setting: &Setting) -> Result<Running> {
    let mut command = node::command(&Place::outside(setting.lab.server()), "websocket/chat.js")?;
    command.env("LISTEN", format!("{SERVER_IPV4}:{PORT}"));
    end_with_parent(&mut command, Signal::KILL);
    let chat = Running::start(command)?;
    chat.wait_for_line(Stream::Stdout, PATIENCE, |line| line == "listening")?;
    Ok(chat)
}

fn bridge(
    screen: &mut Screen,
    setting: &Setting,
    circumstance: Circumstance,
    rooms: usize,
) -> Result<Account> {
    let url = format!("ws://{NAME}:{PORT}/");
    let mut command: Command = node::command(&setting.inside(), "websocket/bridge.js")?;
    let happy_eyeballs = if circumstance.happy_eyeballs { "on" } else { "off" };
    command
        .env("CHAT_URL", &url)
        .env("ROOMS", rooms.to_string())
        .env("HAPPY_EYEBALLS", happy_eyeballs)
        .env("TIMEOUT_MS", circumstance.timeout_ms.to_string());
    screen.text(&format!(
        "$ CHAT_URL={url} HAPPY_EYEBALLS={happy_eyeballs} node examples/websocket/bridge.js"
    ))?;
    let sockets = setting.lab.client().tcp_connects()?;
    let questions = || {
        let asked = setting.lab.nameserver.asked();
        // enforcer has questions of its own.
        asked.iter().filter(|asked| asked.name == NAME).count()
    };
    let asked = questions();
    let finished = setting::run(screen, command)?;
    screen.said(&finished.stdout)?;
    let log = node::log(&finished)?.pop().context("read what a bridge said")?;
    let account: Account = serde_json::from_value(log).context("understand what a bridge said")?;
    let connects = setting.lab.client().tcp_connects()? - sockets;
    Ok(Account {
        sockets: usize::try_from(connects).context("count sockets")?,
        questions: questions() - asked,
        ..account
    })
}

impl Account {
    fn cells(&self) -> Vec<Cell> {
        let none = |count: usize| Cell::judged(count.to_string(), count == 0);
        vec![
            Cell::Plain(self.attempts.to_string()),
            none(self.enetunreach),
            none(self.timeouts),
            Cell::judged(self.successes.to_string(), self.successes == self.attempts),
            Cell::judged(format!("{:.1} ms", self.mean_ms), self.mean_ms <= GOAL_MS),
            Cell::judged(format!("{:.1} ms", self.slowest_ms), self.slowest_ms <= GOAL_MS),
            Cell::Plain(self.sockets.to_string()),
            Cell::Plain(self.questions.to_string()),
        ]
    }
}

impl Told {
    /// What did not go as it should.
    #[must_use]
    pub fn shortfalls(&self) -> Vec<String> {
        let fell_short = |account: &&Account| {
            account.enetunreach > 0 || account.successes < ROOMS || account.slowest_ms > GOAL_MS
        };
        let chapters = self.chapters.iter();
        chapters
            .map(|chapter| (chapter.circumstance, &chapter.after))
            .filter(|(_, after)| fell_short(after))
            .map(|(circumstance, after)| {
                format!(
                    "{circumstance}: {} ENETUNREACH, {} successes of {ROOMS}, slowest {:.1} ms (goal {GOAL_MS} ms)",
                    after.enetunreach, after.successes, after.slowest_ms
                )
            })
            .collect()
    }
}
