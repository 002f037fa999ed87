//! Reading the per-CPU counters.

use std::sync::Arc;

use aya::{
    Ebpf,
    maps::{MapData, PerCpuArray},
};
use enforcer_common::counters::Counters;
use zerocopy::IntoBytes as _;

use super::{KernelError, loader};

/// Name of the map.
const COUNTERS: &str = "COUNTERS";

/// The counters of every target: its words one after the other, each an element.
pub(crate) struct CounterMap(PerCpuArray<MapData, u64>);

/// The count of lost events, for who delivers the others.
pub struct Losses(pub(crate) Arc<CounterMap>);

impl Losses {
    /// Lost events of all targets together.
    ///
    /// # Errors
    ///
    /// When the map cannot be read.
    pub fn lost(&self) -> Result<u64, KernelError> {
        self.0.lost()
    }
}

impl CounterMap {
    pub(crate) fn new(ebpf: &mut Ebpf) -> Result<Self, KernelError> {
        loader::typed_map(ebpf, COUNTERS).map(Self)
    }

    /// How many elements that many targets take.
    pub(crate) const fn elements(targets: u32) -> u32 {
        targets.saturating_mul(Counters::WORDS as u32)
    }

    /// One word, summed over CPUs.
    fn word(&self, index: u32) -> Result<u64, KernelError> {
        let per_cpu = self.0.get(&index, 0).map_err(|source| KernelError::Map {
            operation: "read the counters",
            map: COUNTERS,
            source: Box::new(source),
        })?;
        Ok(per_cpu.iter().fold(0_u64, |sum, word| sum.wrapping_add(*word)))
    }

    /// Lost events of all targets. A fraction of the system calls that reading everything takes: it is asked for while
    /// events wait.
    pub(crate) fn lost(&self) -> Result<u64, KernelError> {
        (Counters::LOST as u32..self.0.len())
            .step_by(Counters::WORDS)
            .try_fold(0_u64, |sum, index| Ok(sum.wrapping_add(self.word(index)?)))
    }

    /// Those of one target, summed over CPUs.
    pub(crate) fn of(&self, target: u32) -> Result<Counters, KernelError> {
        let first = Self::elements(target);
        let mut words = [0; Counters::WORDS];
        for (index, word) in (first..).zip(&mut words) {
            *word = self.word(index)?;
        }
        Ok(counters(&words))
    }

    /// By target index, summed over CPUs.
    pub(crate) fn read(&self) -> Result<Vec<Counters>, KernelError> {
        let words = (0..self.0.len())
            .map(|index| self.word(index))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(words.chunks_exact(Counters::WORDS).map(counters).collect())
    }
}

/// That many words as what they count.
fn counters(words: &[u64]) -> Counters {
    let mut counters = Counters::default();
    counters.as_mut_bytes().copy_from_slice(words.as_bytes());
    counters
}
