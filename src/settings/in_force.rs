//! The settings in force, for the operator: values in the types of the defaults, secrets masked.

use std::collections::BTreeMap;
use std::fmt;

use config::{Value as ConfigValue, ValueKind};
use serde_json::{Map, Value};
use url::Url;

use super::redis_url::RedisUrl;

/// What a secret is shown as.
const MASK: &str = "***";

/// The keys whose values are secrets. Values of headers may be secrets, too.
const SECRETS: &[&str] = &[
    "admin.token",
    "auth.callback_headers",
    "auth.callback_secret",
    "channels.symmetric_encryption_keys",
    "session.secret_key",
    "session.secret_key_fallbacks",
];

/// The keys whose values are Redis URLs, which may contain passwords.
const REDIS_URLS: &[&str] = &["redis.url", "session.redis_url", "channels.hosts"];

/// Where the value of a setting comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SettingOrigin {
    /// It is built-in.
    Default,
    /// A settings file.
    File,
    /// An environment variable.
    Environment,
    /// `--set` on the command line.
    Flag,
}

impl SettingOrigin {
    /// Returns its name in the output of commands.
    pub fn word(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::File => "file",
            Self::Environment => "environment",
            Self::Flag => "flag",
        }
    }
}

/// A setting in force. Secrets are masked.
#[derive(Debug, Clone)]
pub struct SettingInForce {
    /// The key, with its section.
    pub key: String,
    /// The value.
    pub value: Value,
    /// Where it comes from.
    pub origin: SettingOrigin,
    /// The file, variable or flag; none for a default.
    pub name: Option<String>,
}

impl SettingInForce {
    /// Returns the value in TOML.
    pub fn toml(&self) -> String {
        toml(&self.value)
    }
}

/// The value of each key. `Debug` omits them, because they may be secrets.
#[derive(Default, PartialEq)]
pub(super) struct SettingValues(pub(super) BTreeMap<String, Value>);

impl fmt::Debug for SettingValues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SettingValues").field(&self.0.len()).finish()
    }
}

/// Returns the values of all keys, each in the type of its default.
pub(super) fn values(settings: &ConfigValue, shipped: &ConfigValue) -> SettingValues {
    let mut values = BTreeMap::new();
    collect(settings, Some(shipped), String::new(), &mut values);
    SettingValues(values)
}

fn collect(
    value: &ConfigValue,
    shipped: Option<&ConfigValue>,
    path: String,
    values: &mut BTreeMap<String, Value>,
) {
    let ValueKind::Table(table) = &value.kind else {
        values.insert(path, typed(value, shipped.map(|shipped| &shipped.kind)));
        return;
    };
    for (name, value) in table {
        let shipped = shipped.and_then(|shipped| match &shipped.kind {
            ValueKind::Table(table) => table.get(name),
            _ => None,
        });
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        collect(value, shipped, path, values);
    }
}

/// Converts a value. Variables and flags have only texts.
fn typed(value: &ConfigValue, shipped: Option<&ValueKind>) -> Value {
    let ValueKind::String(text) = &value.kind else { return json(&value.kind) };
    let plain = || Value::String(text.clone());
    match shipped {
        Some(ValueKind::Array(items)) => {
            let numbers = items.iter().any(|item| matches!(item.kind, ValueKind::I64(_)));
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            items
                .map(|item| match item.parse::<i64>() {
                    Ok(number) if numbers => Value::from(number),
                    _ => Value::from(item),
                })
                .collect()
        }
        Some(ValueKind::I64(_)) => text.trim().parse::<i64>().map_or_else(|_| plain(), Value::from),
        Some(ValueKind::Boolean(_)) => value.clone().into_bool().map_or_else(|_| plain(), Value::from),
        _ => plain(),
    }
}

fn json(kind: &ValueKind) -> Value {
    match kind {
        ValueKind::Nil => Value::Null,
        ValueKind::Boolean(value) => (*value).into(),
        ValueKind::I64(number) => (*number).into(),
        ValueKind::U64(number) => (*number).into(),
        ValueKind::Float(number) => (*number).into(),
        ValueKind::String(text) => text.as_str().into(),
        ValueKind::Array(items) => items.iter().map(|item| json(&item.kind)).collect(),
        ValueKind::Table(table) => {
            let entries = table.iter().map(|(name, value)| (name.clone(), json(&value.kind)));
            Value::Object(entries.collect::<Map<_, _>>())
        }
        other => other.to_string().into(),
    }
}

/// Returns a value without its secrets.
pub(super) fn masked(key: &str, value: &Value) -> Value {
    match value {
        Value::Array(items) => items.iter().map(|item| masked(key, item)).collect(),
        Value::Null => Value::Null,
        Value::String(text) if text.is_empty() => value.clone(),
        // A secret of digits may be written without quotes.
        _ if SECRETS.contains(&key) => MASK.into(),
        Value::String(text) if REDIS_URLS.contains(&key) => {
            let url = RedisUrl::written(text, "redis.url").ok().flatten();
            url.map_or_else(|| MASK.into(), |url| url.to_string().into())
        }
        // Some sites have a secret in the query of the view.
        Value::String(text) if key == "auth.callback_url" => match Url::parse(text) {
            Ok(mut url) if url.query().is_some() => {
                url.set_query(Some(MASK));
                url.as_str().into()
            }
            _ => value.clone(),
        },
        _ => value.clone(),
    }
}

/// Returns a value in TOML.
pub(super) fn toml(value: &Value) -> String {
    match value {
        Value::Array(items) => format!("[{}]", items.iter().map(toml).collect::<Vec<_>>().join(", ")),
        Value::Object(table) => {
            let pairs = table.iter().map(|(name, value)| format!("{name} = {}", toml(value)));
            format!("{{ {} }}", pairs.collect::<Vec<_>>().join(", "))
        }
        // Strings of JSON are strings of TOML, apart from DEL.
        other => other.to_string().replace('\u{7f}', "\\u007F"),
    }
}
