//! What the events of a client leave behind.

use std::sync::Arc;

use super::{NamedSessionHold, UnansweredEvents};

/// State of a client in a namespace that sends events.
#[derive(Debug, Default)]
pub struct SenderState {
    /// Events that Django has not acknowledged.
    pub unanswered: UnansweredEvents,
    /// The user that it says to be, where clients are believed, or that of the session that it has named.
    pub claimed_user: Option<Arc<str>>,
    /// The session that it has named, on the paths of yunity-sockets.
    pub session: Option<NamedSessionHold>,
    /// The number of the gathering to which it has reported itself; 0 for none.
    pub reported: u32,
}
