//! Test support: a gateway process, clients that can violate protocols, Redis servers and a fault-injecting proxy.

#![allow(dead_code, reason = "not every test needs every helper")]

pub mod client;
pub mod client_proxy;
pub mod event_log;
pub mod events;
pub mod gateway;
pub mod live;
pub mod page;
pub mod proxy;
pub mod random;
pub mod redis;
pub mod sessions;
pub mod site;
pub mod socket_io;
pub mod tokens;

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

pub use gateway::TestGateway;
pub use proxy::{Fault, Proxy, Side};
pub use redis::RedisServer;
pub use site::{SiteReply, SiteRequest, TestSite};

/// Timeout of every expectation. Generous, so that a loaded machine causes no false failures.
pub const DEADLINE: Duration = Duration::from_secs(15);

/// Returns a name that is unique among all tests, also across processes.
pub fn unique(word: &str) -> String {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    format!("{word}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Awaits `future`; panics at the deadline, naming `what` was expected.
#[track_caller]
pub fn within_deadline<T>(what: &str, future: impl Future<Output = T>) -> impl Future<Output = T> {
    let place = std::panic::Location::caller();
    async move {
        let value = tokio::time::timeout(DEADLINE, future).await;
        value.unwrap_or_else(|_| panic!("{place}: timed out: {what}"))
    }
}

/// Polls `look` until it returns a value; panics at the deadline.
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
