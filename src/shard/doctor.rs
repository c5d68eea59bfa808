//! Answers for `manage.py ws4redis_doctor`: what this server sees, so that it can be compared with what Django does.

use std::rc::Rc;

use ring::hmac;
use serde::Serialize;
use tokio::time::timeout;
use tracing::{debug, info};

use super::Shard;
use crate::access::session::KeyTemplate;
use crate::settings::Settings;
use crate::visitors::Probe;
use crate::wire::DoctorQuery;

/// What this server sees.
#[derive(Serialize)]
struct Answer<'a> {
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
    callback: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    callback_proof: Option<String>,
}

impl Shard {
    /// Answers a query of the doctor's, beside everything else.
    pub(super) fn answer(self: Rc<Self>, query: DoctorQuery) {
        tokio::task::spawn_local(async move {
            let patience = self.settings.redis.command_timeout;
            if timeout(patience, self.examine(&query)).await.is_err() {
                debug!("the doctor's query could not be answered in time");
            }
        });
    }

    async fn examine(&self, query: &DoctorQuery) {
        let probe = match &query.session {
            Some(session) => match self.visitors.identifier().sessions().probe(session, &query.nonce).await {
                Ok(probe) => Some(probe),
                Err(_) => return,
            },
            None => None,
        };
        let name = format!("doctor:{}", query.nonce);
        let channel = self.settings.namespace.own(&name);
        let answer = answer(&self.settings, probe, &format!("ws4redis:{name}"));
        let Ok(answer) = serde_json::to_vec(&answer) else { return };
        match self.parts.store.announce(&channel, answer).await {
            Ok(()) => info!("answered manage.py ws4redis_doctor"),
            Err(error) => info!(error, "cannot answer manage.py ws4redis_doctor"),
        }
    }
}

/// Returns the machine's name, where the system shows it.
fn hostname() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname");
    name.map_or_else(|_| "ws4redis".to_owned(), |name| name.trim().to_owned())
}

fn answer<'a>(settings: &'a Settings, probe: Option<Probe>, proven: &str) -> Answer<'a> {
    let secret = settings.callback.as_ref().map(|callback| callback.secret.as_bytes());
    let auth_source = secret.filter(|secret| !secret.is_empty()).map(|secret| {
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), proven.as_bytes());
        tag.as_ref().iter().fold(String::new(), |digits, byte| digits + &format!("{byte:02x}"))
    });
    Answer {
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
        callback: settings.callback.is_some(),
        callback_proof: auth_source,
    }
}
