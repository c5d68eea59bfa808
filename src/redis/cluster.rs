//! Commands in a cluster: each goes to the node of its key, over a connection of its own, and follows MOVED and ASK.
//! A lost node affects only the commands for its keys.
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
use super::slots::slot_of;
use super::target::Target;
use crate::codec::resp;

/// Most redirections that one command follows.
const REDIRECTIONS: usize = 5;

/// Interval between checks whether a node has become reachable.
const LOOK: Duration = Duration::from_millis(10);

/// A command with the slot of its key.
pub(crate) struct ClusterCommand {
    bytes: BytesMut,
    slot: u16,
    /// Whether any node may execute it: nodes forward publications to one another.
    anywhere: bool,
}

impl ClusterCommand {
    /// Encodes a command. Its first argument is the key or the channel.
    pub(super) fn new(name: &str, arguments: &[&[u8]]) -> Self {
        let key = arguments.first().copied().unwrap_or_default();
        Self { anywhere: name == "PUBLISH", ..Self::with_key(name, key, arguments) }
    }

    /// Encodes a command without arguments, to be sent to the node of a key.
    pub(super) fn at_key(name: &str, key: &[u8]) -> Self {
        Self::with_key(name, key, &[])
    }

    /// Encodes a command for the node of a key.
    pub(super) fn with_key(name: &str, key: &[u8], arguments: &[&[u8]]) -> Self {
        let mut bytes = BytesMut::new();
        resp::encode(&mut bytes, name, arguments);
        Self { bytes, slot: slot_of(key), anywhere: false }
    }
}

/// A node and its connection.
struct NodeConnection {
    pipeline: Rc<Pipeline>,
    _keeping: AbortOnDropHandle<()>,
}

/// One shard's connections to the nodes of a cluster.
pub(crate) struct Cluster {
    target: Target,
    command_timeout: Duration,
    max_bytes: usize,
    nodes: RefCell<HashMap<ServerAddress, NodeConnection>>,
}

/// The node that a command is sent to next.
struct NodeRoute {
    server: ServerAddress,
    /// Whether ASKING precedes the command, because its slot is migrating to the node.
    asking: bool,
}

impl Cluster {
    pub(super) fn new(target: &Target, command_timeout: Duration, max_bytes: usize) -> Rc<Self> {
        let nodes = RefCell::default();
        Rc::new(Self { target: target.clone(), command_timeout, max_bytes, nodes })
    }

    /// Maintains a connection to each master. Never returns.
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

    /// Returns the connection to a node, and starts one if there is none.
    fn pipeline(&self, server: &ServerAddress) -> Rc<Pipeline> {
        let mut nodes = self.nodes.borrow_mut();
        let node = nodes.entry(server.clone()).or_insert_with(|| {
            let pipeline = Rc::new(Pipeline::to_node());
            let (target, server) = (self.target.clone(), server.clone());
            let keeping = keep_node(pipeline.clone(), target, server, self.command_timeout, self.max_bytes);
            NodeConnection { pipeline, _keeping: AbortOnDropHandle::new(spawn_local(keeping)) }
        });
        node.pipeline.clone()
    }

    /// Returns true if any node is reachable.
    pub(super) fn is_up(&self) -> bool {
        self.nodes.borrow().values().any(|node| node.pipeline.is_up())
    }

    /// Waits until any node is reachable. Cancel-safe.
    pub(super) async fn until_up(&self) {
        while !self.is_up() {
            sleep(LOOK).await;
        }
    }

    /// Returns the master of a key's slot.
    pub(super) fn node_of(&self, key: &[u8]) -> Option<ServerAddress> {
        self.target.discovery().slots()?.master(slot_of(key)).cloned()
    }

    /// Returns true if the node of a key is reachable.
    pub(super) fn has(&self, key: &[u8]) -> bool {
        self.node_of(key).is_some_and(|server| self.pipeline(&server).is_up())
    }

    /// Waits until the node of a key is reachable, even if the key's slot moves meanwhile. Cancel-safe.
    pub(super) async fn until_has(&self, key: &[u8]) {
        while !self.has(key) {
            sleep(LOOK).await;
        }
    }

    /// Returns the node that a command is sent to first.
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

    /// Sends commands, each to its node. The first poll queues them.
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
            // Commands to the same node keep their order.
            redirected.sort_by_key(|(at, _)| *at);
            // A node that was just added has no connection yet. One wait covers all redirections to it.
            let nodes_are_up = async {
                for (_, route) in &redirected {
                    self.pipeline(&route.server).until_up().await;
                }
            };
            let _ = tokio::time::timeout(self.command_timeout, nodes_are_up).await;
            left = redirected;
        }
        outcomes
    }

    /// Queues commands, in one batch per node.
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

/// Parses `MOVED 3999 host:port` and `ASK 3999 host:port`. An empty host means the node that answered.
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

/// An unassigned or migrating slot counts as an unreachable node.
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
