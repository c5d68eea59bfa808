//! Publications of a client, and their answers.

use std::rc::Rc;
use std::task::Context;

use bytes::Bytes;

use super::client::{LiveClient, refuse, send};
use super::refusal::RequestRefusal;
use super::verdict::select;
use crate::dialects::relay::{acknowledge, announce_acknowledged};
use crate::hub::Listener;
use crate::redis::PublishError;
use crate::shard::state::ShardState;
use crate::wire::live::ok;
use crate::wire::{Channel, Facility};

/// Publishes a message to the audiences that are granted, or to those of them that are named.
///
/// # Errors
///
/// When the client may not publish it.
pub(super) fn publish(
    client: &mut LiveClient,
    listener: &Listener,
    state: &ShardState,
    facility: &Facility,
    names: Option<&[String]>,
    payload: Bytes,
    number: Option<i64>,
) -> Result<(), RequestRefusal> {
    let position = client.position(facility).ok_or(RequestRefusal::NotSubscribed)?;
    let known = &client.facilities[position];
    if !known.is_open {
        return Err(RequestRefusal::NotSubscribed);
    }
    let granted = known.publishes.as_ref().ok_or(RequestRefusal::NoAudience)?;
    let channels: Rc<[Channel]> = match names {
        None => granted.clone(),
        Some(names) => select(&state.process.settings.namespace, facility, granted, names).into(),
    };
    if channels.is_empty() {
        return Err(RequestRefusal::NoAudience);
    }
    if state.sockets.keepalive.heartbeat.as_ref() == Some(&payload) {
        // Plain clients would take it for a heartbeat of the gateway.
        return Err(RequestRefusal::Invalid("this text is the heartbeat"));
    }
    if known.rate_limit.as_ref().is_some_and(|rate_limit| !rate_limit.take(payload.len())) {
        return Err(RequestRefusal::TooFast);
    }
    let acks = client.acks.get_or_insert_default().clone();
    let issued = acks.issue(payload.len());
    if let Some(number) = number {
        client.unanswered.push_back((issued, number));
    }
    // Without a subscription it reads on after a loss, and its own messages come back with the others.
    if let Some(subscription) = &known.subscription {
        known.echo_topics.exclude(subscription, listener, &payload, issued);
    }
    if let Some(layer) = &known.layer {
        layer.publish(state, &payload);
    }
    if let Some(announced) = &mut client.facilities[position].announced {
        announced.publish(issued, &channels, &payload);
    }
    let history = state.process.settings.history.limits_of(facility);
    state.store.publish(channels, payload, history, acks);
    Ok(())
}

/// Answers the publications that Redis has acknowledged, tells Django of them, and registers the task for more. Returns why
/// one has failed, if one has.
pub(super) fn poll_acks(
    client: &mut LiveClient,
    listener: &Listener,
    state: &ShardState,
    cx: &Context<'_>,
) -> Option<PublishError> {
    let acks = client.acks.as_ref()?;
    acks.watch(cx);
    let below = acks.acknowledged();
    acknowledge(listener, below, state.sockets.clock.get());
    while let Some((_, number)) = client.unanswered.pop_front_if(|(issued, _)| *issued < below) {
        send(listener, state, &ok(number));
    }
    for facility in &mut client.facilities {
        if let Some(announced) = &mut facility.announced {
            announce_acknowledged(announced, acks, state, &facility.handshake.facility);
        }
    }
    client.leaving.retain_mut(|(announced, facility)| {
        announce_acknowledged(announced, acks, state, facility);
        announced.has_unacknowledged()
    });
    let failure = acks.failure()?;
    // The connection ends: how far the others got is not known.
    for (_, number) in client.unanswered.drain(..) {
        refuse(listener, state, Some(number), None, RequestRefusal::Lost);
    }
    Some(failure)
}
