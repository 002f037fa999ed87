//! One conversation with an engine: HTTP/1.1 over its Unix socket.
//!
//! Knows requests and answers, nothing of what they mean. It sets no time limit: whoever asks does.

use std::{io, path::Path};

use http_body_util::{BodyExt as _, Empty, LengthLimitError, Limited};
use hyper::{
    HeaderMap, Request, StatusCode,
    body::Bytes,
    client::conn::http1::{self, SendRequest},
    header::HOST,
};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, de::DeserializeOwned};
use tokio::{net::UnixStream, task::JoinHandle};

use super::EngineError;

/// The longest answer that is read: a list of ten thousand containers is a third of this.
const MAX_ANSWER_BYTES: usize = 64 << 20;

/// A connection to an engine, for one request after the other.
#[derive(Debug)]
pub(super) struct Conversation<'socket> {
    socket: &'socket Path,
    sender: SendRequest<Empty<Bytes>>,
    connection: JoinHandle<()>,
}

/// What came back.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    body: Bytes,
}

/// What engines answer where they do not do as asked.
#[derive(Deserialize)]
struct Complaint {
    message: String,
    /// Podman only.
    #[serde(default)]
    cause: Option<String>,
}

/// The cause that Podman gives where there is none of that name (`ErrNoSuchCtr` in its libpod/define).
const NO_SUCH_CONTAINER: &str = "no such container";

impl Answer {
    /// Whether it says that there is no such container. Podman (4.3) answers with the same status where several have the
    /// identifier that was begun, and gives another cause.
    pub(super) fn is_absence(&self) -> bool {
        let complaint: Option<Complaint> = serde_json::from_slice(&self.body).ok();
        let cause = complaint.and_then(|complaint| complaint.cause);
        self.status == StatusCode::NOT_FOUND && cause.is_none_or(|cause| cause == NO_SUCH_CONTAINER)
    }
}

impl<'socket> Conversation<'socket> {
    /// Connects. Needs a tokio runtime with I/O.
    pub(super) async fn open(socket: &'socket Path) -> Result<Self, EngineError> {
        let stream = UnixStream::connect(socket)
            .await
            .map_err(|source| EngineError::Connect {
                socket: socket.to_owned(),
                source,
            })?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| garbage(socket, error))?;
        // What goes wrong in it goes wrong for the request too, which reports it.
        let connection = tokio::spawn(async move { drop(connection.await) });
        Ok(Self {
            socket,
            sender,
            connection,
        })
    }

    /// Asks for a path, and reads the whole answer.
    pub(super) async fn get(&mut self, path: &str) -> Result<Answer, EngineError> {
        let request = Request::get(path)
            .header(HOST, "engine")
            .body(Empty::new())
            .map_err(|error| garbage(self.socket, error))?;
        let ready = self.sender.ready().await;
        let response = match ready {
            Ok(()) => self.sender.send_request(request).await,
            Err(error) => Err(error),
        };
        let (head, body) = response
            .map_err(|error| garbage(self.socket, error))?
            .into_parts();
        let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await;
        Ok(Answer {
            status: head.status,
            headers: head.headers,
            body: body
                .map_err(|error| match error.downcast_ref::<LengthLimitError>() {
                    Some(_) => garbage(self.socket, io::Error::other("the answer does not end")),
                    None => garbage(self.socket, error),
                })?
                .to_bytes(),
        })
    }

    /// Reads the JSON of a good answer.
    pub(super) fn understand<T: DeserializeOwned>(&self, answer: &Answer) -> Result<T, EngineError> {
        if answer.status.is_success() {
            return serde_json::from_slice(&answer.body).map_err(|error| garbage(self.socket, error));
        }
        Err(EngineError::Refused {
            socket: self.socket.to_owned(),
            status: answer.status.as_u16(),
            message: serde_json::from_slice(&answer.body)
                .map(|complaint: Complaint| complaint.message)
                .unwrap_or_default(),
        })
    }
}

impl Drop for Conversation<'_> {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

pub(super) fn garbage(
    socket: &Path,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> EngineError {
    EngineError::Garbage {
        socket: socket.to_owned(),
        source: source.into(),
    }
}
