//! The bridge for the messenger: its clients report themselves, and the reports are gathered as a list in a key of Redis.

use tracing::debug;

use crate::metrics::Counters;
use crate::shard::state::ShardState;
use crate::wire::socket_io::{JsonMembers, SocketPacket, unescape_json, validate_json};

/// The event by which a client reports itself.
pub(super) const ACTION: &str = "ng-action";

/// Longest report in JSON, in bytes. Clients write it.
const MAX_REPORT_BYTES: usize = 1_024;

/// Appends to the list. A script, because several gateways may write it at once; a list above 4 MiB stays as it is.
const APPEND: &str = "local list = redis.call('GET', KEYS[1]) \
    if not list or #list < 2 then list = '[]' end \
    if #list > 4194304 then return 0 end \
    local separator = list == '[]' and '' or ',' \
    redis.call('SET', KEYS[1], string.sub(list, 1, -2) .. separator .. ARGV[1] .. ']') \
    return 1";

/// Starts the list anew. One shard does it.
pub(super) fn begin_gathering(state: &ShardState) {
    let Some(key) = &state.process.settings.socket_io.messenger.connections_key else { return };
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

/// Appends the report of a client to the list.
pub(super) fn report(state: &ShardState, packet: SocketPacket<'_>) {
    let Some(report) = packet.arguments().next().and_then(report_of) else { return };
    let Some(key) = state.process.settings.socket_io.messenger.connections_key.clone() else { return };
    let (commands, counters) = (state.store.commands(), state.process.counters.clone());
    // Bounded by the rate of a client's events.
    tokio::task::spawn_local(async move {
        let arguments = [APPEND.as_bytes(), b"1", key.as_bytes(), report.as_bytes()];
        if let Err((error, _)) = commands.call("EVAL", &arguments).await {
            Counters::count(&counters.unanswered_callbacks);
            debug!(error, "a report of a connection could not be written");
        }
    });
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
