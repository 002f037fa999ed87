//! [`Kernel`]: the loaded programs and their maps.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use aya::{
    Ebpf, VerifierLogLevel,
    maps::{Map, MapData},
    programs::{CgroupSockAddr, Program},
};
use enforcer_common::{binding::Binding, counters::Counters};

use super::{
    Attachment, BpfLog, BpfLogLevel, Content, DatagramCounts, EventRing, Installed, KernelError, Losses,
    Support, attachment, counters, features::FEATURES, kept, links::Links, objects, policies::Policies,
    side_by_side::side_by_side, undisturbed::undisturbed,
};
use crate::{policy::compiled::CompiledPolicy, targets::Cgroup};

/// Name of the program at `cgroup/connect6`.
pub(crate) const CONNECT6: &str = "enforcer_connect6";
/// Name of the program at `cgroup/getpeername6`.
pub(crate) const GETPEERNAME6: &str = "enforcer_getpeername6";
/// Name of the program at `cgroup/recvmsg6`.
pub(crate) const RECVMSG6: &str = "enforcer_recvmsg6";
/// Name of the program at `cgroup/connect4`.
pub(crate) const CONNECT4: &str = "enforcer_connect4";
/// Name of the program at `cgroup/sendmsg6`.
pub(crate) const SENDMSG6: &str = "enforcer_sendmsg6";
/// Every program, in the order in which they are attached.
pub(crate) const PROGRAMS: [&str; 5] = [GETPEERNAME6, RECVMSG6, CONNECT4, SENDMSG6, CONNECT6];

/// Choices made at load.
#[derive(Clone, Copy, Debug)]
pub struct LoadOptions {
    /// Size of the ring buffer, a power of two and a multiple of the page size.
    pub ring_bytes: u32,
    /// How many targets have counters of their own; indices 1 … `targets` are theirs.
    pub targets: u32,
    /// How much the programs say on their debug channel; `None` takes programs without one.
    pub bpf_log: Option<BpfLogLevel>,
    /// Policy slot that governs whatever the binding says, for an instance that works without a controller.
    pub fixed_policy: Option<u32>,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            ring_bytes: 1 << 20,
            targets: 1,
            bpf_log: None,
            fixed_policy: None,
        }
    }
}

/// The loaded programs with their maps. Dropping it leaves attachments that are still held in place.
pub struct Kernel {
    ebpf: Ebpf,
    policies: Policies,
    bindings: attachment::Bindings,
    links: Links,
    counters: Arc<counters::CounterMap>,
    datagrams: Option<DatagramCounts>,
    ring: Option<EventRing>,
    log: Option<BpfLog>,
}

impl Kernel {
    /// Creates the maps and loads the programs. Nothing is attached yet.
    ///
    /// # Errors
    ///
    /// When the kernel refuses a map or a program.
    pub fn load(support: &Support, options: &LoadOptions) -> Result<Self, KernelError> {
        let mut ebpf = undisturbed(|| loaded(support, options))?;
        Ok(Self {
            policies: Policies::new(&mut ebpf)?,
            bindings: attachment::Bindings::new(&mut ebpf)?,
            links: Links::new(),
            counters: Arc::new(counters::CounterMap::new(&mut ebpf)?),
            datagrams: Some(DatagramCounts::new(&mut ebpf)?),
            ring: Some(EventRing::new(&mut ebpf)?),
            log: options.bpf_log.map(|_| BpfLog::new(&mut ebpf)).transpose()?,
            ebpf,
        })
    }

    /// Makes a policy available to bindings, and says whether it lies in a slot that none can name yet. Equal ones are one,
    /// unless they are for targets (`scope`) whose names have answers of their own. Blocks some milliseconds if it is new.
    ///
    /// # Errors
    ///
    /// When a map cannot be created or filled; then all is as it was.
    pub fn install(&mut self, content: &Content) -> Result<(Installed, bool), KernelError> {
        self.policies.install(content)
    }

    /// Says that no binding names these slots any more; [`give_back`](Self::give_back) frees them.
    pub fn leave(&mut self, slots: &[u32]) {
        self.policies.leave(slots);
    }

    /// Gives back what is in use nowhere any more. Blocks until no program uses it, and some milliseconds for every few
    /// policies. What the kernel refuses is left for the next time.
    pub fn give_back(&mut self) {
        self.policies.give_back();
    }

