//! Detects whether Redis publishes keyspace events, by a probe or from the settings, and handles refused channels.

use std::future::pending;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tracing::{debug, info, warn};

use crate::redis::error_reply::ErrorClass;
use crate::redis::{CommandClient, CommandReply, ReplyValue};
use crate::wire::{Channel, PublishedEvents};

/// Interval between probes: an operator can change the setting at any time.
const PROBE_INTERVAL: Duration = Duration::from_secs(30);

/// Time that a probe waits for a connection; after it, the next probe is due anyway.
const PROBE_TIMEOUT: Duration = Duration::from_secs(30);

/// Redis' support for keyspace events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Support {
    /// It publishes them.
    Yes {
        /// Also those of plain writes, which sessions of Django do not need.
        writes: bool,
    },
    /// It does not.
    No,
    /// It does not allow the probe, or refuses a channel.
    Unknown,
}

/// The source of the support.
#[derive(Debug, Clone, Copy)]
pub(super) enum Detection {
    /// By `CONFIG GET`.
    Probe,
    /// The setting `session.keyspace_events`.
    Configured(bool),
    /// It is not needed, because sessions are stored in another Redis, or not possible: the nodes of a cluster report
    /// events of their own keys only, and the broker is subscribed at one of them.
    Off,
}

/// Probes for keyspace events, and records the support that was announced to the shards.
pub(super) struct KeyspaceSupport {
    commands: Rc<CommandClient>,
    detection: Detection,
    announced: Option<Support>,
    probed_at: Instant,
    /// The refused keyspace channel that is retried on behalf of all others, even if no session needs it any more.
    refused: Option<Channel>,
    sender: mpsc::Sender<Support>,
    receiver: mpsc::Receiver<Support>,
}

impl KeyspaceSupport {
    pub(super) fn new(commands: Rc<CommandClient>, detection: Detection) -> Self {
        let (sender, receiver) = mpsc::channel(1);
        let (announced, refused) = (None, None);
        Self { commands, detection, announced, probed_at: Instant::now(), refused, sender, receiver }
    }

    /// Forgets what is known: a new connection may be to another server, with other rights.
    pub(super) fn reset(&mut self) {
        self.announced = None;
        self.refused = None;
    }

    /// Probes again if the last probe is old.
    pub(super) fn probe_if_due(&mut self, now: Instant) {
        if now - self.probed_at >= PROBE_INTERVAL {
            self.probe();
        }
    }

    /// Probes in the background; [`Self::next`] returns the result.
    pub(super) fn probe(&mut self) {
        self.probed_at = Instant::now();
        // A refused probe is not repeated on this connection.
        if self.announced == Some(Support::Unknown) {
            return;
        }
        match self.detection {
            Detection::Off => {}
            // If an older result is still queued, it is the same.
            Detection::Configured(true) => drop(self.sender.try_send(Support::Yes { writes: false })),
            Detection::Configured(false) => drop(self.sender.try_send(Support::No)),
            Detection::Probe => {
                let (commands, sender) = (self.commands.clone(), self.sender.clone());
                tokio::task::spawn_local(async move {
                    // The connection for commands may be re-established later than the one for subscriptions.
                    let is_up = timeout(PROBE_TIMEOUT, commands.until_up()).await.is_ok();
                    if is_up && let Some(support) = probe_support(&commands).await {
                        let _ = sender.try_send(support);
                    }
                });
            }
        }
    }

    /// Waits for the result of a probe. Safe to cancel.
    pub(super) async fn next(&mut self) -> Support {
        match self.receiver.recv().await {
            Some(support) => support,
            None => pending().await,
        }
    }

    /// Records the result of a probe. Returns true if it has to be announced to the shards.
    pub(super) fn record(&mut self, support: Support) -> bool {
        // A probe from before a refusal knows less than the refusal.
        let support = if self.refused.is_some() { Support::Unknown } else { support };
        let changed = self.announced.replace(support) != Some(support);
        if changed {
            debug!(keyspace_support = ?support, "keyspace events");
        }
        changed
    }

    /// Records that Redis refuses a keyspace channel: sessions are re-read periodically instead. Returns true if
    /// the shards have to be informed; that is done once for all channels.
    pub(super) fn record_refusal(&mut self, channel: &Channel, reason: &str) -> bool {
        let is_first = self.refused.is_none();
        self.refused.get_or_insert_with(|| channel.clone());
        let announced = self.announced.replace(Support::Unknown);
        if is_first && announced != Some(Support::No) {
            warn!(
                error = reason,
                "redis refuses keyspace events; a logout may take session.recheck_seconds to be noticed. Allow its user to subscribe to them (ACL SETUSER … &__keyspace@*)"
            );
        }
        is_first || announced != Some(Support::Unknown)
    }

    /// Returns true if this is the refused channel that is retried on behalf of all others.
    pub(super) fn is_retried(&self, channel: &Channel) -> bool {
        self.refused.as_ref() == Some(channel)
    }

    /// Records that Redis allows a channel that it refused. Returns true if it is the one that was retried; then support
    /// is probed again.
    pub(super) fn record_allowed(&mut self, channel: &Channel) -> bool {
        let is_retried = self.refused.take_if(|refused| refused == channel).is_some();
        if is_retried {
            info!("redis allows keyspace events again");
            self.announced = None;
            self.probe();
        }
        is_retried
    }
}

/// Queries whether Redis publishes events of keys that are deleted, written with a time to live, or expire (`Kgx`). The
/// setting is only read: changing it is the operator's decision.
async fn probe_support(commands: &CommandClient) -> Option<Support> {
    parse_support(commands.call("CONFIG", &[b"get", b"notify-keyspace-events"]).await)
}

/// Returns the support that a reply reports; `None` if the probe has to be repeated.
fn parse_support(reply: Result<CommandReply, (String, bool)>) -> Option<Support> {
    match reply {
        Ok(reply) => {
            let found = match &reply {
                CommandReply::Other(found) => found.field("notify-keyspace-events"),
                _ => None,
            };
            let flags = found.and_then(ReplyValue::text).unwrap_or_default();
            let PublishedEvents { has_expiry, has_writes } = PublishedEvents::parse(flags);
            Some(if has_expiry { Support::Yes { writes: has_writes } } else { Support::No })
        }
        // Managed services forbid CONFIG; subscribing does no harm there.
        Err((error, true)) if ErrorClass::of(&error) != ErrorClass::Temporary => Some(Support::Unknown),
        Err((error, _)) => {
            debug!(error, "cannot ask for notify-keyspace-events");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_temporary_error_repeats_the_probe_for_keyspace_events() {
        let refused = |text: &str| parse_support(Err((text.to_owned(), true)));
        assert_eq!(refused("BUSY Redis is busy running a script."), None);
        assert_eq!(refused("NOPERM no permissions to run the 'config|get' command"), Some(Support::Unknown));
        assert_eq!(refused("ERR unknown command 'CONFIG'"), Some(Support::Unknown));
        assert_eq!(parse_support(Err(("redis was lost".to_owned(), false))), None);
    }
}
