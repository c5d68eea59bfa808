//! Polling: requests for a session, which the session's shard answers.

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::ending::{end, finish_ended};
use super::namespaces::reauthorize;
use super::payload::{MAX_POLL_BYTES, payload};
use super::receive::receive_engine_packet;
use super::tick::silence_limit;
use super::upgrade::adopt;
use crate::access::Token;
use crate::dialects::reason::reason_of;
use crate::engine::{AcceptedUpgrade, Deadline, EngineCall, EngineSession, TransportState};
use crate::http::{EngineError, PostBody, PostReader, SessionAction, SessionAnswer, SessionRequest};
use crate::hub::Ending;
use crate::metrics::cells;
use crate::shard::state::{ConnectionPermit, ShardState};
use crate::socket::Close;
use crate::stream::Stream;
use crate::wire::engine_io::{EngineType, EngineVersion, PayloadDecoder, PayloadForm, PayloadRules};

/// Shortest time between two polls that are answered without a packet: a client whose new WebSocket is not answered polls in
/// a loop.
const NOOP_PAUSE_MS: u64 = 100;

/// Most packets in the payload of a post.
const MAX_PACKETS: usize = 1_000;

/// Answers the calls of other shards. Ends with their channel.
pub async fn serve_calls(state: Rc<ShardState>, mut calls: mpsc::Receiver<EngineCall>) {
    while let Some(call) = calls.recv().await {
        match call {
            EngineCall::Request(request, reply) if matches!(request.action, SessionAction::Poll) => {
                tokio::task::spawn_local(serve_poll(state.clone(), request, reply));
            }
            // Nothing here waits. The packets of a post count even if its client has gone.
            EngineCall::Request(request, reply) => {
                let _ = reply.send(answer_here(&state, request).await);
            }
            EngineCall::Adopt(AcceptedUpgrade { sid, upgrade, permit, socket, early }) => {
                // An error means that the socket has failed already.
                if let Ok(stream) = Stream::new(socket) {
                    let permit = ConnectionPermit::new(&state, permit);
                    adopt(permit, &sid, upgrade, stream, &early);
                }
            }
        }
    }
}

/// Answers a poll that arrived on another shard.
async fn serve_poll(
    state: Rc<ShardState>,
    request: SessionRequest,
    mut reply: oneshot::Sender<Result<SessionAnswer, EngineError>>,
) {
    let sid = request.sid.clone();
    let answer = tokio::select! {
        // First, so that packets which were taken from the session are not dropped.
        biased;
        answer = answer_here(&state, request) => answer,
        // The client has gone.
        () = reply.closed() => return,
    };
    if let Err(Ok(_)) = reply.send(answer)
        && let Some(session) = state.engine.session(&sid)
    {
        // Packets are lost with the answer.
        end(&state, &session, Ending::Broken);
    }
}

/// Answers a request for a session of any shard. Safe to cancel: that ends the session of a poll.
///
/// # Errors
///
/// When there is no such session, or the request does not fit its state.
pub(super) async fn answer(
    state: &Rc<ShardState>,
    request: SessionRequest,
) -> Result<SessionAnswer, EngineError> {
    let shard = state.engine.shard_of(&request.sid).ok_or(EngineError::Session)?;
    if shard == state.number {
        return answer_here(state, request).await;
    }
    let calls = state.process.engine_calls.get(shard).ok_or(EngineError::Session)?;
    let (reply, answer) = oneshot::channel();
    calls.send(EngineCall::Request(request, reply)).await.map_err(|_| EngineError::Session)?;
    answer.await.unwrap_or(Err(EngineError::Session))
}

/// Answers a post. A session has one post at a time, so one whose payload has not arrived yet is announced to it.
///
/// # Errors
///
/// As for [`answer`], and when another post is on its way: then the session ends.
pub(super) async fn answer_post(
    state: &Rc<ShardState>,
    request: SessionRequest,
    reader: PostReader,
) -> Result<SessionAnswer, EngineError> {
    let is_octet_stream = reader.is_octet_stream();
    let mut reading = pin!(reader.read());
    // Most payloads have arrived together with their head, and need no second request to the session.
    let (body, has_begun) = match poll_fn(|cx| Poll::Ready(reading.as_mut().poll(cx))).await {
        Poll::Ready(body) => (body, false),
        Poll::Pending => {
            answer(state, request.clone()).await?;
            (reading.await, true)
        }
    };
    let action = SessionAction::Post { has_begun, body, is_octet_stream };
    answer(state, SessionRequest { action, ..request }).await
}

