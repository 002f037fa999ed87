//! The command line: what can be typed, and its help. Nothing is done here.

mod probing;

use std::{
    ffi::OsString,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use clap::{Args, Parser, Subcommand, ValueEnum};
use enforcer_common::clause::Proto;

use crate::{
    daemon::expiries::STATE_DIRECTORY,
    kernel::BpfLogLevel,
    names::inside,
    policy::argument::{self, RuleArgument},
    probe,
};

pub(crate) use self::probing::{ProbeArgs, ProbeInsideArgs};

/// Rejects or redirects the IPv6 connects of chosen cgroups to prefixes known to be unreachable.
#[derive(Debug, Parser)]
#[command(version, about, max_term_width = 110, after_help = EXIT_CODES, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed while running, or a target that is not there
  2  malformed argument
  3  policy file that cannot be used, or has warnings under --strict
  4  kernel or privileges
  probe: 0 healthy; 10 something is wrong, and a rule helps; 11 no rule does; 1 could not be looked at
  exec: the command's; 128+n if signal n ended it; 126 not executable; 127 not found";

/// How rules are written: `run` and `exec` say the same of it.
macro_rules! rules {
    () => {
        "\
Rules:
  PREFIX is an IPv6 prefix or address, or `internet` for 2000::/3 (the public Internet).
  TO is an IPv4 address or [IPv6], with an optional :PORT; or an IPv4 prefix with as many host bits (low bits are
  kept); or `embedded`, the IPv4 address inside (RFC 6052).
  Options, after the prefix or TO:
    ,port=P or P-P  ,proto=tcp or udp  ,uid=U or U-U    which connects; port and uid may be repeated
    ,errno=NAME  ,transparent=false                     how they end; whether a redirect shows where it went
    ,mode=audit  ,expires=2h or RFC 3339  ,name=NAME    only say so; until when; what events call the rule
  The longest prefix wins; at one prefix, the rule with more conditions. Order never matters.
"
    };
}

const EXEC_HELP: &str = concat!(
    rules!(),
    "
Example:
  enforcer exec --reject internet -- ./my-program"
);

const RUN_HELP: &str = concat!(
    rules!(),
    "
Signals:
  SIGINT, SIGTERM  detach everything, print the account, end
  SIGHUP           with --policy: read the file again and put it into force, without a gap; a file that cannot be used
                   changes nothing (docs/reload.md). Without, and when the terminal hangs up: as SIGTERM

Example:
  enforcer run --policy /etc/enforcer/web.toml"
);

const DOCTOR_HELP: &str = "\
Marks:
  ok       as it should be, or of no consequence
  note     worth knowing
  limits   enforcer does less because of it
  unknown  could not be looked at
  BLOCKS   makes enforcing impossible: exit code 4

It changes nothing, attaches nothing, and sends no packet unless asked to. Without root it says what it could not
look at. Every item is documented in docs/doctor.md.";

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Govern existing workloads until SIGINT or SIGTERM, and stream their connects.
    #[command(after_help = RUN_HELP)]
    Run(RunArgs),
    /// Run a command with its IPv6 connects governed.
    #[command(after_help = EXEC_HELP)]
    Exec(ExecArgs),
    /// Say what this machine offers, and what follows from it.
    #[command(after_help = DOCTOR_HELP)]
    Doctor(DoctorArgs),
    /// Check a policy file: every problem at once, with line, column and a way out. Needs no privilege.
    Check(CheckArgs),
    /// Say what a connect to an address would meet, by which rule, and why not by another. Needs no privilege.
    #[command(after_help = EXPLAIN_HELP)]
    Explain(ExplainArgs),
    /// Say what is wrong with the way to a host, by real connects, and what helps.
    #[command(after_help = probing::HELP)]
    Probe(ProbeArgs),
    /// Look at a host from within a target. Started by enforcer itself.
    #[command(name = probe::inside::VERB, hide = true)]
    ProbeInside(ProbeInsideArgs),
    /// Ask a target's nameservers from within it. Started by enforcer itself.
    #[command(name = inside::VERB, hide = true)]
    AskInside(AskInsideArgs),
}

const EXPLAIN_HELP: &str = "\
Examples:
  enforcer explain [2406:da1a:8e8::1]:5432 --policy web.toml
  enforcer explain 2001:db8::1 --reject internet --allow 2001:db8::/32,port=443

