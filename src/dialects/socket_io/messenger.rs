//! The bridge for the messenger: its clients report themselves, and the reports are gathered as a list in a key of Redis.

use std::rc::Rc;
use std::time::Duration;

use tokio::time::sleep;
use tracing::debug;

use crate::engine::SenderState;
use crate::metrics::Counters;
use crate::shard::state::ShardState;
use crate::wire::socket_io::{JsonMembers, SocketPacket, unescape_json, validate_json};

/// The event that a client sends to report itself.
pub(super) const ACTION: &str = "ng-action";

/// Longest report in JSON, in bytes. Clients write it.
const MAX_REPORT_BYTES: usize = 1_024;

/// Time in which clients answer the question.
const GATHERING_SECONDS: u32 = 10;

/// Time in which reports are collected, and then written together.
const COLLECTING: Duration = Duration::from_millis(250);

/// Appends to the list in place, so the cost does not grow with the list. A script, because several gateways may write it at
/// once; a list above 4 MiB stays as it is.
const APPEND: &str = "local length = redis.call('STRLEN', KEYS[1]) \
    if length > 4194304 then return 0 end \
    if length < 2 or redis.call('GETRANGE', KEYS[1], -1, -1) ~= ']' then \
    redis.call('SET', KEYS[1], '[' .. ARGV[1] .. ']') return 1 end \
    local separator = length == 2 and '' or ',' \
    redis.call('SETRANGE', KEYS[1], length - 1, separator .. ARGV[1] .. ']') \
    return 1";

/// Accepts reports for some seconds, and starts the list anew. One shard does the latter.
pub(super) fn begin_gathering(state: &ShardState) {
    let Some(key) = &state.process.settings.socket_io.messenger.connections_key else { return };
    state.gathering.begin(state.engine.after(GATHERING_SECONDS));
    if state.number > 0 {
        return;
    }
    let (key, commands, counters) = (key.clone(), state.store.commands(), state.process.counters.clone());
    tokio::task::spawn_local(async move {
        if let Err((error, _)) = commands.call("SET", &[key.as_bytes(), b"[]"]).await {
            Counters::count(&counters.unanswered_callbacks);
            debug!(error, "the list of connections could not be written");
        }
    });
}

/// Returns whether an action of a client is its report.
pub(super) fn is_report(packet: SocketPacket<'_>) -> bool {
    packet.arguments().next().and_then(report_of).is_some()
}

/// Gathers the report of a client. Returns false if it is not gathered: nobody asks, or it is not the first one, or there are
/// too many.
pub(super) fn report(state: &Rc<ShardState>, sender: &mut SenderState, packet: SocketPacket<'_>) -> bool {
    let Some(number) = state.gathering.number(state.engine.now()) else { return false };
    let Some(report) = packet.arguments().next().and_then(report_of) else { return false };
    let is_first = std::mem::replace(&mut sender.reported, number) != number;
    let is_collecting = state.gathering.has_waiting();
    if !is_first || !state.gathering.add(&report) {
        return false;
    }
    if !is_collecting {
        let state = state.clone();
        tokio::task::spawn_local(async move { write(&state).await });
    }
    true
}

/// Writes the reports that have been collected.
async fn write(state: &ShardState) {
    let Some(key) = &state.process.settings.socket_io.messenger.connections_key else { return };
    sleep(COLLECTING).await;
    // A gathering that began meanwhile has dropped them.
    let reports = state.gathering.take();
    if reports.is_empty() {
        return;
    }
    let arguments = [APPEND.as_bytes(), b"1", key.as_bytes(), reports.as_bytes()];
    if let Err((error, _)) = state.store.commands().call("EVAL", &arguments).await {
        Counters::count(&state.process.counters.unanswered_callbacks);
        debug!(error, "reports of connections could not be written");
    }
}

/// Returns the item of the list: the members `socket_id` and `token` of an answer to the question.
fn report_of(argument: &str) -> Option<String> {
    let member = |name: &str| {
        let mut members = JsonMembers::new(argument)?.flatten();
        members.find(|(key, _)| unescape_json(key).is_some_and(|key| key == name)).map(|(_, value)| value)
    };
    if unescape_json(member("action")?)? != "pong" {
        return None;
    }
    let (socket_id, token) = (member("socket_id")?, member("token")?);
    let report = format!(r#"{{"socket_id": {socket_id}, "token": {token}}}"#);
    let is_valid = report.len() <= MAX_REPORT_BYTES && validate_json(&report, None).is_ok();
    is_valid.then_some(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_has_an_id_and_a_token() {
        assert_eq!(
            report_of(r#"{"action":"pong","socket_id":"a","token":null,"x":1}"#).as_deref(),
            Some(r#"{"socket_id": "a", "token": null}"#)
        );
        for other in [r#"{"action":"ping","socket_id":1,"token":1}"#, r#"{"action":"pong","token":1}"#, "1"] {
            assert_eq!(report_of(other), None, "{other}");
        }
    }
}
