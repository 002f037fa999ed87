//! Booting what there is to boot, as many guests at once as there are cores. Of what comes back it knows nothing.

use std::{path::Path, sync::Mutex, thread, time::Duration};

use anyhow::Result;

use super::{
    Args,
    boot::{Accelerator, Guest, MEMORY_MIB},
    image::{self, Image},
    initramfs::{self, Initramfs},
    kernels::Kernel,
    lines,
    payload::Payload,
    records,
    report::Column,
    say,
};
use crate::test::{Extent, repetition_variables};

/// How many tests of a binary run at once; with more than one, libtest prints a test's name and its result in
/// one piece.
const TEST_THREADS: &str = "2";

/// Time for coming up and going down, without KVM and beside another guest.
const BOOT_LIMIT: Duration = Duration::from_secs(120);
/// Time for one test binary.
const BINARY_LIMIT: Duration = Duration::from_secs(900);
/// The same where containers are started, without KVM.
const IMAGE_BINARY_LIMIT: Duration = Duration::from_secs(900);
/// The same with `--full`.
const BINARY_LIMIT_FULL: Duration = Duration::from_secs(1_800);

/// What there is to boot.
#[derive(Debug)]
pub(super) enum Ready {
    /// A kernel, with the tests as all that there is.
    Kernel(Kernel),
    /// A distribution.
    Image(Image),
}

impl Ready {
    pub(super) fn kernel(&self) -> &Path {
        match self {
            Self::Kernel(kernel) => &kernel.image,
            Self::Image(image) => &image.kernel,
        }
    }

    /// Whether it is a line that is tested in part where everything is tested.
    pub(super) const fn is_between(&self) -> bool {
        matches!(self, Self::Kernel(kernel) if kernel.line.between)
    }

    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Kernel(kernel) => kernel.line.name,
            Self::Image(_) => image::SYSTEMD,
        }
    }
}

/// What is the same for all guests.
pub(super) struct Plan<'a> {
    pub(super) args: &'a Args,
    pub(super) payload: &'a Payload,
    pub(super) common: &'a Initramfs,
    pub(super) tests_folder: &'a Path,
    pub(super) accelerator: Accelerator,
    pub(super) guests: &'a Path,
}

