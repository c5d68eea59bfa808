//! The laws of the house, checked by reading the source: one dependency one room, rooms use only rooms below.
#![expect(clippy::unwrap_used, reason = "test helpers")]

use std::path::{Path, PathBuf};

/// Which dependency belongs in which places: rooms, or single files. What is not listed may be used anywhere.
const DEPENDENCIES: &[(&str, &[&str])] = &[
    ("anyhow", &["door.rs", "server.rs", "commands.rs"]),
    ("base64", &["access", "http", "hub/events.rs"]),
    ("clap", &["main.rs", "commands.rs"]),
    ("config", &["settings"]),
    ("fred", &["redis"]),
    ("hashbrown", &["hub/directory.rs", "socket/by_proof.rs"]),
    ("http_body_util", &["http", "reception/call.rs"]),
    ("hyper", &["http", "reception/call.rs"]),
    ("hyper_rustls", &["reception/call.rs"]),
    ("hyper_util", &["http", "reception/call.rs"]),
    ("ipnet", &["access/proxies.rs"]),
    ("jsonwebtoken", &["access"]),
    ("libc", &["memory.rs"]),
    ("listenfd", &["door.rs"]),
    ("mio", &["door.rs"]),
    ("percent_encoding", &["wire", "reception/call.rs", "settings"]),
    ("rand", &["http/events.rs", "socket", "redis"]),
    ("redis_protocol", &["embedded", "redis/resp.rs", "redis/slots.rs"]),
    ("rlimit", &["descriptors.rs"]),
    ("rustls", &["reception/call.rs", "redis/line.rs", "redis/tls.rs"]),
    ("rustls_native_certs", &["redis/tls.rs"]),
    ("ring", &["access", "reception/question.rs", "shard/doctor.rs"]),
    ("sd_notify", &["server.rs"]),
    ("serde", &["access", "settings", "reception", "shard/doctor.rs", "wire/control.rs"]),
    ("serde_json", &["access", "reception", "shard/doctor.rs", "wire/control.rs"]),
    ("socket2", &["door.rs", "redis/line.rs", "stream.rs"]),
    ("tokio_tungstenite", &["socket", "http/upgrade.rs"]),
    ("tracing_appender", &["telemetry.rs"]),
    ("tracing_subscriber", &["telemetry.rs"]),
    ("wildmatch", &["access/rules.rs"]),
    ("url", &["access/site.rs", "wire", "settings"]),
    ("zlib_rs", &["access"]),
];

/// Which other rooms a room may use: only such that stand above it here.
const ROOMS: &[(&str, &[&str])] = &[
    ("wire", &[]),
    ("counters", &[]),
    ("telemetry", &[]),
    ("memory", &[]),
    ("signals", &[]),
    ("stream", &[]),
    ("unfinished", &[]),
    ("embedded", &[]),
    ("access", &["wire"]),
    ("settings", &["access", "embedded", "wire"]),
    ("descriptors", &["settings"]),
    ("door", &["settings", "stream"]),
    ("hub", &["stream", "wire"]),
    ("redis", &["counters", "hub", "settings", "telemetry", "wire"]),
    ("reception", &["access", "counters", "redis", "settings", "telemetry", "wire"]),
    ("http", &["access", "counters", "stream", "telemetry", "unfinished", "wire"]),
    (
        "socket",
        &["access", "counters", "hub", "reception", "redis", "settings", "stream", "unfinished", "wire"],
    ),
    (
        "shard",
        &[
            "access",
            "counters",
            "http",
            "hub",
            "reception",
            "redis",
            "settings",
            "socket",
            "stream",
            "telemetry",
            "unfinished",
            "wire",
        ],
    ),
    (
        "server",
        &[
            "counters",
            "descriptors",
            "door",
            "embedded",
            "hub",
            "memory",
            "reception",
            "redis",
            "settings",
            "shard",
            "signals",
            "socket",
            "stream",
            "telemetry",
            "unfinished",
        ],
    ),
    ("sizes", &["hub", "redis", "socket"]),
    ("commands", &["reception", "redis", "server", "settings", "wire"]),
    ("main", &["commands", "server", "settings", "telemetry"]),
];

/// Lines of a file, its tests included, above which it has to be parted.
const LONGEST_FILE: usize = 450;

/// Every source file, with its path below `src`.
fn sources() -> Vec<(String, String)> {
    fn collect(dir: &Path, files: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, files);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&root, &mut files);
    files.sort();
    assert!(files.len() > 40, "{files:?}");
    let read = |path: PathBuf| {
        let name = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
        (name, std::fs::read_to_string(path).unwrap())
    };
    files.into_iter().map(read).collect()
}

/// Returns the room of a file: its directory, or itself.
fn room(file: &str) -> &str {
    file.split('/').next().unwrap().trim_end_matches(".rs")
}

