//! Malformed arguments: exit code 2, what is wrong with which of them and what to write instead, and nothing attached.

use enforcer_tests::scene::Scene;

use crate::table::{Refusal, Table};

/// The argument that is wrong, what is said about it, and what helps.
type Row = (&'static [&'static str], &'static str, &'static str);

/// Wrong values of rules. Each is the whole of what must be said: a person reads this at night.
const RULES: &[Row] = &[
    (
        &["--reject", "2001:db8::1/129"],
        "`2001:db8::1/129` has no valid prefix length",
        "the length is a number from 0 to 128",
    ),
    (
        &["--reject", "::/-1"],
        "`::/-1` has no valid prefix length",
        "the length is a number from 0 to 128",
    ),
    (
        &["--reject", "10.0.0.0/8"],
        "`10.0.0.0/8` is IPv4",
        "enforcer decides IPv6 connects only; IPv4 ones always go on",
    ),
    (
        &["--reject", "::ffff:10.0.0.0/104"],
        "`::ffff:10.0.0.0/104` is IPv4 written as IPv6",
        "enforcer leaves IPv4 alone",
    ),
    (
        &["--reject", "nonsense"],
        "`nonsense` is not an IPv6 prefix",
        "write a prefix such as `2001:db8::/32`, or `internet` for 2000::/3",
    ),
    (
        &["--reject", ""],
        "`` is not an IPv6 prefix",
        "write a prefix such as `2001:db8::/32`, or `internet` for 2000::/3",
    ),
    (
        &["--reject", "2001:db8::1/32"],
        "`2001:db8::1/32` has bits set after its prefix length",
        "the prefix that contains it is `2001:db8::/32`; or `2001:db8::1/128` for that one address",
    ),
    (
        &["--reject", "::/0,errno=0"],
        "`0` is not an errno that a rule can choose",
        "there are `ENETUNREACH`, `EHOSTUNREACH`, ",
    ),
    (
        &["--reject", "::/0,errno=512"],
        "`512` is not an errno that a rule can choose",
        "there are `ENETUNREACH`, ",
    ),
    (
        &["--reject", "::/0,errno=4096"],
        "`4096` is not an errno that a rule can choose",
        "there are `ENETUNREACH`, ",
    ),
    (
        &["--reject", "::/0,errno=EFOO"],
        "`EFOO` is not an errno that a rule can choose",
        "there are `ENETUNREACH`, ",
    ),
    (
        &["--reject", "::/0,errno=EINPROGRESS"],
        "`EINPROGRESS` is not an errno that a rule can choose",
        "there are `ENETUNREACH`, ",
    ),
    (
        &["--reject", "::/0,errno=111"],
        "`111` is not an errno that a rule can choose",
        "errnos are written by name: `ECONNREFUSED`",
    ),
    (
        &["--reject", "::/0,port=0"],
        "`0` is not a port",
        "ports are 1 to 65535",
    ),
    (
        &["--reject", "::/0,port=65536"],
        "`65536` is not a port",
        "ports are 1 to 65535",
    ),
    (
        &["--reject", "::/0,port=9-3"],
        "the port range `9-3` is empty",
        "did you mean `3-9`?",
    ),
    (
        &["--reject", "::/0,port=-1"],
        "`-1` is not a port",
        "write a port such as `443`",
    ),
    (
        &["--reject", "::/0,port=https"],
        "`https` is not a port",
        "write a port such as `443`, or a range such as `8000-8999`",
    ),
    (
        &["--reject", "::/0,colour=red"],
        "a rule has no option `colour`",
        "there are `errno`, `port`, `proto`, `uid`, `mode`",
    ),
    (
        &["--reject", "::/0,proto=sctp"],
        "`proto` cannot be `sctp`",
        "there are `tcp`, `udp`",
    ),
    (
        &["--reject", "2001:db8::/32,2001:db9::/32"],
        "`2001:db9::/32` is not `KEY=VALUE`",
        "each rule is an option of its own: `--reject A --reject B`",
    ),
    (
        &["--redirect", "2001:db8::/32"],
        "`2001:db8::/32` does not say where to",
        "write `--redirect PREFIX=ADDRESS`",
    ),
    (
        &["--redirect", "2001:db8::/32=example.com"],
        "`example.com` is not an address to redirect to",
        "names are not looked up",
    ),
    (
        &["--redirect", "2001:db8::/32=ff02::1"],
        "`ff02::1` is a multicast address",
        "nothing can be reached there",
    ),
    (
        &["--reject", "2001:db8::/32=192.0.2.1"],
        "--reject takes no address to go to",
        "write `--reject 2001:db8::/32`, or use `--redirect`",
    ),
    (
        &["--reject", "2001:db8::/32", "--allow", "2001:db8::/32"],
        "tie at 2001:db8::/32",
        "that the other has not, or a longer prefix",
    ),
    (
        &["--reject", "::/0", "--use", "unknown"],
        "--use unknown: no rule belongs to that group",
        "--use chooses among a policy file's",
    ),
    (
        &["--output", "xml"],
        "invalid value 'xml' for '--output <FORMAT>'",
        "human, json",
    ),
    (
        &["--events", "some"],
        "invalid value 'some' for '--events <WHICH>'",
        "acted, all, none",
    ),
    (
        &["--bpf-log", "loud"],
        "invalid value 'loud' for '--bpf-log <LEVEL>'",
        "debug",
    ),
    (
        &["--rejct", "::/0"],
        "unexpected argument '--rejct'",
        "'--reject'",
    ),
    (
        &["--reject"],
        "a value is required for '--reject <PREFIX[,OPTION…]>'",
        "'--help'",
    ),
];

