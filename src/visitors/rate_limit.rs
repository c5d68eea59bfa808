//! Rate limits of publications: one token bucket per visitor and rate, shared by all its connections, requests and
//! shards.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use foldhash::fast::RandomState;
use tokio::time::Instant;
use tracing::warn;

use crate::access::{ClientAddress, Identity, Rate};
use crate::wire::SessionKey;

/// The identity that a rate limit applies to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum PublisherKey {
    /// A user, in all browsers.
    User(Arc<str>),
    /// A session without a user.
    Session(SessionKey),
    /// An IPv4 address, or the /64 network of an IPv6 address: one visitor has all addresses of that network.
    Address(IpAddr),
}

impl PublisherKey {
    /// Returns the key of a visitor: its user, else its session, else its own address; `None` if it has none of these.
    fn of(identity: &Identity, address: ClientAddress) -> Option<Self> {
        let user = identity.user.as_ref().or(identity.user_id.as_ref());
        let session = || identity.session.as_ref().map(|session| Self::Session(session.clone()));
        user.map(|user| Self::User(user.clone())).or_else(session).or_else(|| {
            let ClientAddress::Own(address) = address else { return None };
            Some(Self::Address(match address {
                IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
                address @ IpAddr::V4(_) => address,
            }))
        })
    }
}

/// A token bucket for messages and bytes.
#[derive(Debug)]
pub struct TokenBucket {
    rate: Rate,
    level: Mutex<Level>,
}

#[derive(Debug, Clone, Copy)]
struct Level {
    messages: f64,
    bytes: f64,
    since: Instant,
}

impl TokenBucket {
    /// Creates a full bucket.
    pub fn new(rate: Rate) -> Self {
        let (messages, bytes) = Self::full(rate);
        Self { rate, level: Mutex::new(Level { messages, bytes, since: Instant::now() }) }
    }

    /// Returns its rate.
    pub fn rate(&self) -> Rate {
        self.rate
    }

    fn full(rate: Rate) -> (f64, f64) {
        let seconds = f64::from(rate.burst_seconds.max(1));
        (f64::from(rate.messages_per_second) * seconds, f64::from(rate.bytes_per_second) * seconds)
    }

    /// Takes a message of `bytes` bytes; returns false and takes nothing if not enough is left.
    pub fn take(&self, bytes: usize) -> bool {
        let mut level = self.level.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let elapsed = now.saturating_duration_since(level.since).as_secs_f64();
        let (most_messages, most_bytes) = Self::full(self.rate);
        level.since = now;
        level.messages =
            most_messages.min(level.messages + elapsed * f64::from(self.rate.messages_per_second));
        level.bytes = most_bytes.min(level.bytes + elapsed * f64::from(self.rate.bytes_per_second));
        #[expect(clippy::cast_precision_loss, reason = "a message is far shorter than 2^52 bytes")]
        let bytes = bytes as f64;
        let passes = (self.rate.messages_per_second == 0 || level.messages >= 1.0)
            && (self.rate.bytes_per_second == 0 || level.bytes >= bytes);
        if passes {
            level.messages -= 1.0;
            level.bytes -= bytes;
        }
        passes
    }

    fn last_used(&self) -> Instant {
        self.level.lock().unwrap_or_else(PoisonError::into_inner).since
    }

    /// Returns whether the bucket has refilled since its last use: then a new one is equivalent.
    fn is_full(&self, now: Instant) -> bool {
        let seconds = self.rate.burst_seconds.max(1);
        now.saturating_duration_since(self.last_used()) >= Duration::from_secs(seconds.into())
    }
}

/// Buckets that are kept, in addition to those that connections hold.
const MAX_BUCKETS: usize = 100_000;

/// The buckets of the whole process.
#[derive(Debug, Default)]
pub struct RateLimits {
    buckets: Mutex<HashMap<(PublisherKey, Rate), Arc<TokenBucket>, RandomState>>,
    /// Whether the warning about an untrusted proxy has been logged.
    warned: AtomicBool,
}

impl RateLimits {
    /// Returns the bucket of a visitor; `None` when the rate has no limit. A visitor without a publisher key gets a
    /// bucket for each connection, and the first such visitor behind an untrusted proxy is logged.
    pub fn limit(&self, identity: &Identity, address: ClientAddress, rate: Rate) -> Option<Arc<TokenBucket>> {
        if rate == Rate::default() {
            return None;
        }
        let publisher = PublisherKey::of(identity, address);
        if publisher.is_none()
            && address == ClientAddress::UnknownProxy
            && !self.warned.swap(true, Ordering::Relaxed)
        {
            warn!(
                "publish limits cannot distinguish anonymous visitors: requests have X-Forwarded-For, Forwarded, X-Real-IP or Via from a peer that is not in server.trusted_proxies; each connection has a limit of its own. Add the proxy to server.trusted_proxies"
            );
        }
        Some(self.bucket(publisher, rate))
    }

