//! The protocols that clients speak: a dialect answers a checked request, and gives the messages of an open connection
//! their meaning.
//!
//! Not here: HTTP (`http`), frames (`socket`), and which connection gets a message (`hub`).

mod identify;
pub mod relay;

use std::rc::Rc;

use tracing::{Instrument, Span, debug_span, field};

use crate::http::{HandshakeRequest, Rejection, Route, RouteAnswer, Upgraded};
use crate::shard::state::{ConnectionPermit, ShardState};
use crate::visitors;

/// The protocols that clients speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// That of django-websocket-redis: one facility per connection, flags in the query, raw messages.
    Relay,
}

impl Dialect {
    /// Answers a request. The continuation in the answer to a handshake serves the connection; it runs after the 101.
    ///
    /// # Errors
    ///
    /// When the visitor cannot be identified or is refused, or when Redis fails.
    pub async fn answer(
        self,
        state: &Rc<ShardState>,
        route: Route,
    ) -> Result<RouteAnswer<impl FnOnce(Upgraded, ConnectionPermit) + use<>>, Rejection> {
        let Self::Relay = self;
        Ok(match route {
            Route::WebSocket(request, acceptance) => {
                RouteAnswer::WebSocket(acceptance, relay::open(state, request).await?)
            }
            Route::EventStream(request, head) => {
                RouteAnswer::EventStream(head, relay::open(state, request).await?)
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
        })
    }
}

/// Returns the span of a request that opens no connection: several of them may share one socket.
fn request_span(request: &HandshakeRequest) -> Span {
    debug_span!("request", facility = ?request.handshake.facility, user = field::Empty)
}
