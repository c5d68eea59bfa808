//! Which requests are answered at all. A web page in the operator's browser can reach this listener as the browser itself
//! can, so a request has to show that no page has sent it.

use hyper::header::{AUTHORIZATION, CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue, ORIGIN};
use hyper::{Method, Request};
use subtle::ConstantTimeEq;

use super::refusal::Refusal;
use super::routes::RouteSet;
use crate::settings::{AdminSettings, Listen};

/// Set by browsers, not by pages (Fetch Metadata): the relation between this listener and the origin of the request.
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The scheme in the Authorization header (RFC 6750, section 2.1).
const BEARER: &str = "bearer ";

/// Largest request body, in bytes.
pub(super) const MAX_BODY_BYTES: u64 = 64 * 1024;

/// Checks a request before its path is considered.
///
/// # Errors
///
/// When a web page may have sent it, or the token is missing where it is required, or wrong.
pub(super) fn check<B>(
    request: &Request<B>,
    settings: &AdminSettings,
    routes: RouteSet,
) -> Result<(), Refusal> {
    let headers = request.headers();
    check_host(request, settings, routes)?;
    let mut sites = headers.get_all(&SEC_FETCH_SITE).iter();
    // The listener has no page of its own, so not even "same-origin" can be right.
    if headers.contains_key(ORIGIN) || sites.any(|site| site != "none") {
        return Err(Refusal::WebPage);
    }
    // The other routes need none, and change nothing.
    if routes == RouteSet::Operator {
        check_token(request.method(), headers, settings)?;
    }
    let lengths = headers.get_all(CONTENT_LENGTH).iter().filter_map(|length| length.to_str().ok());
    if lengths.filter_map(|length| length.parse::<u64>().ok()).any(|length| length > MAX_BODY_BYTES) {
        return Err(Refusal::TooLarge(MAX_BODY_BYTES));
    }
    Ok(())
}

/// Checks the Host header, and the host of an absolute target, which replaces it (RFC 9112, section 3.2.2).
fn check_host<B>(request: &Request<B>, settings: &AdminSettings, routes: RouteSet) -> Result<(), Refusal> {
    let refusal = match routes {
        RouteSet::Operator => Refusal::Host,
        RouteSet::Yunity => Refusal::NotLoopback,
    };
    let mut hosts = request.headers().get_all(HOST).iter().map(HeaderValue::to_str);
    let host = match (hosts.next(), hosts.next()) {
        (None, _) => "",
        (Some(Ok(host)), None) => host,
        _ => return Err(refusal),
    };
    // A client of a unix socket has no host to name, and no browser opens one.
    let is_admitted = match settings.listen {
        Listen::Unix(..) => host.is_empty() || settings.hosts.admit(host),
        Listen::Tcp(_) => settings.hosts.admit(host),
    };
    let target = request.uri().authority().is_none_or(|authority| settings.hosts.admit(authority.as_str()));
    if is_admitted && target { Ok(()) } else { Err(refusal) }
}

/// Checks the token. Reading needs none on this machine, but a token that is sent has to be right, so that a wrong one is
/// noticed. Without a token in the settings, the permissions of a unix socket decide who may change something.
fn check_token(method: &Method, headers: &HeaderMap, settings: &AdminSettings) -> Result<(), Refusal> {
    let is_read = method == Method::GET || method == Method::HEAD;
    let Some(token) = &settings.token else {
        let may_change = matches!(settings.listen, Listen::Unix(..));
        return if is_read || may_change { Ok(()) } else { Err(Refusal::ReadOnly) };
    };
    if is_read && settings.is_local && !headers.contains_key(AUTHORIZATION) {
        return Ok(());
    }
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let sent = values.next().filter(|_| values.next().is_none()).and_then(|value| value.to_str().ok());
    let sent = sent.and_then(|value| value.split_at_checked(BEARER.len()));
    let sent = sent.filter(|(scheme, _)| scheme.eq_ignore_ascii_case(BEARER)).map(|(_, token)| token.trim());
    // In constant time for each length: the time must not tell how much of a guess is right.
    let is_right = sent.is_some_and(|sent| bool::from(sent.as_bytes().ct_eq(token.as_bytes())));
    if is_right { Ok(()) } else { Err(Refusal::Token) }
}
