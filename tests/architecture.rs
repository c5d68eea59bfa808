//! The rules of the architecture, checked by reading the source: where a dependency is used, and which module uses which.
#![expect(clippy::unwrap_used, reason = "test helpers")]

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

/// The modules or single files in which a dependency is used. A dependency that is not listed may be used anywhere.
const DEPENDENCIES: &[(&str, &[&str])] = &[
    ("aes", &["codec/fernet.rs"]),
    ("anyhow", &["admin", "server", "server/listeners", "cli"]),
    (
        "base64",
        &[
            "access",
            "cli/facility_listener.rs",
            "codec/fernet.rs",
            "engine",
            "events",
            "http",
            "sources",
            "wire/engine_io/packet.rs",
            "wire/engine_io/payload.rs",
            "wire/live/message.rs",
            "wire/sse.rs",
        ],
    ),
    ("cbc", &["codec/fernet.rs"]),
    ("clap", &["cli"]),
    ("clap_complete", &["cli"]),
    ("clap_mangen", &["cli/manual.rs"]),
    ("config", &["settings"]),
    ("crc16", &["redis/slots.rs"]),
    ("futures_util", &["dialects/live/history.rs", "dialects/live/reading.rs"]),
    ("hashbrown", &["hub/directory.rs", "visitors/watch/table.rs"]),
    ("http_body_util", &["admin", "http", "visitors/callback/transport.rs"]),
    ("hyper", &["admin", "http", "visitors/callback/transport.rs"]),
    ("hyper_rustls", &["visitors/callback/transport.rs"]),
    ("hyper_util", &["admin", "http", "visitors/callback/transport.rs"]),
    ("ipnet", &["access/proxies.rs"]),
    ("jsonwebtoken", &["access"]),
    ("libc", &["cli/terminal.rs", "server/memory.rs", "stream/traffic.rs"]),
    ("listenfd", &["server/listeners.rs"]),
    ("lz4_flex", &["codec/compression.rs"]),
    ("lzma_rust2", &["codec/compression.rs"]),
    ("mio", &["server/listeners.rs"]),
    ("percent_encoding", &["wire", "visitors/callback/transport.rs", "settings"]),
    ("prometheus_client", &["admin/metrics.rs", "admin/process.rs"]),
    (
        "rand",
        &[
            "broker/groups/mailboxes.rs",
            "dialects/live/subscribe.rs",
            "engine",
            "groups/layer_writer.rs",
            "http/event_stream.rs",
            "redis",
            "socket",
            "visitors",
            "wire/node_id.rs",
        ],
    ),
    // In tests only.
    ("redis_protocol", &["codec/resp.rs", "redis/slots.rs"]),
    ("rlimit", &["server/connection_limit.rs"]),
    (
        "rustls",
        &["visitors/callback/transport.rs", "redis/address.rs", "redis/connection.rs", "redis/tls.rs"],
    ),
    ("rustls_native_certs", &["redis/tls.rs"]),
    ("ruzstd", &["codec/compression.rs"]),
    ("ring", &["access", "codec/fernet.rs", "engine", "visitors/callback/request.rs", "shard/doctor.rs"]),
    ("sd_notify", &["server"]),
    ("serde", &["access", "codec/json.rs", "settings", "visitors", "shard/doctor.rs", "sources/control.rs"]),
    (
        "serde_json",
        &[
            "access",
            "admin",
            "cli",
            "codec/json.rs",
            "settings",
            "visitors",
            "shard/doctor.rs",
            "sources/control.rs",
            "sources/emitter.rs",
            "wire/socket_io/json.rs",
        ],
    ),
    ("sha1", &["embedded", "redis/history_script.rs"]),
    ("socket2", &["server/listeners.rs", "redis/connection.rs", "stream"]),
    ("subtle", &["admin/guard.rs", "engine", "visitors/session.rs"]),
    ("tokio_rustls", &["redis/connection.rs"]),
    ("tokio_tungstenite", &["socket", "http/upgrade.rs", "cli/yunity_client.rs"]),
    ("tracing_appender", &["telemetry.rs"]),
    ("tracing_subscriber", &["telemetry.rs"]),
    ("wildmatch", &["access/facility_patterns.rs", "access/rules.rs"]),
    ("url", &["access/site.rs", "wire", "settings"]),
    ("zlib_rs", &["codec/compression.rs"]),
];

