//! From the bytes the kernel leaves in the ring buffer to events that everybody who asked receives.
//!
//! In the order data flows: [`decode`] turns bytes into a typed [`Record`](decode::Record), [`clock`] turns
//! its time into wall-clock time, [`enrich`] turns its numbers into names, [`hub`] hands the
//! [`Event`](event::Event) to every subscriber and keeps account of what was lost. A loop that reads the
//! ring buffer does, for each record:
//!
//! ```
//! use enforcer::events::{clock::Clock, decode::decode, enrich::Catalog, hub::Hub};
//!
//! fn on_record(bytes: &[u8], clock: &mut Clock, catalog: &Catalog, hub: &mut Hub) {
//!     match decode(bytes) {
//!         Ok(record) => {
//!             let time = clock.timestamp(record.time_boot_ns);
//!             hub.publish(catalog.event(&record, time));
//!         }
//!         // A record nobody can read is a lost event like any other.
//!         Err(_) => hub.lost(clock.now(), 1),
//!     }
//! }
//! ```
//!
//! This room neither reads the ring buffer nor prints, and knows no aya.

pub mod decode;

pub mod clock;

pub mod event;

pub mod enrich;

pub mod hub;

#[cfg(test)]
pub(crate) mod fixture;
