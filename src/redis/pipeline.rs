//! A shard's command connection: batches are pipelined, replies arrive in order. Reconnects when the connection is lost.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, warn};

use super::address::ServerAddress;
use super::connection::{IS_REPLICA, OUT_OF_SYNC, RedisConnection, is_replica};
use super::discovery::{Endpoint, pause};
use super::error_reply::{ErrorClass, describe_text};
use super::reply::{CommandReply, NotConnected};
use super::reply_value::ReplyValue;
use super::target::Target;
use crate::codec::resp::{self, RespToken};
use crate::metrics::cells;

/// First pause before reconnecting. It doubles with each failure.
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// How often the server's role is probed. The probe also detects an unresponsive server.
const PROBE: Duration = Duration::from_secs(2);

/// A failing connection is logged after this many failures in a row, then once per `FAILURES`: about once a minute.
const FIRST_FAILURES: u32 = 5;
const FAILURES: u32 = 20;

/// Checks for an overdue reply per command timeout.
const CHECKS: u32 = 16;

/// A queue of batches for one connection.
pub(crate) struct Pipeline {
    up: watch::Sender<bool>,
    queued: RefCell<VecDeque<Pending>>,
    /// Batches that are written or being written.
    in_flight: RefCell<VecDeque<Pending>>,
    task: Cell<Option<Waker>>,
    /// Whether it connects to a cluster node, whose role does not matter: it redirects commands by itself.
    is_node: bool,
}

/// A batch that awaits its replies.
struct Pending {
    bytes: BytesMut,
    commands: usize,
    replies: Vec<Result<CommandReply, String>>,
    since: Instant,
    done: oneshot::Sender<Vec<Result<CommandReply, String>>>,
}

impl Default for Pipeline {
    fn default() -> Self {
        Self {
            up: watch::Sender::new(false),
            queued: RefCell::default(),
            in_flight: RefCell::default(),
            task: Cell::default(),
            is_node: false,
        }
    }
}

impl Pipeline {
    /// Returns a queue for a node of a cluster.
    pub(super) fn to_node() -> Self {
        Self { is_node: true, ..Self::default() }
    }

    /// Returns true if no batch is queued or in flight.
    pub(super) fn is_idle(&self) -> bool {
        self.queued.borrow().is_empty() && self.in_flight.borrow().is_empty()
    }

    /// Returns true if there is a connection.
    pub(super) fn is_up(&self) -> bool {
        *self.up.borrow()
    }

    /// Waits until there is a connection. Cancel-safe.
    pub(super) async fn until_up(&self) {
        // The sender lives as long as `self`.
        let _ = self.up.subscribe().wait_for(|up| *up).await;
    }

    /// Queues a batch. If the connection is lost, the returned receiver is closed without replies.
    ///
    /// # Errors
    ///
    /// When there is no connection. Nothing is written then.
    pub(super) fn queue(
        &self,
        bytes: BytesMut,
        commands: usize,
    ) -> Result<oneshot::Receiver<Vec<Result<CommandReply, String>>>, NotConnected> {
        if !self.is_up() {
            return Err(NotConnected);
        }
        let (done, receiver) = oneshot::channel();
        let replies = Vec::with_capacity(commands);
        let pending = Pending { bytes, commands, replies, since: Instant::now(), done };
        self.queued.borrow_mut().push_back(pending);
        if let Some(task) = self.task.take() {
            task.wake();
        }
        Ok(receiver)
    }

    /// Drops all batches, which closes their receivers.
    fn clear(&self) {
        self.queued.borrow_mut().clear();
        self.in_flight.borrow_mut().clear();
    }

    /// Waits until the oldest batch exceeds the timeout in two consecutive checks: after the process itself was
    /// suspended, the replies may have arrived but not been read yet.
    async fn overdue(&self, command_timeout: Duration) -> String {
        let mut late = None;
        loop {
            sleep(command_timeout / CHECKS).await;
            let oldest = self.in_flight.borrow().front().map(|pending| pending.since);
            let overdue = oldest.filter(|since| since.elapsed() >= command_timeout);
            if overdue.is_some() && overdue == late {
                return format!("no answer within {} s", command_timeout.as_secs());
            }
            late = overdue;
        }
    }

