//! [`Callers`]: the processes that make the calls of the cases.

use anyhow::{Context as _, Result, ensure};
use enforcer::policy::rule::Rule;
use enforcer_common::errno;

use super::{Call, Case};
use crate::{
    client::Client,
    place::Place,
    protocol::{Answer, Connect, Request, SocketKind},
};

/// How many processes are started at most until a rollout takes one, or leaves one out: with 10 % of all, not one of
/// them is taken once in 10^18 times.
const ATTEMPTS: usize = 400;

/// The value of the control message that goes with a datagram: ECT(0), as QUIC says that it understands ECN.
const TRAFFIC_CLASS: i32 = 2;

const DATAGRAM: &str = "there?";

/// Processes in one place, started as cases need them: rollouts by process choose among them.
#[derive(Debug, Default)]
pub struct Callers {
    clients: Vec<Client>,
}

impl Callers {
    /// Makes the calls of a case and says how that ended, by the first call that failed.
    ///
    /// # Errors
    ///
    /// When no process can be had that the case is about, or it does not answer.
    pub fn call(&mut self, place: &Place<'_>, rules: &[Rule], case: &Case) -> Result<Answer> {
        let client = self.client(place, rules, case)?;
        match case.call {
            Call::Connect => ask(client, case, Request::Connect(case.connect())),
            Call::Sendto => {
                let opened = ask(client, case, Request::Open(case.connect()))?;
                let id = opened.id.context("a socket that was opened has no identifier")?;
                let answer = send(client, case, id)?;
                close(client, id)?;
                Ok(answer)
            }
            Call::ConnectAndSend => {
                let connect = Connect {
                    hold: true,
                    ..case.connect()
                };
                let connected = ask(client, case, Request::Connect(connect))?;
                let Some(id) = connected.id else {
                    return Ok(connected);
                };
                let sent = if connected.ok {
                    Some(send(client, case, id)?)
                } else {
                    None
                };
                close(client, id)?;
                Ok(match sent {
                    Some(sent) if !sent.ok => sent,
                    _ => connected,
                })
            }
        }
    }

    /// A process that the case is about.
    fn client(&mut self, place: &Place<'_>, rules: &[Rule], case: &Case) -> Result<&mut Client> {
        let is_right = |client: &Client| case.is_about(rules, client.pid());
        let mut found = self.clients.iter().position(is_right);
        for _ in 0..ATTEMPTS {
            if found.is_some() {
                break;
            }
            let client = Client::start(place)?;
            if is_right(&client) {
                found = Some(self.clients.len());
                self.clients.push(client);
            }
        }
        let found =
            found.with_context(|| format!("none of {ATTEMPTS} processes is one that {case:?} is about"))?;
        Ok(&mut self.clients[found])
    }
}

fn ask(client: &mut Client, case: &Case, request: Request) -> Result<Answer> {
    match case.uid {
        None => client.ask(&request),
        Some(uid) => client.ask(&Request::As {
            uid,
            request: Box::new(request),
        }),
    }
}

/// Sends one datagram, and says how that ended as of a connect.
fn send(client: &mut Client, case: &Case, id: u32) -> Result<Answer> {
    debug_assert_eq!(case.socket, SocketKind::Udp);
    let unconnected = case.call == Call::Sendto;
    let request = Request::Send {
        id,
        to: unconnected.then(|| case.connect().to),
        tclass: (!unconnected).then_some(TRAFFIC_CLASS),
        send: DATAGRAM.to_owned(),
        times: 1,
    };
    let mut answer = ask(client, case, request)?;
    let outcomes = answer.outcomes.take().unwrap_or_default();
    let outcome = outcomes
        .keys()
        .next()
        .context("a datagram was sent, and ended in no way")?;
    ensure!(
        outcomes.len() == 1,
        "one datagram ended in several ways: {outcomes:?}"
    );
    answer.ok = outcome == "ok";
    if !answer.ok {
        answer.step = Some("send".to_owned());
        answer.errno = errno::by_name(outcome).map(|errno| errno.number.into());
        answer.error = Some(outcome.clone());
    }
    Ok(answer)
}

fn close(client: &mut Client, id: u32) -> Result<()> {
    let answer = client.ask(&Request::Close { id })?;
    ensure!(answer.ok, "close a socket: {}", answer.outcome());
    Ok(())
}
