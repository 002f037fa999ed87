//! Cgroups governed by the real programs, in this process, by policies that are made for measuring.
//!
//! Prefixes get their rule by turns, and never that of the prefix around them, so that each stays an entry of its own.

use std::{fmt::Write as _, fs, net::Ipv6Addr, path::Path, sync::Arc};

use anyhow::{Context as _, Result, ensure};
use enforcer::{
    daemon::{Governing, Now, Plan, PlannedCgroup, PlannedTarget, StartOptions},
    kernel::attached::{AttachType, programs_at},
    policy::{
        Policy,
        compile::compile,
        compiled::CompiledPolicy,
        live::Live,
        rule::{DEFAULT_GROUP, Rule},
    },
    targets::{Cgroup, Hierarchy},
};
use enforcer_common::{binding::EventsWanted, clause::Action, decide::Mode};
use ipnet::Ipv6Net;

use super::{baselines::Prefixes, program::ObservedProgram};
use crate::{cgroup::CgroupFixture, kernel};

/// How many rules of which kind a policy has.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// These come first.
    pub allowing: usize,
    /// These come last.
    pub rejecting: usize,
}

/// Sixteen rules of which one rejects.
pub const MIXED: Rules = Rules {
    allowing: 15,
    rejecting: 1,
};

/// Sixteen rules that reject.
pub const REJECTING: Rules = Rules {
    allowing: 0,
    rejecting: 16,
};

/// A policy, compiled by enforcer's own compiler from files as people write them.
#[derive(Clone, Debug)]
pub struct BenchPolicy {
    rules: Arc<[Rule]>,
    compiled: Arc<CompiledPolicy>,
}

impl BenchPolicy {
    /// The prefixes, sorted, shared out among so many rules.
    ///
    /// # Errors
    ///
    /// When the policy is refused, or its files cannot be written; and when not every prefix has become an entry.
    pub fn new(prefixes: &[Ipv6Net], rules: Rules) -> Result<Self> {
        let directory = tempfile::tempdir().context("make a directory for a policy")?;
        let path = directory.path().join("policy.toml");
        write_policy(&path, prefixes, rules)?;
        let compiled = Self::of_file(&path)?;
        ensure!(
            compiled.compiled.entries().len() == prefixes.len(),
            "compile {} prefixes: they became {} entries",
            prefixes.len(),
            compiled.compiled.entries().len()
        );
        Ok(compiled)
    }

    /// The policy of a file.
    ///
    /// # Errors
    ///
    /// When it is refused.
    pub fn of_file(path: &Path) -> Result<Self> {
        let (policy, _) = Policy::load(Some(path), Vec::new())
            .with_context(|| format!("load the policy {}", path.display()))?;
        let groups = [DEFAULT_GROUP.to_owned()];
        let compiled = compile(&policy.rules, &groups, &Live::default())
            .map_err(|diagnostics| anyhow::anyhow!("{diagnostics:?}"))
            .with_context(|| format!("compile the policy {}", path.display()))?;
        Ok(Self {
            rules: policy.rules.into(),
            compiled: Arc::new(compiled),
        })
    }

    /// The same prefixes for a baseline, with whether they reject.
    #[must_use]
    pub fn prefixes(&self) -> Prefixes {
        let entries = self.compiled.entries().iter();
        entries
            .map(|entry| (entry.prefix, self.rejects_at(entry.head)))
            .collect()
    }

    /// Whether a connect to that address is rejected.
    #[must_use]
    pub fn rejects(&self, address: Ipv6Addr) -> bool {
        let entry = self.compiled.entry_for(address);
        entry.is_some_and(|entry| self.rejects_at(entry.head))
    }

    fn rejects_at(&self, head: u32) -> bool {
        let clause = self.compiled.list(head).next();
        clause.is_some_and(|clause| clause.action == Action::Reject as u8)
    }

    /// Its rules.
    #[must_use]
    pub const fn rules(&self) -> &Arc<[Rule]> {
        &self.rules
    }

    /// As enforcer compiled it.
    #[must_use]
    pub const fn compiled(&self) -> &Arc<CompiledPolicy> {
        &self.compiled
    }
}

/// Writes a policy file with those prefixes and, beside it, the files it names.
///
/// # Errors
///
/// When they cannot be written.
pub fn write_policy(path: &Path, prefixes: &[Ipv6Net], rules: Rules) -> Result<()> {
    let directory = path.parent().context("find the directory of a policy")?;
    let count = rules.allowing + rules.rejecting;
    let mut lists = vec![String::new(); count];
    for (prefix, rule) in shared_out(prefixes, count) {
        writeln!(lists[rule], "{prefix}")?;
    }
    let mut text = String::from("version = 1\n");
    for (rule, list) in lists.iter().enumerate().filter(|(_, list)| !list.is_empty()) {
        let file = format!("prefixes-{rule}.txt");
        let action = if rule < rules.allowing { "allow" } else { "reject" };
        write!(
            text,
            "\n[[rule]]\nname = \"rule-{rule}\"\nprefixes_file = \"{file}\"\naction = \"{action}\"\n"
        )?;
        let to = directory.join(file);
        fs::write(&to, list).with_context(|| format!("write {}", to.display()))?;
    }
    fs::write(path, text).with_context(|| format!("write {}", path.display()))
}