    /// Replaces the binding of a governed cgroup: no program sees half of it, and none that starts later sees the old one.
    ///
    /// # Errors
    ///
    /// When the kernel cannot allocate it, or nothing is attached to the cgroup; then the old one stays.
    pub fn bind(&mut self, binding: Binding) -> Result<(), KernelError> {
        self.bindings.write(binding)
    }

    /// Puts what is known of times and names now into force: the same policy with other clauses, and its overlay.
    /// Every connect sees both as they were, or both as they are. [`give_back`](Self::give_back) takes back what was there; a
    /// later change of about that size is then written into it and does not wait for the kernel.
    ///
    /// # Errors
    ///
    /// When a map cannot be created or filled; then all stays as it was.
    pub fn replace(
        &mut self,
        slot: u32,
        policy: &Arc<CompiledPolicy>,
        overlay: Arc<CompiledPolicy>,
    ) -> Result<Installed, KernelError> {
        self.policies.replace(slot, policy, overlay)
    }

    /// Governs a cgroup and everything below it, from the moment this returns until the attachment is
    /// dropped. No connect of the cgroup ever meets an attachment without its binding.
    ///
    /// # Errors
    ///
    /// When a program cannot be attached or the binding not be written; then nothing stays attached.
    pub fn attach(&mut self, cgroup: &Cgroup, binding: Binding) -> Result<Attachment, KernelError> {
        attachment::attach(
            &mut self.ebpf,
            &mut self.links,
            &mut self.bindings,
            cgroup,
            binding,
        )
    }

    /// The count of lost events.
    #[must_use]
    pub fn losses(&self) -> Losses {
        Losses(Arc::clone(&self.counters))
    }

    /// The counters of one target, by its index, summed over CPUs.
    ///
    /// # Errors
    ///
    /// When the map cannot be read, or has no such target.
    pub fn counters_of(&self, target: u32) -> Result<Counters, KernelError> {
        self.counters.of(target)
    }

    /// Counters of every target, summed over CPUs, by target index; index 0 counts connects that met a
    /// cgroup without a binding.
    ///
    /// # Errors
    ///
    /// When the map cannot be read.
    pub fn counters(&self) -> Result<Vec<Counters>, KernelError> {
        self.counters.read()
    }

    /// Waits until every program run that has begun is over, on every kernel and however many CPUs there are;
    /// some 15 ms. After detaching, all records are in the ring buffer then and all counters stand.
    ///
    /// # Errors
    ///
    /// When the kernel cannot allocate a small map.
    pub fn wait_for_programs(&mut self) -> Result<(), KernelError> {
        self.policies.wait_for_programs()
    }

    /// The reader of events, once.
    pub const fn take_ring(&mut self) -> Option<EventRing> {
        self.ring.take()
    }

    /// The counts of datagrams, once.
    pub const fn take_datagrams(&mut self) -> Option<DatagramCounts> {
        self.datagrams.take()
    }

    /// The reader of the debug channel, once, where one was asked for.
    pub const fn take_log(&mut self) -> Option<BpfLog> {
        self.log.take()
    }
}

fn loaded(support: &Support, options: &LoadOptions) -> Result<Ebpf, KernelError> {
    let mut ebpf = open(support, options, VerifierLogLevel::default())?;
    load_programs(&mut ebpf)?;
    Ok(ebpf)
}

/// Two threads, because two of the programs take the verifier as long as everything else that enforcer does before it
/// enforces. It walks them side by side: `bpf_check` of kernel/bpf/verifier.c takes its lock only for those who may
/// not use BPF freely.
fn load_programs(ebpf: &mut Ebpf) -> Result<(), KernelError> {
    let mut found: HashMap<_, _> = ebpf.programs_mut().collect();
    let mut unloaded = Vec::new();
    for name in PROGRAMS {
        let program = found.remove(name).ok_or(missing_program(name))?;
        unloaded.push((name, sock_addr(name, program)?));
    }
    // The largest are at its end, and are begun first.
    let unloaded = Mutex::new(unloaded);
    let next = || unloaded.lock().unwrap_or_else(PoisonError::into_inner).pop();
    let load = || {
        while let Some((name, program)) = next() {
            program.load().map_err(|error| KernelError::load(name, error))?;
        }
        Ok(())
    };
    let (here, there) = side_by_side(load, load);
    here.and(there)
}

