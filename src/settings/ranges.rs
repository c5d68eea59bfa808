//! The range of each number. settings.toml states the same ranges; a test compares them.

use std::ops::RangeInclusive;

use config::{Config, Value, ValueKind};

use super::error::SettingsError;

const KIB: i64 = 1 << 10;
const MIB: i64 = 1 << 20;
const GIB: i64 = 1 << 30;
/// More memory than any machine has for queues.
const TIB: i64 = 1 << 40;

/// Ten years: Redis refuses a TTL that overflows in milliseconds.
pub const MAX_EXPIRE_SECONDS: i64 = 10 * 366 * 24 * 3600;

/// Largest value in Redis (`proto-max-bulk-len`); more than a WebSocket message should have.
const MAX_MESSAGE_BYTES: i64 = 512 * MIB;

/// hyper's header map panics above 32,768 entries, and reserves space for the limit on each request.
const MAX_HEADERS: i64 = 1_024;

const RANGES: &[(&str, RangeInclusive<i64>)] = &[
    ("expire", -MAX_EXPIRE_SECONDS..=MAX_EXPIRE_SECONDS),
    ("server.shards", 0..=64),
    ("server.max_connections", 1..=10_000_000),
    ("server.handshake_seconds", 1..=300),
    ("server.keepalive_seconds", 1..=86_400),
    ("server.max_header_bytes", 8 * KIB..=MIB),
    ("server.max_headers", 16..=MAX_HEADERS),
    ("server.drain_seconds", 0..=3_600),
    ("server.linger_seconds", 1..=60),
    ("server.send_buffer_bytes", 4 * KIB..=16 * MIB),
    ("redis.connect_timeout_seconds", 1..=300),
    ("redis.command_timeout_seconds", 1..=300),
    ("redis.publish_wait_seconds", 0..=3_600),
    ("redis.unsubscribe_linger_seconds", 0..=3_600),
    ("redis.receiver_messages", 64..=1 << 22),
    ("redis.max_pending_bytes", MIB..=16 * GIB),
    ("messages.max_message_bytes", 1..=MAX_MESSAGE_BYTES),
    ("messages.max_delivery_bytes", 1..=MAX_MESSAGE_BYTES),
    ("messages.outbox_bytes", KIB..=GIB),
    ("messages.outbox_seconds", 0..=3_600),
    ("messages.outbox_hard_bytes", KIB..=TIB),
    ("messages.outbox_total_bytes", MIB..=TIB),
    ("messages.publish_bytes", KIB..=GIB),
    ("messages.unfinished_total_bytes", MIB..=TIB),
    ("messages.message_seconds", 1..=3_600),
    ("messages.max_facilities", 1..=10_000),
    ("ping.interval_seconds", 1..=86_400),
    ("ping.timeout_seconds", 1..=3_600),
    ("session.recheck_seconds", 1..=86_400),
    ("auth.callback_timeout_seconds", 1..=299),
    ("auth.callback_max_calls", 1..=10_000),
    ("auth.callback_cache_seconds", 0..=3_600),
    ("auth.callback_recheck_seconds", 1..=86_400),
    ("channels.capacity", 1..=1_000_000),
    ("channels.keep_seconds", 0..=MAX_EXPIRE_SECONDS),
    ("socketio.ping_interval_ms", 100..=3_600_000),
    ("socketio.ping_timeout_ms", 100..=3_600_000),
    ("socketio.connect_seconds", 1..=3_600),
    ("socketio.upgrade_seconds", 1..=60),
    ("socketio.max_payload_bytes", KIB..=MAX_MESSAGE_BYTES),
    ("socketio.ack_seconds", 1..=3_600),
    ("socketio.events_per_second", 0..=1_000_000),
    ("socketio.event_bytes_per_second", 0..=GIB),
    ("socketio.max_attachments", 0..=1_000),
    ("socketio.yunity.recheck_seconds", 1..=86_400),
    ("events.keep", 1..=10_000_000),
    ("admin.max_connections", 1..=1_000),
    ("admin.request_seconds", 1..=300),
    ("embedded.max_memory_bytes", MIB..=16 * GIB),
    ("embedded.max_clients", 16..=100_000),
    ("embedded.max_output_bytes", MIB..=16 * GIB),
];

/// Ranges in an `[[access]]` table; 0 means unlimited.
const ACCESS_RANGES: &[(&str, RangeInclusive<i64>)] = &[
    ("publish_messages_per_second", 0..=1_000_000),
    ("publish_bytes_per_second", 0..=GIB),
    ("publish_burst_seconds", 0..=3_600),
];

/// Ranges in a `[[presence]]` table.
const PRESENCE_RANGES: &[(&str, RangeInclusive<i64>)] = &[("seconds", 3..=86_400)];

/// Ranges in a `[[history]]` table.
const HISTORY_RANGES: &[(&str, RangeInclusive<i64>)] =
    &[("messages", 1..=1_000_000), ("seconds", 1..=366 * 86_400)];

/// Checks each number before conversion, so that the error names key and range.
pub(super) fn check(settings: &Config) -> Result<(), SettingsError> {
    for (key, range) in RANGES {
        within(find(&settings.cache, key), key, range)?;
    }
    for (section, ranges) in
        [("access", ACCESS_RANGES), ("history", HISTORY_RANGES), ("presence", PRESENCE_RANGES)]
    {
        let Some(Value { kind: ValueKind::Array(rules), .. }) = find(&settings.cache, section) else {
            continue;
        };
        for (rule, (name, range)) in rules.iter().flat_map(|rule| ranges.iter().map(move |it| (rule, it))) {
            within(find(rule, name), &format!("{section}.{name}"), range)?;
        }
    }
    Ok(())
}

fn find<'a>(value: &'a Value, key: &str) -> Option<&'a Value> {
    key.split('.').try_fold(value, |value, name| match &value.kind {
        ValueKind::Table(table) => table.get(name),
        _ => None,
    })
}

/// Accepts an integer within the range, also as a string, since environment variables are strings.
fn within(value: Option<&Value>, key: &str, range: &RangeInclusive<i64>) -> Result<(), SettingsError> {
    let Some(value) = value else { return Ok(()) };
    let number = match &value.kind {
        ValueKind::I64(number) => Some(i128::from(*number)),
        ValueKind::U64(number) => Some(i128::from(*number)),
        ValueKind::I128(number) => Some(*number),
        ValueKind::U128(number) => i128::try_from(*number).ok(),
        ValueKind::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    let (least, most) = (range.start(), range.end());
    let at = value.origin().map_or_else(String::new, |file| format!(" (in {file})"));
    let is = match number {
        Some(number) if (i128::from(*least)..=i128::from(*most)).contains(&number) => return Ok(()),
        Some(number) => format!(", is {number}"),
        // Not shown if it is no number: it may be a secret in the wrong place.
        None => String::new(),
    };
    let problem = format!("must be an integer from {least} to {most}{is}{at}");
    Err(SettingsError::OutOfRange { key: key.to_owned(), problem })
}
