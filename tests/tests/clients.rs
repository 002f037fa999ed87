//! Real clients, one of each family, against every breakage of the lab: what each comes to without enforcer, with a
//! `reject` and with a redirect. How long that takes is the business of `cargo xtask clients`, which runs all of them.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::time::Duration;

use enforcer_tests::{
    clients::{
        crowd::at_once,
        judge::{Cells, hangs, judge},
        measure::{DEADLINE, Measured},
        services::Service,
        table::{self, Client},
        world::{Mode, World},
    },
    lab::Breakage,
    need::{Need, need},
    wait::PATIENCE,
};

/// How many clients run at once: those that wait take nothing but time.
const WIDTH: usize = 12;

/// How long a run may take: a client that may wait for minutes is ended, every other gets there, however slow the machine.
fn deadline(breakage: Breakage, mode: Option<Mode>) -> Duration {
    match mode {
        Some(Mode::Without) if hangs(breakage) => DEADLINE,
        _ => PATIENCE,
    }
}

/// Runs these clients in each mode, and asserts what `docs/clients.md` promises of outcomes.
fn check(world: &World, clients: &[Client]) {
    let breakage = world.breakage();
    let modes = [
        None,
        Some(Mode::Without),
        Some(Mode::Reject),
        Some(Mode::Redirect),
    ];
    // What waits longest comes first.
    let mut runs: Vec<(Option<Mode>, &Client)> = Vec::new();
    for mode in modes {
        runs.extend(clients.iter().map(|client| (mode, client)));
    }
    runs.sort_by_key(|(mode, _)| deadline(breakage, *mode));
    let found = at_once(&runs, WIDTH, |(mode, client)| {
        let deadline = deadline(breakage, *mode);
        match mode {
            Some(mode) => world.measure(client, *mode, deadline),
            None => world.measure_plain(client, deadline),
        }
    })
    .unwrap();
    let of = |mode: Option<Mode>, client: &Client| -> Measured {
        let index = runs
            .iter()
            .position(|run| run.0 == mode && run.1.name == client.name);
        found[index.unwrap()].clone()
    };
    let mut wrong = Vec::new();
    for client in clients {
        let cells = Cells {
            without: of(Some(Mode::Without), client),
            reject: of(Some(Mode::Reject), client),
            redirect: of(Some(Mode::Redirect), client),
            plain: of(None, client),
        };
        wrong.extend(judge(client, breakage, &cells, false));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn check_families(test: &str, breakage: Breakage) {
    if !need(test, Need::Clients) || (breakage == Breakage::Slow && !need(test, Need::Nft)) {
        return;
    }
    let mut clients = table::all();
    clients.retain(|client| client.stands);
    check(&World::new(breakage, &Service::ALL).unwrap().patient(), &clients);
}

macro_rules! breakages {
    ($($test:ident: $breakage:ident;)*) => {
        $(
            #[test]
            fn $test() {
                check_families(stringify!($test), Breakage::$breakage);
            }
        )*

        #[test]
        fn every_breakage_is_tried() {
            assert_eq!([$(Breakage::$breakage),*], Breakage::ALL);
        }
    };
}

breakages! {
    clients_stay_on_healthy_ipv6: Healthy;
    clients_without_an_address_are_where_they_were_and_redirected: NoAddress;
    clients_without_a_route_are_where_they_were_and_redirected: NoRoute;
    clients_in_a_black_hole_are_helped: BlackHole;
    clients_whose_router_has_no_route_are_helped: IcmpNoRoute;
    clients_whose_router_prohibits_it_are_helped: Prohibited;
    clients_that_are_refused_are_helped: Refused;
    clients_whose_syns_are_lost_are_helped: Slow;
    clients_of_a_name_without_ipv4_fail_fast_or_are_redirected: AaaaOnly;
    clients_of_an_address_fail_fast_or_are_redirected: Literal;
}

#[test]
fn clients_in_docker_containers_are_helped() {
    let test = "clients_in_docker_containers_are_helped";
    if !need(test, Need::Clients) || !need(test, Need::Docker) {
        return;
    }
    let mut clients = table::all();
    clients.retain(|client| client.contained);
    let services = [Service::Http, Service::Postgres, Service::WebSocket];
    let world = World::of_containers(Breakage::BlackHole, &services).unwrap();
    check(&world.patient(), &clients);
}
