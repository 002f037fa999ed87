//! A service that was given its database by a URL, on TypeORM and then on Sequelize: behind a black hole, and on a machine
//! without an IPv6 route that knows nothing but the database's IPv6 address, by itself or by a name.

use std::{fmt, net::IpAddr};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::{Cell, Governing, Screen, Setting, node, setting};
use crate::{
    lab::{Breakage, SERVER_IPV4, SERVER_IPV6},
    pooler::{self, Pooler},
    postgres::{self, PORT, Postgres},
};

/// The database.
const DATABASE: &str = "db.shop.example";
/// What stands before it, with IPv4.
const POOLER: &str = "pooler.shop.example";

/// How often the service tries. Its own default is three times.
const ATTEMPTS: u64 = 2;

/// How many milliseconds it tries each time where nothing will come of it. Its own default is ten seconds.
const HANGS_MS: u64 = 2_000;

/// How many it may try otherwise. It takes milliseconds; this is for machines that are slow.
const CONNECTS_MS: u64 = 60_000;

/// Which service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Orm {
    /// `service-typeorm.js`
    TypeOrm,
    /// `service-sequelize.js`
    Sequelize,
}

impl Orm {
    /// Both.
    pub const ALL: [Self; 2] = [Self::TypeOrm, Self::Sequelize];

    const fn service(self) -> &'static str {
        match self {
            Self::TypeOrm => "orm/service-typeorm.js",
            Self::Sequelize => "orm/service-sequelize.js",
        }
    }

    /// How many connections it makes to a database that can be reached. Sequelize looks at the server's version by a
    /// connection of its own.
    #[must_use]
    pub const fn connections(self) -> usize {
        match self {
            Self::TypeOrm => 1,
            Self::Sequelize => 2,
        }
    }
}

impl fmt::Display for Orm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TypeOrm => "TypeORM",
            Self::Sequelize => "Sequelize",
        })
    }
}

/// Whether an attempt failed because nothing came of it; the two say it in words of their own.
#[must_use]
pub fn timed_out(failure: &str) -> bool {
    failure.contains("timeout")
}

/// What became of one start of a service.
#[derive(Clone, Debug)]
pub struct Started {
    /// The code or else the message of each attempt that failed.
    pub failures: Vec<String>,
    /// In how many milliseconds it connected, if it did.
    pub connected_ms: Option<f64>,
    /// How many milliseconds it tried, in all.
    pub tried_ms: f64,
    /// What enforcer saw of it.
    pub events: Vec<Value>,
}

impl Started {
    /// Whether it connected at its first attempt.
    #[must_use]
    pub fn at_once(&self) -> bool {
        self.connected_ms.is_some() && self.failures.is_empty()
    }

    fn of(log: &[Value]) -> Result<Self> {
        let ms = |entry: &Value| entry["ms"].as_f64().context("read a time in a log");
        let mut started = Self {
            failures: Vec::new(),
            connected_ms: None,
            tried_ms: 0.0,
            events: Vec::new(),
        };
        for entry in log {
            match entry["event"].as_str() {
                Some("failed") => {
                    let why = entry["code"].as_str().or(entry["message"].as_str());
                    started.failures.push(why.unwrap_or("unknown").to_owned());
                    started.tried_ms += ms(entry)?;
                }
                Some("ready") => {
                    started.connected_ms = Some(ms(entry)?);
                    started.tried_ms += ms(entry)?;
                }
                Some("gave up") => {}
                _ => anyhow::bail!("understand {entry} in a log"),
            }
        }
        Ok(started)
    }

    fn cell(&self) -> Cell {
        match (self.connected_ms, self.failures.last()) {
            (Some(ms), _) => Cell::judged(
                format!("connected in {ms:.0} ms, attempt {}", self.failures.len() + 1),
                self.at_once(),
            ),
            (None, Some(why)) => Cell::Bad(format!(
                "{}, {} attempts of {:.0} ms",
                if timed_out(why) { "timed out" } else { why },
                self.failures.len(),
                self.tried_ms / self.failures.len().max(1) as f64
            )),
            (None, None) => Cell::Bad("nothing".to_owned()),
        }
    }
}

