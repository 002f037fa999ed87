//! Generations: the pairs of inner maps (blocks and clauses) that heads of policies point at, by number.
//!
//! The kernel lets whoever replaces a map within a map wait until every program that runs is done, some 15 ms. So what
//! changes often is not replaced: the maps of a generation that nothing points at any more stay in their places as a *spare*,
//! and the next change is written into them before anything points at them again. What is left of a change is one store, and
//! the wait comes afterwards, where nobody waits for it.

use std::{
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    sync::Arc,
    thread,
};

use aya::{
    Ebpf,
    maps::{Array, Map, MapData, MapError},
    sys::SyscallError,
};
use enforcer_common::{binding::PolicyHead, blocks::Block, clause::Clause};
use zerocopy::{Immutable, IntoBytes};

use super::{KernelError, loader, plain::Plain, syscall};
use crate::policy::{compiled::CompiledPolicy, tree::Tree};

/// Generations below this number may become spares: that takes a descriptor more for each.
const REFILLABLE: u32 = 1_024;

/// The most spares, and the most lines of one: they are memory that nothing uses.
const MAX_SPARES: usize = 64;
const MAX_SPARE_LINES: usize = 8_192;

/// Lines of the smallest maps that are made to be filled again: what a page holds.
const LEAST_ROOM: usize = 64;

/// Maps that are replaced at the same time, each by a thread of its own: the kernel lets all of them wait for the same.
const AT_ONCE: usize = 32;

/// An inner map: so many cache lines.
#[derive(Debug)]
pub(super) struct Lines {
    map: OwnedFd,
    room: usize,
}

impl Lines {
    /// With room for at least so many. The flags are those of the template that the outer map was created with, or the
    /// kernel refuses the pair.
    fn with_room(room: usize) -> Result<Self, MapError> {
        let count = u32::try_from(room).unwrap_or(u32::MAX).max(1);
        let map = syscall::make_inner_array(size_of::<Block>() as u32, count)
            .map_err(|error| called("bpf_map_create", error))?;
        Ok(Self {
            map,
            room: count as usize,
        })
    }

    /// Writes them from the beginning. Nothing may point at the map.
    fn fill<T: IntoBytes + Immutable>(&self, lines: &[T]) -> Result<(), MapError> {
        const { assert!(size_of::<T>() == size_of::<Block>()) };
        syscall::fill_array(&self.map, size_of::<T>(), lines.as_bytes())
            .map_err(|error| called("bpf_map_update_batch", error))
    }
}

fn called(call: &'static str, io_error: std::io::Error) -> MapError {
    MapError::SyscallError(SyscallError { call, io_error })
}

fn failed(map: &'static str, operation: &'static str, source: MapError) -> KernelError {
    KernelError::Map {
        operation,
        map,
        source: Box::new(source),
    }
}

