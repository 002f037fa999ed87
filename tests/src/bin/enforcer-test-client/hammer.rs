//! Connecting without a pause, from many threads, and saying of each connect between which phases it was.

use std::{collections::BTreeMap, path::Path, thread};

use enforcer_tests::{
    phase::{LAST, Phase},
    protocol::{Answer, Connect, during},
};

use super::{describe, sockets};

/// Connects until the last phase. How connects ended is counted by the phases right before and right after each.
pub(crate) fn hammer(
    connect: &Connect,
    threads: u32,
    phase: &Path,
) -> Result<BTreeMap<String, u64>, anyhow::Error> {
    let phase = Phase::open(phase)?;
    // Whoever else there is to run goes first: the hammer takes what is left of every processor, and no more.
    rustix::process::nice(19)?;
    let mut outcomes = BTreeMap::new();
    thread::scope(|scope| {
        let running: Vec<_> = (0..threads)
            .map(|_| scope.spawn(|| one(connect, &phase)))
            .collect();
        for (outcome, count) in running.into_iter().flat_map(|thread| {
            thread
                .join()
                .unwrap_or_else(|_| BTreeMap::from([("panic".to_owned(), 1)]))
        }) {
            *outcomes.entry(outcome).or_insert(0) += count;
        }
    });
    Ok(outcomes)
}

fn one(connect: &Connect, phase: &Phase) -> BTreeMap<String, u64> {
    let mut counts: BTreeMap<(u64, u64, String), u64> = BTreeMap::new();
    loop {
        let mut answer = Answer {
            ok: true,
            ..Answer::default()
        };
        let prepared = sockets::prepare(connect);
        let before = phase.get();
        if before == LAST {
            break;
        }
        let done = prepared.and_then(|socket| {
            let done = sockets::connect_and_send(&socket, connect);
            if done.is_ok() {
                describe(&socket, &mut answer);
            }
            done
        });
        let after = phase.get();
        phase.count();
        if let Err(failure) = done {
            failure.tell(&mut answer);
        }
        let outcome = match answer.peer {
            Some(peer) if answer.ok => peer.to_string(),
            _ => answer.outcome(),
        };
        *counts.entry((before, after, outcome)).or_insert(0) += 1;
    }
    counts
        .into_iter()
        .map(|((before, after, outcome), count)| (during(before, after, &outcome), count))
        .collect()
}
