//! The shipped settings.toml: defaults, example and manual in one.
#![expect(clippy::unwrap_used, reason = "test helpers")]

use std::path::PathBuf;

use ws4redis::settings::{Servers, Settings};

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("settings.toml")
}

/// Returns every key as `section.key`, its value as written, and the line above its group of keys.
fn keys() -> Vec<(String, String, String)> {
    let text = std::fs::read_to_string(path()).unwrap();
    let (mut keys, mut section, mut above) = (Vec::new(), String::new(), String::new());
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('[') {
            section = format!("{}.", name.trim_end_matches(']'));
        } else if let Some((key, value)) = line.split_once(" = ").filter(|_| !line.starts_with('#')) {
            let value = value.split("  # ").next().unwrap_or_default();
            keys.push((format!("{section}{key}"), value.to_owned(), above.clone()));
            continue;
        }
        line.clone_into(&mut above);
    }
    keys
}

#[test]
fn the_shipped_file_is_the_built_in_settings() {
    let (shipped, sources) = Settings::load(Some(&path()), std::iter::empty(), &[]).unwrap();
    assert_eq!(format!("{shipped:#?}"), format!("{:#?}", Settings::built_in().unwrap()));
    assert_eq!(sources.warnings, Vec::<String>::new());
}

#[test]
fn every_key_has_a_comment_above_it() {
    let keys = keys();
    assert!(keys.len() > 30, "{keys:?}");
    for (key, _, above) in keys {
        assert!(above.starts_with("# "), "{key} stands below {above:?}");
    }
}

#[test]
fn every_key_can_be_set_by_its_environment_variable() {
    let built_in = format!("{:#?}", Settings::built_in().unwrap());
    for (key, value, _) in keys() {
        let name = format!("WS4REDIS_{}", key.to_uppercase().replace('.', "__"));
        // Variables hold lists separated by commas, without quotes.
        let list = value.strip_prefix('[').and_then(|value| value.strip_suffix(']'));
        let value = list.map_or_else(|| value.trim_matches('"').to_owned(), |list| list.replace('"', ""));
        let load = |value: String| {
            Settings::load(Some(&path()), [(name.clone().into(), value.into())].into_iter(), &[])
        };
        let (same, sources) = load(value).unwrap();
        assert_eq!(sources.warnings, Vec::<String>::new(), "{name}");
        assert_eq!(format!("{same:#?}"), built_in, "{name}");
        // Any other value is used or rejected, never ignored.
        let overlooked =
            |value: &str| matches!(load(value.to_owned()), Ok((s, _)) if format!("{s:#?}") == built_in);
        let others = ["on", "true", "7", "8193", "1048577", "json", "/x/", "0600", "drop-oldest", "unix:/x"];
        assert!(!others.iter().all(|other| overlooked(other)), "{name} changes nothing");
    }
}

#[test]
fn token_key_files_are_read_and_one_without_keys_is_named() {
    let fixture = |name: &str| format!("{}/tests/fixtures/jwt/{name}", env!("CARGO_MANIFEST_DIR"));
    let load = |algorithm: &str, key: &str, file: &str| {
        let assignments =
            [format!("auth.jwt.algorithm={algorithm}"), format!("auth.jwt.{key}={}", fixture(file))];
        Settings::load(Some(&path()), std::iter::empty(), &assignments)
    };
    for (algorithm, key, file) in [
        ("HS256", "key_file", "HS256.key"),
        ("RS256", "key_file", "RS256.public.pem"),
        ("ES256", "jwks_file", "jwks.json"),
    ] {
        let (settings, _) = load(algorithm, key, file).unwrap();
        assert!(format!("{:?}", settings.jwt).contains(algorithm), "{:?}", settings.jwt);
    }
    for (algorithm, key, file, expected) in [
        ("HS512", "key_file", "HS256.key", "auth.jwt.algorithm: expected HS256"),
        ("ES256", "key_file", "RS256.public.pem", "RS256.public.pem: expected a public key for ES256"),
        ("ES256", "jwks_file", "HS256.key", "auth.jwt.jwks_file: "),
        ("ES256", "jwks_file", "none", "auth.jwt.jwks_file: cannot read"),
        ("RS256", "key_file", "RS256.private.pem", "auth.jwt.key_file: "),
    ] {
        let error = load(algorithm, key, file).unwrap_err().to_string();
        assert!(error.contains(expected), "{expected}: {error}");
    }
}