    /// Returns whether a batch has some of its replies and not all.
    fn is_between_replies(&self) -> bool {
        self.in_flight.borrow().front().is_some_and(|pending| !pending.replies.is_empty())
    }

    /// Assigns a reply to the oldest command.
    fn answer(&self, reply: Result<CommandReply, String>) -> Result<(), String> {
        let mut in_flight = self.in_flight.borrow_mut();
        let pending = in_flight.front_mut().ok_or(OUT_OF_SYNC)?;
        pending.replies.push(reply);
        if pending.replies.len() == pending.commands
            && let Some(Pending { replies, done, since, .. }) = in_flight.pop_front()
        {
            cells(|cells| cells.command_times.observe_time(since.elapsed()));
            // A closed receiver means that the caller has given up.
            let _ = done.send(replies);
        }
        Ok(())
    }
}

/// Probes the server with HELLO until it reports to be a replica: Redis closes no connection when it is demoted. An
/// unresponsive server fails the probe's timeout. A demoted cluster node redirects by itself.
async fn probe(pipeline: &Pipeline) -> String {
    loop {
        sleep(PROBE).await;
        let mut hello = BytesMut::new();
        resp::encode(&mut hello, "HELLO", &[]);
        let Ok(answer) = pipeline.queue(hello, 1) else { continue };
        if let Ok(replies) = answer.await
            && let Some(Ok(CommandReply::Other(greeting))) = replies.first()
            && !pipeline.is_node
            && is_replica(greeting).is_ok_and(|is_replica| is_replica)
        {
            return IS_REPLICA.to_owned();
        }
    }
}

/// Maintains a connection to the server. Never returns.
pub(super) async fn keep(
    pipeline: Rc<Pipeline>,
    target: Target,
    command_timeout: Duration,
    max_bytes: usize,
) {
    let (mut wait, mut failures) = (FIRST_PAUSE, 0_u32);
    let discovery = target.discovery().clone();
    loop {
        let mut reached = discovery.reached();
        let reason = match target.dial(max_bytes).await {
            Ok(connection) => {
                (wait, failures) = (FIRST_PAUSE, 0);
                reached = discovery.reached();
                let endpoint: Endpoint = connection.endpoint().clone();
                pipeline.up.send_replace(true);
                let reason = tokio::select! {
                    reason = PipelineDriver::new(connection, &pipeline) => reason,
                    reason = pipeline.overdue(command_timeout) => {
                        target.suspect();
                        reason
                    }
                    reason = probe(&pipeline) => reason,
                    () = discovery.left(&endpoint) => "another server is the master now, or this one is a replica".to_owned(),
                };
                if says_replica(&reason) {
                    discovery.leave(&endpoint);
                }
                pipeline.up.send_replace(false);
                pipeline.clear();
                reason
            }
            Err(reason) => {
                // The broker logs a Redis that is unreachable for it as well.
                if failures % FAILURES == FIRST_FAILURES && discovery.is_served() {
                    let hint = target.hint(&reason);
                    warn!(redis = target.name(), error = %reason, "cannot open this shard's redis connection; its clients get 503; {hint}");
                }
                failures += 1;
                reason
            }
        };
        debug!(error = %reason, "no connection to redis");
        pause(wait, &mut reached).await;
        wait = (wait * 2).min(target.longest_pause());
    }
}

