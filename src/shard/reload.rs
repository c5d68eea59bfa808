//! Applies reloaded settings to a shard: to new handshakes at once, to open connections one after the other.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;

use super::state::ShardState;
use crate::dialects::socket_io;
use crate::settings::Settings;

/// Fewest connections that are authorized again at a time.
const MIN_BATCH: usize = 100;

/// Most turns that all connections take.
const MAX_TURNS: usize = 100;

/// Pause between two turns. All connections together take 10 seconds at most.
const PAUSE: Duration = Duration::from_millis(100);

/// Reloaded settings for a shard.
#[derive(Debug)]
pub struct ReloadCall {
    /// The settings.
    pub settings: Arc<Settings>,
    /// Whether open connections may have lost or gained something by them.
    pub changes_grants: bool,
    /// Told when new handshakes follow them.
    pub applied: oneshot::Sender<()>,
}

/// Applies reloaded settings as they come. Never returns.
pub(super) async fn apply_reloads(state: Rc<ShardState>, mut calls: mpsc::Receiver<ReloadCall>) {
    let mut authorizing = None;
    while let Some(ReloadCall { settings, changes_grants, applied }) = calls.recv().await {
        state.apply(&settings);
        // Nobody may wait any more.
        let _ = applied.send(());
        if changes_grants {
            // Ends an earlier one: this one comes to all of its connections.
            authorizing =
                Some(AbortOnDropHandle::new(tokio::task::spawn_local(authorize_all(state.clone()))));
        }
    }
    // The process ends.
    std::future::pending::<()>().await;
    drop(authorizing);
}

/// Has all connections authorized again, spread over time. Those that are opened meanwhile follow the new settings.
async fn authorize_all(state: Rc<ShardState>) {
    // Sessions that poll are no connections of the shard.
    let all = state.connections.get() + state.engine.session_count();
    let batch = (all / MAX_TURNS).max(MIN_BATCH);
    let mut next = Some(0);
    while let Some(first) = next {
        next = state.hub.with(|hub| {
            let mut listeners = hub.listeners_from(first);
            for (_, listener) in listeners.by_ref().take(batch) {
                listener.reauthorize();
            }
            listeners.next().map(|(number, _)| number)
        });
        sleep(PAUSE).await;
    }
    let mut first = 0;
    loop {
        let sessions = state.engine.sessions_from(first, batch);
        let Some(last) = sessions.last() else { break };
        first = last.slot as usize + 1;
        for session in &sessions {
            socket_io::withdraw(session, &state);
        }
        sleep(PAUSE).await;
    }
}
