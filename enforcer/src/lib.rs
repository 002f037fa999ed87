//! enforcer's controller: everything that runs in user space.
//!
//! Rooms, in the order data flows through them: [`policy`] turns text into a compiled policy, [`targets`]
//! turns names of workloads into cgroups, [`surroundings`] says what the host's own network says about a
//! policy, [`names`] follows names and says what their addresses are, [`kernel`] loads the programs and applies both, [`events`] turns the kernel's records into events,
//! [`sinks`] show them, [`daemon`] keeps it going. [`doctor`] says what a machine offers to all that, [`probe`] what is wrong with the way to a host. [`commands`] puts the rooms together, one verb each.
//!
//! Dependency rule, kept by a test: only [`kernel`] names aya, only [`commands`] uses anyhow, only [`sinks`]
//! and [`commands`] print.

pub mod policy;

pub mod targets;

pub mod surroundings;

pub mod names;

pub mod kernel;

pub mod events;

pub mod sinks;

pub mod daemon;

pub mod doctor;

pub mod probe;

pub mod commands;