/// The modules that a module may use, bottom to top: a module uses only modules that stand above it here.
const MODULES: &[(&str, &[&str])] = &[
    ("wire", &[]),
    ("metrics", &[]),
    ("reloadable", &[]),
    ("telemetry", &[]),
    ("stream", &[]),
    ("unfinished", &[]),
    ("codec", &[]),
    ("embedded", &["codec"]),
    ("access", &["codec", "wire"]),
    ("settings", &["access", "embedded", "telemetry", "wire"]),
    ("hub", &["metrics", "stream", "wire"]),
    ("sources", &["codec", "settings", "wire"]),
    ("redis", &["codec", "metrics", "settings", "telemetry", "wire"]),
    ("broker", &["hub", "metrics", "redis", "settings", "sources", "telemetry", "wire"]),
    ("groups", &["access", "codec", "hub", "metrics", "redis", "settings", "sources", "telemetry", "wire"]),
    ("visitors", &["access", "hub", "metrics", "redis", "reloadable", "settings", "telemetry", "wire"]),
    ("events", &["hub", "metrics", "redis", "settings", "telemetry", "wire"]),
    ("presence", &["access", "hub", "redis", "settings", "wire"]),
    ("http", &["access", "metrics", "reloadable", "stream", "telemetry", "unfinished", "wire"]),
    ("engine", &["access", "events", "http", "hub", "presence", "stream", "unfinished", "visitors", "wire"]),
    ("socket", &["hub", "metrics", "settings", "stream", "unfinished", "wire"]),
    ("shard/connection_id", &[]),
    ("shard/ask", &["metrics", "shard/connection_id", "stream", "wire"]),
    ("server/listeners", &["settings", "stream"]),
    (
        "admin",
        &["metrics", "redis", "server/listeners", "settings", "shard/ask", "stream", "telemetry", "wire"],
    ),
    (
        "shard/state",
        &[
            "access",
            "engine",
            "events",
            "groups",
            "http",
            "hub",
            "metrics",
            "presence",
            "redis",
            "reloadable",
            "settings",
            "shard/ask",
            "shard/connection_id",
            "socket",
            "stream",
            "telemetry",
            "unfinished",
            "visitors",
            "wire",
        ],
    ),
    (
        "dialects",
        &[
            "access",
            "codec",
            "engine",
            "events",
            "groups",
            "http",
            "hub",
            "metrics",
            "presence",
            "redis",
            "settings",
            "shard/ask",
            "shard/state",
            "socket",
            "stream",
            "unfinished",
            "visitors",
            "wire",
        ],
    ),
    (
        "shard",
        &[
            "access",
            "broker",
            "dialects",
            "engine",
            "events",
            "groups",
            "http",
            "hub",
            "metrics",
            "settings",
            "shard/ask",
            "shard/connection_id",
            "shard/state",
            "socket",
            "stream",
            "visitors",
            "wire",
        ],
    ),
    (
        "server",
        &[
            "access",
            "admin",
            "broker",
            "embedded",
            "engine",
            "events",
            "groups",
            "hub",
            "metrics",
            "presence",
            "redis",
            "server/listeners",
            "settings",
            "shard",
            "shard/ask",
            "shard/state",
            "stream",
            "telemetry",
            "unfinished",
            "visitors",
            "wire",
        ],
    ),
    ("sizes", &["broker", "dialects", "engine", "hub", "visitors"]),
    ("cli", &["access", "admin", "redis", "server", "settings", "shard/ask", "sources", "visitors", "wire"]),
    ("main", &["cli", "server", "settings", "telemetry"]),
];

/// The modules whose files import each other in one direction only.
const WITHOUT_CYCLES: &[&str] = &["embedded", "settings", "broker", "hub"];

/// The modules in which a type still has methods in several files.
const WITH_SPLIT_TYPES: &[&str] = &["access", "codec", "visitors"];

/// Names of types that are still used twice, in order; remove a name with its second type.
const NAMES_USED_TWICE: &[&str] = &[];

/// Lines of a file, its tests included, above which it has to be split.
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

/// Returns the module of a file: its directory, or its own name if the table lists the file itself.
fn module(file: &str) -> &str {
    let name = file.trim_end_matches(".rs");
    if is_part(name) { name } else { name.split('/').next().unwrap() }
}

