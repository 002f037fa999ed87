//! Programs that enforcer is compared with: the least that anybody could write for the job. They are no part of what is
//! shipped.
//!
//! Each is made of raw instructions, so that no compiler stands between what is said of it here and what is timed.

use std::{fs::File, net::Ipv6Addr};

use anyhow::{Context as _, Result};
use enforcer_common::record::ConnectRecord;
use ipnet::Ipv6Net;

use super::{
    assembler::{
        Helper::{GetLocalStorage, MapLookupElem, RingbufReserve, RingbufSubmit, SetRetval, SkbLoadBytes},
        Instruction,
        Register::{R0, R1, R2, R3, R4, R6, R7, R10},
        add, call, copy, exit, load32, load64, map, on_stack, put32, put64, set, skip_if, store32, store64,
    },
    bpf::{BpfMap, MapType},
    program::{At, BpfLink, BpfProgram, Runs},
};
use crate::cgroup::CgroupFixture;

/// The errno that baselines reject with: ENETUNREACH, as enforcer does where a rule names none.
pub const ERRNO: i32 = libc::ENETUNREACH;

/// Bytes of an event of [`Baseline::event`], those of enforcer's records.
const EVENT_BYTES: i32 = size_of::<ConnectRecord>() as i32;

/// Offset of the address in `struct bpf_sock_addr`.
const USER_IP6: i16 = 8;

/// Bytes of a value of the cgroup storage map, those of enforcer's bindings.
const STORAGE_BYTES: usize = 64;

/// A baseline at a cgroup, until it is dropped.
#[derive(Debug)]
pub struct Baseline {
    // Detached before its maps go.
    _link: BpfLink,
    program: BpfProgram,
    counter: Option<BpfMap>,
    maps: Vec<BpfMap>,
}

impl Baseline {
    fn attached(
        name: &str,
        at: At,
        cgroup: &CgroupFixture,
        instructions: &[Instruction],
        counter: Option<BpfMap>,
        maps: Vec<BpfMap>,
    ) -> Result<Self> {
        let program = BpfProgram::load(name, at, instructions)?;
        let directory =
            File::open(cgroup.path()).with_context(|| format!("open cgroup {}", cgroup.path().display()))?;
        Ok(Self {
            _link: program.attach(&directory)?,
            program,
            counter,
            maps,
        })
    }

    /// `return 1`: what calling any program costs.
    ///
    /// # Errors
    ///
    /// As everywhere here: when the kernel refuses a map, the program or attaching it.
    pub fn empty(cgroup: &CgroupFixture) -> Result<Self> {
        Self::attached(
            "bench_empty",
            At::Connect6,
            cgroup,
            &[set(R0, 1), exit()],
            None,
            vec![],
        )
    }

    /// Looks the address up in a longest-prefix-match map, counts, and rejects where the entry says so.
    ///
    /// # Errors
    ///
    /// As [`empty`](Self::empty).
    pub fn lpm(cgroup: &CgroupFixture, prefixes: &Prefixes) -> Result<Self> {
        let (entries, counter) = (prefixes.fill()?, counter()?);
        let program = lpm_program(&entries, &counter, None);
        let at = At::Connect6;
        Self::attached("bench_lpm", at, cgroup, &program, Some(counter), vec![entries])
    }

    /// The same, for those cgroups only whose storage says so: what it takes to govern cgroups apart from each other.
    ///
    /// # Errors
    ///
    /// As [`empty`](Self::empty).
    pub fn lpm_with_storage(cgroup: &CgroupFixture, prefixes: &Prefixes) -> Result<Self> {
        let (entries, counter) = (prefixes.fill()?, counter()?);
        let storage = BpfMap::create(MapType::CgroupStorage, 8, STORAGE_BYTES as u32, 0)?;
        let program = lpm_program(&entries, &counter, Some(&storage));
        let at = At::Connect6;
        let maps = vec![entries, storage];
        let attached = Self::attached("bench_lpm_cg", at, cgroup, &program, Some(counter), maps)?;
        let mut binding = [0; STORAGE_BYTES];
        binding[0] = 1;
        attached.maps[1].update(&cgroup.id().to_ne_bytes(), &binding)?;
        Ok(attached)
    }

    /// What systemd's `IPAddressDeny=` does: each packet that leaves is looked up, and dropped where the entry says so.
    ///
    /// # Errors
    ///
    /// As [`empty`](Self::empty).
    pub fn packets(cgroup: &CgroupFixture, prefixes: &Prefixes) -> Result<Self> {
        let (entries, counter) = (prefixes.fill()?, counter()?);
        let drop_it = [set(R0, 0), exit()];
        let program = [
            vec![copy(R6, R1), set(R2, 24)],
            on_stack(R3, -16).to_vec(),
            vec![set(R4, 16), call(SkbLoadBytes)],
            look_up(&entries),
            count(&counter),
            unless_found(&drop_it),
            vec![set(R0, 1), exit()],
        ]
        .concat();
        Self::attached(
            "bench_packets",
            At::Egress,
            cgroup,
            &program,
            Some(counter),
            vec![entries],
        )
    }

