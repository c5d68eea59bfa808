//! Answers to requests with an idempotency key, for clients that send a request again because they missed its answer
//! (draft-ietf-httpapi-idempotency-key-header).

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use hyper::header::HeaderMap;
use serde_json::Value;
use tokio::time::Instant;

use super::refusal::Refusal;

/// Most keys that are remembered, and most bytes of their answers; beyond that the oldest are forgotten.
const MAX_KEYS: usize = 1_000;
const MAX_BYTES: usize = 4 * 1024 * 1024;

/// Time for which a key is remembered.
const LIFETIME: Duration = Duration::from_mins(10);

/// Longest key in bytes.
const MAX_KEY_BYTES: usize = 255;

/// The keys of the last requests, oldest first.
#[derive(Debug, Default)]
pub(super) struct IdempotencyKeys {
    remembered: VecDeque<RememberedKey>,
    bytes: usize,
    seed: RandomState,
}

#[derive(Debug)]
struct RememberedKey {
    key: Box<str>,
    /// The hash of the request's body.
    body: u64,
    answer: Result<Value, Refusal>,
    bytes: usize,
    at: Instant,
}

/// Returns the key of a request, if it has one.
///
/// # Errors
///
/// When it is empty, too long, repeated, or not visible ASCII.
pub(super) fn key_of(headers: &HeaderMap) -> Result<Option<Box<str>>, Refusal> {
    let mut values = headers.get_all("idempotency-key").iter();
    let Some(value) = values.next() else { return Ok(None) };
    let key = value.to_str().unwrap_or_default();
    let is_sound = !key.is_empty() && key.len() <= MAX_KEY_BYTES && values.next().is_none();
    if is_sound { Ok(Some(key.into())) } else { Err(Refusal::Parameter(INVALID)) }
}

const INVALID: &str = "Idempotency-Key has to be one header of 1 to 255 visible ASCII characters";

impl IdempotencyKeys {
    /// Returns the answer to an earlier request with this key.
    ///
    /// # Errors
    ///
    /// When that request had another body.
    pub(super) fn find(&self, key: &str, body: &[u8]) -> Result<Option<Result<Value, Refusal>>, Refusal> {
        let is_valid = |entry: &&RememberedKey| &*entry.key == key && entry.at.elapsed() < LIFETIME;
        match self.remembered.iter().find(is_valid) {
            Some(entry) if entry.body != self.seed.hash_one(body) => Err(Refusal::KeyReused),
            found => Ok(found.map(|entry| entry.answer.clone())),
        }
    }

    /// Remembers the answer to a request, and forgets what is too old or too much.
    pub(super) fn remember(&mut self, key: Box<str>, body: &[u8], answer: Result<Value, Refusal>) {
        let size = answer.as_ref().map_or(0, |answer| answer.to_string().len());
        let entry = RememberedKey {
            bytes: key.len() + size,
            key,
            body: self.seed.hash_one(body),
            answer,
            at: Instant::now(),
        };
        self.bytes += entry.bytes;
        self.remembered.push_back(entry);
        while self.remembered.len() > MAX_KEYS
            || self.bytes > MAX_BYTES
            || self.remembered.front().is_some_and(|oldest| oldest.at.elapsed() >= LIFETIME)
        {
            let Some(oldest) = self.remembered.pop_front() else { return };
            self.bytes -= oldest.bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn answers_are_remembered_for_a_time_and_within_bounds() {
        let mut keys = IdempotencyKeys::default();
        keys.remember("a".into(), b"body", Ok(json!(1)));
        assert_eq!(keys.find("a", b"body"), Ok(Some(Ok(json!(1)))));
        assert_eq!(keys.find("a", b"other"), Err(Refusal::KeyReused));
        assert_eq!(keys.find("b", b"body"), Ok(None));
        tokio::time::advance(LIFETIME).await;
        assert_eq!(keys.find("a", b"other"), Ok(None));
        for number in 0..=MAX_KEYS {
            keys.remember(number.to_string().into(), b"", Ok(json!(number)));
        }
        assert_eq!((keys.find("0", b""), keys.remembered.len()), (Ok(None), MAX_KEYS));
        for number in 0..5 {
            keys.remember(format!("large {number}").into(), b"", Ok(json!("x".repeat(MAX_BYTES / 4))));
        }
        assert!(keys.bytes <= MAX_BYTES && keys.remembered.len() < 5, "{}", keys.remembered.len());
        let all: usize = keys.remembered.iter().map(|entry| entry.bytes).sum();
        assert_eq!(keys.bytes, all);
    }
}
