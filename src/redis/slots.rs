//! The nodes of a cluster and the slots that they serve.
//!
//! <https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/>

use crc16::{State, XMODEM};

use super::address::ServerAddress;
use super::reply_value::ReplyValue;
use crate::wire::hash_tag;

/// A cluster's map of slots.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Slots {
    /// First slot, last slot and master of each range, sorted by slot.
    ranges: Vec<(u16, u16, ServerAddress)>,
    /// Masters and replicas, without duplicates.
    nodes: Vec<ServerAddress>,
}

/// Slots of a cluster.
const SLOTS: u16 = 16_384;

/// Returns the slot of a key. A hash tag counts alone.
pub(super) fn slot_of(key: &[u8]) -> u16 {
    State::<XMODEM>::calculate(hash_tag(key).unwrap_or(key)) % SLOTS
}

impl Slots {
    /// Parses the reply to CLUSTER SLOTS. A node without a host is the one that was asked.
    pub(super) fn read(reply: &ReplyValue, asked: &ServerAddress) -> Self {
        let mut slots = Self::default();
        for range in reply.list() {
            let [first, last, nodes @ ..] = range.list() else { continue };
            let bound = |value: &ReplyValue| value.number().and_then(|number| u16::try_from(number).ok());
            let (Some(first), Some(last)) = (bound(first), bound(last)) else { continue };
            let nodes: Vec<_> = nodes.iter().filter_map(|node| server_of(node, asked)).collect();
            if let Some(master) = nodes.first() {
                slots.ranges.push((first, last, master.clone()));
            }
            for node in nodes {
                if !slots.nodes.contains(&node) {
                    slots.nodes.push(node);
                }
            }
        }
        slots.ranges.sort_by_key(|(first, ..)| *first);
        slots
    }

    /// Returns the master of a slot.
    pub(super) fn master(&self, slot: u16) -> Option<&ServerAddress> {
        let after = self.ranges.partition_point(|(first, ..)| *first <= slot);
        let (_, last, master) = self.ranges.get(after.checked_sub(1)?)?;
        (slot <= *last).then_some(master)
    }

    /// Returns the master of each range, so one with several ranges appears more than once.
    pub(super) fn masters(&self) -> impl Iterator<Item = &ServerAddress> {
        self.ranges.iter().map(|(.., master)| master)
    }

    /// Returns all nodes.
    pub(super) fn nodes(&self) -> &[ServerAddress] {
        &self.nodes
    }

    /// Returns a random node. Any node delivers all messages, and chance avoids retrying a dead one again and again.
    pub(super) fn any(&self) -> Option<ServerAddress> {
        self.nodes.get(rand::random_range(0..self.nodes.len().max(1))).cloned()
    }

    /// Returns true if the node belongs to the cluster.
    pub(super) fn has(&self, node: &ServerAddress) -> bool {
        self.nodes.contains(node)
    }
}

fn server_of(node: &ReplyValue, asked: &ServerAddress) -> Option<ServerAddress> {
    let [host, port, ..] = node.list() else { return None };
    let host = host.text().filter(|host| !host.is_empty() && *host != "?").unwrap_or(&asked.host);
    Some(ServerAddress::new(host, u16::try_from(port.number()?).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slot_of_a_key_is_that_of_its_hash_tag() {
        // From the cluster specification, and CLUSTER KEYSLOT of Redis 7.
        for (key, slot) in [
            ("123456789", 12_739),
            ("foo", 12_182),
            ("foo{hash_tag}", 2_515),
            ("{hash_tag}bar", 2_515),
            ("{user1000}.following", 3_443),
            ("foo{}{bar}", 8_363),
            ("foo{{bar}}zap", 4_015),
            ("foo{bar}{zap}", 5_061),
            ("{", 4_092),
            ("", 0),
        ] {
            assert_eq!(slot_of(key.as_bytes()), slot, "{key}");
        }
    }

    proptest::proptest! {
        #[test]
        fn slots_agree_with_redis_protocol(key in "[a-c{}]{0,12}") {
            proptest::prop_assert_eq!(slot_of(key.as_bytes()), redis_protocol::redis_keyslot(key.as_bytes()));
        }
    }

    #[test]
    fn each_slot_leads_to_the_master_that_has_it() {
        let node = |port| {
            ReplyValue::List(vec![
                ReplyValue::Text("10.0.0.1".to_owned()),
                ReplyValue::Number(port),
                ReplyValue::Text("id".to_owned()),
            ])
        };
        let range = |first, last, nodes: &[i64]| {
            let bounds = [ReplyValue::Number(first), ReplyValue::Number(last)];
            ReplyValue::List(bounds.into_iter().chain(nodes.iter().map(|port| node(*port))).collect())
        };
        let answer = ReplyValue::List(vec![range(100, 200, &[2, 3]), range(0, 50, &[1])]);
        let slots = Slots::read(&answer, &ServerAddress::new("asked", 1));
        let port = |slot| slots.master(slot).map(|server| server.port);
        assert_eq!(
            [port(0), port(50), port(51), port(100), port(200), port(201)],
            [Some(1), Some(1), None, Some(2), Some(2), None]
        );
        assert!(slots.has(&ServerAddress::new("10.0.0.1", 3)), "a replica is a node, too");
    }
}
