//! Tests of the settings as a whole.

use std::time::Duration;

use super::*;

fn load(vars: &[(&str, &str)], assignments: &[&str]) -> Result<(Settings, SettingsSources), SettingsError> {
    let vars: Vec<_> = vars.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
    let assignments: Vec<_> = assignments.iter().map(|a| (*a).to_owned()).collect();
    Settings::load(None, vars.into_iter(), &assignments)
}

#[test]
fn the_shipped_file_is_the_built_in_settings() {
    let settings = Settings::built_in().unwrap();
    assert_eq!(settings.websocket_url, "/ws/");
    assert_eq!(settings.expire_seconds, 3600);
    assert_eq!(settings.server.listen, Listen::Tcp("127.0.0.1:8000".into()));
    assert!(settings.demo);
}

#[test]
fn idle_http_connections_are_kept_longer_than_common_proxies_keep_theirs() {
    let kept = Settings::built_in().unwrap().server.keepalive;
    // Defaults of nginx's upstream keepalive_timeout, Traefik's idleConnTimeout and Caddy's keepalive.
    for proxy_seconds in [60, 90, 120] {
        assert!(kept > Duration::from_secs(proxy_seconds), "{kept:?}");
    }
}

#[test]
fn the_demo_is_off_if_every_path_is_a_facility() {
    for (assignment, prefix) in
        [("server.websocket_url_stripped=true", "/"), ("websocket_url=/", "/"), ("websocket_url=/x/", "/x/")]
    {
        let (settings, _) = load(&[], &[assignment]).unwrap();
        assert_eq!((settings.path_prefix.as_str(), settings.demo), (prefix, prefix != "/"), "{assignment}");
        let on = load(&[], &[assignment, "demo.enabled=on"]);
        let refused = on.err().map(|error| error.to_string());
        assert_eq!(refused.is_some(), prefix == "/", "{assignment}: {refused:?}");
        assert!(refused.is_none_or(|text| text.starts_with("demo.enabled: ")), "{assignment}");
    }
}

#[test]
fn environment_variables_have_the_names_of_upstream() {
    let vars = [
        ("WS4REDIS_EXPIRE", "-1"),
        ("WS4REDIS_PREFIX", "0123"),
        ("WS4REDIS_HEARTBEAT", "--heartbeat--"),
        ("WEBSOCKET_URL", "/sockets/"),
        ("WS4REDIS_SERVER__SHARDS", "3"),
        ("WS4REDIS_ORIGIN__ALLOWED", "https://a.example, https://b.example"),
        ("WS4REDIS_REDIS__URL", "redis://:geheim@127.0.0.1:6380/2"),
    ];
    let (settings, sources) = load(&vars, &["server.shards=2"]).unwrap();
    assert_eq!(settings.expire_seconds, 0);
    assert_eq!(settings.namespace.as_str(), "0123");
    assert_eq!(settings.heartbeat.as_deref(), Some(&b"--heartbeat--"[..]));
    assert_eq!(settings.websocket_url, "/sockets/");
    assert_eq!(settings.server.shards, 2);
    assert!(settings.origins.check(&[b"https://b.example"], "c.example").is_ok());
    assert!(settings.origins.check(&[b"https://c.example"], "d.example").is_err());
    assert!(!settings.demo, "with a RedisSettings of one's own the demo is off");
    assert!(sources.warnings.is_empty(), "{sources:?}");
    let shown = format!("{settings:?}");
    assert!(shown.contains("redis://***@127.0.0.1:6380/2") && !shown.contains("geheim"), "{shown}");
}

#[test]
fn variables_without_effect_are_named_in_warnings() {
    let vars = [("WS4REDIS_SERVER_LISTEN", "x"), ("WS4REDIS_CONNECTION", "{}"), ("OTHER", "")];
    let warnings = load(&vars, &[]).unwrap().1.warnings;
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(
        warnings
            .iter()
            .any(|w| w.contains("WS4REDIS_SERVER_LISTEN") && w.contains("WS4REDIS_SERVER__LISTEN"))
    );
    assert!(warnings.iter().any(|w| w.contains("WS4REDIS_CONNECTION") && w.contains("redis.url")));
}

#[test]
fn an_invalid_value_is_refused_and_its_key_named() {
    for (assignment, expected) in [
        ("websocket_url=ws", "websocket_url: must begin and end with a slash"),
        ("prefix=__keyspace@0__", "prefix: must not begin with __keyspace@"),
        ("server.listen=8000", "server.listen: expected host:port or unix:/path"),
        ("server.unix_mode=9", "server.unix_mode: "),
        ("server.trusted_proxies=unix,10.0.0.1/8", "server.trusted_proxies: \"10.0.0.1/8\" is neither"),
        ("socketio.ping_timeout_ms=100", "must be at least 500 together with socketio.ping_interval_ms"),
        ("messages.when_slow=wait", "messages.when_slow: expected close or drop-oldest"),
        ("redis.url=http://x", "redis.url: "),
        ("origin.allowed=a b", "origin.allowed: \"a b\" is neither"),
        ("demo.enabled=maybe", "demo.enabled: expected auto, on or off"),
        ("server.keepalive_seconds=0", "server.keepalive_seconds: must be an integer from 1 to 86400"),
        ("server.keepalive_seconds=86401", "server.keepalive_seconds: must be an integer from 1 to 86400"),
        (
            "messages.max_message_bytes=0",
            "messages.max_message_bytes: must be an integer from 1 to 536870912",
        ),
        ("ping.interval_seconds=x", "ping.interval_seconds"),
        ("auth.jwt.issuer=x", "auth.jwt.algorithm: is empty"),
        ("auth.jwt.algorithm=HS256", "auth.jwt.key_file: set either this or jwks_file"),
        ("auth.callback_timeout_seconds=10", "must be less than server.handshake_seconds"),
        ("server.nonsense=1", "nonsense"),
    ] {
        let valid = ["auth.callback_url=http://h/", "socketio.ping_interval_ms=399"];
        let error = load(&[], &[&valid[..], &[assignment]].concat()).unwrap_err().to_string();
        assert!(error.contains(expected), "{assignment}: {error}");
    }
}
