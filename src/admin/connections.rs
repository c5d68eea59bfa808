//! The list of open connections.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use hyper::{Request, Response};
use serde_json::{Value, json};

use super::list::{ListPart, ListRequest, respond};
use super::refusal::Refusal;
use super::reply::ReplyBody;
use super::shards::Shards;
use crate::shard::ask::{Ask, ConnectionFilter, ConnectionInfo, ConnectionPeer, NamespaceInfo};
use crate::wire::{iso_text, query_pairs};

/// The parameters that select connections.
pub(super) const FILTERS: &[&str] =
    &["user", "group", "session", "facility", "dialect", "form", "namespace", "address"];

/// Digits of the hash of a session that connections have. Messages of pages to Django have all 64 of them.
const SESSION_DIGITS: usize = 16;

/// Where a page starts: a shard, and a position in it. Its text is opaque to clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cursor {
    pub(super) shard: usize,
    pub(super) position: usize,
}

impl Cursor {
    /// The beginning of a list.
    pub(super) const START: Self = Self { shard: 0, position: 0 };

    /// Returns where the next page starts, after a page of its shard that says where it continues.
    pub(super) fn after(self, next: Option<usize>) -> Self {
        match next {
            Some(position) => Self { position, ..self },
            None => Self { shard: self.shard + 1, position: 0 },
        }
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.shard, self.position)
    }
}

impl FromStr for Cursor {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (shard, position) = text.split_once('.').ok_or(())?;
        let number = |text: &str| text.parse().map_err(drop);
        Ok(Self { shard: number(shard)?, position: number(position)? })
    }
}

/// Answers with the connections that match the query.
///
/// # Errors
///
/// When a parameter is malformed, or a shard does not answer in time.
pub(super) async fn list<B>(request: &Request<B>, shards: &Shards) -> Result<Response<ReplyBody>, Refusal> {
    let filter = Arc::new(filter(request.uri().query())?);
    let request = ListRequest::read(request, Cursor::START, FILTERS)?;
    let shards = shards.clone();
    let collect = async move |cursor, limit| part(&shards, cursor, limit, &filter).await;
    respond("connections", request, collect).await
}

async fn part(
    shards: &Shards,
    cursor: Cursor,
    limit: usize,
    filter: &Arc<ConnectionFilter>,
) -> Result<ListPart<Cursor>, Refusal> {
    let Cursor { shard, position: from } = cursor;
    if shard >= shards.count() {
        return Ok(ListPart { objects: Vec::new(), next: None });
    }
    let _listing = shards.begin_listing().await;
    let filter = filter.clone();
    let snapshot = shards.ask(shard, |answer| Ask::Snapshot { from, limit, filter, answer }).await;
    let snapshot = snapshot.ok_or(Refusal::Unresponsive(shard))?;
    let next = Some(cursor.after(snapshot.next)).filter(|next| next.shard < shards.count());
    Ok(ListPart { objects: snapshot.connections.iter().map(object).collect(), next })
}

/// Reads which connections are meant.
///
/// # Errors
///
/// When a value is one that no connection can have.
pub(super) fn filter(query: Option<&str>) -> Result<ConnectionFilter, Refusal> {
    let mut filter = ConnectionFilter::default();
    for (name, value) in query_pairs(query) {
        let text = Some(Box::from(&*value));
        match &*name {
            "user" => filter.user = text,
            "group" => filter.group = text,
            "session" => {
                let digits =
                    value.get(..SESSION_DIGITS).filter(|_| matches!(value.len(), SESSION_DIGITS | 64));
                let digits = digits.filter(|_| value.bytes().all(|digit| digit.is_ascii_hexdigit()));
                filter.session = Some(digits.ok_or(NO_SESSION)?.to_ascii_lowercase().into());
            }
            "facility" => filter.facility = text,
            "dialect" if !["relay", "live", "socket_io"].contains(&&*value) => return Err(NO_DIALECT),
            "dialect" => filter.dialect = text,
            "form" if !["websocket", "event-stream", "polling"].contains(&&*value) => return Err(NO_FORM),
            "form" => filter.form = text,
            "namespace" => filter.namespace = text,
            "address" => {
                let address: IpAddr = value.parse().map_err(|_| NO_ADDRESS)?;
                filter.address = Some(address.to_canonical());
            }
            _ => {}
        }
    }
    Ok(filter)
}

