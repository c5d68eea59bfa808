//! The credentials in a request, and the Origin rule, which decides whether a page may use them.

use std::borrow::Cow;

use hyper::Request;
use hyper::header::{
    AUTHORIZATION, COOKIE, FORWARDED, HOST, HeaderMap, HeaderName, HeaderValue, ORIGIN,
    SEC_WEBSOCKET_PROTOCOL, USER_AGENT, VIA,
};

use super::Rejection;
use super::http_config::HttpConfig;
use super::request::{lines, only, tokens};
use crate::access::token::Untrusted;
use crate::access::{Credentials, Peer, Token, cookie_value};
use crate::wire::{ClientDetails, parameters};

/// Prefix of an offered subprotocol that is a token. The 101 never selects one.
pub(super) const TOKEN_PROTOCOL: &str = "bearer.";

/// Name of the query parameter that holds a token (RFC 6750, section 2.3).
const TOKEN_PARAMETER: &str = "access_token";

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// The scheme in the Authorization header (RFC 6750, section 2.1).
const BEARER: &str = "bearer ";

/// Most bytes of headers for the callback: open connections keep them for later requests to it.
const MAX_PASSED_ON_BYTES: usize = 8 * 1024;

/// Where a request may hold a token, apart from its query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TokenSource {
    /// In an offered subprotocol: pages cannot set headers of a WebSocket handshake.
    Handshake,
    /// In the Authorization header of any other request.
    Plain,
}

/// Returns the names of the headers that the callback gets: Cookie, Authorization, and these.
pub fn names_passed_on(more: &[String]) -> Vec<HeaderName> {
    let more = more.iter().filter_map(|name| name.parse().ok());
    [COOKIE, AUTHORIZATION].into_iter().chain(more).collect()
}

/// Checks the Origin rule: the origin of the page against the requested host, or the one that a trusted proxy reports.
pub(super) fn check_origin<B>(
    request: &Request<B>,
    peer: Peer,
    config: &HttpConfig,
) -> Result<(), Rejection> {
    let headers = request.headers();
    let host = only(headers, &HOST).ok_or(Rejection::Bad("the request has to have one Host header"))?;
    let rules = config.rules.get();
    let host = rules.proxies.host(peer, &lines(headers, &X_FORWARDED_HOST), host.as_bytes());
    Ok(rules.origins.check(&lines(headers, &ORIGIN), &String::from_utf8_lossy(host))?)
}

/// Returns the credentials of a request, except the [`token`], which is read last. Checks the Origin rule if there are any.
pub(super) fn credentials<B>(
    request: &Request<B>,
    peer: Peer,
    config: &HttpConfig,
) -> Result<Credentials, Rejection> {
    let headers = request.headers();
    only(headers, &HOST).ok_or(Rejection::Bad("the request has to have one Host header"))?;
    let cookies = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes);
    let rules = config.rules.get();
    let session_cookie = cookie_value(cookies, &rules.session_cookie);
    let passed_on = rules.passed_on.as_ref().map(|names| passed_on(headers, names)).unwrap_or_default();
    if passed_on.iter().map(|(_, value)| value.len()).sum::<usize>() > MAX_PASSED_ON_BYTES {
        return Err(Rejection::HeadersTooLarge(MAX_PASSED_ON_BYTES));
    }
    // The callback may identify the visitor by any of these headers.
    if session_cookie.is_some() || !passed_on.is_empty() {
        check_origin(request, peer, config)?;
    }
    let visitor = rules.proxies.visitor(peer, &lines(headers, &X_FORWARDED_FOR), &lines(headers, &FORWARDED));
    let address = visitor.address();
    let client_address = rules.proxies.client_address(peer, visitor, is_forwarded(headers));
    let details = config.keeps_details.then(|| Box::new(ClientDetails::new(address, user_agent(headers))));
    Ok(Credentials { session_cookie, token: None, headers: passed_on, address, client_address, details })
}

/// Returns what the visitor's program calls itself.
fn user_agent(headers: &HeaderMap) -> Option<&str> {
    headers.get(USER_AGENT)?.to_str().ok()
}

/// Returns whether the headers show that a proxy has forwarded the request.
fn is_forwarded(headers: &HeaderMap) -> bool {
    [X_FORWARDED_FOR, FORWARDED, X_FORWARDED_HOST, X_FORWARDED_PROTO, X_REAL_IP, VIA]
        .iter()
        .any(|name| headers.contains_key(name))
}

/// Returns the headers of these names. Several Cookie lines become one, as in Django.
fn passed_on(headers: &HeaderMap, names: &[HeaderName]) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for name in names {
        let values = headers.get_all(name).iter().map(HeaderValue::as_bytes);
        let values: Vec<_> = if *name == COOKIE && headers.contains_key(COOKIE) {
            vec![values.collect::<Vec<_>>().join(&b"; "[..])]
        } else {
            values.map(<[u8]>::to_vec).collect()
        };
        found.extend(values.into_iter().map(|value| (name.as_str().to_owned(), value)));
    }
    found
}

/// Returns the token of a request, if tokens are accepted: from the query, an offered subprotocol, or the Authorization
/// header. Two different tokens are ambiguous, and refused.
pub(super) fn token<B>(
    request: &Request<B>,
    source: TokenSource,
    config: &HttpConfig,
) -> Result<Option<Token>, Rejection> {
    if !config.rules.get().tokens {
        return Ok(None);
    }
    let headers = request.headers();
    let offered = tokens(headers, &SEC_WEBSOCKET_PROTOCOL).filter(|_| source == TokenSource::Handshake);
    let offered = offered.filter_map(|name| name.strip_prefix(TOKEN_PROTOCOL));
    let set = headers.get_all(AUTHORIZATION).iter().filter(|_| source == TokenSource::Plain);
    let set = set.filter_map(|value| value.to_str().ok()?.split_at_checked(BEARER.len()));
    let set = set.filter(|(scheme, _)| scheme.eq_ignore_ascii_case(BEARER)).map(|(_, token)| token.trim());
    let mut found =
        parameters(request.uri().query(), TOKEN_PARAMETER).chain(offered.chain(set).map(Cow::Borrowed));
    let Some(first) = found.next() else { return Ok(None) };
    if first.is_empty() || found.any(|other| other != first) {
        return Err(Untrusted::NotOneToken.into());
    }
    Ok(Some(Token::new(&first)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_header_of_proxies_shows_that_a_request_was_forwarded() {
        for name in
            ["X-Forwarded-For", "Forwarded", "X-Real-IP", "X-Forwarded-Proto", "X-Forwarded-Host", "Via"]
        {
            let name: HeaderName = name.parse().unwrap();
            let headers = HeaderMap::from_iter([(name.clone(), HeaderValue::from_static("x"))]);
            assert!(is_forwarded(&headers), "{name}");
        }
        assert!(!is_forwarded(&HeaderMap::from_iter([(HOST, HeaderValue::from_static("x"))])));
    }
}