/// What only `explain` takes.
const QUESTIONS: &[Row] = &[
    (
        &["example.com", "--reject", "::/0"],
        "invalid value 'example.com' for '<DESTINATION>': not an address",
        "names are not looked up",
    ),
    (
        &["2001:db8::/32", "--reject", "::/0"],
        "not an address",
        "give one address, not a prefix",
    ),
    (
        &["fe80::1%eth0", "--reject", "::/0"],
        "not an address",
        "leave the zone",
    ),
    (
        &["[2001:db8::1]:65536", "--reject", "::/0"],
        "not an address",
        "write `2001:db8::1` or `[2001:db8::1]:443`",
    ),
    (
        &["2001:db8::1", "--port", "0", "--reject", "::/0"],
        "invalid value '0' for '--port <PORT>': not a port",
        "ports are 1 to 65535",
    ),
    (
        &["[2001:db8::1]:0", "--reject", "::/0"],
        "invalid value '[2001:db8::1]:0' for '<DESTINATION>': not a port",
        "ports are 1 to 65535",
    ),
    (
        &["[2001:db8::1]:80", "--port", "80", "--reject", "::/0"],
        "the port is given twice",
        "leave --port out",
    ),
    (
        &["2001:db8::1", "--proto", "sctp", "--reject", "::/0"],
        "invalid value 'sctp' for '--proto <PROTO>'",
        "tcp, udp",
    ),
    (
        &["2001:db8::1"],
        "there are no rules to explain",
        "give a policy file with --policy, or rules",
    ),
    (
        &["2001:db8::1", "--target", "web", "--reject", "::/0"],
        "required arguments were not provided",
        "--policy",
    ),
    (&["--reject", "::/0"], "<DESTINATION>", "'--help'"),
];

/// What only `run` takes.
const TARGETS: &[Row] = &[
    (
        &["--reject", "::/0"],
        "no target to govern",
        "name one with --cgroup PATH, --pid PID or --container NAME",
    ),
    (
        &["--pid", "0", "--reject", "::/0"],
        "invalid value '0' for '--pid <PID>': not a process identifier",
        "write its number",
    ),
    (
        &["--pid", "nginx", "--reject", "::/0"],
        "invalid value 'nginx' for '--pid <PID>': not a process identifier",
        "write its number",
    ),
    (
        &["--cgroup", "", "--reject", "::/0"],
        "a value is required for '--cgroup <PATH>'",
        "'--help'",
    ),
];

#[test]
fn malformed_arguments_end_with_code_2() {
    let scene = Scene::new("arguments").unwrap();
    let path = scene.path();
    // Beside what would be good.
    let target = [
        "run",
        "--cgroup",
        &path,
        "--reject",
        "2001:db8:a::/48,errno=EHOSTDOWN",
    ];
    let mut table = Table::new("malformed arguments", &scene);
    let mut check = |shown: &[&str], arguments: &[&str], cause: &str, hint: &str| {
        let refusal = Refusal { code: 2, cause, hint };
        let shown = shown.iter().map(|word| if word.is_empty() { "''" } else { word });
        let shown: Vec<&str> = shown.collect();
        table.row(&shown.join(" "), table.command(arguments), &refusal);
    };
    for (arguments, cause, hint) in RULES {
        let shown = [&["run"], *arguments].concat();
        check(&shown, &[&target[..], arguments].concat(), cause, hint);
        let exec = [&["exec"], *arguments, &["--", "echo", "ran"]].concat();
        check(&exec, &exec, cause, hint);
    }
    for (arguments, cause, hint) in TARGETS {
        let run = [&["run"], *arguments].concat();
        check(&run, &run, cause, hint);
    }
    for (arguments, cause, hint) in QUESTIONS {
        let explain = [&["explain"], *arguments].concat();
        check(&explain, &explain, cause, hint);
    }
    for (arguments, cause, hint) in [
        (&["exec", "--reject", "::/0"][..], "<COMMAND>", "'--help'"),
        (&["exec", "--reject", "::/0", "--"], "<COMMAND>", "'--help'"),
        (
            &["exec", "--cgroup", "/x", "--", "true"],
            "unexpected argument '--cgroup'",
            "'--help'",
        ),
        (&["sweep"], "unrecognized subcommand 'sweep'", "'--help'"),
        (&["check"], "<FILE>", "'--help'"),
        (
            &["check", "--policy", "x"],
            "unexpected argument '--policy'",
            "'--help'",
        ),
    ] {
        check(arguments, arguments, cause, hint);
    }
    table.finish();
}
