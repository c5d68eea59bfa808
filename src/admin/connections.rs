//! The list of open connections, page by page.

use serde_json::{Value, json};

use super::refusal::Refusal;
use super::shards::Shards;
use crate::shard::ask::{Ask, ConnectionInfo, ConnectionPeer, NamespaceInfo};
use crate::wire::parameters;

/// Connections on a page, if the request does not say.
const DEFAULT_LIMIT: usize = 100;

/// Most connections on a page.
const MAX_LIMIT: usize = 1_000;

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

    fn parse(text: &str) -> Option<Self> {
        let (shard, position) = text.split_once('.')?;
        Some(Self { shard: shard.parse().ok()?, position: position.parse().ok()? })
    }
}

/// Returns the page that the query asks for, and in `next` the value of `after` for the following one.
///
/// # Errors
///
/// When a parameter is malformed, or a shard does not answer in time.
pub(super) async fn list(query: Option<&str>, shards: &Shards) -> Result<Value, Refusal> {
    let (limit, mut cursor) = page(query)?;
    let _listing = shards.begin_listing().await;
    let mut found = Vec::new();
    while cursor.shard < shards.count() && found.len() < limit {
        let (from, limit) = (cursor.position, limit - found.len());
        let snapshot = shards.ask(cursor.shard, |answer| Ask::Snapshot { from, limit, answer }).await;
        let snapshot = snapshot.ok_or(Refusal::Unresponsive(cursor.shard))?;
        found.extend(snapshot.connections);
        cursor = cursor.after(snapshot.next);
    }
    let next = (cursor.shard < shards.count()).then(|| format!("{}.{}", cursor.shard, cursor.position));
    let connections: Vec<_> = found.iter().map(object).collect();
    Ok(json!({ "connections": connections, "next": next }))
}

fn page(query: Option<&str>) -> Result<(usize, Cursor), Refusal> {
    let limit = match parameters(query, "limit").next() {
        None => DEFAULT_LIMIT,
        Some(text) => text
            .parse()
            .ok()
            .filter(|limit| (1..=MAX_LIMIT).contains(limit))
            .ok_or(Refusal::Parameter("limit has to be a number from 1 to 1000"))?,
    };
    let after = match parameters(query, "after").next() {
        None => Cursor::START,
        Some(text) => Cursor::parse(&text)
            .ok_or(Refusal::Parameter("after has to be the value of next on the page before"))?,
    };
    Ok((limit, after))
}

fn object(info: &ConnectionInfo) -> Value {
    let mut object = json!({
        "id": info.id,
        "dialect": info.dialect,
        "form": info.form,
        "user": info.user.as_deref(),
        "peer": match info.peer {
            ConnectionPeer::Address(address) => Some(address.to_string()),
            ConnectionPeer::Unix => Some("unix".to_owned()),
            ConnectionPeer::None => None,
        },
        "age_seconds": info.age_seconds,
        "delivered": info.delivered,
        "dropped": info.dropped,
        "waiting_bytes": info.waiting_bytes,
    });
    if let Some(facility) = &info.facility {
        object["facility"] = facility.as_str().into();
    }
    if let Some(facilities) = &info.facilities {
        object["facilities"] = facilities.iter().map(String::as_str).collect();
    }
    if let Some(namespaces) = &info.namespaces {
        object["namespaces"] = namespaces.iter().map(namespace).collect();
    }
    object
}

fn namespace(info: &NamespaceInfo) -> Value {
    json!({ "name": info.name, "sid": info.sid, "user": info.user.as_deref() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_bounded_and_its_parameters_are_checked() {
        assert_eq!(page(None), Ok((100, Cursor::START)));
        assert_eq!(page(Some("limit=1000&after=3.17")), Ok((1000, Cursor { shard: 3, position: 17 })));
        for query in
            ["limit=0", "limit=1001", "limit=", "limit=ten", "limit=-1", "limit=99999999999999999999"]
        {
            assert!(page(Some(query)).is_err(), "{query}");
        }
        for query in ["after=", "after=1", "after=1.", "after=.1", "after=1.2.3", "after=-1.0", "after=a.b"] {
            assert!(page(Some(query)).is_err(), "{query}");
        }
    }
}
