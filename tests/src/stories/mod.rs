//! Stories from the field: what happens to real applications where IPv6 is broken, before and after, with nothing of them
//! changed. Each is a folder in `examples/` with the application and the policy, a module here that makes the world and runs
//! them in it, and a test; `cargo xtask story` tells it to a person.
//!
//! [`orm`] is about services whose database is given by a URL, [`compose`] about one service of several, [`websocket`] about
//! a client that connects again and again, [`firewall`] about packets that are dropped, and rollouts. [`Screen`] is where
//! they are told, [`Setting`] where they take place.

pub mod compose;
pub mod firewall;
pub mod orm;
pub mod websocket;

mod node;
mod screen;
mod setting;

pub use self::{
    node::packages,
    screen::{Cell, Screen},
    setting::{Governing, Setting},
};
