//! Starts what serves the groups of Django Channels.

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use crate::broker::{Call, GroupsEvent, serve_groups};
use crate::groups::KeptMessages;
use crate::shard::state::{ProcessState, ShardState};

/// Starts to serve the groups of Django Channels, if a layer is configured. Returns the end: the process leaves its groups as
/// soon as all shards have ended.
pub(super) fn start_groups(
    process: &ProcessState,
    first: &ShardState,
    channels: Option<(Vec<mpsc::Sender<GroupsEvent>>, mpsc::Receiver<Call>)>,
    brokers: &mut JoinSet<()>,
) -> anyhow::Result<impl Future<Output = ()> + use<>> {
    let ProcessState { settings, counters, .. } = process;
    let (ended, end) = oneshot::channel();
    if let Some((layer, (inboxes, requests))) = settings.channels.layer().zip(channels) {
        let (seconds, max_bytes) = (layer.keep_seconds, settings.redis.max_pending_bytes);
        let kept = (seconds > 0).then(|| {
            let (commands, pending) = (first.store.commands(), process.kept.clone());
            KeptMessages::new(commands, &settings.namespace, seconds, max_bytes, pending)
        });
        if let Some(kept) = &kept {
            brokers.spawn_local(kept.clone().run());
        }
        let keep = move |group: &str, message: &[u8]| {
            if let Some(kept) = &kept {
                kept.keep(group, message);
            }
        };
        let serving = serve_groups(layer, settings, inboxes, counters, requests, Box::new(keep))?;
        brokers.spawn_local(async move {
            serving.await;
            let _ = ended.send(());
        });
    }
    let limit = settings.redis.command_timeout;
    Ok(async move {
        let _ = tokio::time::timeout(limit, end).await;
    })
}