/// Values of filters that no connection can have.
const NO_SESSION: Refusal = Refusal::Parameter(
    "session has to be the hash of a session, 16 hexadecimal digits, as the list of connections has it",
);
const NO_DIALECT: Refusal = Refusal::Parameter("dialect has to be relay, live or socket_io");
const NO_FORM: Refusal = Refusal::Parameter("form has to be websocket, event-stream or polling");
const NO_ADDRESS: Refusal = Refusal::Parameter("address has to be an IP address, without a port");

fn object(info: &ConnectionInfo) -> Value {
    let mut object = json!({
        "id": info.id,
        "dialect": info.dialect,
        "form": info.form,
        "user": info.user.as_deref(),
        "groups": info.groups,
        "session": info.session,
        "peer": match info.peer {
            ConnectionPeer::Address(address) => Some(address.to_string()),
            ConnectionPeer::Unix => Some("unix".to_owned()),
            ConnectionPeer::None => None,
        },
        "address": info.address.map(|address| address.to_string()),
        "user_agent": info.user_agent,
        "since": time_text(info.since),
        "age_seconds": info.age_seconds,
        "idle_seconds": info.idle_seconds,
        "received": info.received,
        "received_bytes": info.traffic.map(|traffic| traffic.received),
        "delivered": info.delivered,
        "sent_bytes": info.traffic.map(|traffic| traffic.sent),
        "dropped": info.dropped,
        "waiting_bytes": info.waiting_bytes,
    });
    if let Some(facility) = &info.facility {
        object["facility"] = facility.as_str().into();
    }
    if let Some(facilities) = &info.facilities {
        object["facilities"] = facilities.iter().map(String::as_str).collect();
    }
    if let Some(audiences) = &info.audiences {
        object["audiences"] = audiences.iter().map(String::as_str).collect();
    }
    if let Some(namespaces) = &info.namespaces {
        object["namespaces"] = namespaces.iter().map(namespace).collect();
    }
    object
}

fn namespace(info: &NamespaceInfo) -> Value {
    json!({ "name": info.name, "sid": info.sid, "user": info.user.as_deref() })
}

/// Returns a time as RFC 3339 has it.
fn time_text(time: SystemTime) -> Option<String> {
    let since = time.duration_since(UNIX_EPOCH).ok()?;
    iso_text(i64::try_from(since.as_secs()).ok()?, since.subsec_nanos())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_and_its_text_are_the_same() {
        for text in ["0.0", "3.17", "18446744073709551615.18446744073709551615"] {
            assert_eq!(text.parse().map(|cursor: Cursor| cursor.to_string()), Ok(text.to_owned()));
        }
        for text in ["", "1", "1.", ".1", "1.2.3", "-1.0", "a.b"] {
            assert_eq!(text.parse::<Cursor>(), Err(()), "{text}");
        }
    }

    #[test]
    fn a_filter_is_read_from_the_query_and_impossible_values_are_refused() {
        assert_eq!(filter(None), Ok(ConnectionFilter::default()));
        let hash = "0123456789ABCDEF".repeat(4);
        let query = format!(
            "user=j%20n&group=red&session={hash}&facility=&dialect=live&form=polling&namespace=/&address=::ffff:10.0.0.1"
        );
        let expected = ConnectionFilter {
            id: None,
            user: Some("j n".into()),
            group: Some("red".into()),
            session: Some("0123456789abcdef".into()),
            facility: Some("".into()),
            dialect: Some("live".into()),
            form: Some("polling".into()),
            namespace: Some("/".into()),
            address: "10.0.0.1".parse().ok(),
        };
        assert_eq!(filter(Some(&query)), Ok(expected));
        for query in ["session=abc", "session=0123456789abcdeg", "dialect=x", "form=", "address=1.2.3.4:5"] {
            assert!(filter(Some(query)).is_err(), "{query}");
        }
    }
}
