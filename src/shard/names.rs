//! Names that a shard counts for the admin listener: channels with their listeners, and users with their connections.

use std::collections::HashSet;

use tokio::task::yield_now;

use super::ask::{NameQuery, NameSelection};
use super::state::ShardState;
use crate::hub::{SharedHub, topics_from};
use crate::wire::Topic;

/// Topics that are looked at before the shard's other tasks run.
const SLICE: usize = 2_048;

/// Longest name that is shown, in bytes.
const MAX_NAME_BYTES: usize = 1_024;

/// Returns channels of the relay and of version 2, or groups of Django Channels, with the number of their listeners. The keys
/// of sessions are left out, so the sessions of a facility are one channel.
pub(super) async fn channels(state: &ShardState, query: &NameQuery, of_layer: bool) -> Vec<(String, usize)> {
    let mut selection = NameSelection::<usize>::new(query);
    if of_layer {
        if let Some(groups) = &state.groups {
            count(&groups.hub, &mut selection, |topic| topic.group_name().map(str::to_owned)).await;
        }
    } else {
        let names = state.process.settings.live_names();
        count(&state.hub, &mut selection, |topic| names.shown(topic.as_ref())).await;
    }
    selection.into_names().collect()
}

async fn count(
    hub: &SharedHub,
    selection: &mut NameSelection<'_, usize>,
    shown: impl Fn(&Topic) -> Option<String>,
) {
    let mut next = 0;
    loop {
        let seen = hub.with(|hub| {
            let mut last = None;
            for (number, topic, members) in topics_from(hub, next).take(SLICE) {
                last = Some(number);
                if members > 0
                    && let Some(name) = shown(topic)
                {
                    let name = &name[..name.floor_char_boundary(MAX_NAME_BYTES)];
                    selection.update(name, |count| *count += members);
                }
            }
            last
        });
        let Some(last) = seen else { return };
        next = last + 1;
        yield_now().await;
    }
}

/// Returns users with the number of their connections.
pub(super) fn users(state: &ShardState, query: &NameQuery) -> Vec<(String, usize)> {
    // A connection may have several leases of a user: one for each facility or namespace.
    let mut selection = NameSelection::<HashSet<usize>>::new(query);
    state.visitors.leases.for_each_user(|user, listeners| {
        if !listeners.is_empty() {
            let name = &user[..user.floor_char_boundary(MAX_NAME_BYTES)];
            selection.update(name, |seen| seen.extend(listeners));
        }
    });
    selection.into_names().map(|(name, seen)| (name, seen.len())).collect()
}
