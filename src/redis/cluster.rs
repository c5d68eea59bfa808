//! Commands in a cluster: each goes to the node that has its key, over a connection of that node's own, and follows MOVED
//! and ASK by itself. What becomes of one node concerns only what is on it.
//!
//! <https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/>

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::task::spawn_local;
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;

use super::address::ServerAddress;
use super::pipeline::{Pipeline, keep_node};
use super::reply::{CommandFailure, CommandReplies, CommandReply};
use super::resp;
use super::slots::slot_of;
use super::target::Target;

/// Redirections that one command follows.
const REDIRECTIONS: usize = 5;

/// How often is looked whether a node is there that was not.
const LOOK: Duration = Duration::from_millis(10);

/// A command with its key's slot.
pub(crate) struct ClusterCommand {
    bytes: BytesMut,
    slot: u16,
    /// Whether any node takes it, as one does that publishes: what one publishes all pass on.
    anywhere: bool,
}

impl ClusterCommand {
    /// Takes a command whose first argument is its key, or its channel.
    pub(super) fn new(name: &str, arguments: &[&[u8]]) -> Self {
        let mut bytes = BytesMut::new();
        resp::encode(&mut bytes, name, arguments);
        let slot = slot_of(arguments.first().copied().unwrap_or_default());
        Self { bytes, slot, anywhere: name == "PUBLISH" }
    }
}

/// A node and its connection.
struct NodeConnection {
    pipeline: Rc<Pipeline>,
    _keeping: AbortOnDropHandle<()>,
}

/// The nodes of a cluster, for one shard.
pub(crate) struct Cluster {
    target: Target,
    patience: Duration,
    max_bytes: usize,
    nodes: RefCell<HashMap<ServerAddress, NodeConnection>>,
}

/// Where a command goes next.
struct NodeRoute {
    server: ServerAddress,
    /// Whether it is told that the node's key may have come already.
    asking: bool,
}

impl Cluster {
    pub(super) fn new(target: &Target, patience: Duration, max_bytes: usize) -> Rc<Self> {
        let nodes = RefCell::default();
        Rc::new(Self { target: target.clone(), patience, max_bytes, nodes })
    }

    /// Keeps a connection to each master. Never returns.
    pub(super) async fn follow(self: Rc<Self>) {
        let mut indices = self.target.discovery().watch();
        loop {
            if let Some(slots) = self.target.discovery().slots() {
                slots.masters().for_each(|master| drop(self.pipeline(master)));
                let gone = |server: &ServerAddress, node: &NodeConnection| {
                    !slots.has(server) && node.pipeline.is_idle()
                };
                self.nodes.borrow_mut().retain(|server, node| !gone(server, node));
            }
            if indices.changed().await.is_err() {
                return;
            }
        }
    }

    /// Returns the connection to a node; it is begun where there is none.
    fn pipeline(&self, server: &ServerAddress) -> Rc<Pipeline> {
        let mut nodes = self.nodes.borrow_mut();
        let node = nodes.entry(server.clone()).or_insert_with(|| {
            let pipeline = Rc::new(Pipeline::to_node());
            let (target, server) = (self.target.clone(), server.clone());
            let keeping = keep_node(pipeline.clone(), target, server, self.patience, self.max_bytes);
            NodeConnection { pipeline, _keeping: AbortOnDropHandle::new(spawn_local(keeping)) }
        });
        node.pipeline.clone()
    }

    /// Tells whether any node can be reached.
    pub(super) fn is_up(&self) -> bool {
        self.nodes.borrow().values().any(|node| node.pipeline.is_up())
    }

    /// Waits until any node can be reached. Safe to cancel.
    pub(super) async fn until_up(&self) {
        while !self.is_up() {
            sleep(LOOK).await;
        }
    }

    /// Returns the node that has a key.
    pub(super) fn node_of(&self, key: &[u8]) -> Option<ServerAddress> {
        self.target.discovery().slots()?.master(slot_of(key)).cloned()
    }

    /// Tells whether the node that has a key can be reached.
    pub(super) fn has(&self, key: &[u8]) -> bool {
        self.node_of(key).is_some_and(|server| self.pipeline(&server).is_up())
    }

    /// Waits until the node that has a key can be reached, wherever that key goes meanwhile. Safe to cancel.
    pub(super) async fn until_has(&self, key: &[u8]) {
        while !self.has(key) {
            sleep(LOOK).await;
        }
    }

    /// Returns where a command goes first.
    fn route(&self, command: &ClusterCommand) -> Option<NodeRoute> {
        let slots = self.target.discovery().slots()?;
        let master = slots.master(command.slot).cloned();
        let is_up = |server: &ServerAddress| self.pipeline(server).is_up();
        let server = match master {
            Some(master) if !command.anywhere || is_up(&master) => master,
            _ if command.anywhere => slots.masters().find(|server| is_up(server))?.clone(),
            _ => return None,
        };
        Some(NodeRoute { server, asking: false })
    }