/// Returns the lines of code, without comments, each with its number.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().enumerate().map(|(number, line)| (number + 1, line.split("//").next().unwrap()));
    lines.filter(|(_, line)| !line.trim().is_empty())
}

/// Tells whether a line names a path that begins with `name::`, or imports `name` itself.
fn names(line: &str, name: &str) -> bool {
    let begins = |at: usize| {
        let before = line[..at].chars().next_back();
        before.is_none_or(|c| !(c.is_alphanumeric() || "_:.".contains(c)))
    };
    let after =
        |at: usize| line[at + name.len()..].starts_with("::") || line.trim() == format!("use {name};");
    line.match_indices(name).any(|(at, _)| begins(at) && after(at))
}

/// Returns the rooms that a line names behind `crate::` (or, in main.rs, behind the crate's name).
fn rooms_named(line: &str) -> Vec<&str> {
    let mut rooms = Vec::new();
    for root in ["crate::", "ws4redis::"] {
        for (at, _) in line.match_indices(root) {
            let rest = &line[at + root.len()..];
            let group = rest.strip_prefix('{').map(|rest| rest.split('}').next().unwrap());
            for path in group.unwrap_or(rest).split(',').take(if group.is_some() { usize::MAX } else { 1 }) {
                let path = path.trim();
                rooms.push(
                    &path[..path.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(path.len())],
                );
            }
        }
    }
    rooms
}

#[test]
fn the_readers_of_this_test_read_right() {
    assert!(names("use fred::prelude::*;", "fred") && names("let a = fred::x();", "fred"));
    assert!(!names("use fred::types::config::Server;", "config") && !names("alfred::x", "fred"));
    assert_eq!(rooms_named("use crate::hub::{Hub, Run};"), ["hub"]);
    assert_eq!(rooms_named("use ws4redis::{server, telemetry};"), ["server", "telemetry"]);
    assert_eq!(rooms_named("fn f(a: crate::wire::A, b: crate::hub::B)"), ["wire", "hub"]);
    assert_eq!(code("a // b\n// c\n\nd").collect::<Vec<_>>(), [(1, "a "), (4, "d")]);
}

#[test]
fn a_dependency_stays_in_its_room() {
    for (file, text) in sources() {
        for (dependency, places) in DEPENDENCIES {
            let at_home = places.iter().any(|place| room(&file) == *place || file == *place);
            for (number, line) in code(&text) {
                assert!(
                    at_home || !names(line, dependency),
                    "{file}:{number}: {dependency} belongs in {places:?}"
                );
            }
        }
    }
}

#[test]
fn every_dependency_is_used_where_it_belongs() {
    let sources = sources();
    for (dependency, places) in DEPENDENCIES {
        for place in *places {
            let used = sources.iter().any(|(file, text)| {
                (room(file) == *place || file == place) && code(text).any(|(_, line)| names(line, dependency))
            });
            assert!(used, "{dependency} is not used in {place} any more: take it from the table");
        }
    }
}

#[test]
fn rooms_use_only_rooms_below_them() {
    for (file, text) in sources() {
        let own = room(&file);
        if own == "lib" {
            continue;
        }
        let (_, allowed) =
            ROOMS.iter().find(|(name, _)| *name == own).unwrap_or_else(|| panic!("no room {own}"));
        for (number, line) in code(&text) {
            for used in rooms_named(line) {
                assert!(used == own || allowed.contains(&used), "{file}:{number}: {own} must not use {used}");
            }
        }
    }
}

#[test]
fn the_table_of_rooms_has_no_circle() {
    for (number, (room, allowed)) in ROOMS.iter().enumerate() {
        for used in *allowed {
            assert!(ROOMS[..number].iter().any(|(below, _)| below == used), "{used} is not below {room}");
        }
    }
}

#[test]
fn wire_and_hub_do_not_wait_for_input_and_output() {
    for (file, text) in sources().into_iter().filter(|(file, _)| room(file) == "wire") {
        for (number, line) in code(&text) {
            let waits = line.contains(".await") || line.contains("async ") || names(line, "tokio");
            assert!(!waits, "{file}:{number}: the words are plain values");
        }
    }
}

#[test]
fn every_file_says_what_happens_in_it() {
    for (file, text) in sources() {
        assert!(text.starts_with("//! "), "{file} does not open with //!");
    }
}

#[test]
fn no_queue_is_without_bound() {
    for (file, text) in sources() {
        for (number, line) in code(&text) {
            assert!(!line.contains("unbounded"), "{file}:{number}: every queue has a bound");
        }
    }
}

#[test]
fn no_file_is_too_long_to_read() {
    for (file, text) in sources() {
        let lines = text.lines().count();
        assert!(lines <= LONGEST_FILE, "{file} has {lines} lines");
    }
}
