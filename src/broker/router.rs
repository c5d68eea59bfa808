//! The shards that a directive concerns: those that may have clients in its rooms, and that of a client's id.

use std::fmt;
use std::sync::Arc;

use super::event::RoutedDirective;
use crate::hub::LocalIndex;
use crate::wire::{ClientName, Directive, EmitTarget, MountSet, Topic};

/// Returns the shard that an id of a client names. Any text of the right form names one.
type ShardOf = dyn Fn(&str) -> Option<usize>;

/// Finds the shards of directives.
pub struct DirectiveRouter {
    index: Arc<LocalIndex>,
    shard_of: Box<ShardOf>,
}

impl DirectiveRouter {
    /// Creates a router for the shards of an index.
    pub fn new(index: Arc<LocalIndex>, shard_of: impl Fn(&str) -> Option<usize> + 'static) -> Self {
        Self { index, shard_of: Box::new(shard_of) }
    }

    /// Adds to a directive the shards that it is for; `None` if no shard has to know it.
    pub(super) fn route(&self, mounts: MountSet, directive: Directive) -> Option<RoutedDirective> {
        let shards = match &directive {
            Directive::Emit(target, ..) | Directive::Ask(target, _) | Directive::DisconnectAll(target, _) => {
                self.receivers(mounts, target)
            }
            Directive::Answer(client, _)
            | Directive::Disconnect(client)
            | Directive::EnterRoom(client, _)
            | Directive::LeaveRoom(client, _) => self.shard_of_client(&client.sid),
            Directive::CloseRoom(namespace, room) => {
                self.with_first(self.shards_of_room(mounts, namespace, room))
            }
            Directive::EnterRooms(target, _) | Directive::LeaveRooms(target, _) => {
                self.with_first(self.receivers(mounts, target))
            }
            Directive::Notify(users, _) => self.shards_of_users(mounts, users),
            // The first shard starts the list; the others accept reports.
            Directive::BeginGathering => {
                let all = EmitTarget { namespace: "/".into(), ..Default::default() };
                self.with_first(self.receivers(mounts, &all))
            }
        };
        let mut expected = Vec::new();
        let mut expect = |namespace: &str, room: &str| {
            for topic in mounts.iter().map(|mount| Topic::room(mount, namespace, room)) {
                expected.extend(bits(shards).map(|shard| self.index.expect(shard, &topic)));
            }
        };
        match &directive {
            Directive::EnterRoom(ClientName { namespace, .. }, room) => expect(namespace, room),
            Directive::EnterRooms(target, rooms) => {
                rooms.iter().for_each(|room| expect(&target.namespace, room));
            }
            _ => {}
        }
        (shards != 0).then_some(RoutedDirective { mounts, shards, expected, directive })
    }

    /// Returns the shards that may have clients of a target, a bit each.
    pub(super) fn receivers(&self, mounts: MountSet, target: &EmitTarget) -> u64 {
        let namespace = &*target.namespace;
        match &target.rooms {
            None => mounts
                .iter()
                .fold(0, |shards, mount| shards | self.index.shards(&Topic::namespace(mount, namespace))),
            Some(rooms) => rooms.iter().fold(0, |shards, room| {
                shards | self.shards_of_room(mounts, namespace, room) | self.shard_of_client(room)
            }),
        }
    }

    fn shards_of_room(&self, mounts: MountSet, namespace: &str, room: &str) -> u64 {
        mounts
            .iter()
            .fold(0, |shards, mount| shards | self.index.shards(&Topic::room(mount, namespace, room)))
    }

    /// Returns the shards with clients of users of yunity-sockets.
    fn shards_of_users(&self, mounts: MountSet, users: &[Box<str>]) -> u64 {
        let topics =
            users.iter().flat_map(|user| mounts.iter().map(move |mount| Topic::bridge_user(mount, user)));
        topics.fold(0, |shards, topic| shards | self.index.shards(&topic))
    }

    /// Returns the shard of a client, by its id: in protocol 3 it may be behind `<namespace>#`.
    fn shard_of_client(&self, sid: &str) -> u64 {
        let bare = sid.rsplit('#').next().unwrap_or(sid);
        let shard = (self.shard_of)(bare).filter(|shard| *shard < self.index.shard_count());
        shard.map_or(0, |shard| 1 << shard)
    }

    /// Adds the first shard, which counts the changes of rooms that are refused.
    fn with_first(&self, shards: u64) -> u64 {
        shards | u64::from(self.index.shard_count() > 0)
    }
}

impl Default for DirectiveRouter {
    /// A router without shards.
    fn default() -> Self {
        Self::new(LocalIndex::new(0), |_| None)
    }
}

impl fmt::Debug for DirectiveRouter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DirectiveRouter")
    }
}

/// Returns the numbers of shards that have a bit each.
pub(super) fn bits(mut shards: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let shard = shards.trailing_zeros();
        shards &= shards.wrapping_sub(1);
        (shard < u64::BITS).then_some(shard as usize)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{DisconnectScope, Mount};

    fn mounts() -> MountSet {
        [Mount::default()].into_iter().collect()
    }

    /// A router for three shards; the first character of an id is its shard.
    fn router(index: &Arc<LocalIndex>) -> DirectiveRouter {
        DirectiveRouter::new(index.clone(), |sid| sid.get(..1)?.parse().ok())
    }

    fn to(rooms: Option<&[&str]>) -> EmitTarget {
        let rooms = rooms.map(|rooms| rooms.iter().map(|room| (*room).into()).collect());
        EmitTarget { namespace: "/".into(), rooms, ..Default::default() }
    }

    #[test]
    fn only_shards_with_clients_of_a_target_get_it() {
        let index = LocalIndex::new(3);
        let router = router(&index);
        assert_eq!(router.receivers(mounts(), &to(None)), 0);
        let _namespace = index.expect(1, &Topic::namespace(Mount::default(), "/"));
        let _room = index.expect(2, &Topic::room(Mount::default(), "/", "a"));
        assert_eq!(router.receivers(mounts(), &to(None)), 0b010);
        assert_eq!(router.receivers(mounts(), &to(Some(&["a"]))), 0b100);
        assert_eq!(router.receivers(mounts(), &to(Some(&["a", "0sid", "/#1sid", "9sid"]))), 0b111);
        assert_eq!(router.receivers(mounts(), &to(Some(&["b"]))), 0);
        assert!(
            router
                .route(mounts(), Directive::DisconnectAll(to(Some(&["b"])), DisconnectScope::Session))
                .is_none()
        );
    }

    #[test]
    fn a_room_that_is_about_to_be_entered_counts_until_its_directive_is_dropped() {
        let index = LocalIndex::new(3);
        let router = router(&index);
        let client = ClientName { namespace: "/".into(), sid: "2sid".into() };
        let entering = router.route(mounts(), Directive::EnterRoom(client, "a".into())).unwrap();
        assert_eq!(entering.shards, 0b100);
        assert_eq!(router.receivers(mounts(), &to(Some(&["a"]))), 0b100);
        drop(entering);
        assert_eq!(router.receivers(mounts(), &to(Some(&["a"]))), 0);
        let _room = index.expect(1, &Topic::room(Mount::default(), "/", "a"));
        let rooms = ["b".into(), "c".into()].into();
        let all_entering = router.route(mounts(), Directive::EnterRooms(to(Some(&["a"])), rooms)).unwrap();
        assert_eq!(all_entering.shards, 0b011, "the first shard counts refused changes");
        assert_eq!(router.receivers(mounts(), &to(Some(&["c"]))), 0b011);
    }
}
