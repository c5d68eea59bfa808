//! What the gateway tells Django, read from the stream, as a worker reads it.

use serde_json::Value;

use super::redis::RedisReply;
use super::{RedisServer, eventually, unique};

/// A stream of events about clients.
pub struct EventLog {
    port: u16,
    pub key: String,
}

impl EventLog {
    /// Returns a new stream in the shared Redis.
    pub fn new() -> Self {
        Self::on(RedisServer::shared())
    }

    /// Returns a new stream in a Redis.
    pub fn on(redis: &RedisServer) -> Self {
        Self { port: redis.port(), key: unique("events") }
    }

    /// Returns the setting `events.to`.
    pub fn setting(&self) -> String {
        format!("stream:{}", self.key)
    }

    /// Returns all events.
    pub fn all(&self) -> Vec<Value> {
        let mut redis = super::redis::RedisClient::to(self.port);
        let RedisReply::Array(entries) = redis.command(&["XRANGE", &self.key, "-", "+"]) else { panic!() };
        let event = |entry: RedisReply| {
            let RedisReply::Array(mut entry) = entry else { panic!("{entry:?}") };
            let Some(RedisReply::Array(mut fields)) = entry.pop() else { panic!("{entry:?}") };
            assert_eq!(fields.len(), 2, "one field: {fields:?}");
            assert_eq!(fields[0], RedisReply::Bulk(Some(b"data".to_vec())));
            serde_json::from_slice(&fields.pop().unwrap().bulk().unwrap()).unwrap()
        };
        entries.into_iter().map(event).collect()
    }

    /// Returns the events of a type.
    pub fn of(&self, kind: &str) -> Vec<Value> {
        self.all().into_iter().filter(|event| event["type"] == kind).collect()
    }

    /// Waits for a number of events of a type, and returns them. More are a failure.
    pub async fn expect(&self, kind: &str, count: usize) -> Vec<Value> {
        eventually(&format!("{count} events of type {kind} in {}", self.key), || {
            let found = self.of(kind);
            assert!(found.len() <= count, "{found:#?}");
            (found.len() == count).then_some(found)
        })
        .await
    }
}

/// Removes the members of an event that differ in each run.
pub fn fixed(event: &Value) -> Value {
    let mut event = event.clone();
    let members = event.as_object_mut().unwrap();
    let node = members.remove("node").unwrap();
    assert_eq!(node.as_str().unwrap().len(), 32);
    assert!(members.remove("time").unwrap().as_f64().unwrap() > 1e9);
    event
}
