//! What the tests need: a gateway, clients that can misbehave, a Redis that can be broken.

#![allow(dead_code, reason = "not every test needs every helper")]

pub mod client;
pub mod events;
pub mod gateway;
pub mod proxy;
pub mod redis;
pub mod sessions;
pub mod site;
pub mod tokens;

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

pub use gateway::TestGateway;
pub use proxy::{Fault, Proxy, Side};
pub use redis::RedisServer;
pub use site::{SiteReply, TestSite};

/// The time after which an expectation has failed. Long, for a busy machine: what is expected comes much earlier.
pub const DEADLINE: Duration = Duration::from_secs(15);

/// Returns a name that no other test has, of this process or another.
pub fn unique(word: &str) -> String {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    format!("{word}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Waits for `future` until the deadline; `what` says what was expected.
#[track_caller]
pub fn within_deadline<T>(what: &str, future: impl Future<Output = T>) -> impl Future<Output = T> {
    let place = std::panic::Location::caller();
    async move {
        let value = tokio::time::timeout(DEADLINE, future).await;
        value.unwrap_or_else(|_| panic!("{place}: timed out: {what}"))
    }
}

/// Looks again and again until `look` finds something; fails at the deadline.
#[track_caller]
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> impl Future<Output = T> {
    within_deadline(what, async move {
        loop {
            if let Some(found) = look() {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
}

/// Sends a signal (`TERM`, `KILL`, `STOP`, `CONT`, …) to a process.
pub fn signal(pid: u32, name: &str) {
    let status = std::process::Command::new("kill").args(["-s", name, &pid.to_string()]).status().unwrap();
    assert!(status.success(), "kill -s {name} {pid}");
}
