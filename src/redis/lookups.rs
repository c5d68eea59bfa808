//! Reads keys whose names are secret: sessions and user data.

use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use tokio::task::{AbortHandle, spawn_local};

use super::command_client::CommandClient;
use super::reads::{ReadFailed, ReadKind, Reads, StoredValue};
use super::target::Target;
use crate::metrics::Counters;
use crate::settings;

/// Largest session, in bytes.
pub(crate) const MAX_BYTES: usize = 4 << 20;

/// First read of a session, in bytes: more than most sessions have.
const HEAD_BYTES: usize = 16 << 10;

/// Reads secret keys together with their remaining TTL.
#[derive(Debug)]
pub struct Lookups {
    commands: Rc<CommandClient>,
    heads: Rc<Reads<MaskedKey>>,
    whole: Rc<Reads<MaskedKey>>,
    tasks: [AbortHandle; 2],
}

/// A key that the log masks.
#[derive(Clone, PartialEq, Eq, Hash)]
struct MaskedKey(Rc<str>);

impl AsRef<str> for MaskedKey {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for MaskedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Lookups {
    /// Uses an existing connection.
    pub(crate) fn new(commands: Rc<CommandClient>, counters: &Arc<Counters>) -> Self {
        let reads =
            |kind, max_bytes| Reads::new(commands.clone(), "session", kind, max_bytes, counters.clone());
        let (heads, whole) = (reads(ReadKind::Head, HEAD_BYTES), reads(ReadKind::ValueAndTtl, MAX_BYTES));
        let tasks = [&heads, &whole].map(|reads| spawn_local(reads.clone().run()).abort_handle());
        Self { commands, heads, whole, tasks }
    }

    /// Returns whether Redis is reachable at the moment.
    pub fn is_connected(&self) -> bool {
        self.commands.is_up()
    }

    /// Opens a connection of its own. Must be called on the shard's runtime.
    pub fn connect(target: &Target, settings: &settings::RedisSettings, counters: &Arc<Counters>) -> Self {
        let commands = CommandClient::new(target, settings.command_timeout, MAX_BYTES);
        Self::new(Rc::new(commands), counters)
    }

    /// Returns the command connection.
    pub(crate) fn commands(&self) -> &Rc<CommandClient> {
        &self.commands
    }

    /// Reads keys, in order. A large value is returned in part.
    ///
    /// # Errors
    ///
    /// When Redis is lost, or gives no answer in time.
    pub async fn read(&self, keys: &[String]) -> Result<Vec<StoredValue>, ReadFailed> {
        // No broker watches a separate session Redis, so its connection is checked here.
        if !self.commands.wait_briefly_until_up().await {
            return Err(ReadFailed);
        }
        self.heads.read(keys.iter().map(|key| MaskedKey(key.as_str().into()))).await
    }

    /// Reads the whole value of a key.
    ///
    /// # Errors
    ///
    /// When Redis is lost, or gives no answer in time.
    pub async fn read_whole(&self, key: &str) -> Result<StoredValue, ReadFailed> {
        let read = self.whole.read([MaskedKey(key.into())].into_iter()).await?;
        Ok(read.into_iter().next().unwrap_or_default())
    }
}

impl Drop for Lookups {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}
