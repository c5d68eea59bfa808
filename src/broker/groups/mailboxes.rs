//! The mailboxes of the core layer: their names, and the task that takes what arrives in those of a server.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::spawn_local;
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;

use crate::redis::{MailboxContent, MailboxReader, Target};
use crate::wire::layer_host;

/// Contents of mailboxes that may wait, each of about 1 MiB or of one message. Then Redis keeps the messages, within the capacity
/// of the mailboxes.
pub(super) const MAX_WAITING: usize = 16;

/// Pause before a lost connection is opened again, and before groups are joined again.
pub(super) const PAUSE: Duration = Duration::from_millis(500);

/// What the task of a server's mailboxes reports.
pub(super) enum MailboxEvent {
    Opened(usize),
    Lost(usize, String),
    /// The number of a mailbox, and what was taken from it.
    Content(usize, MailboxContent),
}

/// Returns the name of a new mailbox that is on a server.
pub(super) fn mailbox_on(host: usize, hosts: usize) -> String {
    loop {
        let name = format!("gw.{:032x}!", rand::random::<u128>());
        if layer_host(&name, hosts) == host {
            return name;
        }
    }
}

/// Takes what arrives in the mailboxes of a server, until the task is aborted.
pub(super) async fn drain(
    target: Target,
    host: usize,
    own: Vec<usize>,
    keys: Vec<String>,
    max_bytes: usize,
    events: mpsc::Sender<MailboxEvent>,
) {
    let _following = AbortOnDropHandle::new(spawn_local(target.clone().follow()));
    loop {
        let own_keys = own.iter().map(|number| keys[*number].clone()).collect();
        let reason = match MailboxReader::open(&target, own_keys, max_bytes).await {
            Ok(mut reader) => {
                if events.send(MailboxEvent::Opened(host)).await.is_err() {
                    return;
                }
                loop {
                    match reader.take().await {
                        Ok(None) => {}
                        Ok(Some(content)) => {
                            let event = MailboxEvent::Content(own[content.mailbox], content);
                            if events.send(event).await.is_err() {
                                return;
                            }
                        }
                        Err(reason) => break reason,
                    }
                }
            }
            Err(reason) => reason,
        };
        if events.send(MailboxEvent::Lost(host, reason)).await.is_err() {
            return;
        }
        sleep(PAUSE).await;
    }
}