/// Each prefix with the number of its rule: by turns, but never that of the prefix around it.
fn shared_out(prefixes: &[Ipv6Net], rules: usize) -> Vec<(Ipv6Net, usize)> {
    let mut around: Vec<(Ipv6Net, usize)> = Vec::new();
    let numbered = prefixes.iter().enumerate();
    numbered
        .map(|(index, prefix)| {
            while around.last().is_some_and(|(outer, _)| !outer.contains(prefix)) {
                around.pop();
            }
            // The last first, so that a single prefix is rejected.
            let mut rule = rules - 1 - index % rules;
            if around.last().is_some_and(|(_, outer)| *outer == rule) {
                rule = (rule + 1) % rules;
            }
            around.push((*prefix, rule));
            (*prefix, rule)
        })
        .collect()
}

/// Governs cgroups by a policy, one target each. Dropping what comes back ends it.
///
/// # Errors
///
/// When the kernel refuses any part.
pub fn govern(cgroups: &[(&CgroupFixture, &BenchPolicy)], events: EventsWanted) -> Result<Governing> {
    Ok(Governing::start(
        kernel::support(),
        &plan(cgroups)?,
        &options(cgroups, events),
        Now::default(),
    )?)
}

fn plan(cgroups: &[(&CgroupFixture, &BenchPolicy)]) -> Result<Plan> {
    let (Some((_, first)), Ok(hierarchy)) = (cgroups.first(), Hierarchy::find()) else {
        anyhow::bail!("govern cgroups: there is none");
    };
    let targets = cgroups.iter().enumerate().map(|(number, (fixture, policy))| {
        let path = fixture.relative_path();
        let cgroup = Cgroup::open(&hierarchy, Path::new(&path))?;
        Ok(PlannedTarget {
            name: path,
            number,
            cgroups: vec![PlannedCgroup {
                cgroup: Arc::new(cgroup),
                has_outer: false,
                has_inner: false,
            }],
            policy: Arc::clone(&policy.compiled),
            groups: vec![DEFAULT_GROUP.to_owned()],
        })
    });
    Ok(Plan {
        targets: targets.collect::<Result<_>>()?,
        rules: Arc::clone(&first.rules),
    })
}

const fn options(cgroups: &[(&CgroupFixture, &BenchPolicy)], events: EventsWanted) -> StartOptions {
    StartOptions {
        mode: Mode::Enforce,
        events,
        bpf_log: None,
        ring_bytes: 1 << 20,
        targets: cgroups.len(),
    }
}

/// Reloads: governs these instead, and frees what was.
///
/// # Errors
///
/// When the kernel refuses any part.
pub fn reload(
    governing: &mut Governing,
    cgroups: &[(&CgroupFixture, &BenchPolicy)],
    events: EventsWanted,
) -> Result<()> {
    let plan = plan(cgroups)?;
    let options = options(cgroups, events);
    waiting(async {
        governing.apply(plan, options, Now::default()).await?;
        governing.tidy().await;
        Ok(())
    })
}

/// Puts what is known of times and names into force, and waits until that is done.
///
/// # Errors
///
/// When the kernel refuses any part.
pub fn follow(governing: &mut Governing, now: Now) -> Result<()> {
    waiting(async { Ok(governing.follow(now).await?) })
}

/// Frees what is in force no more, as happens after each change.
///
/// # Errors
///
/// When there is no runtime to be had.
pub fn tidy(governing: &mut Governing) -> Result<()> {
    waiting(async {
        governing.tidy().await;
        Ok(())
    })
}

fn waiting(doing: impl Future<Output = Result<()>>) -> Result<()> {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .context("make a runtime")?
        .block_on(doing)
}

/// The one program that is at a cgroup for that.
///
/// # Errors
///
/// When there is none, or more than one.
pub fn program_at(cgroup: &CgroupFixture, at: AttachType) -> Result<ObservedProgram> {
    let directory =
        fs::File::open(cgroup.path()).with_context(|| format!("open cgroup {}", cgroup.path().display()))?;
    let found = programs_at(&directory, at)
        .with_context(|| format!("ask which programs are at {}", cgroup.path().display()))?;
    let [id] = found.programs[..] else {
        anyhow::bail!(
            "find enforcer's program for {} at {}: {} programs are there",
            at.name(),
            cgroup.path().display(),
            found.programs.len()
        );
    };
    ObservedProgram::of_id(id)
}

/// The one program that is at a cgroup for connects.
///
/// # Errors
///
/// As [`program_at`].
pub fn connect6_at(cgroup: &CgroupFixture) -> Result<ObservedProgram> {
    program_at(cgroup, AttachType::Connect6)
}
