//! Which environment variable sets which key, and what becomes of upstream's names.

use std::collections::HashMap;
use std::ffi::OsString;

use config::{Config, Value, ValueKind};

use super::error::SettingsError;

/// What became of the settings of django-websocket-redis that have no key of the same name here.
const SUCCESSORS: &[(&str, &str)] = &[
    ("WS4REDIS_CONNECTION", "set redis.url (WS4REDIS_REDIS__URL), for example redis://:password@host:6379/0"),
    ("WS4REDIS_SUBSCRIBER", "there is no successor: the server runs no Python"),
    ("WS4REDIS_ALLOWED_CHANNELS", "write [[access]] rules in the settings file instead"),
    (
        "WS4REDIS_PROCESS_REQUEST",
        "there is no successor of the same kind, the server runs no Python: set auth.callback_url, and let the site say who visitors are",
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

/// Keys with their values, and warnings.
type Read = (Vec<(String, String)>, Vec<String>);

/// Returns the keys that the variables set, with their values, and warnings about those that set none.
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
        // What is not text is none of ours, unless its name says so.
        let Some(name) =
            name.to_str().filter(|name| name.starts_with("WS4REDIS_") || *name == "WEBSOCKET_URL")
        else {
            continue;
        };
        let value = value
            .into_string()
            .map_err(|_| SettingsError::Unreadable(format!("{name} is not valid UTF-8")))?;
        if name == "WEBSOCKET_URL" {
            // The package's own name wins where both are set.
            overrides.insert(0, ("websocket_url".to_owned(), value));
        } else if let Some(key) = names.get(name) {
            overrides.push(((*key).clone(), value));
        } else {
            warnings.push(format!("{name} is set and means nothing: {}", hint(name, &names)));
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

/// Returns what may have been meant by a key that is none, as the end of a sentence.
pub(super) fn nearest(key: &str, known: &[String]) -> String {
    let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_lowercase();
    let own = last(key);
    let own = own.strip_prefix("ws4redis_").unwrap_or(&own);
    let similar = known.iter().map(|known| (strsim::damerau_levenshtein(own, &last(known)), known)).min();
    match similar {
        Some((0..=2, known)) if known.contains('.') => format!(", did you mean {known}?"),
        Some((0..=2, known)) => format!(", did you mean {known}, above the first [section]?"),
        _ => String::new(),
    }
}
