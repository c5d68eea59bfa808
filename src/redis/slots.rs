//! The nodes of a cluster, and which keys lie where.
//!
//! <https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/>

use fred::types::config::Server;

use super::answer::Answer;

/// The nodes of a cluster and their slots.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Slots {
    /// First slot, last slot, and the master that has them; in order.
    ranges: Vec<(u16, u16, Server)>,
    /// Masters and replicas.
    nodes: Vec<Server>,
}

impl Slots {
    /// Reads the reply to CLUSTER SLOTS. A node without a name is the one that was asked.
    pub(super) fn read(answer: &Answer, asked: &Server) -> Self {
        let mut slots = Self::default();
        for range in answer.list() {
            let [first, last, nodes @ ..] = range.list() else { continue };
            let bound = |answer: &Answer| answer.number().and_then(|number| u16::try_from(number).ok());
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

    /// Returns all nodes.
    pub(super) fn nodes(&self) -> &[Server] {
        &self.nodes
    }

    /// Returns any node: each passes all messages on. By chance: one that is dead may be among them for a while.
    pub(super) fn any(&self) -> Option<Server> {
        self.nodes.get(rand::random_range(0..self.nodes.len().max(1))).cloned()
    }

    /// Tells whether it has this node.
    pub(super) fn has(&self, node: &Server) -> bool {
        self.nodes.contains(node)
    }
}

fn server_of(node: &Answer, asked: &Server) -> Option<Server> {
    let [host, port, ..] = node.list() else { return None };
    let host = host.text().filter(|host| !host.is_empty() && *host != "?").unwrap_or(&asked.host);
    Some(Server::new(host, u16::try_from(port.number()?).ok()?))
}
