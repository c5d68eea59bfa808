//! Closing connections for the operator: one by its id, or all that a filter matches.

use std::sync::Arc;

use serde_json::{Value, json};
use tracing::info;

use super::connections::{Cursor, FILTERS, filter};
use super::refusal::Refusal;
use super::shards::Shards;
use crate::shard::ask::{Ask, CloseRequest, ConnectionFilter};
use crate::wire::query_pairs;

/// The close code, if the request names none: a policy decision. The JavaScript client does not reconnect then.
const DEFAULT_CODE: u16 = 1008;

/// The reason, if the request names none.
const DEFAULT_REASON: &str = "closed by the operator";

/// Longest reason in bytes (RFC 6455, section 5.5).
const MAX_REASON_BYTES: usize = 123;

const NO_FILTER: Refusal = Refusal::Parameter(
    "name the connections: DELETE /connections/ID, or a filter as in DELETE /connections?user=NAME",
);
const CODE: Refusal = Refusal::Parameter(
    "code has to be a close code that a server may send: 1000 to 1003, 1007 to 1013, 3000 to 4999",
);
const REASON: Refusal = Refusal::Parameter("reason may have 123 bytes at most, and no control characters");

/// Closes the connection with an id, or those that the query names, and returns their number.
///
/// # Errors
///
/// When the query is malformed, no connection has the id, or a shard does not answer in time.
pub(super) async fn close(id: Option<&str>, query: Option<&str>, shards: &Shards) -> Result<Value, Refusal> {
    let request = Arc::new(parse(id, query)?);
    // Before the first one is closed: the request may end without an answer.
    info!(code = request.code, reason = ?request.reason, filter = ?request.filter, "the operator closes connections");
    let (mut closed, mut cursor) = (0, Cursor::START);
    let _listing = shards.begin_listing().await;
    while cursor.shard < shards.count() && (id.is_none() || closed == 0) {
        let (from, request) = (cursor.position, request.clone());
        let answer = shards.ask(cursor.shard, |answer| Ask::Close { request, from, answer }).await;
        let answer = answer.ok_or(Refusal::Unresponsive(cursor.shard))?;
        closed += answer.closed;
        cursor = cursor.after(answer.next);
    }
    if id.is_some() && closed == 0 {
        return Err(Refusal::NoConnection);
    }
    let CloseRequest { filter, code, reason } = &*request;
    let ConnectionFilter { user, group, facility, .. } = &**filter;
    info!(closed, code, ?reason, ?id, ?user, ?group, ?facility, "the operator has closed connections");
    Ok(json!({ "closed": closed }))
}

fn parse(id: Option<&str>, query: Option<&str>) -> Result<CloseRequest, Refusal> {
    let (mut code, mut reason) = (None, None);
    let mut seen = Vec::new();
    for (name, value) in query_pairs(query) {
        match &*name {
            "code" => code = Some(value.parse().map_err(|_| CODE)?),
            "reason" => reason = Some(Box::from(&*value)),
            _ if !FILTERS.contains(&&*name) => {
                return Err(Refusal::UnknownParameter(format!("{}, code, reason", FILTERS.join(", "))));
            }
            _ => {}
        }
        if seen.contains(&name) {
            return Err(Refusal::Parameter("a parameter may be given once"));
        }
        seen.push(name);
    }
    let filter = ConnectionFilter { id: id.map(Into::into), ..filter(query)? };
    if filter.is_empty() {
        return Err(NO_FILTER);
    }
    let code = code.unwrap_or(DEFAULT_CODE);
    if !matches!(code, 1000..=1003 | 1007..=1013 | 3000..=4999) {
        return Err(CODE);
    }
    let reason: Box<str> = reason.unwrap_or_else(|| DEFAULT_REASON.into());
    if reason.len() > MAX_REASON_BYTES || reason.chars().any(char::is_control) {
        return Err(REASON);
    }
    Ok(CloseRequest { filter: Arc::new(filter), code, reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_reasons_are_those_of_a_close_frame() {
        let parsed = parse(Some("a-1"), None).unwrap();
        assert_eq!((parsed.code, &*parsed.reason), (1008, "closed by the operator"));
        let long = format!("user=j&reason={}", "x".repeat(123));
        for query in ["user=j", "facility=a%26b&user=j&code=1012&reason=", "user=j&code=4999", &long] {
            assert!(parse(None, Some(query)).is_ok(), "{query}");
        }
        for code in
            ["999", "1004", "1005", "1006", "1014", "1015", "1016", "2999", "5000", "-1", "x", "65537"]
        {
            assert_eq!(parse(None, Some(&format!("user=j&code={code}"))), Err(CODE), "{code}");
        }
        assert_eq!(parse(None, Some(&format!("{long}x"))), Err(REASON));
        assert_eq!(parse(None, Some("user=j&reason=a%0ab")), Err(REASON));
        for query in [None, Some(""), Some("code=1000"), Some("reason=x")] {
            assert_eq!(parse(None, query), Err(NO_FILTER), "{query:?}");
        }
        // A typing error must not close more than was meant.
        for query in ["user=j&facilty=x", "user=j&user=k", "user=j&code=1000&code=1001", "session=x"] {
            assert!(parse(None, Some(query)).is_err(), "{query}");
        }
    }
}
