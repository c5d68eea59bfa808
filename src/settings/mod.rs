//! Settings: the shipped file, the operator's file, environment variables and flags become checked [`Settings`].
//!
//! Two stages: `raw` holds the values as written, `sections` and [`Settings`] what the program uses.
//! The built-in defaults are the shipped `settings.toml` itself, so the two cannot differ.

mod admin;
mod auth;
mod bridges;
mod channels;
mod channels_tables;
mod client_events;
mod client_heartbeats;
mod delivery;
mod environment;
mod error;
mod events;
mod fields;
mod file;
mod history;
mod in_force;
mod jwt;
mod namespace_pattern;
mod position;
mod presence;
mod ranges;
mod raw;
mod recommended;
mod redis_url;
mod reload;
mod sections;
mod socket_io;
mod sources;
mod visitors;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use config::{Config, File, FileFormat};

use crate::access::session::Reading;
use crate::access::token::Verifier;
use crate::access::{AllowedOrigins, Rule};
use crate::telemetry::LogLevels;
use crate::wire::live::LiveNames;
use crate::wire::{HistoryNames, Namespace};
use fields::{invalid, require};
use presence::RawPresenceRule;
use raw::Raw;
use visitors::RawRule;

pub use admin::AdminSettings;
pub use auth::CallbackSettings;
pub use bridges::{MessengerSettings, MessengerTask, MountSettings, TaskText, YunitySettings};
pub use channels::{ChannelLayer, ChannelsSettings, LayerKind};
pub use channels_tables::{ChannelsDestination, ChannelsPublishRule};
pub use client_events::{EventSelector, LoginSettings};
pub use client_heartbeats::ClientHeartbeat;
pub use delivery::{DeliveredPart, DeliveryPiece, GroupDelivery};
pub use error::SettingsError;
pub use events::{EventDestination, EventsSettings};
pub use history::{HistoryLimits, HistoryRule, HistoryRules};
pub use in_force::{SettingInForce, SettingOrigin};
pub use namespace_pattern::NamespacePattern;
pub use presence::PresenceRule;
pub use ranges::MAX_EXPIRE_SECONDS;
pub use redis_url::{Address, RedisUrl, Servers};
pub use reload::ReloadedKeys;
pub use sections::{
    EmbeddedSettings, EmbeddedStart, Listen, MessageSettings, PingSettings, RedisSettings, ServerSettings,
    SessionSettings, TlsSettings,
};
pub use socket_io::{EmitterSettings, ListArgument, RedisManagerSettings, RoomTemplate, SocketIoSettings};
pub use sources::SettingsSources;

/// The shipped settings file, which is also the manual.
pub const SHIPPED: &str = include_str!("../../settings.toml");

/// Returns the settings file for a new site: the shipped one, without the defaults that exist only for compatibility
/// with django-websocket-redis, and with these values, each as `KEY=VALUE`.
///
/// # Errors
///
/// When the settings with these values are invalid, or a key has no line of its own in the shipped file.
pub fn recommended(assignments: &[String]) -> Result<String, SettingsError> {
    let mut text = SHIPPED.replacen("\nanonymous_publish = true\n", "\nanonymous_publish = false\n", 1);
    let (_, sources) = Settings::load(None, std::iter::empty(), assignments)?;
    for (key, _) in assignments.iter().filter_map(|assignment| assignment.split_once('=')) {
        let key = key.trim();
        text = sources
            .value(key)
            .and_then(|value| recommended::with_value(&text, key, &in_force::toml(value)))
            .ok_or_else(|| SettingsError::NotInFile(key.to_owned()))?;
    }
    Ok(text)
}