async fn answer_here(state: &Rc<ShardState>, request: SessionRequest) -> Result<SessionAnswer, EngineError> {
    let session = state.engine.session(&request.sid).filter(|session| session.mount == request.mount);
    let session = session.ok_or(EngineError::Session)?;
    let is_bound = session.poll.borrow().as_ref().is_some_and(|poll| {
        let presented = || request.cookie.as_deref().map(|cookie| Token::new(cookie).fingerprint());
        poll.credential.is_some() && presented() != poll.credential
    });
    if is_bound {
        return Err(EngineError::Session);
    }
    if request.version != session.version {
        return Err(EngineError::Request("EIO differs from that of the session"));
    }
    if session.transport.get() == TransportState::WebSocket {
        return Err(EngineError::Request("the session uses a WebSocket"));
    }
    let silence = state.engine.now().saturating_sub(session.last_received.get());
    if silence >= silence_limit(&state.process.settings.socket_io) {
        end(state, &session, Ending::Silent);
        return Err(EngineError::Session);
    }
    if session.listener.ending().is_some() {
        finish_ended(state, &session);
    } else if session.listener.take_reauthorize() {
        reauthorize(&session, state);
    }
    if session.deadline.get() == Deadline::None
        && let Some(poll) = &mut *session.poll.borrow_mut()
    {
        poll.newcomer = None;
    }
    match request.action {
        SessionAction::Poll => poll(state, &session).await,
        _ if session.listener.ending().is_some() => Err(EngineError::Session),
        SessionAction::BeginPost => {
            begin_post(state, &session)?;
            Ok(SessionAnswer { content_type: "", body: Bytes::new() })
        }
        SessionAction::Post { has_begun, body, is_octet_stream } => {
            if !has_begun {
                begin_post(state, &session)?;
            }
            let answer = post(state, &session, body, is_octet_stream);
            if let Some(poll) = &mut *session.poll.borrow_mut() {
                poll.is_posting = false;
            }
            answer
        }
        SessionAction::Upgrade(_) if session.transport.get() != TransportState::Polling => {
            Err(EngineError::Request("another WebSocket is being opened"))
        }
        SessionAction::Upgrade(upgrade) => {
            session.transport.set(TransportState::UpgradeRequested);
            if let Some(poll) = &mut *session.poll.borrow_mut() {
                poll.upgrade_began = state.engine.now();
                poll.upgrade = upgrade;
            }
            Ok(SessionAnswer { content_type: "", body: Bytes::new() })
        }
    }
}

/// A poll that waits. If it is dropped before its end, its client has gone, and the session ends.
struct WaitingPoll<'a> {
    state: &'a ShardState,
    session: &'a EngineSession,
    is_answered: bool,
}

impl Drop for WaitingPoll<'_> {
    fn drop(&mut self) {
        if let Some(poll) = &mut *self.session.poll.borrow_mut() {
            poll.is_waiting = false;
        }
        if !self.is_answered && self.session.transport.get() != TransportState::WebSocket {
            end(self.state, self.session, Ending::Broken);
        }
    }
}

