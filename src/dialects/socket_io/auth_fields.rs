//! The fields of a client's credentials that Django is told when it connects.

use super::namespaces::TOKEN;
use crate::settings::SocketIoSettings;
use crate::wire::query_pairs;
use crate::wire::socket_io::{JsonMembers, SocketPacket, push_json_string, unescape_json};

/// The query parameter of a token at the handshake: clients of protocol 4 send the query of the handshake with each CONNECT.
const HANDSHAKE_TOKEN: &str = "access_token";

/// Most bytes of the object. A field that does not fit is left out.
const MAX_BYTES: usize = 4 << 10;

/// Returns the selected fields as an object of JSON; `None` if none are selected.
///
/// A token is a credential: it is passed on only if it is selected by its name.
pub(super) fn selected_auth(settings: &SocketIoSettings, packet: SocketPacket<'_>) -> Option<String> {
    let fields = &settings.auth_fields;
    if fields.is_empty() {
        return None;
    }
    let is_token = |key: &str| key == TOKEN || key == HANDSHAKE_TOKEN;
    let is_selected = |key: &str| fields.iter().any(|field| field == key || field == "*" && !is_token(key));
    let mut out = String::from("{");
    let mut push = |key: &str, value: &dyn Fn(&mut String)| {
        if is_selected(key) {
            let length = out.len();
            if length > 1 {
                out.push(',');
            }
            push_json_string(&mut out, key);
            out.push(':');
            value(&mut out);
            if out.len() >= MAX_BYTES {
                out.truncate(length);
            }
        }
    };
    // Clients of protocol 4 send a query instead of an object.
    for (key, value) in query_pairs(packet.query) {
        push(&key, &|out| push_json_string(out, &value));
    }
    for (key, value) in JsonMembers::new(packet.data).into_iter().flatten().flatten() {
        if let Some(key) = unescape_json(key) {
            push(&key, &|out| out.push_str(value));
        }
    }
    Some(out + "}")
}
