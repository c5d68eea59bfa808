//! Where a client of version 2 wants to continue, as its request says.

use std::borrow::Cow;

use hyper::Request;
use hyper::header::HeaderName;

use super::request::only;
use crate::wire::parameters;

/// The header in which an `EventSource` repeats the last id (HTML standard, section 9.2.4).
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Where a client of version 2 wants to continue, as its request says. Not checked.
#[derive(Debug, Default)]
pub struct ResumeText {
    /// The id of the last message that it has: of the header `Last-Event-ID`, else of the parameter `since`.
    pub since: Option<String>,
    /// The number of earlier messages that it wants: the parameter `last`.
    pub last: Option<String>,
}

impl ResumeText {
    /// Reads a request.
    pub(super) fn of<B>(request: &Request<B>) -> Self {
        let query = request.uri().query();
        let parameter = |name| parameters(query, name).next().map(Cow::into_owned);
        // Newer than the address, which stays the same when an EventSource reconnects.
        let header = only(request.headers(), &LAST_EVENT_ID).and_then(|id| id.to_str().ok());
        let header = header.filter(|id| !id.is_empty()).map(str::to_owned);
        Self { since: header.or_else(|| parameter("since")), last: parameter("last") }
    }
}