Without a port, a protocol, a user or a process, and where the verdict depends on it, each case is shown.
Rules are written as for `run` and `exec`. docs/explain.md describes the JSON.";

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// The policy file; `-` is standard input.
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Take warnings for errors: exit code 3.
    #[arg(long)]
    pub(crate) strict: bool,
    /// Show what the kernel would be given: each prefix with its clauses in the order they are tried.
    #[arg(long)]
    pub(crate) compiled: bool,
    /// Ask no nameserver for the names in the policy: for machines whose nameservers are not those of the hosts it is for.
    #[arg(long)]
    pub(crate) no_resolve: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    #[arg(
        value_name = "DESTINATION",
        value_parser = Destination::parse,
        help = "Where the connect goes: an address, with a port as [ADDR]:PORT"
    )]
    pub(crate) destination: Destination,
    /// The port, where DESTINATION has none.
    #[arg(long, value_name = "PORT", value_parser = port)]
    pub(crate) port: Option<u16>,
    /// The protocol of the socket (default: each).
    #[arg(long, value_name = "PROTO")]
    pub(crate) proto: Option<ProtoName>,
    /// The target that connects, by its name in the policy file (default: each whose rules differ).
    #[arg(long, value_name = "NAME", requires = "policy", conflicts_with = "groups")]
    pub(crate) target: Option<String>,
    /// The user that connects, by number (default: each whose answer differs).
    #[arg(long, value_name = "UID")]
    pub(crate) uid: Option<u32>,
    /// The process that connects: for rollouts by process, and for its user where --uid does not say.
    #[arg(long, value_name = "PID", value_parser = process_identifier)]
    pub(crate) pid: Option<u32>,
    /// Do not look up the names that rules have.
    #[arg(long)]
    pub(crate) no_lookup: bool,
    /// Nameservers to ask for the names of rules.
    #[arg(long, value_name = "FILE", default_value = "/etc/resolv.conf")]
    pub(crate) resolv_conf: PathBuf,
    /// How the answer is written: human, or json (docs/explain.md).
    #[arg(
        long,
        value_name = "FORMAT",
        default_value = "human",
        hide_possible_values = true
    )]
    pub(crate) output: Output,
    #[command(flatten)]
    pub(crate) rules: RuleArgs,
}

/// What [`inside::Job`] says.
#[derive(Debug, Args)]
pub(crate) struct AskInsideArgs {
    #[arg(long, value_name = "PID")]
    pub(crate) parent: u32,
    #[arg(long, value_name = "PATH", required = true)]
    pub(crate) cgroup: Vec<PathBuf>,
    #[arg(last = true, required = true, value_name = "QUESTION")]
    pub(crate) questions: Vec<inside::Question>,
}

/// Where a connect goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Destination {
    pub(crate) address: IpAddr,
    /// Host byte order.
    pub(crate) port: Option<u16>,
}

impl Destination {
    fn parse(text: &str) -> Result<Self, String> {
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        if let Some(address) =
            bare.map_or_else(|| text.parse().ok(), |bare| bare.parse().ok().map(IpAddr::V6))
        {
            return Ok(Self { address, port: None });
        }
        match text.parse::<SocketAddr>() {
            Ok(SocketAddr::V6(to)) if to.scope_id() != 0 => {}
            Ok(to) => {
                return Ok(Self {
                    address: to.ip(),
                    port: Some(port(&to.port().to_string())?),
                });
            }
            Err(_) => {}
        }
        let hint = if text.contains('%') {
            "leave the zone (`%…`) out: the kernel's hook does not see it"
        } else if text.contains('/') {
            "give one address, not a prefix"
        } else {
            "write `2001:db8::1` or `[2001:db8::1]:443`; names are not looked up"
        };
        Err(format!("not an address\n  hint: {hint}"))
    }
}