/// All settings, checked.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each is a setting of its own")]
pub struct Settings {
    /// Path prefix of the WebSockets, with both slashes.
    pub websocket_url: String,
    /// Path prefix of requests before the facility: the same, or `/` if a proxy strips it.
    pub path_prefix: String,
    /// Seconds for which a client's message is persisted; 0 means not at all.
    pub expire_seconds: u64,
    /// Prefix of all channels.
    pub namespace: Namespace,
    /// The heartbeat text, if there is one.
    pub heartbeat: Option<Bytes>,
    /// Whether facilities with a colon have all of their channels.
    pub facility_colons: bool,
    /// Whether anonymous visitors may publish.
    pub anonymous_publish: bool,
    /// Sockets and HTTP.
    pub server: ServerSettings,
    /// The Redis of the messages.
    pub redis: RedisSettings,
    /// Sizes of messages and queues.
    pub messages: MessageSettings,
    /// Pings of idle connections.
    pub ping: PingSettings,
    /// Django's sessions.
    pub session: SessionSettings,
    /// The auth callback, if any.
    pub callback: Option<CallbackSettings>,
    /// The verifier of tokens, if they are accepted.
    pub jwt: Option<Verifier>,
    /// The site's access rules.
    pub access: Vec<Rule>,
    /// Facilities whose visitors are kept in Redis.
    pub presence: Vec<PresenceRule>,
    /// Facilities whose messages are kept in streams.
    pub history: HistoryRules,
    /// Allowed origins in addition to the request's own host.
    pub origins: AllowedOrigins,
    /// The listener for the operator, if there is one.
    pub admin: Option<AdminSettings>,
    /// What is logged, unless `RUST_LOG` says otherwise.
    pub log_levels: LogLevels,
    /// Whether logs are JSON.
    pub log_json: bool,
    /// Whether the demo page is served.
    pub demo: bool,
    /// Clients of Socket.IO.
    pub socket_io: SocketIoSettings,
    /// What Django is told about clients.
    pub events: EventsSettings,
    /// Groups of Django Channels.
    pub channels: ChannelsSettings,
    /// The embedded store.
    pub embedded: EmbeddedSettings,
}

/// Returns the given path, or `settings.toml` if the working directory contains one.
pub fn file(named: Option<PathBuf>) -> Option<PathBuf> {
    named.or_else(|| Some(PathBuf::from("settings.toml")).filter(|path| path.exists()))
}

impl Settings {
    /// Reads the settings: built-in, then `file`, then the environment variables `vars`, then `assignments` of the form
    /// `KEY=VALUE`. Also returns the sources, with warnings about variables without effect.
    ///
    /// # Errors
    ///
    /// When a file cannot be read, a key is unknown, or a value cannot be used.
    pub fn load(
        file: Option<&Path>,
        vars: impl Iterator<Item = (OsString, OsString)>,
        assignments: &[String],
    ) -> Result<(Self, SettingsSources), SettingsError> {
        let mut sources = SettingsSources::default();
        match Self::read(file, vars, assignments, &mut sources) {
            Ok(settings) => Ok((settings, sources)),
            Err(error) => Err(sources.locate(error)),
        }
    }

