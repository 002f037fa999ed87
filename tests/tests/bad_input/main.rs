//! Every way of holding it wrong ends with the right exit code, a cause and a way out, nothing attached and no panic.
//!
//! One table a file: [`arguments`], policy [`files`], [`targets`], container [`engines`], the [`machine`], and the [`endings`]
//! of what was governed. `--nocapture` prints them, input by input, with the exit code and the first line that is said.
//! Input that is odd but works is elsewhere: a cgroup named twice in `targets.rs`, targets that vanish at every moment in
//! `target_lifetimes.rs`, streams that close and signals at every moment in `endings.rs` and `exec_endings.rs`.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod table;

mod arguments;
mod endings;
mod engines;
mod files;
mod machine;
mod targets;
