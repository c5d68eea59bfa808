//! Reading keys whose names are secrets: sessions and what is known of users.

use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use fred::prelude::Client;
use tokio::task::{AbortHandle, spawn_local};

use super::commands::Commands;
use super::connect::{Guard, Target};
use super::reads::{Entry, ReadFailed, Reads};
use crate::counters::Counters;
use crate::settings;

/// Largest session that is read, in bytes.
pub(super) const MAX_BYTES: usize = 4 << 20;

/// Reads keys whose names are secrets, together with the time that they have to live.
#[derive(Debug)]
pub struct Lookups {
    client: Client,
    commands: Rc<Commands>,
    reads: Rc<Reads<Secret>>,
    task: AbortHandle,
    /// A connection of its own is let go of with it.
    connection: Option<Guard>,
}

/// A key that the log does not show.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Secret(Rc<str>);

impl AsRef<str> for Secret {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Lookups {
    /// Reads over a connection that there is.
    pub(super) fn new(client: Client, commands: Rc<Commands>, counters: &Arc<Counters>) -> Self {
        let reads = Reads::new(commands.clone(), "session", MAX_BYTES, true, counters.clone());
        let task = spawn_local(reads.clone().run()).abort_handle();
        Self { client, commands, reads, task, connection: None }
    }

    /// Reads over a connection of its own. Must be called on the shard's runtime.
    pub fn connect(target: &Target, settings: &settings::Redis, counters: &Arc<Counters>) -> Self {
        let (client, connection) = target.client(settings.command_timeout);
        let commands = Commands::new(target, &client, settings.command_timeout, MAX_BYTES);
        let mut lookups = Self::new(client, Rc::new(commands), counters);
        lookups.connection = Some(connection);
        lookups
    }

    /// Returns fred's connection.
    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// Reads keys, in their order.
    ///
    /// # Errors
    ///
    /// When Redis is lost, or does not answer in time.
    pub async fn read(&self, keys: &[String]) -> Result<Vec<Entry>, ReadFailed> {
        // Nobody else has looked whether there is the connection to a Redis of the sessions' own.
        if !self.commands.comes_up().await {
            return Err(ReadFailed);
        }
        self.reads.read(keys.iter().map(|key| Secret(key.as_str().into()))).await
    }
}

impl Drop for Lookups {
    fn drop(&mut self) {
        self.task.abort();
    }
}