    /// Writes an event of the size of enforcer's to a ring buffer, waking its reader as the kernel does by default; with
    /// `flags` 1 (`BPF_RB_NO_WAKEUP`), without that.
    ///
    /// # Errors
    ///
    /// As [`empty`](Self::empty).
    pub fn event(cgroup: &CgroupFixture, ring_bytes: u32, flags: i32) -> Result<Self> {
        let ring = BpfMap::create(MapType::RingBuffer, 0, 0, ring_bytes)?;
        let counter = counter()?;
        let told = [
            vec![copy(R6, R0), copy(R1, R6)],
            // The verifier wants no byte of it read before it is written, and user space would see what was there.
            (0..EVENT_BYTES as i16)
                .step_by(8)
                .map(|at| put64(R6, at, 0))
                .collect(),
            vec![set(R2, flags), call(RingbufSubmit)],
            count(&counter),
        ]
        .concat();
        let program = [
            map(R1, ring.fd()).to_vec(),
            vec![set(R2, EVENT_BYTES), set(R3, 0), call(RingbufReserve)],
            vec![skip_if(R0, 0, told.len() as i16)],
            told,
            vec![set(R0, 1), exit()],
        ]
        .concat();
        Self::attached(
            "bench_event",
            At::Connect6,
            cgroup,
            &program,
            Some(counter),
            vec![ring],
        )
    }

    /// What the kernel has counted of it.
    ///
    /// # Errors
    ///
    /// When the kernel does not tell.
    pub fn runs(&self) -> Result<Runs> {
        self.program.runs()
    }

    /// What it has counted itself, over all CPUs; `None` where it does not count.
    ///
    /// # Errors
    ///
    /// When the map cannot be read.
    pub fn counted(&self) -> Result<Option<u64>> {
        let Some(counter) = &self.counter else {
            return Ok(None);
        };
        let values = counter.lookup(&0_u32.to_ne_bytes(), 8 * possible_cpus()?)?;
        let words = values.chunks_exact(8).map(|word| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(word);
            u64::from_ne_bytes(bytes)
        });
        Ok(Some(words.sum()))
    }

    /// Its maps, but for the counter.
    #[must_use]
    pub fn maps(&self) -> &[BpfMap] {
        &self.maps
    }
}

/// CPUs that there could ever be: per-CPU maps have a value for each.
fn possible_cpus() -> Result<usize> {
    let path = "/sys/devices/system/cpu/possible";
    let text = std::fs::read_to_string(path).with_context(|| format!("read {path}"))?;
    let last = text.trim().rsplit(['-', ',']).next().unwrap_or_default();
    let last: usize = last
        .parse()
        .with_context(|| format!("understand {path}: {text:?}"))?;
    Ok(last + 1)
}

fn counter() -> Result<BpfMap> {
    BpfMap::create(MapType::PerCpuArray, 4, 8, 1)
}

/// The connect's address, from the context in `r6`, to the key's place on the stack.
fn take_address() -> Vec<Instruction> {
    (0..4)
        .flat_map(|word| {
            [
                load32(R2, R6, USER_IP6 + 4 * word),
                store32(R10, -16 + 4 * word, R2),
            ]
        })
        .collect()
}

/// Looks up the address on the stack; `r7` is the entry or 0.
fn look_up(entries: &BpfMap) -> Vec<Instruction> {
    [
        vec![put32(R10, -20, 128)],
        map(R1, entries.fd()).to_vec(),
        on_stack(R2, -20).to_vec(),
        vec![call(MapLookupElem), copy(R7, R0)],
    ]
    .concat()
}

/// Adds one to this CPU's counter.
fn count(counter: &BpfMap) -> Vec<Instruction> {
    [
        vec![put32(R10, -24, 0)],
        map(R1, counter.fd()).to_vec(),
        on_stack(R2, -24).to_vec(),
        vec![
            call(MapLookupElem),
            skip_if(R0, 0, 3),
            load64(R1, R0, 0),
            add(R1, 1),
            store64(R0, 0, R1),
        ],
    ]
    .concat()
}

/// Does that where an entry was found and says so.
fn unless_found(reject: &[Instruction]) -> Vec<Instruction> {
    let by = reject.len() as i16;
    [
        &[skip_if(R7, 0, by + 2), load32(R1, R7, 0), skip_if(R1, 0, by)],
        reject,
    ]
    .concat()
}

fn lpm_program(entries: &BpfMap, counter: &BpfMap, storage: Option<&BpfMap>) -> Vec<Instruction> {
    let reject = [set(R1, -ERRNO), call(SetRetval), set(R0, 0), exit()];
    let judge = [
        take_address(),
        look_up(entries),
        count(counter),
        unless_found(&reject),
    ]
    .concat();
    let mut program = vec![copy(R6, R1)];
    if let Some(storage) = storage {
        program.extend(map(R1, storage.fd()));
        program.extend([set(R2, 0), call(GetLocalStorage), load32(R1, R0, 0)]);
        program.push(skip_if(R1, 0, judge.len() as i16));
    }
    program.extend(judge);
    program.extend([set(R0, 1), exit()]);
    program
}

/// Prefixes with whether a connect to them is rejected.
#[derive(Clone, Debug, Default)]
pub struct Prefixes(Vec<(Ipv6Net, bool)>);

impl FromIterator<(Ipv6Net, bool)> for Prefixes {
    fn from_iter<I: IntoIterator<Item = (Ipv6Net, bool)>>(prefixes: I) -> Self {
        Self(prefixes.into_iter().collect())
    }
}

impl Prefixes {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them.
    #[must_use]
    pub fn as_slice(&self) -> &[(Ipv6Net, bool)] {
        &self.0
    }

    /// A longest-prefix-match map with them.
    fn fill(&self) -> Result<BpfMap> {
        let count = u32::try_from(self.len()).context("count prefixes")?;
        let map = BpfMap::create(MapType::LpmTrie, 20, 4, count.max(1))?;
        let mut keys = Vec::with_capacity(20 * self.len());
        let mut values = Vec::with_capacity(4 * self.len());
        for (prefix, rejected) in &self.0 {
            keys.extend(u32::from(prefix.prefix_len()).to_ne_bytes());
            keys.extend(Ipv6Addr::octets(&prefix.network()));
            values.extend(u32::from(*rejected).to_ne_bytes());
        }
        map.update_all(&keys, &values)?;
        Ok(map)
    }
}
