//! The groups of Django Channels: subscriptions and messages of the layer's servers, for the shards that hear them.
//!
//! One task for all servers of a layer. Its topics are in a hub of their own, because they are lost with other servers than the
//! channels are, and have no persisted values.

mod core;
mod deliveries;
mod mailboxes;
mod pubsub;
mod wanted;

use std::sync::Arc;

use tokio::sync::mpsc;

use self::core::CoreLayer;
pub use self::deliveries::GroupsEvent;
use self::deliveries::{GroupDeliveries, KeepMessage};
use self::pubsub::PubSubHosts;
use super::event::Call;
use crate::metrics::Counters;
use crate::redis::TargetError;
use crate::settings::{ChannelLayer, LayerKind, Settings};

/// Serves the groups of a layer until all shards have ended. Passes each message, as it was published, to `keep`. Must be called
/// on a local task set.
///
/// # Errors
///
/// When a server's TLS cannot be set up.
pub fn serve_groups(
    layer: &ChannelLayer,
    settings: &Settings,
    shards: Vec<mpsc::Sender<GroupsEvent>>,
    counters: &Arc<Counters>,
    calls: mpsc::Receiver<Call>,
    keep: KeepMessage,
) -> Result<impl Future<Output = ()> + use<>, TargetError> {
    let deliveries = GroupDeliveries::new(layer, settings, shards, counters, keep);
    let max_bytes = deliveries.max_stored_bytes();
    let (core, pubsub) = match layer.kind {
        LayerKind::Core => (Some(CoreLayer::new(layer, settings, deliveries, counters)?), None),
        LayerKind::PubSub => (None, Some(PubSubHosts::new(layer, settings, deliveries, counters)?)),
    };
    Ok(async move {
        match (core, pubsub) {
            (Some(core), _) => core.run(max_bytes, calls).await,
            (_, Some(pubsub)) => pubsub.run(calls).await,
            (None, None) => {}
        }
    })
}
