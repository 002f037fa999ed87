//! Where an address leads back to, and which record is missing.

use std::{net::IpAddr, time::Instant};

use hickory_resolver::proto::rr::Name;

use super::{
    connect::micros,
    findings::{Back, Reverse},
    subject::Host,
};
use crate::names::{HostName, Once, Outcome};

/// Names that are looked up again.
const MAX_NAMES: usize = 4;

/// Asks for the names of an address, and for the addresses of those names.
pub(super) async fn reverse(host: &Host, address: IpAddr, once: &Once) -> Reverse {
    let start = Instant::now();
    let (names, ttl_secs, why) = match once.ask_back(address).await {
        Outcome::Found { addresses, ttl_secs } => (addresses, Some(ttl_secs), None),
        Outcome::Nothing { ttl_secs, .. } => (Vec::new(), ttl_secs, None),
        Outcome::Failed { why } => (Vec::new(), None, Some(why)),
    };
    let mut having = Vec::new();
    for name in names.iter().take(MAX_NAMES) {
        if let Ok(parsed) = name.parse()
            && has(&parsed, address, once).await
        {
            having.push(name.as_str());
        }
    }
    let state = if why.is_some() {
        Back::Failed
    } else {
        judge(host.name(), &names, &having)
    };
    Reverse {
        state,
        record: record(host.name(), address, state),
        names,
        ttl_secs,
        why,
        time_us: micros(start),
    }
}

/// Whether a name has an address.
async fn has(name: &HostName, address: IpAddr, once: &Once) -> bool {
    let (aaaa, a) = once.ask(name).await;
    match address {
        IpAddr::V4(address) => matches!(a, Outcome::Found { addresses, .. } if addresses.contains(&address)),
        IpAddr::V6(address) => {
            matches!(aaaa, Outcome::Found { addresses, .. } if addresses.contains(&address))
        }
    }
}

/// What the names are worth, by those of them that have the address.
fn judge(asked: Option<&HostName>, names: &[String], having: &[&str]) -> Back {
    if names.is_empty() {
        return Back::Missing;
    }
    match asked {
        Some(asked) if names.iter().any(|name| name == asked.as_str()) => Back::Confirmed,
        Some(_) if having.is_empty() => Back::Wrong,
        Some(_) => Back::OtherName,
        None if having.is_empty() => Back::Wrong,
        None => Back::Confirmed,
    }
}

/// The line that a zone of `ip6.arpa` or `in-addr.arpa` lacks, where it is known which name it should have.
fn record(asked: Option<&HostName>, address: IpAddr, state: Back) -> Option<String> {
    let asked = asked?;
    matches!(state, Back::Missing | Back::Wrong | Back::OtherName)
        .then(|| format!("{} IN PTR {asked}.", Name::from(address)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_worth_what_they_lead_to() {
        let asked: HostName = "shop.example".parse().unwrap();
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        for (asked, found, having, state) in [
            (Some(&asked), names(&[]), &[][..], Back::Missing),
            (
                Some(&asked),
                names(&["shop.example"]),
                &["shop.example"],
                Back::Confirmed,
            ),
            // It was found by its name, whatever is said of it from here.
            (Some(&asked), names(&["shop.example"]), &[], Back::Confirmed),
            (Some(&asked), names(&["old.example"]), &[], Back::Wrong),
            (
                Some(&asked),
                names(&["farm.example"]),
                &["farm.example"],
                Back::OtherName,
            ),
            (None, names(&["farm.example"]), &["farm.example"], Back::Confirmed),
            (None, names(&["farm.example"]), &[], Back::Wrong),
        ] {
            assert_eq!(judge(asked, &found, having), state, "{found:?} {having:?}");
        }
    }

    #[test]
    fn the_record_is_a_line_of_a_zone_file() {
        let asked: HostName = "shop.example".parse().unwrap();
        let of = |address: &str, state| record(Some(&asked), address.parse().unwrap(), state);
        assert_eq!(
            of("2001:db8:a::80", Back::Wrong).unwrap(),
            "0.8.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.a.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa. IN PTR shop.example."
        );
        assert_eq!(
            of("203.0.113.1", Back::Missing).unwrap(),
            "1.113.0.203.in-addr.arpa. IN PTR shop.example."
        );
        assert_eq!(of("203.0.113.1", Back::Confirmed), None);
        assert_eq!(record(None, "203.0.113.1".parse().unwrap(), Back::Missing), None);
    }
}