    fn read(
        file: Option<&Path>,
        vars: impl Iterator<Item = (OsString, OsString)>,
        assignments: &[String],
        sources: &mut SettingsSources,
    ) -> Result<Self, SettingsError> {
        let shipped = Config::builder().add_source(File::from_str(SHIPPED, FileFormat::Toml)).build()?;
        let known = environment::keys(&shipped);
        let mut builder = Config::builder().add_source(shipped.clone());
        if let Some(path) = file {
            let name = path.display().to_string();
            let text = file::read_text(path)
                .map_err(|problem| SettingsError::unreadable(format!("{name}: {problem}")))?;
            sources.set_text(path, &text);
            let written = Config::builder().add_source(file::NamedText { name, text }).build()?;
            // The shipped file has no rules; the deserializer checks their keys.
            let unknown = |key: &String| {
                !["access", "history", "presence"].contains(&key.as_str()) && !known.contains(key)
            };
            let keys = environment::keys(&written);
            for key in &keys {
                sources.add(key, SettingOrigin::File, &path.display().to_string());
            }
            if let Some(key) = keys.into_iter().find(unknown) {
                return Err(SettingsError::Unknown {
                    file: path.to_owned(),
                    hint: environment::nearest(&key, &known),
                    key,
                });
            }
            builder = builder.add_source(written);
        }
        let (overrides, warnings) = environment::read(vars, &known)?;
        sources.warnings = warnings;
        for environment::Override { key, value, variable } in overrides {
            sources.add(&key, SettingOrigin::Environment, &variable);
            builder = builder.set_override(key, value)?;
        }
        for assignment in assignments {
            let (key, value) = assignment.split_once('=').ok_or_else(|| {
                // The rest is not shown: it may be a secret.
                let name = |c: &char| c.is_ascii_alphanumeric() || "._".contains(*c);
                SettingsError::Assignment(assignment.chars().take_while(name).collect())
            })?;
            sources.add(key.trim(), SettingOrigin::Flag, "--set");
            builder = builder.set_override(key.trim(), value)?;
        }
        let settings = builder.build()?;
        ranges::check(&settings)?;
        sources.set_values(in_force::values(&settings.cache, &shipped.cache));
        let raw: Raw = settings.try_deserialize()?;
        Self::check(raw)
    }

    /// Returns these settings, which the gateway has been started with, with the reloadable ones of settings that were read
    /// now.
    #[must_use]
    pub fn with_reloaded(&self, read: Self) -> Self {
        let mut merged = self.clone();
        merged.anonymous_publish = read.anonymous_publish;
        merged.access = read.access;
        merged.origins = read.origins;
        merged.jwt = read.jwt;
        merged.log_levels = read.log_levels;
        merged.messages.max_facilities = read.messages.max_facilities;
        merged.server.max_connections = read.server.max_connections;
        merged.server.trusted_proxies = read.server.trusted_proxies;
        merged.session.cookie = read.session.cookie;
        merged.session.recheck_seconds = read.session.recheck_seconds;
        merged.session.reading =
            Reading { secrets: read.session.reading.secrets, ..self.session.reading.clone() };
        merged.socket_io = SocketIoSettings {
            anonymous: read.socket_io.anonymous,
            namespaces: read.socket_io.namespaces,
            ..merged.socket_io
        };
        // Whether there is a callback at all is decided at the start, and so are the connections to it.
        merged.callback = match (merged.callback, read.callback) {
            (Some(start), Some(read)) => Some(CallbackSettings {
                url: start.url,
                timeout: start.timeout,
                max_calls: start.max_calls,
                ..read
            }),
            (start, _) => start,
        };
        merged
    }

    /// Returns whether clients may be told who is in a facility.
    pub fn grants_presence(&self) -> bool {
        self.access.iter().any(Rule::grants_presence)
    }

    /// Returns how messages of version 2 name their facility.
    pub fn live_names(&self) -> LiveNames {
        LiveNames::new(self.history_names(), self.namespace.clone(), self.facility_colons)
    }

    /// Returns the names of histories.
    pub fn history_names(&self) -> HistoryNames {
        let is_cluster = |url: &RedisUrl| matches!(url.servers, Servers::Cluster(_));
        HistoryNames::new(&self.namespace, self.redis.url.as_ref().is_some_and(is_cluster))
    }

    /// Returns the built-in settings.
    ///
    /// # Errors
    ///
    /// Never: a test loads the shipped file.
    pub fn built_in() -> Result<Self, SettingsError> {
        let shipped = Config::builder().add_source(File::from_str(SHIPPED, FileFormat::Toml)).build()?;
        Self::check(shipped.try_deserialize()?)
    }

