//! Reading the per-CPU counters.

use aya::{
    Ebpf,
    maps::{MapData, PerCpuArray},
};
use enforcer_common::counters::Counters;

use super::{KernelError, loader, plain::Plain};

/// The counters of every target.
pub(crate) struct CounterMap(PerCpuArray<MapData, Plain<Counters>>);

impl CounterMap {
    pub(crate) fn new(ebpf: &mut Ebpf) -> Result<Self, KernelError> {
        loader::typed_map(ebpf, "COUNTERS").map(Self)
    }

    /// By target index, summed over CPUs.
    pub(crate) fn read(&self) -> Result<Vec<Counters>, KernelError> {
        (0..self.0.len())
            .map(|target| {
                let per_cpu = self.0.get(&target, 0).map_err(|source| KernelError::Map {
                    operation: "read the counters",
                    map: "COUNTERS",
                    source: Box::new(source),
                })?;
                let mut total = Counters::default();
                for Plain(counters) in per_cpu.iter() {
                    total.add(counters);
                }
                Ok(total)
            })
            .collect()
    }
}