#[test]
fn claims_for_user_and_groups_are_configurable_except_reserved_names() {
    let key = format!("auth.jwt.key_file={}/tests/fixtures/jwt/HS256.key", env!("CARGO_MANIFEST_DIR"));
    let load = |assignments: &[&str]| {
        let base = [key.clone(), "auth.jwt.algorithm=HS256".to_owned()];
        let all: Vec<_> = base.into_iter().chain(assignments.iter().map(|&text| text.to_owned())).collect();
        Settings::load(Some(&path()), std::iter::empty(), &all)
    };
    let (settings, _) = load(&["auth.jwt.user_claim=user_id", "auth.jwt.groups_claim=roles"]).unwrap();
    let jwt = format!("{:?}", settings.jwt);
    assert!(jwt.contains(r#"user_claim: "user_id""#) && jwt.contains(r#"groups_claim: "roles""#), "{jwt}");
    for (assignment, expected) in [
        ("auth.jwt.user_claim=", "auth.jwt.user_claim: must be the name"),
        ("auth.jwt.user_claim=exp", "auth.jwt.user_claim: must be the name"),
        ("auth.jwt.groups_claim=aud", "auth.jwt.groups_claim: must be the name"),
        ("auth.jwt.groups_claim=sub", "auth.jwt.groups_claim: must be another claim"),
    ] {
        let error = load(&[assignment]).unwrap_err().to_string();
        assert!(error.contains(expected), "{assignment}: {error}");
    }
    let unused = ["auth.jwt.user_claim=user_id".to_owned()];
    let error = Settings::load(Some(&path()), std::iter::empty(), &unused).unwrap_err().to_string();
    assert!(error.contains("auth.jwt.algorithm: is empty"), "{error}");
}

#[test]
fn a_size_or_a_time_has_its_unit_in_its_name() {
    for (key, value, _) in keys() {
        let counts = [
            "expire",
            "server.shards",
            "auth.callback_max_calls",
            "server.max_connections",
            "server.max_headers",
            "admin.max_connections",
            "messages.max_facilities",
            "embedded.max_clients",
            "socketio.max_attachments",
            "events.keep",
            "channels.capacity",
            "socketio.events_per_second",
            "socketio.event_bytes_per_second",
        ];
        if value.parse::<u64>().is_ok() && !counts.contains(&key.as_str()) {
            let unit = ["_seconds", "_bytes", "_messages", "_ms"].iter().any(|unit| key.ends_with(unit));
            assert!(unit, "{key} = {value}: of what?");
        }
    }
}

/// `tests/python/test_connection.py` checks redis-py against the same table.
#[test]
fn a_redis_url_is_read_as_redis_py_reads_it() {
    let table = include_str!("fixtures/redis_urls.json");
    let table: Vec<serde_json::Value> = serde_json::from_str(table).unwrap();
    assert!(table.len() > 20, "{}", table.len());
    for line in table {
        let text = |name: &str| line[name].as_str().map(str::to_owned);
        let number = |name: &str| line[name].as_u64();
        let written = text("url").unwrap();
        let assignment = format!("redis.url={written}");
        let (settings, _) = Settings::load(None, std::iter::empty(), &[assignment]).unwrap();
        let url = settings.redis.url.unwrap();
        let expected = match text("path") {
            Some(path) => Servers::Unix(path.into()),
            None => Servers::Single((
                text("host").unwrap_or_else(|| "localhost".to_owned()),
                number("port").map_or(6379, |port| u16::try_from(port).unwrap()),
            )),
        };
        assert!(url.servers == expected, "{written}: {url}");
        assert_eq!((&url.username, &url.password), (&text("username"), &text("password")), "{written}");
        assert_eq!(u64::from(url.database), number("db").unwrap_or(0), "{written}");
        assert_eq!(url.tls, line["tls"].as_bool().unwrap_or(false), "{written}");
        for secret in [&url.username, &url.password].into_iter().flatten() {
            assert!(!url.to_string().contains(secret.as_str()), "{url} shows {secret}");
        }
    }
}

/// Returns every numeric key with the range in its comment.
fn ranges() -> Vec<(String, i64, i64)> {
    let text = std::fs::read_to_string(path()).unwrap();
    let mut lines = text.lines();
    let numbers = keys().into_iter().filter(|(_, value, _)| value.parse::<i64>().is_ok());
    let range = |(key, value, _): (String, String, String)| {
        let begin = format!("{} = {value}", key.rsplit('.').next().unwrap());
        let line = lines.by_ref().find(|line| line.starts_with(&begin)).unwrap();
        let (_, range) = line.split_once("  # ").unwrap_or_else(|| panic!("{key} has no range behind it"));
        let (least, most) = range.split_once(" to ").unwrap();
        (key, least.parse().unwrap(), most.parse().unwrap())
    };
    numbers.map(range).collect()
}

#[test]
fn every_number_has_the_range_in_its_comment() {
    let load = |key: &str, value: &str| {
        // These two depend on each other; the last assignment wins.
        let room = ["messages.outbox_bytes=1024", "messages.outbox_hard_bytes=1099511627776"];
        let all = [&room.map(str::to_owned)[..], &[format!("{key}={value}")]].concat();
        Settings::load(None, std::iter::empty(), &all).map_err(|error| error.to_string())
    };
    let all = ranges();
    assert!(all.len() >= 29, "{all:?}");
    for (key, least, most) in all {
        for sound in [least, most] {
            load(&key, &sound.to_string()).unwrap_or_else(|error| panic!("{key}={sound}: {error}"));
        }
        let expected = format!("{key}: must be an integer from {least} to {most}");
        for value in [(least - 1).to_string(), (most + 1).to_string(), (1_i64 << 62).to_string()]
            .iter()
            .map(String::as_str)
            .chain(["-9223372036854775808", "9223372036854775808", "1e30", "1.5", "on", "", "0x10", "ten"])
        {
            let error = load(&key, value).map(|_| ()).expect_err(&format!("{key}={value}"));
            assert!(error.starts_with(&expected), "{key}={value}: {error}");
        }
    }
}

#[test]
fn an_out_of_range_number_in_a_file_is_rejected_and_the_file_named() {
    let file = std::env::temp_dir().join(format!("ws4redis-ranges-{}.toml", std::process::id()));
    let rule = |line: &str| format!("[[access]]\nfacility = \"x\"\n[[access]]\nfacility = \"y\"\n{line}\n");
    for (text, part) in [
        (
            "[server]\nmax_headers = 4611686018427387904\n".to_owned(),
            "server.max_headers: must be an integer from 16 to 1024",
        ),
        ("[server]\nmax_headers = 100.5\n".to_owned(), "server.max_headers: must be an integer"),
        ("[server]\nmax_headers = true\n".to_owned(), "server.max_headers: must be an integer"),
        ("[server]\nmax_headers = [100]\n".to_owned(), "server.max_headers: must be an integer"),
        ("[server]\nmax_headers = 9223372036854775808\n".to_owned(), "line 2"),
        (
            rule("publish_messages_per_second = -1"),
            "access.publish_messages_per_second: must be an integer from 0 to 1000000",
        ),
        (
            rule("publish_bytes_per_second = 4294967295"),
            "access.publish_bytes_per_second: must be an integer from 0 to 1073741824",
        ),
        (
            rule("publish_burst_seconds = 3601"),
            "access.publish_burst_seconds: must be an integer from 0 to 3600",
        ),
        (
            "[[presence]]\nfacility = [\"x\"]\nseconds = 2\n".to_owned(),
            "presence.seconds: must be an integer from 3 to 86400",
        ),
        (
            "[[history]]\nfacility = [\"x\"]\nmessages = 1000001\n".to_owned(),
            "history.messages: must be an integer from 1 to 1000000",
        ),
        (
            "[[history]]\nfacility = [\"x\"]\nseconds = 31622401\n".to_owned(),
            "history.seconds: must be an integer from 1 to 31622400",
        ),
    ] {
        std::fs::write(&file, &text).unwrap();
        let error = Settings::load(Some(&file), std::iter::empty(), &[]).unwrap_err().to_string();
        assert!(error.contains(part) && error.contains("ws4redis-ranges"), "{text}: {error}");
    }
    std::fs::remove_file(file).unwrap();
}
