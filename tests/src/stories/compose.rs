//! Two services of a compose file that ask one database, on a network without IPv6. Both look its name up by themselves and
//! take IPv6 first; enforcer governs the container of one, and the other is as it was.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{IpAddr, TcpStream},
    path::PathBuf,
    sync::Arc,
};

use anyhow::{Context as _, Result, ensure};
use ipnet::Ipv4Net;
use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Cell, Governing, Screen, node, setting};
use crate::{
    engine::{Engine, SYSTEM},
    lab::{Breakage, Lab, NAMESERVER, SERVER_IPV4, SERVER_IPV6},
    netns::NetnsFixture,
    postgres::{self, Postgres},
    wait::{PATIENCE, eventually},
};

/// The database.
const DATABASE: &str = "db.shop.example";
/// The network of the compose file.
const NETWORK: &str = "172.30.0.0/24";
/// Where the services listen.
const PORT: u16 = 8080;

/// The services, and their containers: the one that enforcer governs, and its neighbour.
pub const SERVICES: [(&str, &str); 2] = [("orders", "shop-orders"), ("reports", "shop-reports")];

/// What a service says when it is asked.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Answer {
    /// Which it is.
    pub service: String,
    /// Whether it could ask its database.
    pub ok: bool,
    /// The address at which its database heard it.
    pub server: Option<IpAddr>,
    /// The address that it believes to be connected to.
    pub remote: Option<IpAddr>,
    /// The code of what went wrong.
    pub code: Option<String>,
}

impl Answer {
    fn cell(&self) -> Cell {
        match (&self.server, &self.code) {
            (Some(server), _) => Cell::Good(format!("asked its database at {server}")),
            (None, code) => Cell::Bad(code.clone().unwrap_or_else(|| "failed".to_owned())),
        }
    }
}

/// The story as it went: what each of [`SERVICES`] said.
#[derive(Clone, Debug)]
pub struct Told {
    /// Without enforcer.
    pub before: [Answer; 2],
    /// With it.
    pub governed: [Answer; 2],
    /// When it had ended.
    pub undone: [Answer; 2],
    /// What enforcer saw.
    pub events: Vec<Value>,
    /// Where the connections came from that PostgreSQL had.
    pub connections: Vec<IpAddr>,
}

/// The services, running. Gone on drop, with their engine.
struct Services {
    engine: Arc<Engine>,
    files: Vec<PathBuf>,
    _folder: TempDir,
}

impl Services {
    /// Starts what the compose file says, but with the machine's Node: no image comes from elsewhere.
    fn up(screen: &mut Screen, engine: Arc<Engine>) -> Result<Self> {
        let folder = tempfile::tempdir().context("make a directory for a compose file")?;
        let packages = node::packages().context(
            "find the packages of Node applications (hint: `cargo xtask setup --for test` brings them)",
        )?;
        let service = json!({
            "image": SYSTEM,
            "volumes": ["/usr:/usr:ro", format!("{}:/node_modules:ro", packages.display())],
        });
        let services: serde_json::Map<_, _> = SERVICES
            .map(|(name, _)| (name.to_owned(), service.clone()))
            .into_iter()
            .collect();
        let offline = folder.path().join("offline.json");
        fs::write(&offline, json!({ "services": services }).to_string())
            .with_context(|| format!("write {}", offline.display()))?;
        let services = Self {
            engine,
            files: vec![setting::example("compose/compose.yaml"), offline],
            _folder: folder,
        };
        screen.text("$ docker-compose --file examples/compose/compose.yaml up --detach")?;
        let up = setting::run(screen, services.command(&["up", "--detach"])?)?;
        ensure!(up.status.success(), "start services: {}", up.stderr.join(" | "));
        screen.said(&up.stderr)?;
        Ok(services)
    }

    fn command(&self, arguments: &[&str]) -> Result<std::process::Command> {
        self.engine.compose("shop", &self.files, arguments)
    }

    /// The address of a container on the network of the compose file.
    fn address(&self, container: &str) -> Result<IpAddr> {
        let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
        let said = self.engine.tell(&["inspect", "--format", format, container])?;
        let address = said.stdout.first().and_then(|line| line.parse().ok());
        address.with_context(|| format!("read the address of container {container}: {said:?}"))
    }
}

