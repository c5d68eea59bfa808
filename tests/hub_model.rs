//! Model-based test of the hub: random joins, leaves, deliveries and changes of topics, over real sockets.

#![expect(clippy::unwrap_used, reason = "test helpers")]

use std::collections::BTreeMap;
use std::rc::Rc;

use bytes::Bytes;
use proptest::prelude::*;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use ws4redis::hub::{Hub, Limits, Listener, MemberId, Run, SubscriptionRequest, topic_count};
use ws4redis::stream::Stream;
use ws4redis::wire::websocket::Frames;
use ws4redis::wire::{Channel, Form, Topic};

const TOPICS: usize = 3;

/// One step. Members are selected by a number modulo their count.
#[derive(Debug, Clone)]
enum ModelStep {
    /// Joins the topics whose bits are set.
    Join(u8),
    /// Opens a member that has joined. Its persisted values are the last messages of the topics whose bits are set.
    Open(usize, u8),
    /// Leaves.
    Leave(usize),
    /// Delivers this many messages in one run.
    Deliver(usize, u8),
    /// Changes a member's topics to those whose bits are set: leaves others and starts to join new ones.
    ChangeTopics(usize, u8),
    /// Completes the pending join, with persisted values as in `Open`.
    Merge(usize, u8),
}

fn step() -> impl Strategy<Value = ModelStep> {
    prop_oneof![
        2 => (0_u8..8).prop_map(ModelStep::Join),
        3 => (any::<usize>(), 0_u8..8).prop_map(|(member, values)| ModelStep::Open(member, values)),
        1 => any::<usize>().prop_map(ModelStep::Leave),
        2 => (any::<usize>(), 0_u8..8).prop_map(|(member, mask)| ModelStep::ChangeTopics(member, mask)),
        2 => (any::<usize>(), 0_u8..8).prop_map(|(member, values)| ModelStep::Merge(member, values)),
        5 => (0..TOPICS, 1_u8..4).prop_map(|(topic, count)| ModelStep::Deliver(topic, count)),
    ]
}

fn topic(index: usize) -> Topic {
    Channel::from_redis(&format!("broadcast:{index}")).into()
}

/// A member in the model.
struct ModelMember {
    id: MemberId,
    topics: Vec<usize>,
    client: UnixStream,
    server: Option<UnixStream>,
    listener: Option<Rc<Listener>>,
    held: Vec<(usize, String)>,
    expected: Vec<String>,
    addition: Option<PendingAddition>,
}

/// An open member's join of more topics.
struct PendingAddition {
    id: MemberId,
    topics: Vec<usize>,
    held: Vec<(usize, String)>,
}

fn bits(mask: u8) -> impl Iterator<Item = usize> {
    (0..TOPICS).filter(move |bit| mask & 1 << bit != 0)
}

/// Runs the steps on a hub and on the model, and compares the messages of each client.
async fn check(steps: Vec<ModelStep>) {
    let mut hub = Hub::new(Limits::default());
    let mut members: Vec<ModelMember> = Vec::new();
    let mut departed: Vec<ModelMember> = Vec::new();
    let mut last: BTreeMap<usize, String> = BTreeMap::new();
    let mut number = 0;
    for step in steps {
        match step {
            ModelStep::Join(mask) => {
                let topics: Vec<_> = bits(mask).collect();
                let names: Vec<_> = topics.iter().map(|index| topic(*index)).collect();
                let id = hub.join(&names);
                let (client, server) = UnixStream::pair().unwrap();
                let (held, expected) = (Vec::new(), Vec::new());
                members.push(ModelMember {
                    id,
                    topics,
                    client,
                    server: Some(server),
                    listener: None,
                    held,
                    expected,
                    addition: None,
                });
            }
            ModelStep::Open(member, values) if !members.is_empty() => {
                let index = member % members.len();
                open(&mut hub, &mut members[index], values, &last);
            }
            ModelStep::Leave(member) if !members.is_empty() => {
                let member = members.swap_remove(member % members.len());
                hub.leave(member.id);
                if let Some(addition) = &member.addition {
                    hub.leave(addition.id);
                }
                departed.push(member);
            }
            ModelStep::ChangeTopics(member, mask) if !members.is_empty() => {
                let index = member % members.len();
                change_topics(&mut hub, &mut members[index], &bits(mask).collect::<Vec<_>>());
            }
            ModelStep::Merge(member, values) if !members.is_empty() => {
                let index = member % members.len();
                merge(&mut hub, &mut members[index], values, &last);
            }
            ModelStep::Deliver(index, count) => {
                let texts: Vec<_> =
                    (0..count).map(|offset| format!("{}", number + i32::from(offset))).collect();
                number += i32::from(count);
                let runs = texts.iter().map(|text| Run::of(text.as_bytes())).collect();
                hub.deliver(&topic(index), Run::join(runs).unwrap());
                for member in members.iter_mut().filter(|member| member.topics.contains(&index)) {
                    for text in &texts {
                        match member.listener {
                            Some(_) => member.expected.push(text.clone()),
                            None => member.held.push((index, text.clone())),
                        }
                    }
                }
                for PendingAddition { topics, held, .. } in
                    members.iter_mut().filter_map(|member| member.addition.as_mut())
                {
                    if topics.contains(&index) {
                        held.extend(texts.iter().map(|text| (index, text.clone())));
                    }
                }
                last.insert(index, texts.last().unwrap().clone());
            }
            ModelStep::Open(..)
            | ModelStep::Leave(..)
            | ModelStep::ChangeTopics(..)
            | ModelStep::Merge(..) => {}
        }
        // Acknowledges every subscription request, as the broker does.
        for request in hub.take_requests() {
            if let SubscriptionRequest::Subscribe(topic, generation) = request {
                hub.on_subscribed(&topic, generation);
            }
        }
    }
    for mut member in members.into_iter().chain(departed) {
        hub.leave(member.id);
        if let Some(addition) = member.addition.take() {
            hub.leave(addition.id);
        }
        assert_eq!(received(&mut member).await, member.expected);
    }
    hub.take_requests();
    assert_eq!(topic_count(&hub), 0, "no topic without members is left");
}

