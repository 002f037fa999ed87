//! The errnos a rule may choose, by name.
//!
//! Only errnos with which `connect(2)` can really end are offered. `EINPROGRESS` would leave the caller
//! polling for ever, 0 becomes `EPERM` in the kernel, and numbers from 512 up leak to user space as they are.

/// An errno a rejected connect may end with. Linux numbering of the generic ABI
/// (`include/uapi/asm-generic/errno{,-base}.h`; the same on x86, Arm, RISC-V, s390, LoongArch and PowerPC).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Errno {
    /// Symbolic name, `ENETUNREACH`.
    pub name: &'static str,
    /// Positive number, 101.
    pub number: u16,
    /// What most clients make of it.
    pub meaning: &'static str,
}

/// The default: what nearly every client takes as "try the next address".
pub const DEFAULT: Errno = ENETUNREACH;

const ENETUNREACH: Errno = Errno {
    name: "ENETUNREACH",
    number: 101,
    meaning: "no route; clients try the next address",
};

/// What a caller gets on kernels without `bpf_set_retval` (before 5.18), whatever the rule says.
pub const EPERM: Errno = Errno {
    name: "EPERM",
    number: 1,
    meaning: "refused by a local firewall",
};

/// Every errno a rule may name, in the order documentation lists them.
pub const CHOICES: [Errno; 13] = [
    ENETUNREACH,
    Errno {
        name: "EHOSTUNREACH",
        number: 113,
        meaning: "no way to the host; most try the next address",
    },
    Errno {
        name: "ECONNREFUSED",
        number: 111,
        meaning: "port closed; most try the next address",
    },
    Errno {
        name: "EADDRNOTAVAIL",
        number: 99,
        meaning: "no usable source address",
    },
    Errno {
        name: "ENETDOWN",
        number: 100,
        meaning: "the interface is down",
    },
    Errno {
        name: "EHOSTDOWN",
        number: 112,
        meaning: "the host is down",
    },
    Errno {
        name: "ETIMEDOUT",
        number: 110,
        meaning: "gave up waiting, at once",
    },
    Errno {
        name: "ECONNRESET",
        number: 104,
        meaning: "reset by the peer",
    },
    Errno {
        name: "ECONNABORTED",
        number: 103,
        meaning: "aborted on this side",
    },
    Errno {
        name: "EAFNOSUPPORT",
        number: 97,
        meaning: "the address family is not supported",
    },
    Errno {
        name: "ENOBUFS",
        number: 105,
        meaning: "out of buffers",
    },
    Errno {
        name: "EACCES",
        number: 13,
        meaning: "refused by a policy",
    },
    EPERM,
];

/// The errno of that name, exactly as written.
#[must_use]
pub fn by_name(name: &str) -> Option<Errno> {
    CHOICES.into_iter().find(|errno| errno.name == name)
}

/// The errno of that number.
#[must_use]
pub fn by_number(number: u16) -> Option<Errno> {
    CHOICES.into_iter().find(|errno| errno.number == number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_unique_and_usable() {
        for (i, errno) in CHOICES.iter().enumerate() {
            assert!((1..512).contains(&errno.number), "{errno:?}");
            assert_eq!(by_name(errno.name), Some(*errno));
            assert_eq!(by_number(errno.number), Some(*errno));
            assert!(
                CHOICES[i + 1..]
                    .iter()
                    .all(|o| o.name != errno.name && o.number != errno.number)
            );
        }
        assert_eq!(by_name("EINPROGRESS"), None);
    }
}