/// A service in a situation, before, with enforcer, and when that had ended.
#[derive(Clone, Debug)]
pub struct Case {
    /// The service.
    pub orm: Orm,
    /// What its URL names: `name`, `literal`.
    pub url: &'static str,
    /// The policy, a file of the example.
    pub policy: &'static str,
    /// Without enforcer.
    pub before: Started,
    /// With it.
    pub after: Started,
}

/// The story as it went.
#[derive(Clone, Debug)]
pub struct Told {
    /// A name with both addresses, behind a black hole.
    pub black_hole: Vec<Case>,
    /// Where the connections came from that PostgreSQL had there, and how many there should be.
    pub black_hole_connections: (Vec<IpAddr>, usize),
    /// No IPv6 route, and nothing but an IPv6 address.
    pub no_route: Vec<Case>,
    /// Where the connections came from that the pooler had there, and how many there should be.
    pub pooler_connections: (Vec<IpAddr>, usize),
    /// Where those came from that PostgreSQL had there.
    pub behind_pooler: Vec<IpAddr>,
    /// A service of each once more, when enforcer had ended.
    pub undone: Vec<Started>,
}

/// Tells it.
///
/// # Errors
///
/// When the world cannot be made, or the person interrupts.
pub fn tell(screen: &mut Screen) -> Result<Told> {
    let mut undone = Vec::new();
    let (black_hole, black_hole_connections) = black_hole(screen, &mut undone)?;
    let (no_route, pooler_connections, behind_pooler) = no_route(screen, &mut undone)?;
    let told = Told {
        black_hole,
        black_hole_connections,
        no_route,
        pooler_connections,
        behind_pooler,
        undone,
    };
    screen.heading("Before and after")?;
    let row = |case: &Case, network: &str| {
        vec![
            Cell::Plain(case.orm.to_string()),
            Cell::Plain(network.to_owned()),
            Cell::Plain(case.url.to_owned()),
            case.before.cell(),
            Cell::Plain(case.policy.to_owned()),
            case.after.cell(),
        ]
    };
    let rows: Vec<_> = told
        .black_hole
        .iter()
        .map(|case| row(case, "black hole"))
        .chain(told.no_route.iter().map(|case| row(case, "no IPv6 route")))
        .collect();
    let head = ["service", "network", "DATABASE_URL", "before", "policy", "after"];
    screen.table(&head, &rows)?;
    Ok(told)
}

/// Starts the service once, and reads its log.
fn start(screen: &mut Screen, setting: &Setting, orm: Orm, url: &str, timeout_ms: u64) -> Result<Started> {
    let mut command = node::command(&setting.inside(), orm.service())?;
    command
        .env("DATABASE_URL", url)
        .env("DATABASE_ATTEMPTS", ATTEMPTS.to_string())
        .env("DATABASE_TIMEOUT_MS", timeout_ms.to_string());
    screen.text(&format!("$ DATABASE_URL={url} node examples/{}", orm.service()))?;
    let finished = setting::run(screen, command)?;
    let log = node::log(&finished)?;
    screen.said(&finished.stdout)?;
    Started::of(&log)
}

/// The same while enforcer runs: with what that saw, an event a connection.
fn governed(
    screen: &mut Screen,
    setting: &Setting,
    governing: &mut Governing,
    orm: Orm,
    url: &str,
) -> Result<Started> {
    let started = start(screen, setting, orm, url, CONNECTS_MS)?;
    ensure!(
        started.connected_ms.is_some(),
        "{orm} did not connect: {started:?}"
    );
    let events = governing.events(screen, orm.connections())?;
    screen.text("")?;
    Ok(Started { events, ..started })
}

type Connections = (Vec<IpAddr>, usize);

