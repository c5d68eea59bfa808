//! Messages from a client: heartbeats are answered, everything else is published.

use std::task::Context;

use bytes::Bytes;

use super::client::RelayClient;
use super::echo;
use super::heartbeat::count_heartbeat;
use crate::events::AnnouncedClient;
use crate::hub::Listener;
use crate::metrics::Counters;
use crate::redis::{PublishAcks, PublishError};
use crate::shard::state::ShardState;
use crate::socket::Close;
use crate::wire::{Channel, Facility, Form};

/// Publishes a message to all channels that the client may publish to, unless it is a heartbeat. Returns why the
/// connection has to end, if it has to.
pub(super) fn receive(
    client: &mut RelayClient,
    listener: &Listener,
    state: &ShardState,
    payload: Bytes,
) -> Option<Close> {
    client.received += 1;
    let (sockets, counters) = (&state.sockets, &state.process.counters);
    if sockets.keepalive.heartbeat.as_ref() == Some(&payload) {
        let frame = sockets.keepalive.heartbeat_in(Form::Frames);
        listener.send_heartbeat(frame, sockets.clock.get(), &sockets.limits);
        return None;
    }
    if let Some(answer) = sockets.keepalive.client_heartbeats.answer_to(&payload) {
        if !answer.is_empty() {
            listener.answer_heartbeat(answer.clone(), &sockets.limits);
        }
        return None;
    }
    if let Some(text) = count_heartbeat(&payload, client.received == 1, &mut client.heartbeats) {
        counters.warn_of_heartbeat(text);
    }
    let Some(channels) = client.channels.as_ref().filter(|_| !payload.is_empty()) else {
        client.ignored = client.ignored.saturating_add(1);
        Counters::count(&counters.ignored_publications);
        return None;
    };
    if client.rate_limit.as_ref().is_some_and(|rate_limit| !rate_limit.take(payload.len())) {
        return Some(Close::TooFast);
    }
    let channels = channels.clone();
    let acks = client.acks.get_or_insert_default().clone();
    let number = acks.issue(payload.len());
    if let Some(announced) = &mut client.announced {
        announced.publish(number, &channels, &payload);
    }
    if let Some(layer) = &client.layer {
        layer.publish(state, &payload);
    }
    client.echo_topics.exclude(&client.subscription, listener, &payload, number);
    let history = state.process.settings.history.limits_of(&client.handshake.facility);
    state.store.publish(channels, payload, history, acks);
    None
}

/// Returns the audiences of a publication, without the key of a session.
pub(super) fn audiences(state: &ShardState, channels: &[Channel], facility: &Facility) -> Vec<String> {
    let namespace = &state.process.settings.namespace;
    channels.iter().map(|channel| namespace.audience_of(channel, facility).to_owned()).collect()
}

/// Passes acknowledgements of Redis on to the echo filter and to Django, and registers the task for more. Returns why a publication has
/// failed, if one has.
pub(super) fn poll_acks(
    client: &mut RelayClient,
    listener: &Listener,
    state: &ShardState,
    cx: &Context<'_>,
) -> Option<PublishError> {
    let acks = client.acks.as_ref()?;
    acks.watch(cx);
    echo::acknowledge(listener, acks.acknowledged(), state.sockets.clock.get());
    if let Some(announced) = &mut client.announced {
        announce_acknowledged(announced, acks, state, &client.handshake.facility);
    }
    acks.failure()
}

/// Tells Django the messages whose publications Redis has acknowledged.
pub(in crate::dialects) fn announce_acknowledged(
    announced: &mut AnnouncedClient,
    acks: &PublishAcks,
    state: &ShardState,
    facility: &Facility,
) {
    announced.acknowledge(acks.acknowledged(), |channels| audiences(state, channels, facility));
}

/// Returns how a connection ends whose publication has failed.
pub(in crate::dialects) fn close_for(failure: PublishError) -> Close {
    match failure {
        PublishError::Lost => Close::PublicationLost,
        PublishError::Waited => Close::Overloaded,
    }
}