fn port(text: &str) -> Result<u16, String> {
    text.parse()
        .ok()
        .filter(|port| *port != 0)
        .ok_or_else(|| "not a port\n  hint: ports are 1 to 65535".to_owned())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProtoName {
    /// TCP, and MPTCP.
    Tcp,
    /// UDP.
    Udp,
}

impl From<ProtoName> for Proto {
    fn from(name: ProtoName) -> Self {
        match name {
            ProtoName::Tcp => Self::Tcp,
            ProtoName::Udp => Self::Udp,
        }
    }
}

#[derive(Clone, Debug, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) targets: TargetArgs,
    #[command(flatten)]
    pub(crate) rules: RuleArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    /// Which connects to stream: those a rule acted on (or would have, in audit mode), all, or none.
    #[arg(long, value_name = "WHICH", default_value = "all")]
    pub(crate) events: Events,
    /// Wait for targets that do not exist yet.
    #[arg(long)]
    pub(crate) wait: bool,
    #[command(flatten)]
    pub(crate) living: LivingArgs,
    #[command(flatten)]
    pub(crate) debug: DebugArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ExecArgs {
    #[command(flatten)]
    pub(crate) rules: RuleArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    /// Which connects to report: those a rule acted on (or would have, in audit mode), all, or none.
    #[arg(long, value_name = "WHICH", default_value = "acted")]
    pub(crate) events: Events,
    /// Write events to this file instead of stderr; stderr then shows errors only.
    #[arg(long, value_name = "FILE")]
    pub(crate) events_to: Option<PathBuf>,
    /// Run the command as this user (enforcer itself needs root).
    #[arg(long, value_name = "NAME")]
    pub(crate) user: Option<String>,
    #[command(flatten)]
    pub(crate) living: LivingArgs,
    #[command(flatten)]
    pub(crate) debug: DebugArgs,
    /// The command and its arguments.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// How the report is written.
    #[arg(long, value_name = "FORMAT", default_value = "human")]
    pub(crate) output: ReportOutput,
    /// Also ask the system's resolver for this network's NAT64 prefix.
    #[arg(long)]
    pub(crate) lookup: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ReportOutput {
    /// Aligned lines, for people.
    Human,
    /// One JSON object (docs/doctor.md).
    Json,
}

/// Workloads. With a policy file they replace its targets.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Targets")]
pub(crate) struct TargetArgs {
    /// A cgroup, as a path relative to the cgroup v2 mount (`/system.slice/web.service`) or in the file system.
    #[arg(long, value_name = "PATH")]
    pub(crate) cgroup: Vec<PathBuf>,
    /// The cgroup a process is in, with everyone else in it.
    #[arg(long, value_name = "PID", value_parser = process_identifier)]
    pub(crate) pid: Vec<u32>,
    /// A running container, by name or identifier: of every Docker and Podman engine that answers at DOCKER_HOST,
    /// CONTAINER_HOST or the usual sockets.
    #[arg(long, value_name = "NAME|ID", value_parser = argument::container)]
    pub(crate) container: Vec<String>,
}

fn process_identifier(text: &str) -> Result<u32, String> {
    text.parse().ok().filter(|pid| *pid != 0).ok_or_else(|| {
        "not a process identifier\n  hint: write its number, as `pgrep` and `systemctl status` show it"
            .to_owned()
    })
}

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Policy")]
pub(crate) struct RuleArgs {
    /// Read targets and rules from this file.
    #[arg(long, value_name = "FILE")]
    pub(crate) policy: Option<PathBuf>,
    /// End connects to this prefix at once, with an errno (default ENETUNREACH).
    #[arg(long, value_name = "PREFIX[,OPTION…]", value_parser = RuleArgument::reject)]
    reject: Vec<RuleArgument>,
    /// Send connects to this prefix to another address, unseen by the application.
    #[arg(long, value_name = "PREFIX=TO[,OPTION…]", value_parser = RuleArgument::redirect)]
    redirect: Vec<RuleArgument>,
    /// Let connects to this prefix go on: an exception to a wider rule.
    #[arg(long, value_name = "PREFIX[,OPTION…]", value_parser = RuleArgument::allow)]
    allow: Vec<RuleArgument>,
    /// Use this group of the policy file's rules (repeatable; default: the group `default`).
    #[arg(long = "use", value_name = "GROUP")]
    pub(crate) groups: Vec<String>,
    /// Do everything but act: report what would have been done.
    #[arg(long)]
    pub(crate) audit: bool,
}

impl RuleArgs {
    /// Every rule of the command line. Their order never matters.
    pub(crate) fn rules(&self) -> Vec<RuleArgument> {
        [&self.reject, &self.redirect, &self.allow]
            .into_iter()
            .flatten()
            .cloned()
            .collect()
    }
}

#[derive(Clone, Debug, Args)]
pub(crate) struct OutputArgs {
    /// How events are written.
    #[arg(long, value_name = "FORMAT", default_value = "human")]
    pub(crate) output: Output,
}

/// What rules with names and with an expiry need.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Names and times")]
pub(crate) struct LivingArgs {
    /// Nameservers to ask for the names of rules.
    #[arg(long, value_name = "FILE", default_value = "/etc/resolv.conf")]
    pub(crate) resolv_conf: PathBuf,
    /// Where it is kept when rules that expire after a duration were first loaded.
    #[arg(long, value_name = "DIR", default_value = STATE_DIRECTORY)]
    pub(crate) state_dir: PathBuf,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct DebugArgs {
    /// Show the kernel programs' own debug messages on stderr, down to this level.
    #[arg(long, value_name = "LEVEL")]
    pub(crate) bpf_log: Option<LogLevel>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// One aligned line a connect, for people.
    Human,
    /// One JSON object a line (docs/events.md).
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Events {
    /// Connects that were rejected or redirected, or would have been in audit mode.
    Acted,
    /// Every governed connect.
    All,
    /// None.
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl From<LogLevel> for BpfLogLevel {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Error => Self::Error,
            LogLevel::Warn => Self::Warn,
            LogLevel::Info => Self::Info,
            LogLevel::Debug => Self::Debug,
            LogLevel::Trace => Self::Trace,
        }
    }
}
