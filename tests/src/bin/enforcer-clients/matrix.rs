//! Runs the matrix: cells that merely wait many at once, the others as few as the CPUs bear, and those whose time is in
//! doubt again, alone.

use std::{collections::BTreeMap, thread};

use anyhow::{Context as _, Result};
use enforcer_tests::{
    clients::{
        crowd::at_once,
        judge::{Cells, hangs, judge},
        measure::{DEADLINE, Measured, Outcome},
        services::Service,
        table::Client,
        world::{Mode, World},
    },
    engine::Kind,
    interrupt::Interrupt,
    lab::Breakage,
};

use crate::report::{self, Row};

/// How many cells at once that wait for a timeout. More would start so many programs together that some need their time for
/// that alone.
const WAITING: usize = 8;

/// How often a cell is run whose time is in doubt. The median counts.
const REPEATS: usize = 5;

/// One run of a client: in the workload of that mode, or, with none, to a name that nothing can be wrong with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Cell {
    world: usize,
    client: usize,
    mode: Option<Mode>,
}

/// A lab and the clients that are run in it.
struct Place<'a> {
    world: World,
    clients: Vec<&'a Client>,
    contained: bool,
}

/// Runs every client against every breakage.
pub(crate) fn run(clients: &[Client], breakages: &[Breakage], interrupt: &Interrupt) -> Result<Vec<Row>> {
    let wanted: Vec<_> = Service::ALL
        .into_iter()
        .filter(|service| clients.iter().any(|client| client.service == *service))
        .collect();
    report::say(&format!("making {} labs", breakages.len()));
    let everybody: Vec<_> = clients.iter().collect();
    let contained: Vec<_> = clients.iter().filter(|client| client.contained).collect();
    let mut places = Vec::new();
    for breakage in breakages {
        interrupt.check()?;
        places.push(Place {
            world: World::new(*breakage, &wanted)?,
            clients: everybody.clone(),
            contained: false,
        });
    }
    let mut rows = measured(&places, interrupt)?;
    drop(places);
    if !contained.is_empty() && Kind::Docker.is_there() {
        report::say("the same in containers");
        let mut places = Vec::new();
        for breakage in breakages {
            interrupt.check()?;
            places.push(Place {
                world: World::of_containers(*breakage, &wanted)?,
                clients: contained.clone(),
                contained: true,
            });
        }
        rows.extend(measured(&places, interrupt)?);
    }
    Ok(rows)
}

fn measured(places: &[Place<'_>], interrupt: &Interrupt) -> Result<Vec<Row>> {
    let mut waiting = Vec::new();
    let mut quick = Vec::new();
    for (world, place) in places.iter().enumerate() {
        for client in 0..place.clients.len() {
            for mode in [
                None,
                Some(Mode::Without),
                Some(Mode::Reject),
                Some(Mode::Redirect),
            ] {
                let waits = mode == Some(Mode::Without) && hangs(place.world.breakage());
                let cells = if waits { &mut waiting } else { &mut quick };
                cells.push(Cell { world, client, mode });
            }
        }
    }
    let mut found = run_cells(places, &waiting, WAITING, interrupt)?;
    // Half of the time a program waits for the disk, for its server, or for another program.
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    found.extend(run_cells(places, &quick, 2 * cpus, interrupt)?);
    let mut rows = Vec::new();
    for (world, place) in places.iter().enumerate() {
        for (client, row) in place.clients.iter().enumerate() {
            let mut cells = gathered(&found, world, client)?;
            let breakage = place.world.breakage();
            interrupt.check()?;
            if !judge(row, breakage, &cells, true).is_empty() {
                cells = again(&place.world, row, cells.without)?;
            }
            rows.push(Row {
                client: row.name.to_owned(),
                breakage: breakage.to_string(),
                contained: place.contained,
                cells,
            });
        }
    }
    Ok(rows)
}

/// Runs cells, that many at a time.
fn run_cells(
    places: &[Place<'_>],
    cells: &[Cell],
    width: usize,
    interrupt: &Interrupt,
) -> Result<BTreeMap<Cell, Measured>> {
    report::say(&format!("{} runs, {width} at a time", cells.len()));
    let found = at_once(cells, width, |cell| {
        interrupt.check()?;
        once(places, *cell)
    })?;
    Ok(cells.iter().copied().zip(found).collect())
}

fn once(places: &[Place<'_>], cell: Cell) -> Result<Measured> {
    let place = &places[cell.world];
    measure(&place.world, place.clients[cell.client], cell.mode)
}

fn measure(world: &World, client: &Client, mode: Option<Mode>) -> Result<Measured> {
    match mode {
        Some(mode) => world.measure(client, mode, DEADLINE),
        None => world.measure_plain(client, DEADLINE),
    }
    .with_context(|| format!("run {} against {}", client.name, world.breakage()))
}

fn gathered(found: &BTreeMap<Cell, Measured>, world: usize, client: usize) -> Result<Cells> {
    let of = |mode| {
        let cell = found.get(&Cell { world, client, mode });
        cell.cloned().context("every cell has been run")
    };
    Ok(Cells {
        without: of(Some(Mode::Without))?,
        reject: of(Some(Mode::Reject))?,
        redirect: of(Some(Mode::Redirect))?,
        plain: of(None)?,
    })
}

/// Runs a client's cells again, one at a time and in turn, and keeps the median of each. One that has waited for its
/// deadline would do so again.
fn again(world: &World, client: &Client, without: Measured) -> Result<Cells> {
    let waited = without.outcome == Outcome::Deadline;
    let mut rounds = Vec::new();
    for _ in 0..REPEATS {
        let of = |mode| measure(world, client, mode);
        rounds.push(Cells {
            without: match waited {
                true => without.clone(),
                false => of(Some(Mode::Without))?,
            },
            reject: of(Some(Mode::Reject))?,
            redirect: of(Some(Mode::Redirect))?,
            plain: of(None)?,
        });
    }
    let median = |of: fn(&Cells) -> &Measured| -> Result<Measured> {
        let mut all: Vec<_> = rounds.iter().map(|round| of(round).clone()).collect();
        all.sort_by(|one, other| one.ms.total_cmp(&other.ms));
        all.into_iter().nth(REPEATS / 2).context("there is a median")
    };
    Ok(Cells {
        without: median(|cells| &cells.without)?,
        reject: median(|cells| &cells.reject)?,
        redirect: median(|cells| &cells.redirect)?,
        plain: median(|cells| &cells.plain)?,
    })
}
