//! What a helper says: one JSON object a line. Whoever reads it trusts none of it.

use std::io;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _};

use super::super::{
    MAX_A, MAX_AAAA,
    ask::{Outcome, Round},
};

/// The longest line that is read. All addresses of a name take a third of that.
pub(super) const MAX_LINE_BYTES: u64 = 48 << 10;

/// Characters of a reason that are shown.
const MAX_REASON_CHARS: usize = 300;

/// A line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Message {
    /// What came of the question with that number, counted from zero.
    Answer { number: usize, round: Round },
    /// No question can be asked.
    Unable { why: String },
}

/// Why a line cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum MessageError {
    #[error("cannot read from the helper")]
    Read(#[source] io::Error),
    #[error("the helper wrote a line of more than {MAX_LINE_BYTES} octets, or half a line")]
    NoLine,
    #[error("the helper wrote what is no message")]
    NoMessage(#[source] serde_json::Error),
}

/// The next message; `None` at the end.
pub(super) async fn read(from: &mut (impl AsyncBufRead + Unpin)) -> Result<Option<Message>, MessageError> {
    let mut line = Vec::new();
    let read = from.take(MAX_LINE_BYTES).read_until(b'\n', &mut line).await;
    if read.map_err(MessageError::Read)? == 0 {
        return Ok(None);
    }
    if line.pop() != Some(b'\n') {
        return Err(MessageError::NoLine);
    }
    let message: Message = serde_json::from_slice(&line).map_err(MessageError::NoMessage)?;
    Ok(Some(match message {
        Message::Answer { number, round } => Message::Answer {
            number,
            round: Round {
                aaaa: round.aaaa.map(|outcome| tamed(outcome, MAX_AAAA)),
                a: tamed(round.a, MAX_A),
            },
        },
        Message::Unable { why } => Message::Unable { why: printable(&why) },
    }))
}

/// Not more than is ever remembered, sorted, each once, and text that does nothing to a terminal.
fn tamed<A: Ord>(outcome: Outcome<A>, limit: usize) -> Outcome<A> {
    match outcome {
        Outcome::Found {
            mut addresses,
            ttl_secs,
        } => {
            addresses.sort_unstable();
            addresses.dedup();
            addresses.truncate(limit);
            Outcome::Found { addresses, ttl_secs }
        }
        Outcome::Failed { why } => Outcome::Failed { why: printable(&why) },
        nothing @ Outcome::Nothing { .. } => nothing,
    }
}

fn printable(text: &str) -> String {
    text.chars()
        .take(MAX_REASON_CHARS)
        .map(|character| {
            if character.is_control() {
                '\u{fffd}'
            } else {
                character
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn all(bytes: &[u8]) -> Result<Vec<Message>, MessageError> {
        let mut from = tokio::io::BufReader::new(bytes);
        let mut messages = Vec::new();
        while let Some(message) = read(&mut from).await? {
            messages.push(message);
        }
        Ok(messages)
    }

    fn failed(why: &str) -> Message {
        Message::Answer {
            number: 7,
            round: Round {
                aaaa: None,
                a: Outcome::Failed { why: why.to_owned() },
            },
        }
    }

    fn line(message: &Message) -> Vec<u8> {
        let mut line = serde_json::to_vec(message).unwrap();
        line.push(b'\n');
        line
    }

    #[tokio::test]
    async fn what_is_written_is_read() {
        let messages = [
            failed("it does not answer"),
            Message::Answer {
                number: 0,
                round: Round {
                    aaaa: Some(Outcome::Found {
                        addresses: vec!["2001:db8::1".parse().unwrap()],
                        ttl_secs: 60,
                    }),
                    a: Outcome::Nothing {
                        exists: true,
                        ttl_secs: None,
                    },
                },
            },
        ];
        assert_eq!(
            all(&messages.each_ref().map(line).concat()).await.unwrap(),
            messages
        );
    }

    #[tokio::test]
    async fn the_largest_answer_fits_and_what_is_larger_is_cut() {
        let round = |count: u16| Round {
            aaaa: Some(Outcome::Found {
                addresses: (0..count)
                    .map(|last| {
                        std::net::Ipv6Addr::new(0x2001, 0xdb88, 0x1111, 0x2222, 0x3333, 0x4444, 0x5555, last)
                    })
                    .collect(),
                ttl_secs: u32::MAX,
            }),
            a: Outcome::Found {
                addresses: (0..64)
                    .map(|last| std::net::Ipv4Addr::new(203, 200, 113, last))
                    .collect(),
                ttl_secs: u32::MAX,
            },
        };
        let answer = |count| Message::Answer {
            number: usize::MAX,
            round: round(count),
        };
        let largest = all(&line(&answer(256))).await.unwrap();
        assert_eq!(largest, [answer(256)]);
        assert_eq!(all(&line(&answer(300))).await.unwrap(), largest);
    }

    #[tokio::test]
    async fn text_from_inside_does_nothing_to_a_terminal() {
        let read = all(&line(&failed("\u{1b}]0;mine\u{7}\nenforcing")))
            .await
            .unwrap();
        assert_eq!(read, [failed("\u{fffd}]0;mine\u{fffd}\u{fffd}enforcing")]);
        let long = all(&line(&failed(&"x".repeat(1000)))).await.unwrap();
        assert_eq!(long, [failed(&"x".repeat(MAX_REASON_CHARS))]);
    }

    #[tokio::test]
    async fn what_is_no_message_is_an_error() {
        let endless = vec![b'x'; 1 << 20];
        assert!(matches!(all(&endless).await, Err(MessageError::NoLine)));
        assert!(matches!(all(b"{\"answer\":").await, Err(MessageError::NoLine)));
        for garbage in [
            "\n",
            "{}\n",
            "nonsense\n",
            "{\"unable\":{\"why\":\"x\",\"and\":1}}\n",
            "\u{0}\n",
        ] {
            let read = all(garbage.as_bytes()).await;
            assert!(matches!(read, Err(MessageError::NoMessage(_))), "{garbage:?}");
        }
    }
}
