//! What systemd is told with `Type=notify`: ready, reloading, stopping, and that the shards answer (`sd_notify(3)`).

use std::env;
use std::fmt::Write;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::task::AbortOnDropHandle;
use tracing::warn;

use crate::admin::Shards;

/// Tells systemd these states in one message, if it has started the process.
pub(super) fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = send(states) {
        warn!(%error, "cannot notify systemd");
    }
}

/// Sends to the socket of `NOTIFY_SOCKET`. `sd_notify` does not send to one in the abstract namespace, which begins with `@`.
fn send(states: &[NotifyState<'_>]) -> io::Result<()> {
    let Some(name) = env::var_os("NOTIFY_SOCKET") else { return Ok(()) };
    let Some(abstract_name) = name.as_bytes().strip_prefix(b"@") else { return sd_notify::notify(states) };
    let address = SocketAddr::from_abstract_name(abstract_name)?;
    let mut text = String::new();
    for state in states {
        // Writing to a text does not fail.
        let _ = writeln!(text, "{state}");
    }
    UnixDatagram::unbound()?.send_to_addr(text.as_bytes(), &address).map(|_| ())
}

/// Returns whether systemd expects to hear regularly from this process.
pub(super) fn has_watchdog() -> bool {
    sd_notify::watchdog_enabled().is_some()
}

/// Starts to tell systemd that the process works, at half of its `WATCHDOG_USEC`, while every shard answers. systemd restarts
/// a process that is silent.
pub(super) fn feed_watchdog(shards: Shards) -> Option<AbortOnDropHandle<()>> {
    // Not more often than a tick of the shards.
    let pause = (sd_notify::watchdog_enabled()? / 2).max(Duration::from_millis(10));
    let feed = async move {
        let mut turns = interval(pause);
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut answered = true;
        loop {
            turns.tick().await;
            let is_live = shards.are_live().await;
            if is_live {
                notify(&[NotifyState::Watchdog]);
            } else if answered {
                warn!("a shard does not answer; if this lasts, systemd restarts the gateway (WatchdogSec)");
            }
            answered = is_live;
        }
    };
    Some(AbortOnDropHandle::new(tokio::task::spawn_local(feed)))
}
