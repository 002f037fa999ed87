//! Reading how many datagrams share an event. The programs keep the counts; only the first datagram becomes a record.

use aya::{
    Ebpf,
    maps::{HashMap, MapData},
};
use enforcer_common::record::DatagramKey;

use super::{KernelError, loader, plain::Plain};

/// The counts of datagrams by socket, destination and verdict.
pub struct DatagramCounts(HashMap<MapData, Plain<DatagramKey>, u64>);

impl DatagramCounts {
    pub(crate) fn new(ebpf: &mut Ebpf) -> Result<Self, KernelError> {
        loader::typed_map(ebpf, "DATAGRAMS").map(Self)
    }

    /// How many there were by now; at least the one that became the event. One is also the answer where the programs
    /// had to make room for others.
    #[must_use]
    pub fn sent(&self, key: DatagramKey) -> u64 {
        self.0.get(&Plain(key), 0).map_or(1, |count| count.max(1))
    }
}
