//! The clients, a row each. A new one is one row.
//!
//! A row says how the client is started (placeholders: `{host}`, `{url-host}`, `{port}`, `{authority}`, `{ca}`, `{sources}`,
//! the folders `{c}`, `{go}`, `{java}`, `{node}`, and the programs `{python}`, `{rust}`), what it talks to, how it says that it
//! arrived, and what is known of how it picks an address.

use serde::{Deserialize, Serialize};

use super::services::Service;

mod node;
mod others;

/// Clients that have their way to an address in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "a name says it")]
pub enum Family {
    Curl,
    Wget,
    Git,
    Ssh,
    Libpq,
    Redis,
    Dig,
    Python,
    Node,
    Java,
    Go,
    Rust,
    Musl,
    CAres,
}

impl Family {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::Curl,
        Self::Wget,
        Self::Git,
        Self::Ssh,
        Self::Libpq,
        Self::Redis,
        Self::Dig,
        Self::Python,
        Self::Node,
        Self::Java,
        Self::Go,
        Self::Rust,
        Self::Musl,
        Self::CAres,
    ];
}

/// How a client says that it arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The server's address and milliseconds by its own clock, on standard output.
    Measured,
    /// The server's address, on standard output.
    Said,
    /// The server's address, on the line of standard error with that in it; how it ends does not matter.
    Line(&'static str),
}

/// What a rejection is to a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reject {
    /// It is told at once and tries the next address.
    TriesNext,
    /// It is not told: whoever gives it addresses asks the kernel about each, and lists those last that are rejected.
    Sorts,
    /// It is told at once and gives up, for that reason: it has one address, and nobody asked the kernel about it.
    FirstOnly(&'static str),
}

/// How a client is started.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    /// The program and its arguments.
    pub words: &'static [&'static str],
    /// Environment variables.
    pub variables: &'static [(&'static str, &'static str)],
}

/// A client.
#[derive(Clone, Copy, Debug)]
pub struct Client {
    /// What people call it.
    pub name: &'static str,
    /// Whose it is.
    pub family: Family,
    /// What it talks to.
    pub service: Service,
    /// How it is started.
    pub start: Start,
    /// How it says that it arrived.
    pub answer: Answer,
    /// What a rejection is to it.
    pub reject: Reject,
    /// Why its sockets cannot be moved to IPv4, where they cannot: a redirect is a rejection to it then.
    pub unmovable: Option<&'static str>,
    /// Whether it prefers IPv4 wherever there is some, so that healthy IPv6 is not used.
    pub ipv4_first: bool,
    /// Whether it is also run in a container.
    pub contained: bool,
    /// Whether it stands for its family where not all are run.
    pub stands: bool,
    /// Whether it is in the picture.
    pub pictured: bool,
}

impl Client {
    /// A client that takes the C library's order and reports by its own clock; what is otherwise follows.
    const fn new(
        family: Family,
        name: &'static str,
        service: Service,
        words: &'static [&'static str],
    ) -> Self {
        Self {
            name,
            family,
            service,
            start: Start {
                words,
                variables: &[],
            },
            answer: Answer::Measured,
            reject: Reject::Sorts,
            unmovable: None,
            ipv4_first: false,
            contained: false,
            stands: false,
            pictured: true,
        }
    }

    const fn with(mut self, variables: &'static [(&'static str, &'static str)]) -> Self {
        self.start.variables = variables;
        self
    }

    const fn says(mut self, answer: Answer) -> Self {
        self.answer = answer;
        self
    }

    const fn rejected(mut self, reject: Reject) -> Self {
        self.reject = reject;
        self
    }

    const fn unmovable(mut self, why: &'static str) -> Self {
        self.unmovable = Some(why);
        self
    }

    const fn ipv4_first(mut self) -> Self {
        self.ipv4_first = true;
        self
    }

    const fn contained(mut self) -> Self {
        self.contained = true;
        self
    }

    const fn stands(mut self) -> Self {
        self.stands = true;
        self
    }

    const fn not_pictured(mut self) -> Self {
        self.pictured = false;
        self
    }
}

/// All clients, family by family.
#[must_use]
pub fn all() -> Vec<Client> {
    let mut all: Vec<_> = others::CLIENTS.into_iter().chain(node::CLIENTS).collect();
    all.sort_by_key(|client| client.family);
    all
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_client_has_a_name_of_its_own_and_each_family_somebody_who_stands_for_it() {
        let all = all();
        let names: BTreeSet<_> = all.iter().map(|client| client.name).collect();
        assert_eq!(names.len(), all.len());
        for family in Family::ALL {
            let stands = all
                .iter()
                .filter(|client| client.family == family && client.stands);
            assert_eq!(stands.count(), 1, "{family:?}");
        }
    }
}
