//! How much work each program is to the verifier. The kernel counts the instructions it walks; past a million it refuses
//! a program, and every version counts differently.

use std::{fs::File, io};

use aya::{
    VerifierLogLevel,
    programs::{CgroupSockAddr, ProgramError},
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::{
    KernelError, LoadOptions, Support,
    loader::{self, PROGRAMS},
    undisturbed::undisturbed,
};

/// The programs, and the instructions the verifier walked for each: `None` where the kernel does not say.
///
/// Loads the real programs, attaches nothing, and unloads them. Where only the verifier's log tells (before 5.16), this
/// process cannot open files for a moment: nothing else should be going on in it.
///
/// # Errors
///
/// When the kernel refuses a map or a program.
pub fn verify(support: &Support) -> Result<Vec<(&'static str, Option<u32>)>, KernelError> {
    undisturbed(|| verify_each(support))
}

fn verify_each(support: &Support) -> Result<Vec<(&'static str, Option<u32>)>, KernelError> {
    loader::raise_limits()?;
    let mut ebpf = loader::open(support, &LoadOptions::default(), VerifierLogLevel::STATS)?;
    PROGRAMS
        .into_iter()
        .map(|name| {
            let program = loader::program(&mut ebpf, name)?;
            let refused = |source| KernelError::load(name, source);
            program.load().map_err(refused)?;
            let told = program.info().map_err(refused)?.verified_instruction_count();
            if told.is_none() {
                program.unload().map_err(refused)?;
            }
            Ok((name, told.or_else(|| from_log(program))))
        })
        .collect()
}

/// The number in the verifier's log. aya shows the log of a load that failed, so this one fails after the verifier is
/// done: there is no descriptor left for the program.
fn from_log(program: &mut CgroupSockAddr) -> Option<u32> {
    match without_descriptors(|| program.load()) {
        Ok(Err(ProgramError::LoadError { verifier_log, .. })) => processed(&verifier_log.to_string()),
        Ok(_) => None,
        Err(error) => {
            ::log::debug!("cannot lower RLIMIT_NOFILE: {error}");
            None
        }
    }
}

/// Does something while this process has all the descriptors it may have.
fn without_descriptors<T>(f: impl FnOnce() -> T) -> io::Result<T> {
    use std::os::fd::AsRawFd as _;
    let before = getrlimit(Resource::Nofile);
    // The kernel gives the lowest number that is free.
    let lowest = File::open("/")?.as_raw_fd();
    let full = Rlimit {
        current: u64::try_from(lowest).ok(),
        maximum: before.maximum,
    };
    setrlimit(Resource::Nofile, full)?;
    let result = f();
    setrlimit(Resource::Nofile, before)?;
    Ok(result)
}

/// N of the line `processed N insns (limit 1000000) …` (`print_verification_stats`, kernel/bpf/verifier.c).
fn processed(log: &str) -> Option<u32> {
    let (number, _) = log.split_once("processed ")?.1.split_once(" insns")?;
    number.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_is_found_in_the_verifiers_log() {
        let log = "processed 2417 insns (limit 1000000) max_states_per_insn 4 total_states 120\n";
        assert_eq!(processed(log), Some(2417));
        assert_eq!(processed("R1 type=inv expected=ctx\n"), None);
    }
}
