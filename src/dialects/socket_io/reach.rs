//! The clients that something is for: those in rooms, those with an id, and not those that are excepted.

use std::rc::Rc;

use crate::engine::EngineSession;
use crate::hub::Run;
use crate::shard::state::ShardState;
use crate::wire::{EmitTarget, Mount, Topic};

/// The parts of a target as the local topics know them. A client's own room is found by its id, and takes no entry.
struct ReachParts {
    topics: Vec<Topic>,
    single: Vec<u32>,
    except_topics: Vec<Topic>,
    except: Vec<u32>,
}

impl ReachParts {
    fn new(state: &ShardState, mount: Mount, target: &EmitTarget) -> Self {
        let namespace = &target.namespace;
        let rooms_of = |names: &[Box<str>]| {
            names.iter().map(|room| Topic::room(mount, namespace, room)).collect::<Vec<_>>()
        };
        let (topics, single) = match &target.rooms {
            None => (vec![Topic::namespace(mount, namespace)], Vec::new()),
            Some(rooms) => (rooms_of(rooms), members(state, mount, namespace, rooms)),
        };
        let except_topics = if target.excepts_rooms { rooms_of(&target.except) } else { Vec::new() };
        Self { topics, single, except_topics, except: members(state, mount, namespace, &target.except) }
    }
}

/// Returns the members with these public ids.
fn members(state: &ShardState, mount: Mount, namespace: &str, names: &[Box<str>]) -> Vec<u32> {
    let member = |name: &str| {
        let number =
            |session: &Rc<EngineSession>, index: usize| session.sockets.borrow()[index].member.number();
        state.engine.find(name, mount, namespace, number)
    };
    names.iter().filter_map(|name| member(name)).collect()
}

/// Delivers packets: a client in several of the rooms gets them once.
pub(super) fn deliver(state: &ShardState, mount: Mount, target: &EmitTarget, run: &Run) {
    let ReachParts { topics, single, except_topics, except } = ReachParts::new(state, mount, target);
    match &topics[..] {
        [topic] if single.is_empty() && except_topics.is_empty() && except.is_empty() => {
            state.rooms.deliver(topic, run);
        }
        topics => state.rooms.deliver_union(topics, &single, &except_topics, &except, run),
    }
}

/// Returns the number of clients of this shard that a target reaches.
pub fn count(state: &ShardState, mount: Mount, target: &EmitTarget) -> usize {
    let ReachParts { topics, single, except_topics, except } = ReachParts::new(state, mount, target);
    state.rooms.union(&topics, &single, &except_topics, &except).len()
}

/// Returns the clients of this shard that a target reaches: their sessions, and the index of the socket in each.
pub(super) fn clients(
    state: &ShardState,
    mount: Mount,
    target: &EmitTarget,
) -> Vec<(Rc<EngineSession>, usize)> {
    let ReachParts { topics, single, except_topics, except } = ReachParts::new(state, mount, target);
    let reached = state.rooms.union(&topics, &single, &except_topics, &except);
    let client = |(member, slot)| {
        let session = state.engine.at(slot)?;
        let index = session.sockets.borrow().iter().position(|socket| socket.member.number() == member)?;
        Some((session, index))
    };
    reached.into_iter().filter_map(client).collect()
}