/// Waits for packets, and answers with all of them.
async fn poll(state: &ShardState, session: &EngineSession) -> Result<SessionAnswer, EngineError> {
    let (was_waiting, noop_at) = match &mut *session.poll.borrow_mut() {
        Some(poll) => {
            poll.has_polled = true;
            (std::mem::replace(&mut poll.is_waiting, true), poll.noop_at)
        }
        None => return Err(EngineError::Session),
    };
    if was_waiting {
        // The answer to the waiting one says that the session has ended.
        end(state, session, Ending::Disconnected);
        return Err(EngineError::Request("another poll waits"));
    }
    let mut waiting = WaitingPoll { state, session, is_answered: false };
    let listener = &session.listener;
    let next_packets = |answers_probe| {
        poll_fn(move |cx| {
            // The WebSocket's task is the one to wake now, and the queued bytes are its own.
            if session.transport.get() == TransportState::WebSocket {
                return Poll::Ready((Vec::new(), false));
            }
            let has_ended = listener.ending().is_some();
            if has_ended {
                finish_ended(state, session);
            }
            // No poll follows that could take the rest.
            let frames = listener.take_queued(if has_ended { usize::MAX } else { MAX_POLL_BYTES });
            let is_probed = session.transport.get() == TransportState::UpgradeProbed;
            if frames.is_empty() && !has_ended && !(is_probed && answers_probe) {
                // Only now: a waker that nobody takes keeps the memory of the connection's task until the next poll.
                listener.watch(cx);
                return Poll::Pending;
            }
            Poll::Ready((frames, has_ended))
        })
    };
    let pause = (noop_at + NOOP_PAUSE_MS).saturating_sub(state.engine.now());
    let early = match pause {
        0 => None,
        pause => Box::pin(timeout(Duration::from_millis(pause), next_packets(false))).await.ok(),
    };
    let (frames, has_ended) = match early {
        Some(answer) => answer,
        None => next_packets(true).await,
    };
    waiting.is_answered = true;
    if frames.is_empty()
        && let Some(poll) = &mut *session.poll.borrow_mut()
    {
        poll.noop_at = state.engine.now();
    }
    let is_closed = session.poll.borrow().as_ref().is_some_and(|poll| poll.is_closed);
    let last = match (has_ended, is_closed) {
        (true, false) => Some(EngineType::Close),
        _ if frames.is_empty() => Some(EngineType::Noop),
        _ => None,
    };
    let answer = payload(session, state, &frames, last);
    drop(waiting);
    if has_ended {
        state.engine.remove(session);
    }
    Ok(answer)
}

/// Marks that a post is on its way. Ends the session if there is one already: its packets would be out of order.
fn begin_post(state: &ShardState, session: &EngineSession) -> Result<(), EngineError> {
    let mut poll = session.poll.borrow_mut();
    let is_second = poll.as_mut().is_some_and(|poll| std::mem::replace(&mut poll.is_posting, true));
    drop(poll);
    if is_second {
        end(state, session, Ending::Broken);
        return Err(EngineError::Request("another post is on its way"));
    }
    Ok(())
}

/// Handles the packets of a post, in order.
fn post(
    state: &Rc<ShardState>,
    session: &EngineSession,
    body: PostBody,
    is_octet_stream: bool,
) -> Result<SessionAnswer, EngineError> {
    let done = SessionAnswer { content_type: "text/html", body: Bytes::from_static(b"ok") };
    let body = match body {
        PostBody::Complete(_) if is_octet_stream && session.version == EngineVersion::V4 => {
            Err(EngineError::Request("the payload has a wrong type"))
        }
        PostBody::Complete(body) => Ok(body),
        // No packet of it has been handled, so the client may repeat it.
        PostBody::NoMemory => return Err(EngineError::NoMemory),
        PostBody::TooLarge => Err(EngineError::TooLarge),
        PostBody::Incomplete => Err(EngineError::Request("the payload is incomplete")),
    };
    let body = body.inspect_err(|_| end(state, session, Ending::Broken))?;
    session.last_received.set(state.engine.now());
    let settings = &state.process.settings.socket_io;
    let rules = PayloadRules {
        max_bytes: settings.max_payload_bytes,
        max_packets: MAX_PACKETS,
        repair_text: settings.eio3_repair_text,
    };
    // A payload counts as one message, as its client has sent it.
    cells(|cells| cells.count_received(body.len()));
    let form = PayloadForm::of_request(session.version, is_octet_stream);
    let close = match PayloadDecoder::new(form, &body, rules) {
        Ok(mut packets) => packets.find_map(|packet| match packet {
            Ok(packet) => receive_engine_packet(session, state, packet),
            Err(error) => Some(Close::Protocol(error.to_string())),
        }),
        Err(error) => Some(Close::Protocol(error.to_string())),
    };
    match close {
        None => Ok(done),
        Some(Close::Disconnected) => {
            if let Some(poll) = &mut *session.poll.borrow_mut() {
                poll.is_closed = true;
            }
            end(state, session, Ending::Disconnected);
            Ok(done)
        }
        Some(close) => {
            session.end_reason.set(Some(reason_of(&close)));
            end(state, session, Ending::Broken);
            Err(EngineError::Request("a packet is invalid or was not expected"))
        }
    }
}
