//! aya's loader, kept between the two objects that a start loads: it reads all of the kernel's BTF when it is made, which
//! takes 10 ms.

use std::sync::{Mutex, PoisonError};

use aya::EbpfLoader;

/// Without globals, so that it is good for any object.
static KEPT: Mutex<Option<EbpfLoader<'static>>> = Mutex::new(None);

/// The one that was kept, or a new one. Its verifier log level is anything.
pub(super) fn take<'a>() -> EbpfLoader<'a> {
    KEPT.lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take()
        .unwrap_or_default()
}

/// Keeps one, in which no global was set, for the next object.
pub(super) fn keep(loader: EbpfLoader<'static>) {
    KEPT.lock()
        .unwrap_or_else(PoisonError::into_inner)
        .replace(loader);
}
