//! How often what is repeated is repeated: one table, two columns.
//!
//! Tests read the variable and know a default of their own for `cargo test` by hand; they never know which
//! column they were given.

/// Which column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// For every change: minutes.
    Small,
    /// For a release.
    Full,
}

struct Repetition {
    variable: &'static str,
    small: u32,
    full: u32,
}

const REPETITIONS: &[Repetition] = &[
    // Random policies, each with its random connects, on which decide() and the naive reference must agree.
    Repetition {
        variable: "ENFORCER_PROPTEST_CASES",
        small: 256,
        full: 20_000,
    },
    // Random sequences of calls on a socket, after each of which it shows what a model says.
    Repetition {
        variable: "ENFORCER_SEQUENCES",
        small: 24,
        full: 1_000,
    },
    // Times that enforcer attaches and detaches while connects are made.
    Repetition {
        variable: "ENFORCER_ATTACHES",
        small: 20,
        full: 200,
    },
    // Times that the policy is loaded again while connects are made.
    Repetition {
        variable: "ENFORCER_RELOADS",
        small: 20,
        full: 500,
    },
    // Prefixes that a policy grows by while connects are made.
    Repetition {
        variable: "ENFORCER_GROWTH",
        small: 10_000,
        full: 50_000,
    },
    // Cgroups governed at once.
    Repetition {
        variable: "ENFORCER_CGROUPS",
        small: 64,
        full: 4_096,
    },
    // Prefixes of one policy.
    Repetition {
        variable: "ENFORCER_ENTRIES",
        small: 20_000,
        full: 999_990,
    },
];

/// The variables that tests are given.
pub(crate) fn repetition_variables(extent: Extent) -> impl Iterator<Item = (&'static str, String)> {
    REPETITIONS.iter().map(move |row| {
        let times = match extent {
            Extent::Small => row.small,
            Extent::Full => row.full,
        };
        (row.variable, times.to_string())
    })
}
