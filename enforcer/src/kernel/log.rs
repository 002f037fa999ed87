//! The programs' debug channel (`--bpf-log`).

use aya::Ebpf;
use aya_log::{EbpfLogger, Level};

use super::KernelError;

/// How much the programs say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BpfLogLevel {
    /// What should not happen.
    Error,
    /// What may surprise.
    Warn,
    /// Each verdict.
    Info,
    /// Each step.
    Debug,
    /// Everything.
    Trace,
}

impl BpfLogLevel {
    /// The number the programs compare with; 0 would be silence.
    pub(crate) const fn raw(self) -> u8 {
        (match self {
            Self::Error => Level::Error,
            Self::Warn => Level::Warn,
            Self::Info => Level::Info,
            Self::Debug => Level::Debug,
            Self::Trace => Level::Trace,
        }) as u8
    }
}

/// The reading end of the debug channel.
pub struct BpfLog(EbpfLogger<&'static dyn ::log::Log>);

impl BpfLog {
    pub(crate) fn new(ebpf: &mut Ebpf) -> Result<Self, KernelError> {
        EbpfLogger::init(ebpf).map(Self).map_err(|error| match error {
            aya_log::Error::MapError(source) => KernelError::Map {
                operation: "open the debug channel",
                map: "AYA_LOGS",
                source: Box::new(source),
            },
            _ => KernelError::Missing {
                kind: "map",
                name: "AYA_LOGS",
            },
        })
    }

    /// Hands what the programs said to the process's logger.
    pub fn flush(&mut self) {
        self.0.flush();
    }
}
