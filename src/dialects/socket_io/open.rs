//! Opens sessions, from a checked handshake to their task or to their first payload.

use std::rc::Rc;

use bytes::Bytes;
use tokio::time::{Instant, timeout};

use super::connection::{EngineConnection, IMPLIED_CONNECT};
use super::namespaces::connect;
use super::outgoing::send_open;
use super::payload::{MAX_POLL_BYTES, payload};
use super::polling::{answer, answer_post};
use super::upgrade::adopt;
use crate::access::Token;
use crate::dialects::description::keep_details;
use crate::dialects::identify::{Identified, identify, no_redis, refresh, revalidate};
use crate::engine::{AcceptedUpgrade, Deadline, EngineCall, EngineSession, PollState, Sid, TransportState};
use crate::http::{
    EngineHandshake, EngineRoute, HandshakeRequest, Rejection, RouteAnswer, SessionAction, SessionAnswer,
    SessionRequest, Upgraded,
};
use crate::hub::{Ending, Listener};
use crate::shard::state::{ConnectionPermit, ShardState};
use crate::stream::Permit;
use crate::visitors::watch::{InFlight, Watch};
use crate::visitors::{AuthSource, Visitor};
use crate::wire::engine_io::{EngineType, EngineVersion};
use crate::wire::{ClientDetails, Form, HandshakeRecord, Mount};

/// A visitor who is about to be admitted.
struct Admitted {
    visitor: Visitor,
    since: Instant,
    watch: Option<Watch>,
    in_flight: InFlight,
    details: Option<Box<ClientDetails>>,
}

/// A WebSocket before its 101.
enum Opening {
    Fresh(Box<Admitted>, Mount, EngineVersion, Option<HandshakeRecord>),
    /// For the session with this secret id; the number of the upgrade.
    Upgrade(String, u64),
}

/// Answers a request of an Engine.IO client. The continuation in the answer to a handshake serves the WebSocket; it runs
/// after the 101.
///
/// # Errors
///
/// When the visitor cannot be identified or is refused, or the request does not fit its session.
pub async fn open(
    state: &Rc<ShardState>,
    route: EngineRoute,
) -> Result<RouteAnswer<impl FnOnce(Upgraded, ConnectionPermit) + use<>>, Rejection> {
    let (opening, acceptance) = match route {
        EngineRoute::Polling(handshake, wants_base64) => {
            return open_polling(state, handshake, wants_base64).await.map(RouteAnswer::Session);
        }
        EngineRoute::Session(request) => return Ok(RouteAnswer::Session(answer(state, request).await?)),
        EngineRoute::Post(request, reader) => {
            return Ok(RouteAnswer::Session(answer_post(state, request, reader).await?));
        }
        EngineRoute::WebSocket(EngineHandshake { mount, version, mut request, record }, acceptance) => {
            let admitted = Box::new(admit(state, &mut request).await?);
            (Opening::Fresh(admitted, mount, version, record), acceptance)
        }
        EngineRoute::Upgrade(request, acceptance) => {
            // Until the WebSocket carries the session, both count.
            if state.process.is_full() {
                return Err(Rejection::Full);
            }
            let (sid, upgrade) = (request.sid.clone(), state.engine.next_upgrade());
            answer(state, SessionRequest { action: SessionAction::Upgrade(upgrade), ..request }).await?;
            (Opening::Upgrade(sid, upgrade), acceptance)
        }
    };
    Ok(RouteAnswer::WebSocket(acceptance, move |upgraded, permit| opening.serve(upgraded, permit)))
}

impl Opening {
    fn serve(self, upgraded: Upgraded, permit: ConnectionPermit) {
        let Upgraded { stream, early, .. } = upgraded;
        match self {
            Self::Fresh(admitted, mount, version, record) => {
                let Admitted { visitor, since, watch, in_flight, details } = *admitted;
                let connection = Box::new(EngineConnection::new(permit, stream, mount, version, record));
                connection.keep_details(details);
                connection.hold_lease(visitor, since, watch);
                // Only now invalidations reach the connection through its lease.
                drop(in_flight);
                tokio::task::spawn_local(connection.serve(&early));
            }
            Self::Upgrade(sid, upgrade) => match permit.state().engine.shard_of(&sid) {
                Some(shard) if shard == permit.state().number => {
                    adopt(permit, &sid, upgrade, stream, &early);
                }
                Some(shard) => {
                    let process = &permit.state().process;
                    // Without a limit: it replaces this shard's permit, which is dropped.
                    let moved = Permit::take(&process.connections, usize::MAX);
                    if let (Some(calls), Some(permit)) = (process.engine_calls.get(shard), moved) {
                        let socket = stream.into_socket();
                        // If the queue is full, the client keeps polling.
                        let _ = calls.try_send(EngineCall::Adopt(AcceptedUpgrade {
                            sid,
                            upgrade,
                            permit,
                            socket,
                            early,
                        }));
                    }
                }
                None => {}
            },
        }
    }
}