    fn check(raw: Raw) -> Result<Self, SettingsError> {
        let prefix_ok = raw.websocket_url.starts_with('/') && raw.websocket_url.ends_with('/');
        require(prefix_ok, "websocket_url", "must begin and end with a slash, for example /ws/")?;
        let plain = !raw.prefix.chars().any(char::is_control);
        require(plain, "prefix", "must not hold control characters")?;
        // Channels with such a name would count as those of key events.
        let is_keyspace = raw.prefix.starts_with("__keyspace@");
        require(
            !is_keyspace,
            "prefix",
            "must not begin with __keyspace@, which Redis uses for its own channels",
        )?;
        require(raw.heartbeat.len() <= 1024, "heartbeat", "must not be longer than 1024 bytes")?;
        let stripped = raw.server.websocket_url_stripped;
        let path_prefix = if stripped { "/" } else { &raw.websocket_url }.to_owned();
        let redis = raw.redis.check()?;
        let demo = match raw.demo.enabled.as_str() {
            "auto" => redis.url.is_none() && path_prefix != "/",
            "on" if path_prefix == "/" => {
                return Err(invalid("demo.enabled", "the demo has no path, since every path is a facility"));
            }
            "on" => true,
            "off" => false,
            _ => return Err(invalid("demo.enabled", "expected auto, on or off")),
        };
        let log_json = match raw.log.format.as_str() {
            "text" => false,
            "json" => true,
            _ => return Err(invalid("log.format", "expected text or json")),
        };
        let log_levels = LogLevels::parse(&raw.log.filter).map_err(|_| {
            invalid("log.filter", "expected levels as in RUST_LOG, for example info,ws4redis=debug")
        })?;
        let namespace = Namespace::new(&raw.prefix);
        history::check_prefix(&namespace)?;
        let session = raw.session.check(&redis, &namespace)?;
        let access = raw.access.iter().map(RawRule::check).collect::<Result<Vec<_>, _>>()?;
        let contradicts = !raw.anonymous_publish && access.iter().any(Rule::allows_anonymous_publish);
        require(
            !contradicts,
            "anonymous_publish",
            "is false, but an [[access]] table gives anonymous visitors a publish- flag; set it to true, so that the tables decide",
        )?;
        let server = raw.server.check()?;
        let jwt = raw.auth.jwt.check()?;
        let callback = raw.auth.callback()?;
        // Otherwise handshakes time out before the callback's error is known.
        let sooner = callback.as_ref().is_none_or(|callback| callback.timeout < server.handshake);
        require(sooner, "auth.callback_timeout_seconds", "must be less than server.handshake_seconds")?;
        let origins = AllowedOrigins::new(&raw.origin.allowed)
            .map_err(|problem| SettingsError::Invalid { key: "origin.allowed", problem })?
            .with_hosts(&raw.origin.allowed_hosts)
            .map_err(|problem| SettingsError::Invalid { key: "origin.allowed_hosts", problem })?;
        let patterns: Vec<_> = raw.access.iter().map(RawRule::facilities).collect();
        let channels = raw.channels.check(&redis, &patterns)?;
        let socket_io = raw.socketio.check(&path_prefix, raw.admin.limits())?;
        let events = raw.events.check(&namespace, &socket_io.redis_manager.channels)?;
        Ok(Self {
            websocket_url: raw.websocket_url,
            path_prefix,
            expire_seconds: u64::try_from(raw.expire).unwrap_or(0),
            namespace,
            heartbeat: (!raw.heartbeat.is_empty()).then(|| Bytes::from(raw.heartbeat)),
            facility_colons: raw.facility_colons,
            anonymous_publish: raw.anonymous_publish,
            server,
            redis,
            messages: raw.messages.check()?,
            ping: raw.ping.check(),
            session,
            jwt,
            callback,
            access,
            presence: raw.presence.iter().map(RawPresenceRule::check).collect::<Result<_, _>>()?,
            history: HistoryRules::check(raw.history)?,
            origins,
            admin: raw.admin.check()?,
            log_levels,
            log_json,
            demo,
            socket_io,
            events,
            channels,
            embedded: raw.embedded.check()?,
        })
    }
}

#[cfg(test)]
mod tests;
