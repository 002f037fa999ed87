//! [`Note`]: what a person should know about names that are followed.

use std::{fmt, net::IpAddr};

use super::{MAX_A, MAX_AAAA, Request, Resolver, unusable::Unusable};

/// Something that happened to a name. Each is said when it begins, and not again before it has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Note {
    /// Nobody answers. What was known stays.
    Failed {
        /// The name, and who was asked.
        request: Request,
        /// Why, by each nameserver.
        why: String,
    },
    /// A nameserver says that there is no such name, or that it has no address. What was known stays its time.
    NoAddress {
        /// The name, and who was asked.
        request: Request,
        /// Whether the name exists, with no address.
        exists: bool,
    },
    /// Answered again, after a failure or having had no address.
    Recovered {
        /// The name, and who was asked.
        request: Request,
    },
    /// An address of an answer is not used.
    Unusable {
        /// The name, and who was asked.
        request: Request,
        /// The address.
        address: IpAddr,
        /// What it is.
        why: Unusable,
    },
    /// The name has more addresses than are remembered.
    TooManyAddresses {
        /// The name, and who was asked.
        request: Request,
    },
}

/// Of a name, for people: with whose it is where that is not this host's.
struct Subject<'a>(&'a Request);

impl fmt::Display for Subject<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.resolver {
            Resolver::Host => write!(f, "{}", self.0.name),
            Resolver::Target(_) => write!(f, "{}, as its target resolves it", self.0.name),
        }
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed { request, why } => {
                write!(
                    f,
                    "cannot look up {}: {why}; known addresses stay",
                    Subject(request)
                )
            }
            Self::NoAddress {
                request,
                exists: true,
            } => {
                write!(f, "{}: the name exists and has no address", Subject(request))
            }
            Self::NoAddress {
                request,
                exists: false,
            } => {
                write!(f, "{}: there is no such name", Subject(request))
            }
            Self::Recovered { request } => write!(f, "{}: found again", Subject(request)),
            Self::Unusable {
                request,
                address,
                why,
            } => {
                write!(
                    f,
                    "{}: {address} is left out, it is {}",
                    Subject(request),
                    why.what
                )
            }
            Self::TooManyAddresses { request } => write!(
                f,
                "{}: more addresses than are remembered ({MAX_AAAA} IPv6, {MAX_A} IPv4); the oldest were left out",
                Subject(request)
            ),
        }
    }
}

impl Note {
    /// The target whose nameservers it is about; `None` for the host's.
    #[must_use]
    pub const fn target(&self) -> Option<usize> {
        let (Self::Failed { request, .. }
        | Self::NoAddress { request, .. }
        | Self::Recovered { request }
        | Self::Unusable { request, .. }
        | Self::TooManyAddresses { request }) = self;
        match request.resolver {
            Resolver::Host => None,
            Resolver::Target(target) => Some(target),
        }
    }

    /// A way out, where there is one.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Unusable { why, .. } if why.for_want_of_trust => {
                Some("`allow_private = true` trusts the target's nameservers with that")
            }
            Self::NoAddress {
                request,
                exists: false,
            } if !request.name.is_complete() => Some(
                "a name without a dot is looked for in the search domains of resolv.conf: write it in full",
            ),
            _ => None,
        }
    }
}
