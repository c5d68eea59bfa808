//! Identifies a visitor outside of the gateway, for `ws4redis check --cookie`, and tells what is found under each key.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::{Callback, CallbackTransport, Identifier, IdentifyError, LargeValues, Sessions, Visitor};
use crate::access::Credentials;
use crate::access::session::decode;
use crate::metrics::Counters;
use crate::redis::{Lookups, StoredValue, Target};
use crate::settings::Settings;
use crate::wire::{Handshake, SessionKey};

/// What a session cookie leads to.
#[derive(Debug)]
pub struct CookieTrial {
    /// Whether the value has the form of a session key.
    pub is_key: bool,
    /// Each template of `session.keys`, and what is found there; empty if the callback identifies visitors.
    pub keys: Vec<(String, String)>,
    /// The visitor, or why it cannot be identified.
    pub visitor: Result<Visitor, IdentifyError>,
}

/// Tries the value of a session cookie. Must be called within a `LocalSet`.
///
/// # Errors
///
/// With a description, when Redis cannot be reached.
pub async fn try_cookie(
    settings: &Settings,
    targets: (&Target, Option<&Target>),
    cookie: &str,
    handshake: &Handshake,
) -> Result<CookieTrial, String> {
    let counters = Arc::<Counters>::default();
    let messages = Rc::new(Lookups::connect(targets.0, &settings.redis, &counters));
    let lookups = match targets.1 {
        Some(target) => Rc::new(Lookups::connect(target, &settings.redis, &counters)),
        None => messages.clone(),
    };
    let reading = settings.session.reading.clone();
    let pattern = reading.pattern.clone();
    let is_key = pattern.admits(cookie);
    let mut keys = Vec::new();
    if is_key && settings.callback.is_none() {
        let key = SessionKey::new(cookie);
        let all: Vec<_> = reading.templates.iter().map(|template| template.render(&key)).collect();
        let lost = |_| "the Redis of the sessions is lost".to_owned();
        for (template, (key, head)) in
            reading.templates.iter().zip(all.iter().zip(lookups.read(&all).await.map_err(lost)?))
        {
            let entry = if head.is_partial { lookups.read_whole(key).await.map_err(lost)? } else { head };
            let found = describe(&entry, |value| match decode(value, template.forms(), &reading.secrets) {
                Ok(Some(_)) => "a session".to_owned(),
                Ok(None) => "a value that is no session".to_owned(),
                Err(error) => error.to_string(),
            });
            keys.push((template.text(), found));
        }
    }
    let sessions = Sessions::new(reading, &settings.namespace, lookups, messages, LargeValues::default());
    let transport = settings.callback.as_ref().map(CallbackTransport::new).transpose();
    let transport = transport.map_err(|error| error.to_string())?;
    let callback = settings.callback.as_ref().zip(transport.as_ref());
    let callback =
        callback.map(|(callback, transport)| Callback::new(callback, transport, pattern, counters));
    let identifier = Identifier::new(sessions, None, callback, Duration::ZERO);
    let header = format!("{}={cookie}", settings.session.cookie).into_bytes();
    let credentials = Credentials {
        session_cookie: Some(cookie.to_owned()),
        headers: vec![("cookie".to_owned(), header)],
        ..Credentials::default()
    };
    let visitor = identifier.identify(&credentials, handshake).await;
    Ok(CookieTrial { is_key, keys, visitor })
}

fn describe(entry: &StoredValue, decoded: impl Fn(&[u8]) -> String) -> String {
    let found = match &entry.value {
        _ if entry.refused => return "Redis refuses to read it".to_owned(),
        _ if entry.too_big => return "a value that is too large for a session".to_owned(),
        None => return "no such key".to_owned(),
        Some(value) => format!("{}, {} bytes", decoded(value), value.len()),
    };
    match entry.lives_ms {
        Some(left) => format!("{found}, expires in {} s", left / 1000),
        None => found,
    }
}
