//! Environment variables: the key that each sets, and the fate of upstream's names.

use std::collections::HashMap;
use std::ffi::OsString;

use config::{Config, Value, ValueKind};

use super::error::SettingsError;

/// Settings of django-websocket-redis without a key of the same name, and what replaces them.
const SUCCESSORS: &[(&str, &str)] = &[
    ("WS4REDIS_CONNECTION", "set redis.url (WS4REDIS_REDIS__URL), for example redis://:password@host:6379/0"),
    ("WS4REDIS_SUBSCRIBER", "not supported: the server runs no Python"),
    ("WS4REDIS_ALLOWED_CHANNELS", "write [[access]] rules in the settings file instead"),
    (
        "WS4REDIS_PROCESS_REQUEST",
        "not supported, since the server runs no Python: set auth.callback_url, and let the site identify visitors",
    ),
];

/// Returns the path of every key, `section.key`.
pub(super) fn keys(shipped: &Config) -> Vec<String> {
    let mut keys = Vec::new();
    collect(&shipped.cache, String::new(), &mut keys);
    keys
}

fn collect(value: &Value, path: String, keys: &mut Vec<String>) {
    let ValueKind::Table(table) = &value.kind else { return keys.push(path) };
    for (name, value) in table {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        collect(value, path, keys);
    }
}

/// A setting that a variable sets.
pub(super) struct Override {
    pub(super) key: String,
    pub(super) value: String,
    pub(super) variable: String,
}

/// Settings, and warnings.
type Read = (Vec<Override>, Vec<String>);

/// Returns the settings of variables, and warnings about variables without effect.
pub(super) fn read(
    vars: impl Iterator<Item = (OsString, OsString)>,
    known: &[String],
) -> Result<Read, SettingsError> {
    let names: HashMap<String, &String> = known
        .iter()
        .map(|key| (format!("WS4REDIS_{}", key.to_uppercase().replace('.', "__")), key))
        .collect();
    let mut overrides = Vec::new();
    let mut warnings = Vec::new();
    for (name, value) in vars {
        // A name that is not UTF-8 is ignored.
        let Some(name) =
            name.to_str().filter(|name| name.starts_with("WS4REDIS_") || *name == "WEBSOCKET_URL")
        else {
            continue;
        };
        let value = value
            .into_string()
            .map_err(|_| SettingsError::unreadable(format!("{name} is not valid UTF-8")))?;
        let variable = name.to_owned();
        if name == "WEBSOCKET_URL" {
            // WS4REDIS_WEBSOCKET_URL overrides it.
            overrides.insert(0, Override { key: "websocket_url".to_owned(), value, variable });
        } else if let Some(key) = names.get(name) {
            overrides.push(Override { key: (*key).clone(), value, variable });
        } else {
            warnings.push(format!("{name} is set but has no effect: {}", hint(name, &names)));
        }
    }
    Ok((overrides, warnings))
}

fn hint(name: &str, names: &HashMap<String, &String>) -> String {
    if let Some((_, successor)) = SUCCESSORS.iter().find(|(old, _)| *old == name) {
        return (*successor).to_owned();
    }
    let bare = |name: &str| name.replace('_', "");
    match names.keys().find(|known| bare(known) == bare(name)) {
        Some(known) => format!("did you mean {known}?"),
        None => "no setting has that name; see settings.toml".to_owned(),
    }
}

/// Returns a suggestion for an unknown key, as the end of a sentence.
pub(super) fn nearest(key: &str, known: &[String]) -> String {
    let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_lowercase();
    let own = last(key);
    let own = own.strip_prefix("ws4redis_").unwrap_or(&own);
    // A secret may be in a file: `key` becomes `key_file`.
    let longer = known.iter().find(|known| known.strip_prefix(key).is_some_and(|rest| rest.starts_with('_')));
    if let Some(known) = longer {
        return format!(", did you mean {known}?");
    }
    let distance = strsim::damerau_levenshtein;
    // Sections share names of keys, so the whole key decides between equals.
    let similar = known.iter().map(|known| (distance(own, &last(known)), distance(key, known), known)).min();
    match similar {
        Some((0..=2, _, known)) if known.contains('.') => format!(", did you mean {known}?"),
        Some((0..=2, _, known)) => format!(", did you mean {known}, above the first [section]?"),
        _ => String::new(),
    }
}