    /// Writes commands, each to its node. The first poll hands them over.
    pub(super) async fn send(self: Rc<Self>, commands: Vec<ClusterCommand>) -> CommandReplies {
        let mut outcomes: Vec<Result<CommandReply, CommandFailure>> =
            commands.iter().map(|_| Err(CommandFailure::Lost)).collect();
        let mut left: Vec<_> = commands
            .iter()
            .enumerate()
            .filter_map(|(at, command)| Some((at, self.route(command)?)))
            .collect();
        for _ in 0..=REDIRECTIONS {
            if left.is_empty() {
                break;
            }
            let mut redirected = Vec::new();
            for (server, indices, replies) in self.write(&commands, std::mem::take(&mut left)) {
                let Some(replies) = replies else { continue };
                let replies = replies.await.unwrap_or_default();
                for (at, reply) in indices.into_iter().zip(replies) {
                    let Some(at) = at else { continue };
                    match reply {
                        Ok(reply) => outcomes[at] = Ok(reply),
                        Err(text) => match redirection(&text, &server) {
                            Some(route) => redirected.push((at, route)),
                            None => outcomes[at] = Err(failure(text)),
                        },
                    }
                }
            }
            if redirected.iter().any(|(_, route)| !route.asking) {
                self.target.discovery().refresh();
            }
            // Those of a node are repeated in their order.
            redirected.sort_by_key(|(at, _)| *at);
            // One that is not known yet, as it was added a moment ago, is waited for: once, however many lead there.
            let nodes_are_up = async {
                for (_, route) in &redirected {
                    self.pipeline(&route.server).until_up().await;
                }
            };
            let _ = tokio::time::timeout(self.patience, nodes_are_up).await;
            left = redirected;
        }
        outcomes
    }

    /// Hands commands over to their nodes, together for each.
    #[expect(clippy::type_complexity, reason = "it is taken apart at once, in one state")]
    fn write(
        &self,
        commands: &[ClusterCommand],
        routes: Vec<(usize, NodeRoute)>,
    ) -> Vec<(
        ServerAddress,
        Vec<Option<usize>>,
        Option<tokio::sync::oneshot::Receiver<Vec<Result<CommandReply, String>>>>,
    )> {
        let mut nodes: Vec<(ServerAddress, Vec<Option<usize>>, BytesMut)> = Vec::new();
        for (at, NodeRoute { server, asking }) in routes {
            let index = nodes.iter().position(|(known, ..)| *known == server).unwrap_or_else(|| {
                nodes.push((server, Vec::new(), BytesMut::new()));
                nodes.len() - 1
            });
            let (_, indices, bytes) = &mut nodes[index];
            if asking {
                resp::encode(bytes, "ASKING", &[]);
                indices.push(None);
            }
            bytes.extend_from_slice(&commands[at].bytes);
            indices.push(Some(at));
        }
        let hand_over = |(server, indices, bytes): (ServerAddress, Vec<_>, BytesMut)| {
            let replies = self.pipeline(&server).queue(bytes, indices.len()).ok();
            (server, indices, replies)
        };
        nodes.into_iter().map(hand_over).collect()
    }
}

/// Reads `MOVED 3999 host:port` and `ASK 3999 host:port`. Without a host it is that of the node that answered.
fn redirection(text: &str, from: &ServerAddress) -> Option<NodeRoute> {
    let mut words = text.split(' ');
    let asking = match words.next()? {
        "MOVED" => false,
        "ASK" => true,
        _ => return None,
    };
    let (host, port) = words.nth(1)?.rsplit_once(':')?;
    let host = if host.is_empty() || host == "?" { &*from.host } else { host };
    Some(NodeRoute { server: ServerAddress::new(host, port.parse().ok()?), asking })
}

/// A slot that nobody has, or whose keys are on their route, is as a node that cannot be reached.
fn failure(text: String) -> CommandFailure {
    match text.split(' ').next() {
        Some("CLUSTERDOWN" | "TRYAGAIN" | "MOVED" | "ASK") => CommandFailure::Lost,
        _ => CommandFailure::Refused(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirections_name_a_node_or_only_its_port() {
        let from = ServerAddress::new("10.0.0.1", 7000);
        let read = |text| redirection(text, &from).map(|route| (route.server.to_string(), route.asking));
        assert_eq!(read("MOVED 3999 127.0.0.1:6381"), Some(("127.0.0.1:6381".to_owned(), false)));
        assert_eq!(read("ASK 3999 :6381"), Some(("10.0.0.1:6381".to_owned(), true)));
        assert_eq!(read("ASK 3999 ::1:6381"), Some(("::1:6381".to_owned(), true)));
        assert_eq!(read("CLUSTERDOWN Hash slot not served"), None);
        assert_eq!(read("MOVED 3999"), None);
    }
}
