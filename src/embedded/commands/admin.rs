//! INFO and CONFIG.

use std::fmt::Write;

use bytes::Bytes;

use super::{
    call::CommandCall,
    spec::{CommandSpec, printable},
};
use crate::embedded::{
    glob,
    keyspace::DATABASES,
    reply::{OK, Reply, SYNTAX},
    store::MemoryStore,
};

/// The Redis version whose commands and error texts the store implements.
pub(crate) const REDIS_VERSION: &str = "7.0.0";

pub(crate) const COMMANDS: &[CommandSpec] = &[
    CommandSpec::infallible("info", -1, info),
    CommandSpec::infallible("config", -2, |_| Reply::Nil).subcommands(CONFIG),
];

const CONFIG: &[CommandSpec] = &[
    CommandSpec::infallible("config|get", -3, config_get),
    CommandSpec::fallible("config|set", -4, config_set),
];

fn config_get(call: &mut CommandCall<'_>) -> Reply {
    let limits = &call.store.limits;
    let known = [
        ("appendonly", "no".to_owned()),
        ("databases", DATABASES.to_string()),
        ("maxclients", limits.max_clients.to_string()),
        ("maxmemory", limits.max_memory_bytes.to_string()),
        ("maxmemory-policy", "noeviction".to_owned()),
        ("notify-keyspace-events", "AKE".to_owned()),
        ("proto-max-bulk-len", limits.max_request_bytes.to_string()),
        ("save", String::new()),
        ("timeout", "0".to_owned()),
    ];
    let requested = &call.args[2..];
    let matches = |pattern: &Bytes, name: &str| glob::matches(&pattern.to_ascii_lowercase(), name.as_bytes());
    let found = known.into_iter().filter_map(|(name, value)| {
        let pattern = requested.iter().find(|pattern| matches(pattern, name))?;
        // Redis returns a name without wildcards in the case of the request.
        let plain = pattern.len() == name.len() && pattern.eq_ignore_ascii_case(name.as_bytes());
        let name = if plain { Reply::Bulk(pattern.clone()) } else { Reply::text(name) };
        Some((name, Reply::Bulk(Bytes::from(value))))
    });
    Reply::Map(found.collect())
}

/// Accepts only `notify-keyspace-events`, which clients set at start; the events are always on.
fn config_set(call: &mut CommandCall<'_>) -> Result<Reply, Reply> {
    if call.args.len() % 2 == 1 {
        return Err(SYNTAX);
    }
    let names = call.args[2..].iter().step_by(2);
    match names.into_iter().find(|name| !name.eq_ignore_ascii_case(b"notify-keyspace-events")) {
        None => Ok(OK),
        Some(name) => Err(Reply::error(&format!(
            "ERR Unknown option or number of arguments for CONFIG SET - '{}'",
            printable(name, 128)
        ))),
    }
}

fn info(call: &mut CommandCall<'_>) -> Reply {
    const ALL: [&[u8]; 3] = [b"all", b"default", b"everything"];
    let requested: Vec<Vec<u8>> = call.args[1..].iter().map(|name| name.to_ascii_lowercase()).collect();
    let all = requested.is_empty() || requested.iter().any(|name| ALL.contains(&&name[..]));
    let mut text = String::new();
    for (name, lines) in sections(call.store) {
        if all || requested.iter().any(|requested| name.as_bytes().eq_ignore_ascii_case(requested)) {
            let gap = if text.is_empty() { "" } else { "\r\n" };
            // Writing to a string cannot fail.
            let _ = write!(text, "{gap}# {name}\r\n{lines}");
        }
    }
    Reply::Verbatim(Bytes::from(text))
}

fn sections(store: &MemoryStore) -> [(&'static str, String); 8] {
    let (used, limit) = (store.keyspace.used_bytes(), store.limits.max_memory_bytes);
    let (channels, patterns) = store.pubsub.sizes();
    let uptime = store.clock.uptime_seconds();
    [
        (
            "Server",
            lines(&[
                ("redis_version", &REDIS_VERSION),
                ("redis_mode", &"standalone"),
                (
                    "embedded_store",
                    &concat!("ws4redis ", env!("CARGO_PKG_VERSION"), ", data live in memory only"),
                ),
                ("embedded_snapshot", &store.snapshot_name),
                ("process_id", &std::process::id()),
                ("uptime_in_seconds", &uptime),
                ("uptime_in_days", &(uptime / 86_400)),
            ]),
        ),
        (
            "Clients",
            lines(&[
                ("connected_clients", &store.clients.len()),
                ("maxclients", &store.limits.max_clients),
                ("blocked_clients", &0),
            ]),
        ),
        (
            "Memory",
            lines(&[
                ("used_memory", &used),
                ("used_memory_human", &human_readable(used)),
                ("maxmemory", &limit),
                ("maxmemory_human", &human_readable(limit)),
                ("maxmemory_policy", &"noeviction"),
            ]),
        ),
        (
            "Persistence",
            lines(&[
                ("loading", &0),
                ("async_loading", &0),
                ("rdb_bgsave_in_progress", &0),
                ("aof_enabled", &0),
            ]),
        ),
        (
            "Stats",
            lines(&[
                ("total_connections_received", &store.last_id),
                ("total_commands_processed", &store.requests),
                ("pubsub_channels", &channels),
                ("pubsub_patterns", &patterns),
            ]),
        ),
        ("Replication", lines(&[("role", &"master"), ("connected_slaves", &0)])),
        ("Cluster", lines(&[("cluster_enabled", &0)])),
        ("Keyspace", keyspace(store)),
    ]
}

fn lines(pairs: &[(&str, &dyn std::fmt::Display)]) -> String {
    pairs.iter().map(|(name, value)| format!("{name}:{value}\r\n")).collect::<Vec<_>>().concat()
}

fn keyspace(store: &MemoryStore) -> String {
    let databases = (0..DATABASES).map(|db| (db, store.keyspace.len(db)));
    let used = databases.filter(|(_, (keys, _))| *keys > 0);
    let line = |(db, (keys, expires))| format!("db{db}:keys={keys},expires={expires},avg_ttl=0\r\n");
    used.map(line).collect::<Vec<_>>().concat()
}

/// Formats bytes like Redis, with two decimals, which are truncated to avoid floating point.
fn human_readable(bytes: usize) -> String {
    let (unit, letter) = match bytes {
        0..0x400 => return format!("{bytes}B"),
        0x400..0x10_0000 => (0x400, 'K'),
        0x10_0000..0x4000_0000 => (0x10_0000, 'M'),
        _ => (0x4000_0000, 'G'),
    };
    format!("{}.{:02}{letter}", bytes / unit, bytes % unit * 100 / unit)
}
