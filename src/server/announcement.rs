//! What the log says at the start: the address, and settings whose consequences may not be meant.

use tracing::{info, warn};

use super::listeners::Listeners;
use crate::settings::{Settings, SocketIoSettings};

/// Logs the address, and warns of dangerous settings.
pub(super) fn announce(settings: &Settings, listeners: &Listeners) {
    let redis =
        settings.redis.url.as_ref().map_or_else(|| "redis://127.0.0.1:6379".to_owned(), ToString::to_string);
    let (shards, version) = (settings.server.shards, env!("CARGO_PKG_VERSION"));
    if listeners.is_handed_over() {
        info!("systemd passed the listening sockets (LISTEN_FDS); server.listen is not used");
    }
    match listeners.address() {
        Some(address) if settings.demo => {
            info!(version, shards, redis, "listening; open the demo page in two tabs: http://{address}/");
        }
        _ => info!(version, shards, redis, "listening on {}", listeners.name()),
    }
    if !settings.socket_io.mounts.is_empty() {
        warn_of_socket_io(settings);
    }
    if settings.access.is_empty() && settings.anonymous_publish && !settings.demo {
        warn!(
            "anonymous visitors may publish to the broadcast channels of every facility; pages that insert messages as HTML can be attacked. Set anonymous_publish = false, or [[access]] rules"
        );
    }
}

fn warn_of_socket_io(settings: &Settings) {
    let SocketIoSettings { client_events, login, .. } = &settings.socket_io;
    if login.trust_client {
        warn!(
            "socketio.login.trust_client is true: every visitor can claim to be any user, and gets what is sent to that user. Set it to false, and let Django's session or a token say who a visitor is"
        );
    }
    if !client_events.is_empty() && settings.events.destination.is_none() {
        warn!(
            "socketio.client_events selects events, and events.to is empty; Django gets none of them. Set events.to, for example stream:ws4redis:events"
        );
    }
}