/// Identifies a visitor, and watches its session.
async fn admit(state: &Rc<ShardState>, request: &mut HandshakeRequest) -> Result<Admitted, Rejection> {
    // Messages would be missed. The broker has logged why.
    if state.emits_refused.borrow().is_some() {
        return Err(Rejection::NoRedis);
    }
    let in_flight = state.visitors.leases.begin();
    let mut identified = identify(state, request).await?;
    let watch = loop {
        let watch = state.visitors.leases.watch(&identified.visitor);
        let refreshed = refresh(state, watch.as_ref(), &identified.visitor);
        let refreshed = timeout(state.process.settings.server.handshake, refreshed).await;
        let late = |_| no_redis(state, "the session was not read within server.handshake_seconds");
        let (latest, is_same) = revalidate(state, identified, refreshed.map_err(late)??);
        identified = latest;
        // Another session has another key to watch.
        if is_same {
            break watch;
        }
    };
    let Identified { visitor, since } = identified;
    Ok(Admitted { visitor, since, watch, in_flight, details: request.credentials.details.take() })
}

/// Opens a session that polls. Returns its first payload.
async fn open_polling(
    state: &Rc<ShardState>,
    handshake: EngineHandshake,
    wants_base64: bool,
) -> Result<SessionAnswer, Rejection> {
    let EngineHandshake { mount, version, mut request, record } = handshake;
    let Admitted { visitor, since, watch, in_flight, details } = admit(state, &mut request).await?;
    let permit = Permit::take(&state.process.connections, state.process.most_connections());
    let permit = permit.ok_or(Rejection::Full)?;
    // Handshakes cost a client nothing, so those that are not followed by anything cannot keep others out.
    let most_newcomers = (state.process.most_connections() / 2).max(1);
    let newcomer = Permit::take(&state.process.newcomers, most_newcomers).ok_or(Rejection::Full)?;
    let cookie = request.credentials.session_cookie.as_deref();
    let cookie = cookie.filter(|_| matches!(visitor.auth_source, AuthSource::Session(_)));
    let credential = cookie.map(|cookie| Token::new(cookie).fingerprint());
    let form = match version {
        EngineVersion::V3 => Form::PrefixedPackets,
        EngineVersion::V4 => Form::Packets,
    };
    let (settings, now) = (&state.process.settings.socket_io, state.engine.now());
    let listener = Rc::new(Listener::parked(form, state.sockets.clock.get(), 0));
    keep_details(&listener, details);
    let deadline = Deadline::Connect(state.engine.after(settings.connect_seconds));
    let session = state.engine.insert(record, |slot| {
        EngineSession::new(Sid::random(), slot, mount, version, listener.clone(), now, deadline)
    });
    session.transport.set(TransportState::Polling);
    let poll = PollState {
        permit,
        credential,
        wants_base64,
        newcomer: Some(newcomer),
        has_polled: false,
        is_waiting: false,
        is_posting: false,
        is_closed: false,
        upgrade_began: 0,
        noop_at: 0,
        upgrade: 0,
        probing: None,
        ended_at: 0,
    };
    session.poll.replace(Some(Box::new(poll)));
    session.lease.replace(state.visitors.leases.add(visitor, since, &listener, watch));
    // Only now invalidations reach the session through its lease.
    drop(in_flight);
    send_open(&session, &state.engine, settings, &state.sockets.limits);
    let refused = version == EngineVersion::V3 && connect(&session, state, IMPLIED_CONNECT).is_some();
    let frames: Vec<Bytes> = listener.take_queued(MAX_POLL_BYTES);
    let answer = payload(&session, state, &frames, refused.then_some(EngineType::Close));
    if refused {
        listener.end(Ending::Disconnected);
        state.engine.remove(&session);
    }
    Ok(answer)
}