fn black_hole(screen: &mut Screen, undone: &mut Vec<Started>) -> Result<(Vec<Case>, Connections)> {
    const POLICY: &str = "black-hole.toml";
    let setting = Setting::new("orm", Breakage::BlackHole)?;
    setting.lab.nameserver.set(
        60,
        [(DATABASE, SERVER_IPV6.into()), (DATABASE, SERVER_IPV4.into())],
    )?;
    let postgres = Postgres::start(setting.lab.server(), &[(SERVER_IPV4, PORT).into()])?;
    let url = postgres::url(DATABASE);

    screen.heading("A name with two addresses, behind a black hole")?;
    screen.text(&format!(
        "{DATABASE} is {SERVER_IPV6}, to which packets vanish, and {SERVER_IPV4}, where PostgreSQL listens."
    ))?;
    screen.text("")?;
    let mut before = Vec::new();
    for orm in Orm::ALL {
        before.push(start(screen, &setting, orm, &url, HANGS_MS)?);
    }
    screen.text("")?;
    let mut governing = setting.govern(screen, &format!("orm/{POLICY}"))?;
    let mut cases = Vec::new();
    for (orm, before) in Orm::ALL.into_iter().zip(before) {
        cases.push(Case {
            orm,
            url: "name",
            policy: POLICY,
            before,
            after: governed(screen, &setting, &mut governing, orm, &url)?,
        });
    }
    let late = governing.end(screen)?;
    ensure!(
        late.is_empty(),
        "more connects than were to be expected: {late:?}"
    );
    screen.text("")?;
    screen.text("enforcer has ended:")?;
    undone.push(start(screen, &setting, Orm::TypeOrm, &url, HANGS_MS)?);
    let expected = Orm::ALL.map(Orm::connections).iter().sum();
    Ok((cases, (postgres.finish()?, expected)))
}

fn no_route(screen: &mut Screen, undone: &mut Vec<Started>) -> Result<(Vec<Case>, Connections, Vec<IpAddr>)> {
    const POLICIES: [&str; 2] = ["to.toml", "to-host.toml"];
    let setting = Setting::new("orm", Breakage::NoRoute)?;
    setting
        .lab
        .nameserver
        .set(60, [(DATABASE, SERVER_IPV6.into()), (POOLER, SERVER_IPV4.into())])?;
    let server = setting.lab.server();
    let postgres = Postgres::start(server, &[(SERVER_IPV4, PORT).into()])?;
    let pooler = Pooler::start(server, SERVER_IPV4.into(), (SERVER_IPV4, PORT).into())?;
    let urls = [
        ("literal", postgres::url(&format!("[{SERVER_IPV6}]"))),
        ("name", postgres::url(DATABASE)),
    ];

    screen.heading("No IPv6 route, and nothing but an IPv6 address")?;
    screen.text(&format!(
        "{DATABASE} is {SERVER_IPV6} and nothing else, and this machine has no route there. A pooler is at"
    ))?;
    screen.text(&format!("{SERVER_IPV4}, port {}: {POOLER}.", pooler::PORT))?;
    screen.text("")?;
    let mut before = Vec::new();
    for (what, url) in &urls {
        for orm in Orm::ALL {
            before.push((*what, url, orm, start(screen, &setting, orm, url, HANGS_MS)?));
        }
    }
    screen.text("")?;
    let mut cases = Vec::new();
    for policy in POLICIES {
        let mut governing = setting.govern(screen, &format!("orm/{policy}"))?;
        for (what, url, orm, before) in &before {
            cases.push(Case {
                orm: *orm,
                url: what,
                policy,
                before: before.clone(),
                after: governed(screen, &setting, &mut governing, *orm, url)?,
            });
        }
        let late = governing.end(screen)?;
        ensure!(
            late.is_empty(),
            "more connects than were to be expected: {late:?}"
        );
        screen.text("")?;
    }
    screen.text("enforcer has ended:")?;
    for (_, url) in &urls {
        undone.push(start(screen, &setting, Orm::TypeOrm, url, HANGS_MS)?);
    }
    let expected = cases.iter().map(|case| case.orm.connections()).sum();
    Ok((cases, (pooler.finish()?, expected), postgres.finish()?))
}

impl Told {
    /// What did not go as it should.
    #[must_use]
    pub fn shortfalls(&self) -> Vec<String> {
        let cases = self.black_hole.iter().chain(&self.no_route);
        let mut shortfalls: Vec<_> = cases
            .filter(|case| case.before.connected_ms.is_some() || !case.after.at_once())
            .map(|case| format!("{} by {}, {}: {case:?}", case.orm, case.url, case.policy))
            .collect();
        for (what, (came, expected)) in [
            ("PostgreSQL", &self.black_hole_connections),
            ("the pooler", &self.pooler_connections),
        ] {
            if came.len() != *expected {
                shortfalls.push(format!("{what} had {} connections, not {expected}", came.len()));
            }
        }
        shortfalls
    }
}