    fn bucket(&self, publisher: Option<PublisherKey>, rate: Rate) -> Arc<TokenBucket> {
        let Some(publisher) = publisher else { return Arc::new(TokenBucket::new(rate)) };
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= MAX_BUCKETS {
            evict(&mut buckets);
        }
        buckets.entry((publisher, rate)).or_insert_with(|| Arc::new(TokenBucket::new(rate))).clone()
    }
}

/// Evicts full buckets, and if that is not enough, the least recently used half. Connections keep their own reference.
fn evict(buckets: &mut HashMap<(PublisherKey, Rate), Arc<TokenBucket>, RandomState>) {
    let now = Instant::now();
    buckets.retain(|_, bucket| Arc::strong_count(bucket) > 1 || !bucket.is_full(now));
    if buckets.len() < MAX_BUCKETS / 8 * 7 {
        return;
    }
    let mut used: Vec<_> = buckets.values().map(|bucket| bucket.last_used()).collect();
    let middle = used.len() / 2;
    let middle = *used.select_nth_unstable(middle).1;
    buckets.retain(|_, bucket| bucket.last_used() > middle);
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { messages_per_second: 2, bytes_per_second: 100, burst_seconds: 2 };

    fn user(number: usize) -> PublisherKey {
        PublisherKey::User(number.to_string().into())
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_passes_then_the_rate_applies_and_a_refused_message_takes_nothing() {
        let bucket = TokenBucket::new(RATE);
        assert_eq!([0; 5].map(|_| bucket.take(1)), [true, true, true, true, false]);
        assert!((0..100).all(|_| !bucket.take(1)));
        tokio::time::advance(Duration::from_millis(500)).await;
        assert_eq!([bucket.take(1), bucket.take(1)], [true, false]);
        tokio::time::advance(Duration::from_secs(10)).await;
        assert!(bucket.take(200) && !bucket.take(1));
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_rate_there_is_no_bucket_and_a_visitor_has_one_bucket() {
        let rate_limits = RateLimits::default();
        assert!(rate_limits.limit(&Identity::anonymous(), ClientAddress::Local, Rate::default()).is_none());
        let bucket = |publisher| rate_limits.bucket(publisher, RATE);
        assert!(Arc::ptr_eq(&bucket(Some(user(1))), &bucket(Some(user(1)))));
        assert!(!Arc::ptr_eq(&bucket(Some(user(1))), &bucket(Some(user(2)))));
        assert!(!Arc::ptr_eq(&bucket(None), &bucket(None)));
        assert_eq!(rate_limits.buckets.lock().unwrap().len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn buckets_are_bounded_and_the_latest_used_are_kept() {
        let rate_limits = RateLimits::default();
        for number in 0..MAX_BUCKETS + 10 {
            assert!(rate_limits.bucket(Some(user(number)), RATE).take(1));
            tokio::time::advance(Duration::from_micros(1)).await;
        }
        let count = rate_limits.buckets.lock().unwrap().len();
        assert!(count <= MAX_BUCKETS / 2 + 10, "{count}");
        let last = rate_limits.bucket(Some(user(MAX_BUCKETS - 1)), RATE);
        assert_eq!([0; 4].map(|_| last.take(1)), [true, true, true, false], "one was taken before");
    }

    #[test]
    fn a_publisher_key_is_the_user_else_the_session_else_the_own_address() {
        let own = ClientAddress::Own("2001:db8:1:2:3::4".parse().unwrap());
        let anonymous = Identity::anonymous();
        let session = Identity { session: Some(SessionKey::new("key")), ..Identity::anonymous() };
        let user = Identity { user: Some("john".into()), user_id: Some("7".into()), ..session.clone() };
        assert_eq!(PublisherKey::of(&user, own), Some(PublisherKey::User("john".into())));
        assert_eq!(PublisherKey::of(&session, own), Some(PublisherKey::Session(SessionKey::new("key"))));
        let network = PublisherKey::Address("2001:db8:1:2::".parse().unwrap());
        assert_eq!(PublisherKey::of(&anonymous, own), Some(network));
        assert_eq!(PublisherKey::of(&anonymous, ClientAddress::Local), None);
        assert_eq!(PublisherKey::of(&anonymous, ClientAddress::UnknownProxy), None);
    }
}
