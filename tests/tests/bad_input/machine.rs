//! Machines on which enforcing is impossible, or not allowed: exit code 4, with what is missing.
//!
//! Such machines are not at hand wherever the tests run, so the program gets their answers to bpf(2) from a seccomp
//! filter; see [`deprive`].

use enforcer_tests::{
    deprive::{Deprivation, deprive},
    scene::Scene,
};

use crate::table::{Refusal, Table};

const REJECT_A: &str = "2001:db8:a::/48,errno=EHOSTDOWN";

/// What the machine is, what the program lacks, what is said about it, and what helps.
const MACHINES: [(&str, Deprivation, &str, &str); 5] = [
    (
        // The errno differs: EPERM, and EINVAL from 7.2 on.
        "no privilege",
        Deprivation::AllCapabilities,
        "the kernel refused to load program probe_connect6: ",
        "hint: enforcer needs root, or CAP_BPF and CAP_NET_ADMIN",
    ),
    (
        "a container whose seccomp profile forbids bpf(2)",
        Deprivation::Bpf(libc::EPERM),
        "Operation not permitted",
        "a seccomp profile that allows bpf(2)",
    ),
    (
        "a kernel without bpf(2)",
        Deprivation::Bpf(libc::ENOSYS),
        "Function not implemented",
        "hint: this kernel is built without bpf(2) (CONFIG_BPF_SYSCALL)",
    ),
    (
        "a kernel without cgroup BPF",
        Deprivation::BpfProgramLoad(libc::EINVAL),
        "the kernel refused to load program",
        "hint: this kernel may be built without cgroup BPF (CONFIG_CGROUP_BPF)",
    ),
    (
        "a verifier that refuses",
        Deprivation::BpfProgramLoad(libc::EACCES),
        "the kernel refused to load program probe_connect6: Permission denied (os error 13)\n",
        "hint: the verifier of this kernel refuses a program that others take",
    ),
];

/// The same where programs can be loaded, and a command gets no cgroup.
const MACHINES_WITHOUT_CGROUPS: [(&str, Deprivation, &str, &str); 2] = [
    (
        "another user with the capabilities",
        Deprivation::Root,
        "Permission denied (os error 13)",
        "hint: run as root (`sudo enforcer exec …`)",
    ),
    (
        "cgroups that are read-only",
        Deprivation::WritableCgroups,
        "Read-only file system (os error 30)",
        "hint: the cgroup file system is mounted read-only, as in most containers",
    ),
];

#[test]
fn machines_that_cannot_enforce_end_with_code_4() {
    let scene = Scene::new("machine").unwrap();
    let mut table = Table::new("machines", &scene);
    let path = scene.path();
    for (what, deprivation, cause, hint) in MACHINES {
        for arguments in [
            &["run", "--cgroup", &path, "--reject", REJECT_A][..],
            &["exec", "--reject", REJECT_A, "--", "echo", "ran"],
        ] {
            let mut command = table.command(arguments);
            deprive(&mut command, deprivation);
            let refusal = Refusal { code: 4, cause, hint };
            table.row(&format!("{}: {what}", arguments[0]), command, &refusal);
        }
    }
    for (what, deprivation, cause, hint) in MACHINES_WITHOUT_CGROUPS {
        let mut command = table.command(&["exec", "--reject", REJECT_A, "--", "echo", "ran"]);
        deprive(&mut command, deprivation);
        let refusal = Refusal { code: 4, cause, hint };
        table.row(&format!("exec: {what}"), command, &refusal);
    }
    table.finish();
}
