//! The publishers of a shard: one per set of cluster nodes, so that a lost node delays only its own
//! channels.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use bytes::Bytes;
use tokio::task::spawn_local;
use tokio_util::task::AbortOnDropHandle;

use super::address::ServerAddress;
use super::command_client::CommandClient;
use super::history_script::PublicationHistory;
use super::publish_acks::PublishAcks;
use super::publisher::Publisher;
use crate::wire::Channel;

/// Number of publishers above which idle ones are dropped.
const MAX_SETS: usize = 64;

/// A publisher and its task.
struct PublisherTask {
    publisher: Rc<Publisher>,
    _running: AbortOnDropHandle<()>,
}

impl PublisherTask {
    fn new(publisher: Rc<Publisher>) -> Self {
        let running = AbortOnDropHandle::new(spawn_local(publisher.clone().run()));
        Self { publisher, _running: running }
    }
}

/// All publishers of one shard.
pub(super) struct PublisherPool {
    commands: Rc<CommandClient>,
    /// The only one outside of clusters; in a cluster, for channels whose node is unknown.
    common: PublisherTask,
    by_nodes: RefCell<HashMap<Vec<ServerAddress>, PublisherTask>>,
}

impl PublisherPool {
    /// Must be called on the shard's runtime.
    pub(super) fn new(commands: Rc<CommandClient>, common: Rc<Publisher>) -> Self {
        Self { commands, common: PublisherTask::new(common), by_nodes: RefCell::default() }
    }

    /// Queues a publication. Its outcome is reported to `acks`.
    pub(super) fn queue(
        &self,
        channels: Rc<[Channel]>,
        payload: Bytes,
        history: Option<Box<PublicationHistory>>,
        acks: Rc<PublishAcks>,
    ) {
        let publisher = if self.commands.is_cluster() {
            self.find(&channels, &acks)
        } else {
            self.common.publisher.clone()
        };
        publisher.queue(channels, payload, history, acks);
    }

    fn find(&self, channels: &[Channel], acks: &PublishAcks) -> Rc<Publisher> {
        // A client's messages stay in order even if a channel moves to another node meanwhile.
        if let Some(publisher) = acks.publisher() {
            return publisher;
        }
        let node_of = |channel: &Channel| self.commands.node_of(channel.as_str().as_bytes());
        let mut nodes: Vec<_> = channels.iter().filter_map(node_of).collect();
        nodes.sort();
        nodes.dedup();
        let publisher = if nodes.is_empty() {
            self.common.publisher.clone()
        } else {
            let mut entries = self.by_nodes.borrow_mut();
            if entries.len() >= MAX_SETS {
                entries.retain(|_, entry| !entry.publisher.is_idle());
            }
            let entry =
                entries.entry(nodes).or_insert_with(|| PublisherTask::new(self.common.publisher.sibling()));
            entry.publisher.clone()
        };
        acks.set_publisher(&publisher);
        publisher
    }

    /// Waits until nothing is queued or in flight. Cancel-safe.
    pub(super) async fn settled(&self) {
        self.common.publisher.settled().await;
        let entries: Vec<_> = self.by_nodes.borrow().values().map(|entry| entry.publisher.clone()).collect();
        for publisher in entries {
            publisher.settled().await;
        }
    }
}
