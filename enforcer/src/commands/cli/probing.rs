//! The command line of `probe`.

use std::{path::PathBuf, time::Duration};

use clap::Args;

use super::{Output, process_identifier};
use crate::{
    policy::{Selector, argument},
    probe::{Subject, subject::SubjectError},
};

pub(super) const HELP: &str = "\
Targets:
  /PATH or cgroup:PATH    a cgroup, as `run --cgroup` takes it
  NUMBER or pid:NUMBER    the network namespace of that process
  NAME or container:NAME  a running container

Exit codes:
  0 healthy; 10 something is wrong, and a rule helps; 11 something is wrong, and no rule helps; 1 could not be looked at.
  With --all the worst of them, and after --watch that of the last round.

Examples:
  enforcer probe db.example.com:5432
  enforcer probe [2001:db8::1]:443 --from web --output json
  enforcer probe --all hosts.txt

It connects to each address, sends ICMPv6 echoes, and asks nameservers; at ports of TLS and HTTP it says a few words. Its
own connects are not those of the target: a policy in force there does not change what is found. docs/probe.md says what
each check means, and describes the JSON.";

#[derive(Debug, Args)]
pub(crate) struct ProbeArgs {
    /// The host: a name or an address, with a port where it is not 443.
    #[arg(value_name = "HOST[:PORT]", value_parser = subject, required_unless_present = "all", conflicts_with = "all")]
    pub(crate) host: Option<Subject>,
    /// Look from the network namespace of a target, with its nameservers (default: from here).
    #[arg(long, value_name = "TARGET", value_parser = from)]
    pub(crate) from: Option<Selector>,
    /// Look at all hosts in this file, one a line, and show a table; `-` is standard input.
    #[arg(long, value_name = "FILE")]
    pub(crate) all: Option<PathBuf>,
    /// Look again after so long, until SIGINT or SIGTERM.
    #[arg(long, value_name = "DURATION", value_parser = argument::duration)]
    pub(crate) watch: Option<Duration>,
    /// How long a connect, or a handshake, may take.
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = argument::duration)]
    pub(crate) timeout: Duration,
    /// How long everything about one host may take.
    #[arg(long, value_name = "DURATION", default_value = "15s", value_parser = argument::duration)]
    pub(crate) deadline: Duration,
    /// How the findings are written: human, or json (docs/probe.md).
    #[arg(
        long,
        value_name = "FORMAT",
        default_value = "human",
        hide_possible_values = true
    )]
    pub(crate) output: Output,
}

/// What [`crate::probe::inside::Job`] says.
#[derive(Debug, Args)]
pub(crate) struct ProbeInsideArgs {
    #[arg(long, value_name = "PID")]
    pub(crate) parent: u32,
    #[arg(long, value_name = "PATH", required = true)]
    pub(crate) cgroup: Vec<PathBuf>,
    #[arg(long, value_name = "PID")]
    pub(crate) process: Option<u32>,
    #[arg(long, value_name = "MS")]
    pub(crate) each_ms: u64,
    #[arg(long, value_name = "MS")]
    pub(crate) all_ms: u64,
    #[arg(last = true, required = true, value_name = "HOST", value_parser = subject)]
    pub(crate) subject: Subject,
}

fn subject(text: &str) -> Result<Subject, String> {
    text.parse().map_err(|error: SubjectError| {
        let hint = error
            .hint()
            .map(|hint| format!("\n  hint: {hint}"))
            .unwrap_or_default();
        format!("no host can be looked at: {error}{hint}")
    })
}

/// A target by whatever it looks like: a path, a number, or a name.
fn from(text: &str) -> Result<Selector, String> {
    let (kind, word) = match text.split_once(':') {
        Some((kind @ ("cgroup" | "pid" | "container"), word)) => (kind, word),
        _ if text.starts_with('/') => ("cgroup", text),
        _ if text.bytes().all(|byte| byte.is_ascii_digit()) => ("pid", text),
        _ => ("container", text),
    };
    match kind {
        "cgroup" if word.is_empty() => {
            Err("not a path\n  hint: write it like `/system.slice/web.service`".to_owned())
        }
        "cgroup" => Ok(Selector::Cgroup(word.into())),
        "pid" => process_identifier(word).map(Selector::Pid),
        _ => argument::container(word)
            .map(Selector::Container)
            .map_err(|error| error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_told_by_what_it_looks_like() {
        for (text, selector) in [
            (
                "/system.slice/web.service",
                Selector::Cgroup("/system.slice/web.service".into()),
            ),
            ("cgroup:web", Selector::Cgroup("web".into())),
            ("4242", Selector::Pid(4242)),
            ("pid:4242", Selector::Pid(4242)),
            ("web", Selector::Container("web".to_owned())),
            ("container:4242", Selector::Container("4242".to_owned())),
        ] {
            assert_eq!(from(text), Ok(selector), "{text}");
        }
        for text in ["0", "pid:web", "cgroup:", "a b", "container:/web", "node:web"] {
            assert!(from(text).is_err(), "{text}");
        }
    }
}