/// Creates the maps and makes the programs ready to be loaded.
pub(crate) fn open(
    support: &Support,
    options: &LoadOptions,
    log_level: VerifierLogLevel,
) -> Result<Ebpf, KernelError> {
    raise_limits()?;
    let globals: Vec<(&str, u32)> = FEATURES
        .iter()
        .filter_map(|feature| feature.global)
        .map(|global| (global.name(), u32::from(support.has(global))))
        .collect();
    let v6only_mask = u32::from(support.v6only_mask.unwrap_or(0));
    let fixed_policy = options.fixed_policy.unwrap_or(0);
    let bpf_log = options.bpf_log.map(BpfLogLevel::raw);
    let mut loader = kept::take();
    loader.verifier_log_level(log_level);
    for (name, value) in &globals {
        loader.override_global(name, value, true);
    }
    let object = match &bpf_log {
        Some(level) => {
            loader.override_global(aya_log::LEVEL, level, true);
            objects::talking_programs()
        }
        None => objects::programs(),
    };
    loader
        .override_global("V6ONLY_MASK", &v6only_mask, true)
        .override_global("FIXED_POLICY", &fixed_policy, true)
        .map_max_entries("EVENTS", options.ring_bytes)
        .map_max_entries(
            "COUNTERS",
            counters::CounterMap::elements(options.targets.saturating_add(1)),
        )
        .load(object)
        .map_err(|source| KernelError::Object {
            object: "the programs",
            source: Box::new(source),
        })
}

/// A program of the object, by name.
pub(crate) fn program<'e>(
    ebpf: &'e mut Ebpf,
    name: &'static str,
) -> Result<&'e mut CgroupSockAddr, KernelError> {
    let program = ebpf.program_mut(name).ok_or(missing_program(name))?;
    sock_addr(name, program)
}

const fn missing_program(name: &'static str) -> KernelError {
    KernelError::Missing {
        kind: "program",
        name,
    }
}

fn sock_addr<'p>(
    name: &'static str,
    program: &'p mut Program,
) -> Result<&'p mut CgroupSockAddr, KernelError> {
    program.try_into().map_err(|error| KernelError::load(name, error))
}

/// A map of the object, taken out of it, by name.
pub(crate) fn take_map(ebpf: &mut Ebpf, name: &'static str) -> Result<Map, KernelError> {
    ebpf.take_map(name)
        .ok_or(KernelError::Missing { kind: "map", name })
}

/// A map of the object as its type.
pub(crate) fn typed_map<M>(ebpf: &mut Ebpf, name: &'static str) -> Result<M, KernelError>
where
    M: TryFrom<Map, Error = aya::maps::MapError>,
{
    take_map(ebpf, name)?
        .try_into()
        .map_err(|source| KernelError::Map {
            operation: "find the expected type",
            map: name,
            source: Box::new(source),
        })
}

/// The storage map under a type with a plain `u64` key; aya's own knows only the longer key.
pub(crate) fn storage_map(ebpf: &mut Ebpf, name: &'static str) -> Result<MapData, KernelError> {
    match take_map(ebpf, name)? {
        Map::CgroupStorage(data) => Ok(data),
        _ => Err(KernelError::Missing {
            kind: "cgroup storage map",
            name,
        }),
    }
}

/// Raises the limits enforcer runs into: locked memory, by which kernels before 5.11 account BPF maps, and
/// open files, of which every governed cgroup takes one, and up to five more for its links.
pub(crate) fn raise_limits() -> Result<(), KernelError> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let unlimited = Rlimit {
        current: None,
        maximum: None,
    };
    if setrlimit(Resource::Memlock, unlimited).is_err() {
        // Without CAP_SYS_RESOURCE the soft limit still goes up to the hard one. Newer kernels do not need it,
        // so only a load that then fails is an error.
        let hard = getrlimit(Resource::Memlock).maximum;
        let raised = Rlimit {
            current: hard,
            maximum: hard,
        };
        if let Err(error) = setrlimit(Resource::Memlock, raised) {
            ::log::debug!("cannot raise RLIMIT_MEMLOCK: {error}");
        }
    }
    let files = getrlimit(Resource::Nofile);
    if files.current != files.maximum {
        let raised = Rlimit {
            current: files.maximum,
            maximum: files.maximum,
        };
        setrlimit(Resource::Nofile, raised).map_err(|source| KernelError::Limit {
            limit: "RLIMIT_NOFILE",
            source: source.into(),
        })?;
    }
    Ok(())
}
