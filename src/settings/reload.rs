//! Which settings a reload applies to the running gateway. All others need a restart. settings.toml says the same; a test
//! compares them.

use super::sources::SettingsSources;

/// The settings that a reload applies.
const RELOADABLE: &[&str] = &[
    "access",
    "anonymous_publish",
    "auth.callback_cache_seconds",
    "auth.callback_forward",
    "auth.callback_headers",
    "auth.callback_recheck_seconds",
    "auth.callback_secret",
    "auth.callback_secret_file",
    "auth.jwt.algorithm",
    "auth.jwt.audience",
    "auth.jwt.groups_claim",
    "auth.jwt.issuer",
    "auth.jwt.jwks_file",
    "auth.jwt.key_file",
    "auth.jwt.user_claim",
    "log.filter",
    "messages.max_facilities",
    "origin.allowed",
    "origin.allowed_hosts",
    "server.max_connections",
    "server.trusted_proxies",
    "session.cookie",
    "session.recheck_seconds",
    "session.secret_key",
    "session.secret_key_fallbacks",
    "session.secret_key_file",
    "session.store_class",
    "socketio.anonymous",
    "socketio.namespaces",
];

/// The keys whose values a reload has found changed. Files that settings name are read again, and not compared.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReloadedKeys {
    /// Those that are applied.
    pub changed: Vec<String>,
    /// Those that need a restart, compared with the values at the start.
    pub restart: Vec<String>,
}

impl ReloadedKeys {
    /// Compares the settings at the start, those in force, and those that were read now.
    pub fn compare(start: &SettingsSources, in_force: &SettingsSources, read: &SettingsSources) -> Self {
        let is_reloadable = |key: &str| RELOADABLE.contains(&key);
        Self {
            changed: read.differing(in_force).filter(|key| is_reloadable(key)).map(str::to_owned).collect(),
            restart: read.differing(start).filter(|key| !is_reloadable(key)).map(str::to_owned).collect(),
        }
    }

    /// Returns whether open connections may have lost or gained something by the changes.
    pub fn changes_grants(&self) -> bool {
        let is_grant = |key: &String| {
            ["access", "anonymous_publish", "socketio.anonymous", "socketio.namespaces"]
                .contains(&key.as_str())
        };
        self.changed.iter().any(is_grant)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::settings::{SHIPPED, Settings};

    /// Returns the keys of settings.toml whose comment says that a reload applies them.
    fn marked() -> BTreeSet<String> {
        let (mut section, mut comment, mut found) = (String::new(), String::new(), BTreeSet::new());
        for line in SHIPPED.lines() {
            if let Some(name) = line.trim_start_matches("# ").strip_prefix("[[") {
                if comment.contains("Applied by a reload.") {
                    found.insert(name.trim_end_matches("]]").to_owned());
                    comment.clear();
                }
            } else if let Some(text) = line.strip_prefix('#') {
                comment.push_str(text);
            } else if let Some(name) = line.strip_prefix('[') {
                section = format!("{}.", name.trim_end_matches(']'));
                comment.clear();
            } else if let Some((key, _)) = line.split_once(" = ") {
                let key = if section == "." { key.to_owned() } else { format!("{section}{key}") };
                if comment.contains("Applied by a reload.") {
                    found.insert(key);
                }
            } else {
                comment.clear();
            }
        }
        found
    }

    #[test]
    fn the_shipped_file_says_which_settings_a_reload_applies() {
        let table: BTreeSet<_> = RELOADABLE.iter().map(|key| (*key).to_owned()).collect();
        assert_eq!(marked(), table);
    }

    #[test]
    fn changed_settings_are_applied_or_named() {
        let load = |values: &[&str]| {
            let values: Vec<_> = values.iter().map(|value| (*value).to_owned()).collect();
            Settings::load(None, std::iter::empty(), &values).unwrap()
        };
        let (settings, start) = load(&["origin.allowed=https://a.example"]);
        let (_, in_force) = load(&["origin.allowed=https://b.example", "server.listen=127.0.0.1:1"]);
        let (read, now) = load(&["redis.url=redis://x", "anonymous_publish=false", "ping.timeout_seconds=1"]);
        let keys = ReloadedKeys::compare(&start, &in_force, &now);
        assert_eq!(keys.changed, ["anonymous_publish", "origin.allowed"]);
        assert_eq!(keys.restart, ["ping.timeout_seconds", "redis.url"]);
        let merged = settings.with_reloaded(read);
        assert!(!merged.anonymous_publish && merged.redis.url.is_none());
    }
}