/// Maintains a connection to a cluster node. Never returns.
pub(super) async fn keep_node(
    pipeline: Rc<Pipeline>,
    target: Target,
    node: ServerAddress,
    command_timeout: Duration,
    max_bytes: usize,
) {
    let mut wait = FIRST_PAUSE;
    loop {
        let endpoint = Endpoint { server: node.clone(), term: target.discovery().term() };
        let dialing = RedisConnection::dial_node(target.options(), endpoint, max_bytes);
        let reason = match timeout(target.connect_timeout(), dialing).await {
            Ok(Ok(connection)) => {
                wait = FIRST_PAUSE;
                pipeline.up.send_replace(true);
                let reason = tokio::select! {
                    reason = PipelineDriver::new(connection, &pipeline) => reason,
                    reason = pipeline.overdue(command_timeout) => reason,
                    reason = probe(&pipeline) => reason,
                };
                pipeline.up.send_replace(false);
                pipeline.clear();
                reason
            }
            Ok(Err(reason)) => reason,
            Err(_) => "no answer".to_owned(),
        };
        debug!(%node, error = %reason, "no connection to this node");
        target.discovery().refresh();
        sleep(wait).await;
        wait = (wait * 2).min(target.longest_pause());
    }
}

/// Returns true if the connection was lost because the server is a replica.
fn says_replica(reason: &str) -> bool {
    reason == IS_REPLICA || reason.starts_with("READONLY")
}

/// Drives the connection: writes queued batches, reads replies. Completes with the reason when the connection is lost.
struct PipelineDriver<'a> {
    connection: RedisConnection,
    pipeline: &'a Pipeline,
    /// The server has said that it is a replica: the connection ends after the batch in which it said so, whose sender learns
    /// what was refused.
    refusal: Option<String>,
}

impl Future for PipelineDriver<'_> {
    type Output = String;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<String> {
        match self.get_mut().turn(cx) {
            Ok(()) => Poll::Pending,
            Err(reason) => Poll::Ready(reason),
        }
    }
}

impl<'a> PipelineDriver<'a> {
    fn new(connection: RedisConnection, pipeline: &'a Pipeline) -> Self {
        Self { connection, pipeline, refusal: None }
    }

    /// Makes as much progress as possible without waiting.
    fn turn(&mut self, cx: &mut Context<'_>) -> Result<(), String> {
        self.pipeline.task.set(Some(cx.waker().clone()));
        loop {
            for mut pending in self.pipeline.queued.borrow_mut().drain(..) {
                self.connection.commands(std::mem::take(&mut pending.bytes));
                self.pipeline.in_flight.borrow_mut().push_back(pending);
            }
            if let Poll::Ready(Err(reason)) = self.connection.poll_write(cx) {
                return Err(reason);
            }
            match self.connection.poll_read(cx) {
                Poll::Pending => return Ok(()),
                Poll::Ready(read) => read?,
            }
            self.take_replies()?;
        }
    }

    fn take_replies(&mut self) -> Result<(), String> {
        while let Some((token, mut used)) = self.connection.token(0).map_err(|error| error.to_string())? {
            let incoming = self.connection.incoming();
            let mut oversize = 0;
            let reply = match token {
                RespToken::Integer(number) => Ok(CommandReply::Integer(number)),
                RespToken::Nil => Ok(CommandReply::Value(None)),
                RespToken::Bulk(place) => {
                    Ok(CommandReply::Value(Some(Bytes::copy_from_slice(&incoming[place]))))
                }
                RespToken::Oversize(length) => {
                    oversize = length;
                    Ok(CommandReply::TooLarge(length))
                }
                RespToken::Status(_) => Ok(CommandReply::Done),
                RespToken::Error(place) => {
                    let reason = describe_text(&String::from_utf8_lossy(&incoming[place]));
                    match ErrorClass::of(&reason) {
                        ErrorClass::Unauthenticated => return Err(reason),
                        ErrorClass::NotMaster => self.refusal = Some(reason.clone()),
                        _ => {}
                    }
                    Err(reason)
                }
                RespToken::Array(_) => {
                    let answer = ReplyValue::read(incoming, 0).map_err(|error| error.to_string())?;
                    let Some((answer, end)) = answer else { return Ok(()) };
                    used = end;
                    Ok(CommandReply::Other(answer))
                }
            };
            incoming.advance(used);
            if oversize > 0 {
                self.connection.discard(oversize);
            }
            self.pipeline.answer(reply)?;
            if let Some(reason) = &self.refusal
                && !self.pipeline.is_between_replies()
            {
                return Err(reason.clone());
            }
        }
        Ok(())
    }
}
