//! Lets the wire structures of `enforcer-common`, which knows no aya, be map keys and values.

use zerocopy::{FromBytes, Immutable, IntoBytes};

/// A wire structure as a map key or value.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub(crate) struct Plain<T>(pub(crate) T);

// SAFETY: `FromBytes` says that any bytes are a valid T, `IntoBytes` that T has no padding: what aya asks of
// a type it copies to and from the kernel. `repr(transparent)` gives the wrapper T's layout.
unsafe impl<T: Copy + FromBytes + IntoBytes + Immutable + 'static> aya::Pod for Plain<T> {}