/// Returns whether the table lists this file of a module, because others may use it and not the rest of the module.
fn is_part(name: &str) -> bool {
    name.contains('/') && MODULES.iter().any(|(module, _)| *module == name)
}

/// Returns the lines of code, without comments, each with its number.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().enumerate().map(|(number, line)| (number + 1, line.split("//").next().unwrap()));
    lines.filter(|(_, line)| !line.trim().is_empty())
}

/// Returns whether a line names a path that starts with `name::`, or imports `name` itself.
fn names(line: &str, name: &str) -> bool {
    let begins = |at: usize| {
        let before = line[..at].chars().next_back();
        before.is_none_or(|c| !(c.is_alphanumeric() || "_:.".contains(c)))
    };
    let after =
        |at: usize| line[at + name.len()..].starts_with("::") || line.trim() == format!("use {name};");
    line.match_indices(name).any(|(at, _)| begins(at) && after(at))
}

/// Returns the modules that a file names after `crate::` (or, in main.rs, after the crate's name), also in groups and over
/// several lines, each with the number of the line where its path begins.
fn modules_named(text: &str) -> Vec<(usize, String)> {
    let (numbers, lines): (Vec<usize>, Vec<&str>) = code(text).unzip();
    let text = lines.join("\n");
    let mut modules = Vec::new();
    for root in ["crate::", "ws4redis::"] {
        for (at, _) in text.match_indices(root) {
            let number = numbers[text[..at].matches('\n').count()];
            for path in paths(import_at_start(&text[at..])) {
                let is_end = |c: char| !(c.is_alphanumeric() || "_:".contains(c));
                let path = path[root.len()..].split(is_end).next().unwrap();
                let part = MODULES
                    .iter()
                    .map(|(module, _)| *module)
                    .find(|module| is_part(module) && path.split("::").take(2).eq(module.split('/')));
                modules.push((number, part.unwrap_or(path.split("::").next().unwrap()).to_owned()));
            }
        }
    }
    modules
}

/// Returns the name of the type that a line declares. An indented type belongs to a test, a function or a trait.
fn declared_type(line: &str) -> Option<&str> {
    let line = line.strip_prefix("pub").map_or(line, |rest| {
        let rest = rest.strip_prefix('(').map_or(rest, |rest| rest.split_once(')').unwrap().1);
        rest.trim_start()
    });
    let kinds = ["struct ", "enum ", "trait ", "type "];
    let rest = kinds.iter().find_map(|kind| line.strip_prefix(kind))?;
    rest.split(|c: char| !(c.is_alphanumeric() || c == '_')).next()
}

/// Returns the name of the type whose own methods follow a line. `None` for the implementation of a trait.
fn implemented_type(line: &str) -> Option<&str> {
    let mut rest = line.strip_prefix("impl")?;
    if rest.starts_with('<') {
        let mut depth = 0;
        let end = rest.find(|c| {
            depth += i32::from(c == '<') - i32::from(c == '>');
            depth == 0
        })?;
        rest = &rest[end + 1..];
    }
    let name = rest.trim_start().split(|c: char| !(c.is_alphanumeric() || c == '_')).next();
    if rest.contains(" for ") { None } else { name }
}

/// Returns the paths of an import: `a::{b, c::d}` has the paths `a::b` and `a::c::d`.
fn paths(import: &str) -> Vec<String> {
    let Some((prefix, group)) = import.split_once('{') else { return vec![import.trim().to_owned()] };
    let mut depth = 0;
    let parts = group.rsplit_once('}').unwrap().0.split(|c| {
        depth += i32::from(c == '{') - i32::from(c == '}');
        c == ',' && depth == 0
    });
    let parts = parts.map(str::trim).filter(|part| !part.is_empty());
    parts.flat_map(|part| paths(&format!("{}{part}", prefix.trim()))).collect()
}

/// Returns the start of a text that is a path or an import with its groups.
fn import_at_start(text: &str) -> &str {
    let mut depth = 0;
    let end = text.find(|c: char| {
        depth += i32::from(c == '{') - i32::from(c == '}');
        depth <= 0 && !(c.is_alphanumeric() || "_:}".contains(c))
    });
    &text[..end.unwrap_or(text.len())]
}

