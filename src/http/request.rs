//! Classifies a request by its method and headers.

use hyper::header::ACCESS_CONTROL_REQUEST_METHOD;
use hyper::header::{ACCEPT, HeaderMap, HeaderName, HeaderValue, ORIGIN, UPGRADE};
use hyper::{Method, Request};

use crate::access::Credentials;
use crate::wire::{Flags, Handshake, parameters, query_pairs};

/// A request whose form, Origin and path have been checked.
pub struct HandshakeRequest {
    /// The facility and the flags.
    pub handshake: Handshake,
    /// The visitor's credentials and address.
    pub credentials: Credentials,
}

/// Query parameter of our own client, which reads statuses: name and value.
const CLIENT: (&str, &str) = ("client", "ws4redis");

/// Query parameter of streams of version 2: name and value.
const VERSION: (&str, &str) = ("v", "2");

/// The query parameters that are no flags.
const PARAMETERS: [&str; 5] = [CLIENT.0, VERSION.0, "since", "last", "access_token"];

/// A header that needs a preflight from a page of another origin (Fetch standard, "CORS-safelisted request-header"): only
/// pages that the Origin rule admits can publish.
const OWN_HEADER: HeaderName = HeaderName::from_static("x-ws4redis");

/// Returns whether the client offers to upgrade to a WebSocket, maybe among other protocols (RFC 9110, section 7.8).
pub(super) fn offers_websocket(headers: &HeaderMap) -> bool {
    tokens(headers, &UPGRADE).any(|protocol| protocol.eq_ignore_ascii_case("websocket"))
}

/// Returns whether a stream of events is requested.
pub(super) fn requests_events<B>(request: &Request<B>) -> bool {
    let headers = request.headers();
    let accepts = |item: &str| {
        let kind = item.split(';').next().unwrap_or_default();
        kind.trim().eq_ignore_ascii_case("text/event-stream")
    };
    request.method() == Method::GET && !offers_websocket(headers) && tokens(headers, &ACCEPT).any(accepts)
}

/// Returns the names in the query that are neither flags nor parameters, such as misspelt flags.
pub(super) fn unknown_flags(query: Option<&str>) -> Vec<String> {
    let is_unknown = |name: &str| !PARAMETERS.contains(&name) && Flags::named([name]) == Flags::default();
    query_pairs(query).map(|(name, _)| name.into_owned()).filter(|name| is_unknown(name)).collect()
}

/// Returns whether our own client asks for its identity and the flags that are granted.
pub(super) fn requests_identity<B>(request: &Request<B>) -> bool {
    let headers = request.headers();
    let accepts = |item: &str| item.eq_ignore_ascii_case("application/json");
    // A handshake of a browser has no Accept: it is asked for first, since this is asked about each handshake.
    tokens(headers, &ACCEPT).any(accepts)
        && request.method() == Method::GET
        && !offers_websocket(headers)
        && is_own_client(request)
}

/// Returns whether the request publishes a message.
pub(super) fn publishes<B>(request: &Request<B>) -> bool {
    request.method() == Method::POST && request.headers().contains_key(OWN_HEADER)
}

/// Returns whether a browser asks what a page of another origin may send (Fetch standard, "CORS-preflight request").
pub(super) fn is_preflight<B>(request: &Request<B>) -> bool {
    let headers = request.headers();
    request.method() == Method::OPTIONS
        && headers.contains_key(ORIGIN)
        && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}

/// Returns whether the request comes from our own client.
pub(super) fn is_own_client<B>(request: &Request<B>) -> bool {
    parameters(request.uri().query(), CLIENT.0).any(|value| value == CLIENT.1)
}

/// Returns whether a stream of version 2 is requested.
pub(super) fn is_version_2<B>(request: &Request<B>) -> bool {
    parameters(request.uri().query(), VERSION.0).any(|value| value == VERSION.1)
}

/// Returns whether an `EventSource` requests a stream: unlike our own client, it cannot read the status of the answer.
pub(super) fn is_event_source<B>(request: &Request<B>) -> bool {
    requests_events(request) && !is_own_client(request)
}

/// Returns the header's value if there is exactly one.
pub(super) fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

/// Returns the values of all lines of a header.
pub(super) fn lines<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Vec<&'a [u8]> {
    headers.get_all(name).iter().map(HeaderValue::as_bytes).collect()
}

/// Returns the comma-separated items of all lines of a header.
pub(super) fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let lines = headers.get_all(name).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim).filter(|token| !token.is_empty())
}