fn open(hub: &mut Hub, member: &mut ModelMember, values: u8, last: &BTreeMap<usize, String>) {
    let Some(server) = member.server.take() else { return };
    let listener =
        Rc::new(Listener::new(Stream::new(server.into_std().unwrap().into()).unwrap(), Form::Frames, 1, 60));
    let persisted: Vec<_> =
        member.topics.iter().map(|index| last.get(index).filter(|_| values & 1 << index != 0)).collect();
    let bytes: Vec<_> = persisted.iter().map(|value| value.map(|value| Bytes::from(value.clone()))).collect();
    hub.open(member.id, &listener, &bytes);
    for (index, value) in member.topics.iter().zip(persisted) {
        if let Some(value) = value.filter(|value| !member.held.contains(&(*index, (*value).clone()))) {
            member.expected.push(value.clone());
        }
    }
    member.expected.extend(member.held.drain(..).map(|(_, text)| text));
    member.listener = Some(listener);
}

/// Changes the topics of an open member.
fn change_topics(hub: &mut Hub, member: &mut ModelMember, wanted: &[usize]) {
    if member.listener.is_none() {
        return;
    }
    if let Some(addition) = member.addition.take() {
        hub.leave(addition.id);
    }
    let names: Vec<_> = wanted.iter().map(|index| topic(*index)).collect();
    hub.retain_topics(member.id, |topic| names.contains(topic));
    member.topics.retain(|index| wanted.contains(index));
    let mut joined = hub.topics(member.id);
    joined.sort();
    assert_eq!(joined, member.topics.iter().map(|index| topic(*index)).collect::<Vec<_>>());
    let missing: Vec<_> = wanted.iter().copied().filter(|index| !member.topics.contains(index)).collect();
    if !missing.is_empty() {
        let id = hub.join(&missing.iter().map(|index| topic(*index)).collect::<Vec<_>>());
        member.addition = Some(PendingAddition { id, topics: missing, held: Vec::new() });
    }
}

/// Completes the pending join of a member.
fn merge(hub: &mut Hub, member: &mut ModelMember, values: u8, last: &BTreeMap<usize, String>) {
    let (Some(listener), Some(addition)) = (&member.listener, member.addition.take()) else { return };
    let PendingAddition { id, topics, held } = addition;
    let value = |index: &usize| last.get(index).filter(|_| values & 1 << index != 0);
    let persisted: Vec<_> = topics.iter().map(value).collect();
    let bytes: Vec<_> = persisted.iter().map(|value| value.map(|value| Bytes::from(value.clone()))).collect();
    hub.merge(id, member.id, listener, &bytes);
    for (index, value) in topics.iter().zip(persisted) {
        if let Some(value) = value.filter(|value| !held.contains(&(*index, (*value).clone()))) {
            member.expected.push(value.clone());
        }
    }
    member.expected.extend(held.into_iter().map(|(_, text)| text));
    member.topics.extend(topics);
    member.topics.sort_unstable();
}

/// Reads all messages sent to a member.
async fn received(member: &mut ModelMember) -> Vec<String> {
    if let Some(listener) = member.listener.take() {
        std::future::poll_fn(|cx| listener.poll_flush(cx)).await.unwrap();
        listener.shutdown();
    }
    drop(member.server.take());
    let mut bytes = Vec::new();
    member.client.read_to_end(&mut bytes).await.unwrap();
    Frames::new(&bytes).map(|(_, payload)| String::from_utf8(bytes[payload].to_vec()).unwrap()).collect()
}

proptest! {
    #[test]
    fn every_member_receives_what_the_model_predicts(steps in proptest::collection::vec(step(), 0..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(check(steps));
    }
}

/// A join waits for the re-read value only if its topic was subscribed when the messages were lost.
#[test]
fn a_connection_loss_during_a_join_blocks_no_member() {
    let mut hub = Hub::new(Limits::default());
    let id = hub.join(&[topic(0)]);
    let requests = hub.take_requests();
    let [SubscriptionRequest::Subscribe(name, generation)] = &requests[..] else { panic!("{requests:?}") };
    hub.pause();
    hub.on_subscribed(name, *generation);
    assert_eq!(hub.joined(id), Ok(true));
    hub.begin_reading(id);
    hub.pause();
    assert_eq!(
        (hub.joined(id), hub.is_stale(id)),
        (Ok(false), Ok(true)),
        "the values that it has read may be too old"
    );
    hub.recover(name, None);
    hub.begin_reading(id);
    assert_eq!((hub.joined(id), hub.is_stale(id)), (Ok(true), Ok(false)));
}
