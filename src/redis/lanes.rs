//! A shard's publications, parted by the nodes that keep them: in a cluster nobody waits for a node that is not their own.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use bytes::Bytes;
use tokio::task::spawn_local;
use tokio_util::task::AbortOnDropHandle;

use super::PublishAcks;
use super::address::ServerAddress;
use super::command_client::CommandClient;
use super::publisher::Publisher;
use crate::wire::Channel;

/// Sets of nodes above which those are forgotten for which nothing waits.
const LANES: usize = 64;

/// The publications for one set of nodes.
struct Lane {
    publisher: Rc<Publisher>,
    _running: AbortOnDropHandle<()>,
}

impl Lane {
    fn new(publisher: Rc<Publisher>) -> Self {
        let running = AbortOnDropHandle::new(spawn_local(publisher.clone().run()));
        Self { publisher, _running: running }
    }
}

/// The publications of one shard.
pub(super) struct Lanes {
    commands: Rc<CommandClient>,
    /// All of them, outside of clusters; in one those for which no node is known.
    common: Lane,
    by_nodes: RefCell<HashMap<Vec<ServerAddress>, Lane>>,
}

impl Lanes {
    /// Must be called on the shard's runtime.
    pub(super) fn new(commands: Rc<CommandClient>, common: Rc<Publisher>) -> Self {
        Self { commands, common: Lane::new(common), by_nodes: RefCell::default() }
    }

    /// Queues a publication, which is settled through its acknowledgements.
    pub(super) fn queue(&self, channels: Rc<[Channel]>, payload: Bytes, acks: Rc<PublishAcks>) {
        let publisher = if self.commands.is_cluster() {
            self.find(&channels, &acks)
        } else {
            self.common.publisher.clone()
        };
        publisher.queue(channels, payload, acks);
    }

    fn find(&self, channels: &[Channel], acks: &PublishAcks) -> Rc<Publisher> {
        // A client's messages keep their order, wherever its channels go meanwhile.
        if let Some(publisher) = acks.lane() {
            return publisher;
        }
        let node_of = |channel: &Channel| self.commands.node_of(channel.as_str().as_bytes());
        let mut nodes: Vec<_> = channels.iter().filter_map(node_of).collect();
        nodes.sort();
        nodes.dedup();
        let publisher = if nodes.is_empty() {
            self.common.publisher.clone()
        } else {
            let mut lanes = self.by_nodes.borrow_mut();
            if lanes.len() >= LANES {
                lanes.retain(|_, lane| !lane.publisher.is_idle());
            }
            let lane = lanes.entry(nodes).or_insert_with(|| Lane::new(self.common.publisher.beside()));
            lane.publisher.clone()
        };
        acks.set_lane(&publisher);
        publisher
    }

    /// Waits until no publication is queued or under way. Safe to cancel.
    pub(super) async fn settled(&self) {
        self.common.publisher.settled().await;
        let lanes: Vec<_> = self.by_nodes.borrow().values().map(|lane| lane.publisher.clone()).collect();
        for publisher in lanes {
            publisher.settled().await;
        }
    }
}
