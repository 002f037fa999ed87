//! Where events become lines: for people ([`live`]), for programs ([`json`]), and the [`summary`] at the end; and where
//! what `doctor` found becomes its [`report`], and what `probe` found another ([`mod@probe`]).
//!
//! A sink [`Render`]s items into bytes and knows nothing of files; [`writer`] moves the bytes to a stream on
//! a thread of its own, so that neither the reader of the ring buffer nor any connecting process ever waits
//! for a slow terminal. What the fields mean is written in `docs/events.md`, and a test keeps it true.

use std::io;

use crate::events::hub::Item;

pub mod live;

pub mod json;

pub mod writer;

pub mod summary;

pub mod report;

pub mod probe;

pub(crate) mod text;

/// Makes lines of items.
pub trait Render: Send + 'static {
    /// Appends exactly one line, with the newline that ends it and no other.
    ///
    /// # Errors
    ///
    /// Whatever formatting fails with; writing to memory itself does not.
    fn render(&mut self, item: &Item, block: &mut Vec<u8>) -> io::Result<()>;
}
