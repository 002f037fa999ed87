//! Reloads of rules about names: what is known of a name stays known, and a new name is known when its rule is in force.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use enforcer_tests::{
    client::Client,
    enforcer::Enforcer,
    kernel::caller_sees,
    named::{IPV4, IPV6, Named, ended},
    policy::told_to_reload,
};

const NAME: &str = "db.example";
const OTHER: &str = "cache.example";

/// An errno that the network gives to nobody.
const ERRNO: &str = "EHOSTDOWN";

fn rule(name: &str, action: &str) -> String {
    format!("[[rule]]\nhost = \"{name}\"\nerrno = \"{ERRNO}\"\naction = \"{action}\"\n")
}

struct World {
    named: Named,
    client: Client,
    enforcer: Enforcer,
}

impl World {
    /// Puts these rules into force.
    #[track_caller]
    fn reload(&mut self, rules: &[String]) {
        self.named.arguments(&rules.concat()).unwrap();
        let said = told_to_reload(&mut self.enforcer).unwrap();
        assert!(said.last().unwrap().starts_with("reloaded: "), "{said:#?}");
    }

    /// Where connects to the addresses of both names arrive, now.
    #[track_caller]
    fn arrive(&mut self, name: &str, other: &str) {
        for (to, at) in [(IPV6[0], name), (IPV6[3], other)] {
            assert_eq!(self.named.arrives(&mut self.client, to).unwrap(), at, "{to}");
        }
    }
}

#[test]
fn what_is_known_of_names_stays_known_and_new_names_are_known_at_once() {
    let named = Named::new("reload-names").unwrap();
    let mut client = named.client().unwrap();
    named.untouched(&mut client).unwrap();
    let records = [
        (NAME, IPV6[0]),
        (NAME, IPV4[0]),
        (OTHER, IPV6[3]),
        (OTHER, IPV4[1]),
    ];
    let nameserver = named.nameserver(&records).unwrap();
    let enforcer = named.govern(&rule(NAME, "redirect")).unwrap();
    let mut world = World {
        named,
        client,
        enforcer,
    };
    world.arrive(IPV4[0], IPV6[3]);
    // The rule that is added stands before the other, which has another number from now on.
    world.reload(&[rule(OTHER, "redirect"), rule(NAME, "redirect")]);
    world.arrive(IPV4[0], IPV4[1]);

    // From now on there is nobody to ask.
    drop(nameserver);
    world.reload(&[rule(NAME, "redirect"), rule(OTHER, "reject")]);
    world.arrive(IPV4[0], caller_sees(ERRNO));
    world.reload(&[rule(OTHER, "redirect"), rule(NAME, "reject")]);
    world.arrive(caller_sees(ERRNO), IPV4[1]);
    // A name that is in no rule is forgotten.
    world.reload(&[rule(NAME, "redirect")]);
    world.arrive(IPV4[0], IPV6[3]);
    world.reload(&[rule(NAME, "redirect"), rule(OTHER, "reject")]);
    world.arrive(IPV4[0], IPV6[3]);

    let World {
        named,
        mut client,
        enforcer,
    } = world;
    ended(enforcer).unwrap();
    named.untouched(&mut client).unwrap();
}
