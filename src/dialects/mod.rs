//! The protocols that clients speak: a dialect answers a checked request, and gives the messages of an open connection
//! their meaning.
//!
//! Not here: HTTP (`http`), frames (`socket`), and which connection gets a message (`hub`).

mod description;
mod groups;
mod identify;
pub mod live;
mod reason;
pub mod relay;
pub mod socket_io;

use std::rc::Rc;

use tracing::{Instrument, Span, debug_span, field};

use self::identify::Identified;
use self::live::Verdict;
use crate::access::Grant;
use crate::http::{HandshakeRequest, Rejection, Route, RouteAnswer, Upgraded};
use crate::shard::state::{ConnectionPermit, ShardState};
use crate::visitors;

/// An accepted handshake, by the protocol of its client; it serves the connection.
pub enum Dialect<R, S, L> {
    /// That of django-websocket-redis: one facility per connection, flags in the query, raw messages.
    Relay(R),
    /// Socket.IO over Engine.IO: namespaces, rooms and events.
    SocketIo(S),
    /// Several facilities on one connection, and objects of JSON.
    Live(L),
}

impl<R, S, L> Dialect<R, S, L>
where
    R: FnOnce(Upgraded, ConnectionPermit),
    S: FnOnce(Upgraded, ConnectionPermit),
    L: FnOnce(Upgraded, ConnectionPermit),
{
    /// Serves the connection, after the 101.
    pub fn serve(self, upgraded: Upgraded, permit: ConnectionPermit) {
        match self {
            Self::Relay(serve) => serve(upgraded, permit),
            Self::SocketIo(serve) => serve(upgraded, permit),
            Self::Live(serve) => serve(upgraded, permit),
        }
    }
}

/// Answers a request.
///
/// # Errors
///
/// When the visitor cannot be identified or is refused, or when Redis fails.
pub async fn answer(
    state: &Rc<ShardState>,
    route: Route,
) -> Result<
    RouteAnswer<
        Dialect<
            impl FnOnce(Upgraded, ConnectionPermit) + use<>,
            impl FnOnce(Upgraded, ConnectionPermit) + use<>,
            impl FnOnce(Upgraded, ConnectionPermit) + use<>,
        >,
    >,
    Rejection,
> {
    Ok(match route {
        Route::WebSocket(request, acceptance) => {
            RouteAnswer::WebSocket(acceptance, Dialect::Relay(relay::open(state, request).await?))
        }
        Route::EventStream(request, head) => {
            RouteAnswer::EventStream(head, Dialect::Relay(relay::open(state, request).await?))
        }
        // Boxed: they must not enlarge the handshakes of the relay.
        Route::Live(request, from, acceptance) => {
            let serve = Box::pin(live::open(state, request, from)).await?;
            RouteAnswer::WebSocket(acceptance, Dialect::Live(serve))
        }
        Route::LiveStream(request, from, head) => {
            let serve = Box::pin(live::open(state, request, from)).await?;
            RouteAnswer::EventStream(head, Dialect::Live(serve))
        }
        Route::Publish(request, message) => {
            let span = request_span(&request);
            relay::post(state, request, message).instrument(span).await?;
            RouteAnswer::Published
        }
        Route::WhoAmI(request) => {
            let span = request_span(&request);
            let identified = identify::identify(state, &request).instrument(span).await?;
            RouteAnswer::Profile(visitors::profile(&identified.visitor))
        }
        Route::Identity(request) => {
            let span = request_span(&request);
            RouteAnswer::Profile(identity_of(state, &request).instrument(span).await?)
        }
        Route::Engine(route) => {
            // Boxed: it must not enlarge the handshakes of the relay.
            match Box::pin(socket_io::open(state, *route)).await? {
                RouteAnswer::WebSocket(acceptance, serve) => {
                    RouteAnswer::WebSocket(acceptance, Dialect::SocketIo(serve))
                }
                RouteAnswer::Session(answer) => RouteAnswer::Session(answer),
                // These are answers of the relay.
                RouteAnswer::EventStream(..) | RouteAnswer::Published | RouteAnswer::Profile(_) => {
                    return Err(Rejection::Method);
                }
            }
        }
    })
}

/// Returns the identity that a handshake would have, and the flags that it would be granted, as JSON.
async fn identity_of(state: &ShardState, request: &HandshakeRequest) -> Result<String, Rejection> {
    let HandshakeRequest { handshake, credentials } = request;
    let Identified { visitor, .. } = identify::identify(state, request).await?;
    // The address of a page of version 2 has no facility, and each of its subscriptions is granted on its own.
    let grant = if handshake.facility.as_str().is_empty() {
        Grant::default()
    } else {
        state.policy.get().grant(handshake, &visitor.identity, visitor.allowed)?
    };
    let verdict = Verdict::new(&state.process.settings.namespace, handshake, &grant, false);
    let has_cookie = credentials.session_cookie.is_some();
    Ok(visitors::profile_of_handshake(&visitor, has_cookie, &verdict.granted, &verdict.refused))
}

/// Returns the span of a request that opens no connection: several of them may share one socket.
fn request_span(request: &HandshakeRequest) -> Span {
    debug_span!("request", facility = ?request.handshake.facility, user = field::Empty)
}