/// Tells it.
///
/// # Errors
///
/// When the world cannot be made, or the person interrupts.
pub fn tell(screen: &mut Screen) -> Result<Told> {
    let lab = Lab::new(Breakage::NoAddress)?;
    lab.nameserver.set(
        60,
        [(DATABASE, SERVER_IPV6.into()), (DATABASE, SERVER_IPV4.into())],
    )?;
    lab.route_to_client(NETWORK.parse::<Ipv4Net>().context("understand a network")?)?;
    let postgres = Postgres::start(lab.server(), &[(SERVER_IPV4, postgres::PORT).into()])?;
    let engine = Arc::new(Engine::start_in(lab.client(), NAMESERVER.into())?);

    screen.heading("Two services without IPv6, and a database whose name has an AAAA record first")?;
    screen.text(&format!(
        "{DATABASE} is {SERVER_IPV6} and {SERVER_IPV4}, where PostgreSQL listens. The services look it up by themselves."
    ))?;
    screen.text("")?;
    let services = Services::up(screen, Arc::clone(&engine))?;
    let mut addresses = Vec::new();
    for (_, container) in SERVICES {
        addresses.push(services.address(container)?);
    }
    let ask_both = |screen: &mut Screen| -> Result<[Answer; 2]> {
        let mut both = Vec::new();
        for ((name, _), address) in SERVICES.iter().zip(&addresses) {
            let answer = ask(screen, lab.client(), *address)?;
            screen.outcome(name, &answer.cell())?;
            both.push(answer);
        }
        both.try_into()
            .map_err(|both| anyhow::anyhow!("there are two services: {both:?}"))
    };
    screen.text("")?;
    let before = ask_both(screen)?;

    screen.heading("With enforcer on the container of one")?;
    let host = engine.host();
    let target = ["--container", SERVICES[0].1];
    let place = lab.outside();
    let mut governing = Governing::start(screen, &place, "compose/policy.toml", &target, Some(&host))?;
    let governed = ask_both(screen)?;
    let mut events = governing.events(screen, 1)?;
    events.extend(governing.end(screen)?);
    screen.text("")?;
    screen.text("enforcer has ended:")?;
    let undone = ask_both(screen)?;
    drop(services);
    let told = Told {
        before,
        governed,
        undone,
        events,
        connections: postgres.finish()?,
    };
    screen.heading("Before and after")?;
    let rows = (0..SERVICES.len()).map(|index| {
        let answers = [&told.before, &told.governed, &told.undone];
        let mut row = vec![Cell::Plain(SERVICES[index].0.to_owned())];
        row.extend(answers.map(|answers| answers[index].cell()));
        row
    });
    let head = [
        "service",
        "before",
        "enforcer governs orders",
        "enforcer has ended",
    ];
    screen.table(&head, &rows.collect::<Vec<_>>())?;
    Ok(told)
}

/// Asks the service at that address, as soon as it listens.
fn ask(screen: &Screen, netns: &NetnsFixture, address: IpAddr) -> Result<Answer> {
    let mut last = None;
    let answer = eventually("a service to answer", PATIENCE, || {
        if screen.go_on().is_err() {
            return Some(None);
        }
        match netns.run(|| fetch(address)) {
            Ok(answer) => Some(Some(answer)),
            Err(error) => {
                last = Some(error);
                None
            }
        }
    });
    screen.go_on()?;
    let answer = answer.map_err(|late| last.unwrap_or(late));
    answer?.context("ask a service")
}

fn fetch(address: IpAddr) -> Result<Answer> {
    let mut stream = TcpStream::connect((address, PORT)).context("connect to a service")?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (_, body) = answer
        .split_once("\r\n\r\n")
        .with_context(|| format!("understand {answer:?}"))?;
    serde_json::from_str(body).with_context(|| format!("understand {body:?}"))
}

impl Told {
    /// What did not go as it should.
    #[must_use]
    pub fn shortfalls(&self) -> Vec<String> {
        let all = self.before.iter().chain(&self.governed).chain(&self.undone);
        let wrong = all
            .enumerate()
            // The third is the governed one while it is.
            .filter(|(index, answer)| answer.ok != (*index == 2));
        wrong.map(|(_, answer)| format!("{answer:?}")).collect()
    }
}
