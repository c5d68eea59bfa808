//! The embedded store: whether it is needed, what it cannot do, and its start.

use std::io;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::net::{TcpListener, TcpStream};
use tracing::warn;

use crate::embedded;
use crate::settings::{EventDestination, Settings};

/// Address of the default Redis, and of the embedded store.
const DEFAULT_REDIS: &str = "127.0.0.1:6379";

/// Timeout of the probe for a Redis at the default address.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// Whether to start the embedded store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standby {
    /// Nothing listens on 127.0.0.1:6379.
    Needed,
    /// A Redis listens there, or may: one that is slow or requires a password counts.
    NotNeeded,
}

/// Probes whether a Redis listens on 127.0.0.1:6379. Only a refused connection means that none does.
pub async fn probe_default_redis() -> Standby {
    match tokio::time::timeout(PROBE_TIMEOUT, TcpStream::connect(DEFAULT_REDIS)).await {
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => Standby::Needed,
        _ => Standby::NotNeeded,
    }
}

/// Refuses to start if events need a type of value that the embedded store does not have.
pub(super) fn require_real_redis(events: Option<&EventDestination>) -> anyhow::Result<()> {
    if matches!(events, Some(EventDestination::Stream(_) | EventDestination::List(_))) {
        bail!(
            "events.to: there is no Redis on {DEFAULT_REDIS}, and the embedded store has neither consumer groups nor lists; start a Redis, or set redis.url. Without one, events.to = \"channel:NAME\" works for readers of your own"
        );
    }
    Ok(())
}

/// Starts the embedded store at the default address of Redis. It lives as long as the process.
pub(super) fn start_embedded(settings: &Settings) -> anyhow::Result<()> {
    let listener = match std::net::TcpListener::bind(DEFAULT_REDIS) {
        Ok(listener) => listener,
        // Another process was faster, possibly another gateway: use its store.
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Ok(()),
        Err(error) => {
            return Err(error).with_context(|| format!("cannot start the embedded store on {DEFAULT_REDIS}"));
        }
    };
    listener.set_nonblocking(true)?;
    let limits = settings.embedded.clone();
    let work = move || {
        let serving = super::runtime()?.block_on(async {
            let listener = TcpListener::from_std(listener)?;
            anyhow::Ok(embedded::serve(listener, limits, std::future::pending()).await?)
        });
        serving.inspect_err(|error| tracing::error!(error = %format!("{error:#}"), "embedded store ended"))
    };
    std::thread::Builder::new().name("embedded".to_owned()).spawn(work)?;
    warn!(
        "no Redis on {DEFAULT_REDIS}: started the embedded store there; it loses its content when this process ends. Set redis.url for a real one"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_store_is_refused_for_streams_and_lists_of_events() {
        let stream = EventDestination::Stream("ws4redis:events".into());
        let error = require_real_redis(Some(&stream)).unwrap_err().to_string();
        assert!(error.starts_with("events.to: ") && error.contains("set redis.url"), "{error}");
        assert!(require_real_redis(Some(&EventDestination::List("a".into()))).is_err());
        assert!(require_real_redis(Some(&EventDestination::Channel("a".into()))).is_ok());
        assert!(require_real_redis(None).is_ok());
    }
}
