//! Answers `manage.py ws4redis_doctor` with this server's view, which the command compares with Django's.

use std::rc::Rc;

use ring::hmac;
use serde::Serialize;
use tokio::time::timeout;
use tracing::{debug, info};

use super::state::ShardState;
use crate::access::session::KeyTemplate;
use crate::settings::{HistoryLimits, HistoryRule, Settings, SocketIoSettings};
use crate::visitors::Probe;
use crate::wire::{DoctorQuery, Facility};

/// This server's view.
#[derive(Serialize)]
struct DoctorReport<'a> {
    v: u32,
    server: String,
    version: &'a str,
    prefix: &'a str,
    websocket_url: &'a str,
    heartbeat: std::borrow::Cow<'a, str>,
    cookie: &'a str,
    keys: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    probe: Option<&'a str>,
    /// Where events go, as in `events.to`; empty if they are off.
    events: &'a str,
    /// Whether clients of Socket.IO are served.
    socketio: bool,
    /// The channels of `RedisManager` that are read.
    socketio_channels: Vec<&'a str>,
    /// Whether Django knows which users are online.
    presence: bool,
    callback: bool,
    /// The path of `auth.callback_url`, which tells the gateway of `manage.py runserver` from others.
    #[serde(skip_serializing_if = "Option::is_none")]
    callback_path: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    callback_proof: Option<String>,
    history: Vec<HistoryTable<'a>>,
    /// The facilities of the query that no visitor may subscribe to, because of `[[access]]`.
    unreachable: Vec<&'a str>,
}

/// A `[[history]]` table.
#[derive(Serialize)]
struct HistoryTable<'a> {
    facility: &'a [String],
    messages: u32,
    seconds: u32,
}

impl<'a> HistoryTable<'a> {
    fn new(rule: &'a HistoryRule) -> Self {
        let HistoryLimits { messages, seconds } = rule.limits;
        Self { facility: &rule.patterns, messages, seconds }
    }
}

/// Answers a query of the doctor in a task of its own.
pub(super) fn answer(state: Rc<ShardState>, query: DoctorQuery) {
    tokio::task::spawn_local(async move {
        let limit = state.process.settings.redis.command_timeout;
        if timeout(limit, examine(&state, &query)).await.is_err() {
            debug!("the doctor's query could not be answered in time");
        }
    });
}

/// Publishes the report that a query asks for. There is none if the query's session cannot be read.
async fn examine(state: &ShardState, query: &DoctorQuery) {
    let probe = match &query.session {
        Some(session) => {
            match state.visitors.identifier.get().sessions().probe(session, &query.nonce).await {
                Ok(probe) => Some(probe),
                Err(_) => return,
            }
        }
        None => None,
    };
    let settings = state.settings.get();
    let name = format!("doctor:{}", query.nonce);
    let channel = settings.namespace.own(&name);
    let policy = state.policy.get();
    let unreachable = query.facilities.iter().filter(|facility| !policy.admits_subscribers(facility));
    let unreachable = unreachable.map(Facility::as_str).collect();
    let report = DoctorReport { unreachable, ..report(&settings, probe, &format!("ws4redis:{name}")) };
    let Ok(report) = serde_json::to_vec(&report) else { return };
    match state.store.announce(&channel, report).await {
        Ok(()) => info!("answered manage.py ws4redis_doctor"),
        Err(error) => info!(error, "cannot answer manage.py ws4redis_doctor"),
    }
}

/// Returns the machine's name, or a constant if the system does not reveal it.
fn hostname() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname");
    name.map_or_else(|_| "ws4redis".to_owned(), |name| name.trim().to_owned())
}

/// Returns the channels of `RedisManager` whose messages reach clients.
fn read_channels(settings: &SocketIoSettings) -> Vec<&str> {
    if settings.mounts.iter().any(|mount| mount.redis_manager) {
        settings.redis_manager.channels.iter().map(String::as_str).collect()
    } else {
        Vec::new()
    }
}

fn report<'a>(settings: &'a Settings, probe: Option<Probe>, signed: &str) -> DoctorReport<'a> {
    let secret = settings.callback.as_ref().map(|callback| callback.secret.as_bytes());
    let proof = secret.filter(|secret| !secret.is_empty()).map(|secret| {
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), signed.as_bytes());
        tag.as_ref().iter().fold(String::new(), |digits, byte| digits + &format!("{byte:02x}"))
    });
    DoctorReport {
        v: 1,
        server: format!("{}:{}", hostname(), std::process::id()),
        version: env!("CARGO_PKG_VERSION"),
        prefix: settings.namespace.as_str(),
        websocket_url: &settings.websocket_url,
        heartbeat: settings.heartbeat.as_deref().map(String::from_utf8_lossy).unwrap_or_default(),
        cookie: &settings.session.cookie,
        keys: settings.session.reading.templates.iter().map(KeyTemplate::text).collect(),
        probe: probe.map(|probe| match probe {
            Probe::Read => "read",
            Probe::Missing => "missing",
            Probe::Refused => "refused",
            Probe::Unreadable => "unreadable",
        }),
        events: &settings.events.to,
        socketio: !settings.socket_io.mounts.is_empty(),
        socketio_channels: read_channels(&settings.socket_io),
        presence: !settings.presence.is_empty() || settings.events.tells_presence(),
        callback: settings.callback.is_some(),
        callback_path: settings.callback.as_ref().map(|callback| callback.url.path()),
        callback_proof: proof,
        history: settings.history.iter().map(HistoryTable::new).collect(),
        unreachable: Vec::new(),
    }
}