/// What a generation is to be made of, beside its clauses.
#[derive(Clone, Copy)]
pub(super) enum Prefixes<'of> {
    /// Those of another generation.
    Same(&'of Arc<Lines>),
    /// Those of a policy.
    Of(&'of CompiledPolicy),
}

/// Maps in their places.
#[derive(Debug)]
pub(super) struct Generation {
    number: u32,
    /// Generations whose prefixes are the same share them.
    entries: Arc<Lines>,
    /// Only of those that may become spares.
    clauses: Option<Lines>,
}

impl Generation {
    /// What heads name it by.
    pub(super) const fn number(&self) -> u32 {
        self.number
    }

    /// Its prefixes.
    pub(super) const fn entries(&self) -> &Arc<Lines> {
        &self.entries
    }

    /// Whether it has room for that, and nobody else has the maps that would be written.
    fn fits(&self, tree: Option<&Tree>, prefixes: Prefixes<'_>, clauses: usize) -> bool {
        let has_prefixes = match (prefixes, tree) {
            (Prefixes::Same(entries), _) => Arc::ptr_eq(&self.entries, entries),
            (_, Some(tree)) => {
                Arc::strong_count(&self.entries) == 1 && self.entries.room >= tree.blocks().len()
            }
            (_, None) => false,
        };
        has_prefixes && self.clauses.as_ref().is_some_and(|lines| lines.room >= clauses)
    }
}

/// All of them.
pub(super) struct Generations {
    entries: MapData,
    clauses: MapData,
    heads: Array<MapData, Plain<PolicyHead>>,
    /// How many numbers there are.
    limit: u32,
    /// The lowest number that was never used. 0 is none.
    next: u32,
    /// Numbers that were given back.
    free: Vec<u32>,
    /// Those that nothing points at any more, while programs may still have read what did.
    leaving: Vec<Generation>,
    /// Those that no program can come to, to be filled again. The one that left first is first.
    spares: Vec<Generation>,
}

impl Generations {
    pub(super) fn new(ebpf: &mut Ebpf) -> Result<Self, KernelError> {
        let mut outer = |name| match loader::take_map(ebpf, name)? {
            Map::ArrayOfMaps(data) => Ok(data),
            _ => Err(KernelError::Missing {
                kind: "array of maps",
                name,
            }),
        };
        let (entries, clauses) = (outer("ENTRIES")?, outer("CLAUSES")?);
        let limit = entries
            .info()
            .map_err(|error| failed("ENTRIES", "ask for the size", error))?
            .max_entries();
        Ok(Self {
            entries,
            clauses,
            heads: loader::typed_map(ebpf, "POLICIES")?,
            limit,
            next: 1,
            free: Vec::new(),
            leaving: Vec::new(),
            spares: Vec::new(),
        })
    }

    /// How many slots there are.
    pub(super) fn slots(&self) -> u32 {
        self.heads.len()
    }

    /// Makes a generation. Where it `changes` often it is written into a spare if one has room, which does not wait; if none
    /// has, it is made with room for more.
    pub(super) fn make(
        &mut self,
        prefixes: Prefixes<'_>,
        clauses: &[Clause],
        changes: bool,
    ) -> Result<Generation, KernelError> {
        let tree = match prefixes {
            Prefixes::Same(_) => None,
            Prefixes::Of(policy) => Some(Tree::new(policy.entries())),
        };
        if changes && let Some(spare) = self.take_spare(tree.as_ref(), prefixes, clauses.len()) {
            let filled = fill(&spare.entries, tree.as_ref(), spare.clauses.as_ref(), clauses);
            if let Err(error) = filled {
                self.spares.push(spare);
                return Err(error);
            }
            return Ok(spare);
        }
        let room = |lines: usize| {
            if changes {
                lines.next_power_of_two().max(LEAST_ROOM)
            } else {
                lines
            }
        };
        let entries = match (prefixes, &tree) {
            (Prefixes::Same(entries), _) => Arc::clone(entries),
            (_, tree) => {
                let blocks = tree.as_ref().map_or(0, |tree| tree.blocks().len());
                let lines = Lines::with_room(room(blocks));
                Arc::new(lines.map_err(|error| failed("ENTRIES", "make room for prefixes", error))?)
            }
        };
        let lines = Lines::with_room(room(clauses.len()))
            .map_err(|error| failed("CLAUSES", "make room for clauses", error))?;
        fill(&entries, tree.as_ref(), Some(&lines), clauses)?;
        drop(tree);
        let number = self.number()?;
        let published = self.publish(number, &entries, &lines);
        let generation = Generation {
            number,
            entries,
            clauses: (changes && number < REFILLABLE).then_some(lines),
        };
        match published {
            Ok(()) => Ok(generation),
            Err(error) => {
                // Nothing has ever pointed at it.
                self.empty(vec![generation]);
                Err(error)
            }
        }
    }

    /// The smallest spare that will do.
    fn take_spare(
        &mut self,
        tree: Option<&Tree>,
        prefixes: Prefixes<'_>,
        clauses: usize,
    ) -> Option<Generation> {
        let fitting = self.spares.iter().enumerate();
        let fitting = fitting.filter(|(_, spare)| spare.fits(tree, prefixes, clauses));
        let (at, _) = fitting.min_by_key(|(_, spare)| spare.entries.room)?;
        Some(self.spares.remove(at))
    }

    fn number(&mut self) -> Result<u32, KernelError> {
        if let Some(number) = self.free.pop() {
            return Ok(number);
        }
        if self.next >= self.limit {
            return Err(KernelError::TooMany {
                what: "generations of policies",
                count: self.next as usize,
                limit: self.limit as usize - 1,
            });
        }
        self.next += 1;
        Ok(self.next - 1)
    }

    /// Puts both maps into their places.
    fn publish(&self, number: u32, entries: &Lines, clauses: &Lines) -> Result<(), KernelError> {
        let puts = [
            Put::new(&self.entries, number, entries),
            Put::new(&self.clauses, number, clauses),
        ];
        let names = ["ENTRIES", "CLAUSES"];
        let mut put = put_all(&puts).into_iter().zip(names);
        put.try_for_each(|(put, name)| put.map_err(|error| failed(name, "publish a generation", error)))
    }

    /// One store: no connect sees the policy without its overlay.
    pub(super) fn point(&mut self, slot: u32, head: PolicyHead) -> Result<(), KernelError> {
        self.heads
            .set(slot, Plain(head), 0)
            .map_err(|error| failed("POLICIES", "point a slot at its generation", error))
    }

    /// Waits until every program run that has begun is over. The kernel does so whenever a map within a map is
    /// replaced (`maybe_wait_bpf_programs`, kernel/bpf/syscall.c), for programs run under RCU. Generation 0 is
    /// none, and without clauses stays none.
    pub(super) fn wait_for_programs(&self) -> Result<(), KernelError> {
        Lines::with_room(1)
            .and_then(|nothing| Put::new(&self.entries, 0, &nothing).put())
            .map_err(|error| failed("ENTRIES", "wait for running programs", error))
    }

    /// Says that nothing points any more at that one.
    pub(super) fn leave(&mut self, generation: Generation) {
        self.leaving.push(generation);
    }

    /// Whether there is anything to be reclaimed.
    pub(super) const fn has_left(&self) -> bool {
        !self.leaving.is_empty()
    }

    /// Takes back those that left: every program that could have come to them is done. Up to so many become spares, the
    /// others are emptied. Prefixes that are in force by another generation take no memory of a spare's own.
    pub(super) fn reclaim(&mut self, spares: usize, is_in_force: impl Fn(&Arc<Lines>) -> bool) {
        let all = self.spares.drain(..).chain(self.leaving.drain(..));
        let (mut keeping, mut emptying): (Vec<_>, Vec<_>) = all.partition(|generation| {
            let own = if is_in_force(&generation.entries) {
                0
            } else {
                generation.entries.room
            };
            let lines = generation.clauses.as_ref().map(|clauses| clauses.room + own);
            lines.is_some_and(|lines| lines <= MAX_SPARE_LINES)
        });
        let more = keeping.len().saturating_sub(spares.min(MAX_SPARES));
        emptying.extend(keeping.drain(..more));
        self.spares = keeping;
        self.empty(emptying);
    }

    /// Frees generations that no program can come to, and their memory. What the kernel refuses is left for the next time.
    fn empty(&mut self, generations: Vec<Generation>) {
        if generations.is_empty() {
            return;
        }
        let emptied = match (Lines::with_room(1), Lines::with_room(1)) {
            (Ok(no_entries), Ok(no_clauses)) => {
                let puts: Vec<Put<'_>> = generations
                    .iter()
                    .flat_map(|generation| {
                        [
                            Put::new(&self.entries, generation.number, &no_entries),
                            Put::new(&self.clauses, generation.number, &no_clauses),
                        ]
                    })
                    .collect();
                put_all(&puts)
            }
            (Err(error), _) | (_, Err(error)) => vec![Err(error)],
        };
        let mut emptied = emptied.into_iter();
        for generation in generations {
            match (emptied.next(), emptied.next()) {
                (Some(Ok(())), Some(Ok(()))) => self.free.push(generation.number),
                outcomes => {
                    log::debug!("cannot give back generation {}: {outcomes:?}", generation.number);
                    self.leaving.push(generation);
                }
            }
        }
    }
}

/// Writes what belongs into both maps.
fn fill(
    entries: &Lines,
    tree: Option<&Tree>,
    lines: Option<&Lines>,
    clauses: &[Clause],
) -> Result<(), KernelError> {
    if let Some(tree) = tree {
        entries
            .fill(tree.blocks())
            .map_err(|error| failed("ENTRIES", "fill the prefixes", error))?;
    }
    lines
        .map_or(Ok(()), |lines| lines.fill(clauses))
        .map_err(|error| failed("CLAUSES", "fill the clauses", error))
}

/// A map to be put into a place of another.
#[derive(Clone, Copy)]
struct Put<'maps> {
    outer: BorrowedFd<'maps>,
    number: u32,
    inner: BorrowedFd<'maps>,
}

impl<'maps> Put<'maps> {
    fn new(outer: &'maps MapData, number: u32, inner: &'maps Lines) -> Self {
        Self {
            outer: outer.fd().as_fd(),
            number,
            inner: inner.map.as_fd(),
        }
    }

    /// Waits until every program that runs is done.
    fn put(self) -> Result<(), MapError> {
        syscall::put(&self.outer, self.number, &self.inner)
            .map_err(|error| called("bpf_map_update_elem", error))
    }
}

/// Puts many at the same time, and says what became of each.
fn put_all(puts: &[Put<'_>]) -> Vec<Result<(), MapError>> {
    let together = |puts: &[Put<'_>]| {
        thread::scope(|scope| {
            let beside: Vec<_> = puts
                .iter()
                .map(|put| {
                    let put = *put;
                    thread::Builder::new().spawn_scoped(scope, move || put.put())
                })
                .collect();
            let waited = beside.into_iter().zip(puts).map(|(beside, put)| match beside {
                Ok(beside) => beside
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
                // There was no thread to be had.
                Err(_) => put.put(),
            });
            waited.collect::<Vec<_>>()
        })
    };
    puts.chunks(AT_ONCE).flat_map(together).collect()
}
