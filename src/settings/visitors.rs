//! Settings of `[session]` and `[[access]]`, checked.

use std::collections::HashMap;

use serde::Deserialize;

use super::error::SettingsError;
use super::fields::{invalid, list, require, secret};
use super::redis_url::RedisUrl;
use super::sections::{RedisSettings, SessionSettings};
use crate::access::session::{Forms, KeyPattern, KeyTemplate, Reading, Secrets, UserName};
use crate::access::{Rate, Rule, RuleText};
use crate::wire::Namespace;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawSession {
    cookie: String,
    key_pattern: String,
    #[serde(deserialize_with = "list")]
    keys: Vec<String>,
    redis_url: String,
    secret_key: String,
    secret_key_file: String,
    #[serde(deserialize_with = "list")]
    secret_key_fallbacks: Vec<String>,
    store_class: String,
    user: String,
    keyspace_events: String,
    recheck_seconds: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRule {
    #[serde(deserialize_with = "list")]
    facility: Vec<String>,
    #[serde(default, deserialize_with = "list")]
    anonymous: Vec<String>,
    #[serde(default, deserialize_with = "list")]
    users: Vec<String>,
    #[serde(default)]
    groups: HashMap<String, Vec<String>>,
    #[serde(default)]
    refused: Option<String>,
    #[serde(default)]
    publish_messages_per_second: u32,
    #[serde(default)]
    publish_bytes_per_second: u32,
    #[serde(default)]
    publish_burst_seconds: u32,
}

impl RawSession {
    pub(super) fn check(
        self,
        redis: &RedisSettings,
        namespace: &Namespace,
    ) -> Result<SessionSettings, SettingsError> {
        let cookie_ok = !self.cookie.is_empty() && !self.cookie.contains([';', '=', ' ']);
        require(cookie_ok, "session.cookie", "must be the name of a cookie, for example sessionid")?;
        let pattern =
            KeyPattern::new(&self.key_pattern).map_err(|error| unfit("session.key_pattern", &error))?;
        let templates =
            self.keys.iter().map(|written| template(written, namespace)).collect::<Result<_, _>>()?;
        let from_file = match self.secret_key_file.as_str() {
            "" => String::new(),
            path => secret(path, "session.secret_key_file")?,
        };
        let keys = [self.secret_key.as_str(), &from_file].into_iter();
        let keys = keys.chain(self.secret_key_fallbacks.iter().map(String::as_str)).map(str::as_bytes);
        let user = match self.user.as_str() {
            "username" => UserName::Username,
            "pk" => UserName::Pk,
            _ => return Err(invalid("session.user", "expected username or pk")),
        };
        let events = match self.keyspace_events.as_str() {
            "auto" => None,
            "on" => Some(true),
            "off" => Some(false),
            _ => return Err(invalid("session.keyspace_events", "expected auto, on or off")),
        };
        let own = RedisUrl::written(&self.redis_url, "session.redis_url")?;
        Ok(SessionSettings {
            cookie: self.cookie,
            reading: Reading { pattern, templates, secrets: Secrets::new(keys, &self.store_class), user },
            redis: own.map(|url| RedisSettings { url: Some(url), ..redis.clone() }),
            events,
            recheck_seconds: self.recheck_seconds,
        })
    }
}

/// Parses `FORM TEMPLATE`; the form names the trusted encodings.
fn template(written: &str, namespace: &Namespace) -> Result<KeyTemplate, SettingsError> {
    let (form, template) = written.split_once(' ').unwrap_or((written, ""));
    let forms = if form == "cache" { Some(Forms::UNSIGNED) } else { Forms::named(form) };
    let forms = forms.ok_or_else(|| {
        invalid(
            "session.keys",
            "each begins with what is trusted there: cache, pickle, json, msgpack or signed",
        )
    })?;
    KeyTemplate::new(template.trim(), forms, namespace).map_err(|error| unfit("session.keys", &error))
}

fn unfit(key: &'static str, error: &dyn std::error::Error) -> SettingsError {
    SettingsError::Invalid { key, problem: error.to_string() }
}

impl RawRule {
    /// Returns the patterns of its facilities.
    pub(super) fn facilities(&self) -> &[String] {
        &self.facility
    }

    pub(super) fn check(&self) -> Result<Rule, SettingsError> {
        let forbids = match self.refused.as_deref() {
            None | Some("drop") => false,
            Some("403") => true,
            Some(_) => return Err(invalid("access.refused", "expected drop or 403")),
        };
        let written = RuleText {
            facilities: self.facility.clone(),
            anonymous: self.anonymous.clone(),
            users: self.users.clone(),
            groups: self.groups.clone(),
            forbids,
            rate: Rate {
                messages_per_second: self.publish_messages_per_second,
                bytes_per_second: self.publish_bytes_per_second,
                burst_seconds: self.publish_burst_seconds,
            },
        };
        Rule::new(&written).map_err(|name| SettingsError::Invalid {
            key: "access",
            problem: format!("unknown flag {name:?}; flags are subscribe- or publish- with broadcast, group, user or session, * for any"),
        })
    }
}
