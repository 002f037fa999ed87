//! Reading events from the ring buffer.
//!
//! The programs submit without a wake-up, because waking the reader is what an event would cost the
//! connecting thread. So the reader polls; nothing here blocks or waits.

use aya::{
    Ebpf,
    maps::{MapData, RingBuf},
};

use super::{KernelError, loader};

/// The reading end of the ring buffer.
pub struct EventRing(RingBuf<MapData>);

impl EventRing {
    pub(crate) fn new(ebpf: &mut Ebpf) -> Result<Self, KernelError> {
        loader::typed_map(ebpf, "EVENTS").map(Self)
    }

    /// Hands at most `at_most` waiting records to `each`, oldest first, as raw bytes, and says how many there
    /// were. The bound keeps a reader that shares its thread responsive under any load.
    pub fn drain(&mut self, at_most: usize, mut each: impl FnMut(&[u8])) -> usize {
        let mut count = 0;
        while count < at_most {
            let Some(record) = self.0.next() else { break };
            each(&record);
            count += 1;
        }
        count
    }
}
