//! Commands in pipelines: over one connection, or, in a cluster, by fred, who knows which node holds which key.

use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use fred::prelude::*;
use fred::types::CustomCommand;
use tokio::task::{AbortHandle, spawn_local};
use tokio::time::timeout;

use super::answer::Answer;
use super::connect::{Guard, Target, describe};
use super::error_reply::is_reply;
use super::exchange::{Exchange, keep};
use super::resp;

/// How long is waited for a connection before there is none.
const PATIENCE: Duration = Duration::from_secs(1);

/// What Redis says to a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reply {
    /// A number.
    Integer(i64),
    /// A value; none where there is none.
    Value(Option<Bytes>),
    /// A value that is too large, of so many bytes.
    TooLarge(usize),
    /// A status, or whatever else is no error and is not asked for.
    Done,
    /// A list.
    Other(Answer),
}

/// The connection was lost before all replies came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lost;

/// What becomes of each command of a batch: what Redis says, or the text of its error.
pub(super) type Replies = Result<Vec<Result<Reply, String>>, Lost>;

/// Commands that are written together.
pub(super) enum Batch {
    /// As they are written.
    Encoded(BytesMut, usize),
    /// For fred.
    Words(Vec<(&'static str, Vec<Value>)>),
}

impl Batch {
    /// Adds a command. In a cluster the first of its arguments is the key.
    pub(super) fn add(&mut self, name: &'static str, arguments: &[&[u8]]) {
        match self {
            Self::Encoded(bytes, commands) => {
                resp::encode(bytes, name, arguments);
                *commands += 1;
            }
            Self::Words(commands) => {
                commands.push((name, arguments.iter().map(|word| Value::from(*word)).collect()));
            }
        }
    }
}

/// The way by which commands go to Redis.
pub(super) enum Commands {
    /// Over a line of our own.
    Own(Rc<Exchange>, AbortHandle),
    /// By fred.
    Cluster(Client, #[expect(dead_code, reason = "it keeps the client connected")] Guard),
}

impl Commands {
    /// Begins to connect. Must be called on the shard's runtime.
    pub(super) fn new(target: &Target, patience: Duration, max_bytes: usize) -> Self {
        if target.is_cluster() {
            let (client, guard) = target.client(patience);
            return Self::Cluster(client, guard);
        }
        let exchange = Rc::<Exchange>::default();
        let keeping = keep(exchange.clone(), target.clone(), patience, max_bytes);
        Self::Own(exchange, spawn_local(keeping).abort_handle())
    }

    /// Tells whether Redis can be reached, as far as is known.
    pub(super) fn is_up(&self) -> bool {
        match self {
            Self::Own(exchange, _) => exchange.is_up(),
            Self::Cluster(client, _) => client.is_connected(),
        }
    }

    /// Waits until Redis can be reached. Safe to cancel.
    pub(super) async fn until_up(&self) {
        match self {
            Self::Own(exchange, _) => exchange.until_up().await,
            Self::Cluster(client, _) => {
                // It fails only where the client is given up.
                let _ = client.wait_for_connect().await;
            }
        }
    }

    /// Tells whether Redis can be reached, after a short wait if need be: a line that was lost comes back in a moment,
    /// and when Redis does, it may follow the broker's. Safe to cancel.
    pub(super) async fn comes_up(&self) -> bool {
        self.is_up() || timeout(PATIENCE, self.until_up()).await.is_ok()
    }

    /// Begins a batch.
    pub(super) fn batch(&self) -> Batch {
        match self {
            Self::Own(..) => Batch::Encoded(BytesMut::new(), 0),
            Self::Cluster(..) => Batch::Words(Vec::new()),
        }
    }

    /// Gives a single command.
    ///
    /// # Errors
    ///
    /// With a description, when Redis is lost or refuses; and whether it refuses.
    pub(super) async fn give(
        &self,
        name: &'static str,
        arguments: &[&[u8]],
    ) -> Result<Reply, (String, bool)> {
        let mut batch = self.batch();
        batch.add(name, arguments);
        match self.send(batch).await.map(|mut replies| replies.pop()) {
            Ok(Some(reply)) => reply.map_err(|reason| (reason, true)),
            _ => Err(("redis was lost".to_owned(), false)),
        }
    }

    /// Writes a batch. The first poll hands it over: batches are written in the order of their first polls, and once
    /// at most.
    pub(super) fn send(&self, batch: Batch) -> Pin<Box<dyn Future<Output = Replies>>> {
        match (self, batch) {
            (Self::Own(exchange, _), Batch::Encoded(bytes, commands)) => {
                let exchange = exchange.clone();
                Box::pin(async move { exchange.queue(bytes, commands)?.await.map_err(|_| Lost) })
            }
            (Self::Cluster(client, _), Batch::Words(commands)) => {
                // Without pauses for other tasks, or the first poll would hand over a part.
                Box::pin(tokio::task::unconstrained(by_fred(client.clone(), commands)))
            }
            _ => Box::pin(async { Err(Lost) }),
        }
    }
}

impl fmt::Debug for Commands {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Commands").field("up", &self.is_up()).finish_non_exhaustive()
    }
}

impl Drop for Commands {
    fn drop(&mut self) {
        if let Self::Own(_, task) = self {
            task.abort();
        }
    }
}

async fn by_fred(client: Client, commands: Vec<(&'static str, Vec<Value>)>) -> Replies {
    let (pipeline, count) = (client.pipeline(), commands.len());
    for (name, arguments) in commands {
        let command = CustomCommand::new_static(name, None, false);
        pipeline.custom::<(), _>(command, arguments).await.map_err(|_| Lost)?;
    }
    let replies = pipeline.try_all::<Value>().await;
    // Anything but one reply per command means that the connection broke.
    if replies.len() != count {
        return Err(Lost);
    }
    replies
        .into_iter()
        .map(|reply| match reply {
            Ok(Value::Integer(number)) => Ok(Ok(Reply::Integer(number))),
            Ok(Value::Null) => Ok(Ok(Reply::Value(None))),
            Ok(value) => Ok(Ok(value.into_bytes().map_or(Reply::Done, |value| Reply::Value(Some(value))))),
            Err(error) if is_reply(error.details()) => Ok(Err(describe(&error))),
            Err(_) => Err(Lost),
        })
        .collect()
}
