//! The `enforcer` program. Everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    enforcer::commands::main()
}
