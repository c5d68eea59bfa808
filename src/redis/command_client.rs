//! Sends batches of commands: over one connection or, in a cluster, over one per node.

use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::task::{AbortHandle, spawn_local};
use tokio::time::timeout;

use super::address::ServerAddress;
use super::cluster::{Cluster, ClusterCommand};
use super::pipeline::{Pipeline, keep};
use super::reply::{CommandFailure, CommandReplies, CommandReply, NotConnected};
use super::target::Target;
use crate::codec::resp;

/// How long a caller waits for a lost connection to return.
const RECONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Commands that are sent together.
pub(crate) enum CommandBatch {
    /// Encoded, with the number of commands.
    Encoded(BytesMut, usize),
    /// One by one, to be sent to the nodes of their keys.
    PerNode(Vec<ClusterCommand>),
}

impl CommandBatch {
    /// Appends a command. In a cluster its first argument must be the key.
    pub(crate) fn add(&mut self, name: &'static str, arguments: &[&[u8]]) {
        match self {
            Self::Encoded(bytes, commands) => {
                resp::encode(bytes, name, arguments);
                *commands += 1;
            }
            Self::PerNode(commands) => commands.push(ClusterCommand::new(name, arguments)),
        }
    }

    /// Appends a command whose key is not its first argument: a script's.
    pub(crate) fn add_keyed(&mut self, name: &'static str, key: &[u8], arguments: &[&[u8]]) {
        match self {
            Self::Encoded(..) => self.add(name, arguments),
            Self::PerNode(commands) => commands.push(ClusterCommand::with_key(name, key, arguments)),
        }
    }

    /// Appends a command without arguments; in a cluster for the node of a key.
    pub(crate) fn add_at(&mut self, name: &'static str, key: &[u8]) {
        match self {
            Self::Encoded(..) => self.add(name, &[]),
            Self::PerNode(commands) => commands.push(ClusterCommand::at_key(name, key)),
        }
    }
}

/// The command connections of one shard.
pub(crate) enum CommandClient {
    /// One connection.
    Own(Rc<Pipeline>, AbortHandle),
    /// One connection per node of a cluster.
    Nodes(Rc<Cluster>, AbortHandle),
}

impl CommandClient {
    /// Starts to connect. Must be called on the shard's runtime.
    pub(crate) fn new(target: &Target, command_timeout: Duration, max_bytes: usize) -> Self {
        if target.is_cluster() {
            let cluster = Cluster::new(target, command_timeout, max_bytes);
            let following = spawn_local(cluster.clone().follow());
            return Self::Nodes(cluster, following.abort_handle());
        }
        let pipeline = Rc::<Pipeline>::default();
        let keeping = keep(pipeline.clone(), target.clone(), command_timeout, max_bytes);
        Self::Own(pipeline, spawn_local(keeping).abort_handle())
    }

    /// Returns true if there is a connection, in a cluster to any node.
    pub(crate) fn is_up(&self) -> bool {
        match self {
            Self::Own(pipeline, _) => pipeline.is_up(),
            Self::Nodes(cluster, _) => cluster.is_up(),
        }
    }

    /// Waits until there is a connection. Cancel-safe.
    pub(crate) async fn until_up(&self) {
        match self {
            Self::Own(pipeline, _) => pipeline.until_up().await,
            Self::Nodes(cluster, _) => cluster.until_up().await,
        }
    }

    /// Waits at most one second for a connection; returns false if there is none then. A lost connection usually
    /// returns in a moment, and after an outage it may connect later than the broker. Cancel-safe.
    pub(crate) async fn wait_briefly_until_up(&self) -> bool {
        self.is_up() || timeout(RECONNECT_TIMEOUT, self.until_up()).await.is_ok()
    }

    /// Returns true for a cluster.
    pub(crate) fn is_cluster(&self) -> bool {
        matches!(self, Self::Nodes(..))
    }

    /// Returns the node of a key; none outside of a cluster.
    pub(crate) fn node_of(&self, key: &[u8]) -> Option<ServerAddress> {
        if let Self::Nodes(cluster, _) = self { cluster.node_of(key) } else { None }
    }

    /// Returns true if the servers of all these keys are reachable.
    pub(crate) fn has<'a>(&self, mut keys: impl Iterator<Item = &'a [u8]>) -> bool {
        match self {
            Self::Own(pipeline, _) => pipeline.is_up(),
            Self::Nodes(cluster, _) => keys.all(|key| cluster.has(key)),
        }
    }

    /// Waits at most one second for the node of a key; returns false if it is not reachable then, and a command fails. Outside
    /// of a cluster it returns at once. Cancel-safe.
    pub(crate) async fn wait_for_node(&self, key: &[u8]) -> bool {
        match self {
            Self::Own(..) => true,
            Self::Nodes(cluster, _) => timeout(RECONNECT_TIMEOUT, cluster.until_has(key)).await.is_ok(),
        }
    }

    /// Returns an empty batch.
    pub(crate) fn batch(&self) -> CommandBatch {
        match self {
            Self::Own(..) => CommandBatch::Encoded(BytesMut::new(), 0),
            Self::Nodes(..) => CommandBatch::PerNode(Vec::new()),
        }
    }

    /// Sends a single command.
    ///
    /// # Errors
    ///
    /// With a description, and whether Redis refused the command (an error reply) or was lost.
    pub(crate) async fn call(
        &self,
        name: &'static str,
        arguments: &[&[u8]],
    ) -> Result<CommandReply, (String, bool)> {
        let mut batch = self.batch();
        batch.add(name, arguments);
        match self.send(batch).await.pop() {
            Some(Ok(reply)) => Ok(reply),
            Some(Err(CommandFailure::Refused(reason))) => Err((reason, true)),
            _ => Err(("redis was lost".to_owned(), false)),
        }
    }

    /// Sends a batch, at most once. Batches are written in the order of the first polls of their futures.
    pub(crate) fn send(&self, batch: CommandBatch) -> Pin<Box<dyn Future<Output = CommandReplies>>> {
        match (self, batch) {
            (Self::Own(pipeline, _), CommandBatch::Encoded(bytes, commands)) => {
                let pipeline = pipeline.clone();
                Box::pin(async move {
                    // The connection would wait for a reply to it, and all later commands with it.
                    if commands == 0 {
                        return Vec::new();
                    }
                    let replies = match pipeline.queue(bytes, commands) {
                        Ok(replies) => replies.await.ok(),
                        Err(NotConnected) => None,
                    };
                    let replies = replies.map(|replies| {
                        replies.into_iter().map(|reply| reply.map_err(CommandFailure::Refused))
                    });
                    replies.map_or_else(|| vec![Err(CommandFailure::Lost); commands], Iterator::collect)
                })
            }
            (Self::Nodes(cluster, _), CommandBatch::PerNode(commands)) => {
                Box::pin(cluster.clone().send(commands))
            }
            _ => Box::pin(async { Vec::new() }),
        }
    }
}

impl fmt::Debug for CommandClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CommandClient").field("up", &self.is_up()).finish_non_exhaustive()
    }
}

impl Drop for CommandClient {
    fn drop(&mut self) {
        let (Self::Own(_, task) | Self::Nodes(_, task)) = self;
        task.abort();
    }
}