impl Plan<'_> {
    /// Boots all, as many at once as there are cores.
    pub(super) fn boot_all(&self, guests: Vec<Ready>) -> Vec<Column> {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let at_once = cores.min(guests.len());
        say(&format!(
            "booting {} guests, {at_once} at once, {}",
            guests.len(),
            self.accelerator.name()
        ));
        let waiting = Mutex::new(guests.into_iter());
        let columns = Mutex::new(Vec::new());
        thread::scope(|scope| {
            for _ in 0..at_once {
                scope.spawn(|| {
                    loop {
                        // A statement of its own: in the head of a `while let` the lock would be held for
                        // as long as the guest runs, and the guests would take turns.
                        let next = lock(&waiting).next();
                        let Some(guest) = next else { break };
                        let column = match &guest {
                            Ready::Kernel(kernel) => self.boot(kernel),
                            Ready::Image(image) => self.boot_image(image),
                        };
                        let column = column
                            .unwrap_or_else(|error| Column::unbooted(guest.name(), format!("{error:#}")));
                        lock(&columns).push(column);
                    }
                });
            }
        });
        columns
            .into_inner()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn boot(&self, kernel: &Kernel) -> Result<Column> {
        let mut payload = self.payload.clone();
        let mut left_out = Vec::new();
        if kernel.line.between && self.args.is_everything() {
            payload.tests.retain(|binary| {
                let stays = lines::is_of_kernels(&binary.name);
                left_out.extend((!stays).then(|| binary.name.clone()));
                stays
            });
        }
        let logs = self.guests.join(kernel.line.name);
        let initramfs = self.guests.join(format!("{}.cpio", kernel.line.name));
        self.common
            .clone()
            .with_kernel(
                kernel,
                &self.settings("vm", kernel.line.name, self.binary_limit(), &left_out),
            )?
            .write(&initramfs)?;
        let guest = Guest {
            image: &kernel.image,
            initramfs: &initramfs,
            disks: &[],
            arguments: "",
            memory_mib: MEMORY_MIB,
            accelerator: self.accelerator,
            logs,
        };
        let package = kernel.package.clone();
        self.live(&guest, kernel.line.name, package, &payload, self.binary_limit())
    }

    /// The guest with systemd: fewer tests, and those of containers.
    fn boot_image(&self, image: &Image) -> Result<Column> {
        let mut payload = self.payload.clone();
        payload
            .tests
            .retain(|binary| image::is_tested_there(&binary.name));
        let limit = self.binary_limit().max(IMAGE_BINARY_LIMIT);
        let second = self.guests.join(format!("{}.tar", image::SYSTEMD));
        let settings = self.settings(image::SYSTEMD, image::SYSTEMD, limit, &[]);
        image::write_payload(&second, &payload, self.tests_folder, &settings)?;
        let guest = Guest {
            image: &image.kernel,
            initramfs: &image.initrd,
            disks: &[&image.disk, &second],
            arguments: image::ARGUMENTS,
            memory_mib: image::MEMORY_MIB,
            accelerator: self.accelerator,
            logs: self.guests.join(image::SYSTEMD),
        };
        self.live(&guest, image::SYSTEMD, image.package.clone(), &payload, limit)
    }

    fn live(
        &self,
        guest: &Guest<'_>,
        name: &'static str,
        package: String,
        payload: &Payload,
        limit: Duration,
    ) -> Result<Column> {
        let binaries = u32::try_from(payload.tests.len()).unwrap_or(u32::MAX);
        let life = guest.boot(BOOT_LIMIT + limit.saturating_mul(binaries))?;
        let column = Column::new(name, package, payload, &life);
        say(&format!(
            "{name:<8}is through; what it said: {}.*.log",
            guest.logs.display()
        ));
        Ok(column)
    }

    /// A shell script that init reads: variables for the tests and for itself, and the filters as arguments.
    fn settings(&self, place: &str, kernel: &str, limit: Duration, left_out: &[String]) -> String {
        let mut variables = vec![
            ("ENFORCER_PLACE", place.to_owned()),
            ("ENFORCER_KERNEL", kernel.to_owned()),
            ("ENFORCER_BIN", "/bin/enforcer".to_owned()),
            ("ENFORCER_TEST_CLIENT", "/bin/enforcer-test-client".to_owned()),
            ("ENFORCER_LAB", "/bin/enforcer-lab".to_owned()),
            ("ENFORCER_TESTS_DIR", initramfs::TESTS_FOLDER.to_owned()),
            ("LIMIT_SECS", limit.as_secs().to_string()),
            ("THREADS", TEST_THREADS.to_owned()),
            ("LEFT_OUT", left_out.join(" ")),
        ];
        let extent = if self.args.full {
            Extent::Full
        } else {
            Extent::Small
        };
        variables.extend(repetition_variables(extent));
        let whole = self.payload.tests.iter().filter(|binary| binary.whole);
        let whole: Vec<_> = whole.map(|binary| binary.name.as_str()).collect();
        variables.push(("WHOLE", whole.join(" ")));
        if self.args.bless {
            variables.push((records::BLESS_VARIABLE, "1".to_owned()));
        }
        let filters: String = self
            .payload
            .filters
            .iter()
            .map(|filter| format!(" {}", quoted(filter)))
            .collect();
        variables
            .into_iter()
            .map(|(name, value)| format!("export {name}={}\n", quoted(&value)))
            .chain([format!("set --{filters}\n")])
            .collect()
    }

    const fn binary_limit(&self) -> Duration {
        if self.args.full {
            BINARY_LIMIT_FULL
        } else {
            BINARY_LIMIT
        }
    }
}

/// One word to a shell, whatever is in it.
pub(super) fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_one_word_to_the_guests_shell() {
        assert_eq!(quoted("it's $HOME"), r"'it'\''s $HOME'");
    }
}