/// Returns the files that a file names, its tests excepted.
fn files_named<'a>(file: &str, text: &str, files: &[&'a str]) -> Vec<&'a str> {
    let text = text.split("\n#[cfg(test)]\nmod ").next().unwrap();
    let text = code(text).map(|(_, line)| line).collect::<Vec<_>>().join("\n");
    let own = file.trim_end_matches(".rs").trim_end_matches("/mod");
    let children = text.lines().filter_map(|line| line.trim_end().strip_suffix(';')?.split_once("mod "));
    let children = children.map(|(_, child)| format!("{child}::"));
    let roots: Vec<String> =
        ["crate::", "super::", "self::"].map(str::to_owned).into_iter().chain(children).collect();
    let mut named = Vec::new();
    for (at, _) in roots.iter().flat_map(|root| text.match_indices(root.as_str())) {
        if text[..at].ends_with(|c: char| c.is_alphanumeric() || "_:".contains(c)) {
            continue;
        }
        for path in paths(import_at_start(&text[at..])) {
            let mut module: Vec<&str> = own.split('/').collect();
            for segment in path.split("::") {
                match segment {
                    "crate" => module.clear(),
                    "super" => drop(module.pop()),
                    "self" => {}
                    name => module.push(name),
                }
            }
            let parents = (1..=module.len()).rev().map(|length| module[..length].join("/"));
            let found = parents.flat_map(|path| [format!("{path}.rs"), format!("{path}/mod.rs")]);
            named.extend(found.filter_map(|path| files.iter().find(|file| **file == path)).take(1));
        }
    }
    named.retain(|named| *named != file);
    named.sort_unstable();
    named.dedup();
    named
}

#[test]
fn the_parsers_of_this_test_are_right() {
    assert!(names("use fred::prelude::*;", "fred") && names("let a = fred::x();", "fred"));
    assert!(!names("use fred::types::config::Server;", "config") && !names("alfred::x", "fred"));
    let modules = |text: &str| modules_named(text).into_iter().map(|(_, name)| name).collect::<BTreeSet<_>>();
    let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
    assert_eq!(modules("use crate::hub::{Hub, Run};"), set(&["hub"]));
    assert_eq!(modules("use ws4redis::{server, telemetry as log};"), set(&["server", "telemetry"]));
    assert_eq!(modules("fn f(a: crate::wire::A, b: crate::hub::B)"), set(&["wire", "hub"]));
    assert_eq!(modules("use crate::shard::{self, thread};"), set(&["shard"]));
    assert_eq!(modules("use crate::shard::state::ShardState;"), set(&["shard/state"]));
    assert_eq!(modules("use crate::shard::{serve, state::ShardState};"), set(&["shard", "shard/state"]));
    let nested = "// crate::a\n\nuse crate::{\n    hub::{Hub, Run}, // c\n    wire::{self},\n    server,\n};";
    assert_eq!(modules(nested), set(&["hub", "wire", "server"]));
    assert!(modules_named(nested).iter().all(|(number, _)| *number == 3));
    assert_eq!([module("shard/thread.rs"), module("shard/state.rs")], ["shard", "shard/state"]);
    assert_eq!(code("a // b\n// c\n\nd").collect::<Vec<_>>(), [(1, "a "), (4, "d")]);
    assert_eq!(declared_type("pub(crate) struct A<T> {"), Some("A"));
    assert_eq!(implemented_type("impl<K: AsRef<str>, T> A<K, T> {"), Some("A"));
    assert_eq!([implemented_type("impl A {"), implemented_type("impl B for A {")], [Some("A"), None]);
    assert_eq!(declared_type("type B = u8;"), Some("B"));
    assert_eq!(declared_type("    type Item = u8;"), None);
    assert_eq!(paths("a::{b, c::{d, e}, f::g}"), ["a::b", "a::c::d", "a::c::e", "a::f::g"]);
    assert_eq!(import_at_start("super::a::{b, c::{d}}; e"), "super::a::{b, c::{d}}");
    assert_eq!(import_at_start("crate::a::B) {"), "crate::a::B");
    let files = ["a/mod.rs", "a/b.rs", "a/c.rs", "d.rs"];
    let text = "use super::{c::E, F};\nuse tokio::x;\nfn f(_: crate::d::G) {}\n#[cfg(test)]\nmod tests {}";
    assert_eq!(files_named("a/b.rs", text, &files), ["a/c.rs", "a/mod.rs", "d.rs"]);
    assert_eq!(files_named("a/mod.rs", "mod b;\npub use b::H;", &files), ["a/b.rs"]);
}

