//! The embedded store: whether it is needed, what it cannot do, and its start.

use std::io;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tracing::warn;

use crate::access::is_loopback;
use crate::embedded;
use crate::settings::{EmbeddedStart, EventDestination, RedisUrl, Servers, Settings};

/// Address of the default Redis, and of the embedded store.
const DEFAULT_REDIS: &str = "127.0.0.1:6379";

/// Timeout of the probe for a Redis at the default address.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// A running embedded store. Dropping it ends the store, which writes its snapshot.
pub(super) struct EmbeddedThread {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<anyhow::Result<()>>>,
}

impl Drop for EmbeddedThread {
    fn drop(&mut self) {
        drop(self.stop.take());
        // Its error has been logged.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Returns the address at which the embedded store has to start, because nothing listens there; none if it has not to.
///
/// Only a refused connection means that nothing listens: a Redis that is slow or requires a password counts.
pub async fn address_without_redis(settings: &Settings) -> Option<String> {
    let address = match (settings.embedded.starts, &settings.redis.url) {
        (EmbeddedStart::Never, _) | (EmbeddedStart::WithoutUrl, Some(_)) => return None,
        (_, None) => DEFAULT_REDIS.to_owned(),
        (EmbeddedStart::AlsoAtUrl, Some(url)) => address_here(url)?,
    };
    match tokio::time::timeout(PROBE_TIMEOUT, TcpStream::connect(&address)).await {
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => Some(address),
        _ => None,
    }
}

/// Returns the address of a URL if the store can replace its Redis: a port of this machine, without TLS and password.
fn address_here(url: &RedisUrl) -> Option<String> {
    match &url.servers {
        Servers::Single((host, port)) if !url.tls && url.password.is_none() && is_loopback(host) => {
            let host = if host == "localhost" { "127.0.0.1" } else { host };
            Some(format!("{host}:{port}"))
        }
        _ => None,
    }
}

/// Refuses to start if events need a type of value that the embedded store does not have.
fn require_real_redis(events: Option<&EventDestination>, address: &str) -> anyhow::Result<()> {
    if matches!(events, Some(EventDestination::Stream(_) | EventDestination::List(_))) {
        bail!(
            "events.to: there is no Redis on {address}, and the embedded store has neither consumer groups nor lists; start a Redis, or set redis.url. Without one, events.to = \"channel:NAME\" works for readers of your own"
        );
    }
    Ok(())
}

/// Starts the embedded store. Returns none if another process has the address by now.
pub(super) fn start_embedded(settings: &Settings, address: &str) -> anyhow::Result<Option<EmbeddedThread>> {
    require_real_redis(settings.events.destination.as_ref(), address)?;
    let listener = match std::net::TcpListener::bind(address) {
        Ok(listener) => listener,
        // Another process was faster, possibly another gateway: use its store.
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Ok(None),
        Err(error) => {
            return Err(error).with_context(|| format!("cannot start the embedded store on {address}"));
        }
    };
    listener.set_nonblocking(true)?;
    let (limits, snapshot) = (settings.embedded.limits.clone(), settings.embedded.snapshot.clone());
    let kept = match &snapshot {
        Some(path) => format!("its strings, such as sessions, are kept in {}", path.display()),
        None => "it loses its content when this process ends".to_owned(),
    };
    let (stop, stopped) = oneshot::channel::<()>();
    let work = move || {
        let serving = super::runtime()?.block_on(async {
            let listener = TcpListener::from_std(listener)?;
            anyhow::Ok(embedded::serve(listener, limits, snapshot, async { drop(stopped.await) }).await?)
        });
        serving.inspect_err(|error| tracing::error!(error = %format!("{error:#}"), "embedded store ended"))
    };
    let thread = std::thread::Builder::new().name("embedded".to_owned()).spawn(work)?;
    warn!("no Redis on {address}: started the embedded store there; {kept}. Set redis.url for a real one");
    Ok(Some(EmbeddedThread { stop: Some(stop), thread: Some(thread) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_store_is_refused_for_streams_and_lists_of_events() {
        let require = |destination: Option<&EventDestination>| require_real_redis(destination, DEFAULT_REDIS);
        let stream = EventDestination::Stream("ws4redis:events".into());
        let error = require(Some(&stream)).unwrap_err().to_string();
        assert!(error.starts_with("events.to: ") && error.contains("set redis.url"), "{error}");
        assert!(require(Some(&EventDestination::List("a".into()))).is_err());
        assert!(require(Some(&EventDestination::Channel("a".into()))).is_ok());
        assert!(require(None).is_ok());
    }

    #[test]
    fn the_store_replaces_only_a_redis_of_this_machine_without_tls_and_password() {
        let address = |url: &str| {
            let assignment = format!("redis.url={url}");
            let (settings, _) = Settings::load(None, std::iter::empty(), &[assignment]).unwrap();
            address_here(settings.redis.url.as_ref().unwrap())
        };
        assert_eq!(address("redis://localhost:6380/1").as_deref(), Some("127.0.0.1:6380"));
        assert_eq!(address("redis://127.0.0.1").as_deref(), Some("127.0.0.1:6379"));
        for url in [
            "redis://10.0.0.1",
            "redis://:secret@localhost",
            "rediss://localhost",
            "unix:/run/redis.sock",
            "redis-cluster://localhost",
        ] {
            assert_eq!(address(url), None, "{url}");
        }
    }
}
