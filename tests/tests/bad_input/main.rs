//! Every way of holding it wrong ends with the right exit code, a cause and a way out, nothing attached and no panic.
//!
//! One table a file: [`arguments`], policy [`files`], [`targets`], the [`machine`]. `--nocapture` prints them, input by
//! input, with the exit code and the first line that is said. Input that is odd but works is elsewhere: a cgroup named
//! twice in `targets.rs`, targets that vanish in `target_lifetimes.rs`, streams that close and signals in `endings.rs`
//! and `exec_endings.rs`.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod table;

mod arguments;
mod files;
mod machine;
mod targets;