#[test]
fn a_dependency_is_used_only_in_its_modules() {
    for (file, text) in sources() {
        for (dependency, places) in DEPENDENCIES {
            let is_allowed = places.iter().any(|place| module(&file) == *place || file == *place);
            for (number, line) in code(&text) {
                assert!(
                    is_allowed || !names(line, dependency),
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
                (module(file) == *place || file == place)
                    && code(text).any(|(_, line)| names(line, dependency))
            });
            assert!(used, "{dependency} is not used in {place} any more: remove it from the table");
        }
    }
}

#[test]
fn modules_use_only_modules_below_them() {
    for (file, text) in sources() {
        let own = module(&file);
        if own == "lib" {
            continue;
        }
        let (_, allowed) = MODULES
            .iter()
            .find(|(name, _)| *name == own)
            .unwrap_or_else(|| panic!("{own} is not in the table"));
        for (number, used) in modules_named(&text) {
            let is_allowed = used == own || allowed.contains(&used.as_str());
            assert!(is_allowed, "{file}:{number}: {own} must not use {used}");
        }
    }
}

#[test]
fn the_table_of_modules_has_no_cycle() {
    for (number, (name, allowed)) in MODULES.iter().enumerate() {
        for used in *allowed {
            assert!(MODULES[..number].iter().any(|(below, _)| below == used), "{used} is not below {name}");
        }
    }
}

#[test]
fn files_of_a_module_have_no_import_cycle() {
    let sources = sources();
    let files: Vec<&str> = sources.iter().map(|(file, _)| file.as_str()).collect();
    for name in WITHOUT_CYCLES {
        let mut left: Vec<(&str, Vec<&str>)> = sources
            .iter()
            .filter(|(file, _)| module(file) == *name)
            .map(|(file, text)| (file.as_str(), files_named(file, text, &files)))
            .collect();
        assert!(left.iter().any(|(_, named)| !named.is_empty()), "no file of {name} names another");
        // A file without imports among the rest is part of no cycle.
        while let Some(at) =
            left.iter().position(|(_, named)| !left.iter().any(|(file, _)| named.contains(file)))
        {
            left.remove(at);
        }
        assert!(left.is_empty(), "import cycle: {left:#?}");
    }
}

#[test]
fn each_type_name_is_used_once() {
    let sources = sources();
    let mut declared: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (file, text) in &sources {
        for (_, line) in code(text) {
            if let Some(name) = declared_type(line) {
                declared.entry(name).or_default().push(file);
            }
        }
    }
    declared.retain(|_, files| files.len() > 1);
    let twice: Vec<&str> = declared.keys().copied().collect();
    assert_eq!(twice, NAMES_USED_TWICE, "left: names of several types, right: the table; {declared:#?}");
}

#[test]
fn the_methods_of_a_type_are_in_its_file() {
    for (file, text) in sources() {
        if WITH_SPLIT_TYPES.contains(&module(&file)) {
            continue;
        }
        let declared: Vec<&str> = code(&text).filter_map(|(_, line)| declared_type(line)).collect();
        for (number, line) in code(&text) {
            if let Some(name) = implemented_type(line) {
                assert!(declared.contains(&name), "{file}:{number}: {name} is declared in another file");
            }
        }
    }
}

#[test]
fn wire_does_no_io() {
    for (file, text) in sources().into_iter().filter(|(file, _)| module(file) == "wire") {
        for (number, line) in code(&text) {
            let waits = line.contains(".await") || line.contains("async ") || names(line, "tokio");
            assert!(!waits, "{file}:{number}: wire/ holds plain values");
        }
    }
}

#[test]
fn every_file_has_a_module_doc() {
    for (file, text) in sources() {
        assert!(text.starts_with("//! "), "{file} does not open with //!");
    }
}

#[test]
fn every_queue_is_bounded() {
    for (file, text) in sources() {
        for (number, line) in code(&text) {
            assert!(!line.contains("unbounded"), "{file}:{number}: every queue has a bound");
        }
    }
}

#[test]
fn no_file_is_longer_than_the_limit() {
    for (file, text) in sources() {
        let lines = text.lines().count();
        assert!(lines <= LONGEST_FILE, "{file} has {lines} lines");
    }
}
