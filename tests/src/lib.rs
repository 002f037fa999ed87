//! Fixtures for tests that load the real programs and make real connects, and for the demo.
//!
//! Everything a fixture makes is its own, has a unique name or none, and is gone when the fixture is dropped,
//! also when a test fails. Nothing that was there before is touched. Errors name the operation and its
//! subject.
//!
//! Reading order: [`cgroup`] and [`netns`] are the two places a process can be put, [`names`] what it believes
//! about names, [`place`] all three together. [`client`] is a process in a place that makes the connects it is
//! told to, [`server`] what it connects to, [`enforcer`] the real binary, [`engine`] a container engine with
//! containers, [`postgres`] a database server and [`pooler`] what stands before one. [`scene`] is a workload with something to connect to, where most verdicts are tested; [`lab`] is a network
//! whose IPv6 is broken, [`named`] a workload whose policy is about names, [`policy`] a policy file that changes. [`foreign`] is a program that somebody else has attached, [`deprive`] takes from a program what
//! it needs, [`refuse`] lets one of its changes to the kernel fail, [`privileges`] starts it with fewer capabilities. [`verdicts`] is the verdict table, [`kernel`] what to
//! expect of the running kernel, [`records`] what was measured on each. [`mod@bench`] is what is measured with, [`mod@clients`] what people
//! connect with, [`stories`] real applications in a [`lab`], before and after. [`need`] is the only way to skip a test,
//! [`wait`] the only way to wait, [`phase`] a clock for what processes do, [`interrupt`] the signals that end a program in order.
//!
//! This library does not know aya, and loads nothing but enforcer's own probes.

pub mod cgroup;
pub mod netns;

pub mod names;
pub mod place;

pub mod process;

pub mod client;
pub mod protocol;

pub mod deprive;
pub mod enforcer;
pub mod refuse;
pub mod server;

pub mod engine;
pub mod pooler;
pub mod postgres;

pub mod scene;

pub mod lab;
pub mod named;
pub mod policy;

pub mod bench;
pub mod clients;
pub mod foreign;
pub mod interrupt;
pub mod kernel;
pub mod need;
pub mod phase;
pub mod privileges;
pub mod records;
pub mod stories;
pub mod verdicts;
pub mod wait;

mod unique;
