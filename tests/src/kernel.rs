//! What to expect of the running kernel.

use std::sync::LazyLock;

use enforcer::kernel::Support;
use enforcer_common::errno::{self, Errno};

/// What the running kernel can do, as enforcer itself finds out.
///
/// # Panics
///
/// When it cannot load the smallest program: then no test of a verdict means anything.
#[expect(clippy::expect_used, reason = "failing the test is what it is for")]
pub fn support() -> &'static Support {
    static SUPPORT: LazyLock<Support> =
        LazyLock::new(|| Support::probe().expect("ask the running kernel what it can do"));
    &SUPPORT
}

/// How a connect ends here that a rule with the errno of that name rejects.
///
/// # Panics
///
/// When no rule can have that errno.
#[must_use]
#[expect(clippy::expect_used, reason = "failing the test is what it is for")]
pub fn expected_errno(name: &str) -> Errno {
    support().errno_caller(errno::by_name(name).expect("a rule can choose that errno"))
}

/// Name of the errno that a caller gets here from a connect rejected with that one.
///
/// # Panics
///
/// When no rule can have that errno.
#[must_use]
pub fn caller_sees(rule_errno: &str) -> &'static str {
    expected_errno(rule_errno).name
}
