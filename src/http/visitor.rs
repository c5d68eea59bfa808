//! By what a request shows whose it is, and whether it may be used from where it comes.

use std::borrow::Cow;

use hyper::Request;
use hyper::header::{
    AUTHORIZATION, COOKIE, FORWARDED, HOST, HeaderMap, HeaderName, HeaderValue, ORIGIN,
    SEC_WEBSOCKET_PROTOCOL, VIA,
};

use super::Rejection;
use super::routes::HttpConfig;
use crate::access::token::Untrusted;
use crate::access::{Credentials, Peer, Token, cookie_value};
use crate::wire::parameters;

/// Offered subprotocols that begin with this are tokens, never answered.
pub(super) const TOKEN_PROTOCOL: &str = "bearer.";

/// Name of the query parameter that holds a token (RFC 6750, section 2.3).
const TOKEN_PARAMETER: &str = "access_token";

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// How a token begins in the header for it (RFC 6750, section 2.1).
const BEARER: &str = "bearer ";

/// Most bytes of headers that are passed on to the callback: open sockets keep them, to be asked about again.
const MAX_PASSED_ON_BYTES: usize = 8 * 1024;

/// Where a token may stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// In a handshake: browsers let pages set no header there, but offer subprotocols.
    Handshake,
    /// In any other request: pages can set the header for it.
    Plain,
}

/// Returns the names of the headers by which the callback knows visitors: Cookie, Authorization, and these.
pub fn names_passed_on(more: &[String]) -> Vec<HeaderName> {
    let more = more.iter().filter_map(|name| name.parse().ok());
    [COOKIE, AUTHORIZATION].into_iter().chain(more).collect()
}

/// Checks the Origin rule: where the page is from against the host that it asks, or that a trusted proxy was asked.
pub(super) fn check_origin<B>(
    request: &Request<B>,
    peer: Peer,
    config: &HttpConfig,
) -> Result<(), Rejection> {
    let headers = request.headers();
    let host = only(headers, &HOST).ok_or(Rejection::Bad("the request has to have one Host header"))?;
    let host = config.proxies.host(peer, &lines(headers, &X_FORWARDED_HOST), host.as_bytes());
    Ok(config.origins.check(&lines(headers, &ORIGIN), &String::from_utf8_lossy(host))?)
}

/// Checks the Origin rule where it matters, and returns what the visitor shows of itself; but for the token, which is
/// [looked for](token) last.
pub(super) fn credentials<B>(
    request: &Request<B>,
    peer: Peer,
    config: &HttpConfig,
) -> Result<Credentials, Rejection> {
    let headers = request.headers();
    only(headers, &HOST).ok_or(Rejection::Bad("the request has to have one Host header"))?;
    let cookies = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes);
    let session_cookie = cookie_value(cookies, &config.session_cookie);
    let passed_on = config.passed_on.as_ref().map(|names| passed_on(headers, names)).unwrap_or_default();
    if passed_on.iter().map(|(_, value)| value.len()).sum::<usize>() > MAX_PASSED_ON_BYTES {
        return Err(Rejection::TooMuch(MAX_PASSED_ON_BYTES));
    }
    // The site may know a visitor by anything that it is given.
    if session_cookie.is_some() || !passed_on.is_empty() {
        check_origin(request, peer, config)?;
    }
    let visitor =
        config.proxies.visitor(peer, &lines(headers, &X_FORWARDED_FOR), &lines(headers, &FORWARDED));
    let address = visitor.address();
    let client_address = config.proxies.client_address(peer, visitor, is_passed_on(headers));
    Ok(Credentials { session_cookie, token: None, headers: passed_on, address, client_address })
}

/// Tells whether a request says that a proxy has passed it on.
fn is_passed_on(headers: &HeaderMap) -> bool {
    [X_FORWARDED_FOR, FORWARDED, X_FORWARDED_HOST, X_FORWARDED_PROTO, X_REAL_IP, VIA]
        .iter()
        .any(|name| headers.contains_key(name))
}

/// Returns the values of all lines of a header.
fn lines<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Vec<&'a [u8]> {
    headers.get_all(name).iter().map(HeaderValue::as_bytes).collect()
}

/// Returns the visitor's headers of these names. Several lines of cookies are one, as for Django.
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

/// Returns the token that the query, an offered subprotocol or, in a plain request, the header for it holds, where tokens
/// are taken. Which of several is meant nobody can tell.
pub(super) fn token<B>(
    request: &Request<B>,
    kind: Kind,
    config: &HttpConfig,
) -> Result<Option<Token>, Rejection> {
    if !config.tokens {
        return Ok(None);
    }
    let headers = request.headers();
    let offered = tokens(headers, &SEC_WEBSOCKET_PROTOCOL).filter(|_| kind == Kind::Handshake);
    let offered = offered.filter_map(|name| name.strip_prefix(TOKEN_PROTOCOL));
    let set = headers.get_all(AUTHORIZATION).iter().filter(|_| kind == Kind::Plain);
    let set = set.filter_map(|value| value.to_str().ok()?.split_at_checked(BEARER.len()));
    let set = set.filter(|(scheme, _)| scheme.eq_ignore_ascii_case(BEARER)).map(|(_, token)| token.trim());
    let mut shown =
        parameters(request.uri().query(), TOKEN_PARAMETER).chain(offered.chain(set).map(Cow::Borrowed));
    let Some(first) = shown.next() else { return Ok(None) };
    if first.is_empty() || shown.any(|other| other != first) {
        return Err(Untrusted::Unclear.into());
    }
    Ok(Some(Token::new(&first)))
}

/// Returns the header's value if there is exactly one.
pub(super) fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

/// Returns the comma-separated items of all lines of a header.
pub(super) fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let lines = headers.get_all(name).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim).filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_say_in_many_ways_that_they_pass_a_request_on() {
        for name in
            ["X-Forwarded-For", "Forwarded", "X-Real-IP", "X-Forwarded-Proto", "X-Forwarded-Host", "Via"]
        {
            let name: HeaderName = name.parse().unwrap();
            let headers = HeaderMap::from_iter([(name.clone(), HeaderValue::from_static("x"))]);
            assert!(is_passed_on(&headers), "{name}");
        }
        assert!(!is_passed_on(&HeaderMap::from_iter([(HOST, HeaderValue::from_static("x"))])));
    }
}
