//! Events as JSON.

use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;

use super::{AnnouncedClient, ClientScope, DisconnectReason};
use crate::wire::socket_io::push_json_string;
use crate::wire::{EventKind, NodeId};

/// An event of a Socket.IO client.
#[derive(Debug, Clone, Copy)]
pub struct ClientEvent<'a> {
    /// The namespace.
    pub namespace: &'a str,
    /// The public id of the client.
    pub sid: &'a str,
    /// The client's user.
    pub user: Option<&'a str>,
    /// The name of the event.
    pub name: &'a str,
    /// The arguments: an array of JSON, with placeholders for the attachments.
    pub arguments: &'a str,
    /// The attachments.
    pub attachments: &'a [Bytes],
    /// Whether the arguments may have placeholders.
    pub is_binary: bool,
    /// The number that the client gave the event, if it wants an answer.
    pub id: Option<u64>,
}

/// Encodes the events of a process.
pub(super) struct EventEncoder {
    /// The id of the process, as a member of JSON.
    node_member: String,
}

impl EventEncoder {
    pub(super) fn new(node: NodeId) -> Self {
        Self { node_member: format!(r#","node":"{node}""#) }
    }

    /// Begins an object, which the caller ends.
    fn begin(&self, kind: &str, dialect: Option<&str>) -> String {
        let mut out = format!(r#"{{"type":"{kind}""#);
        if let Some(dialect) = dialect {
            push_member(&mut out, "dialect", Some(dialect));
        }
        out.push_str(&self.node_member);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        // Writing to a String cannot fail.
        let _ = write!(out, r#","time":{}.{:03}"#, now.as_secs(), now.subsec_millis());
        out
    }

    pub(super) fn node_state(&self, state: &str) -> String {
        let mut out = self.begin(EventKind::Node.word(), None);
        push_member(&mut out, "state", Some(state));
        out + "}"
    }

    pub(super) fn presence(&self, kind: EventKind, user: &str) -> String {
        let mut out = self.begin(kind.word(), None);
        push_member(&mut out, "user", Some(user));
        out + "}"
    }

    /// Encodes an event about a connection.
    pub(super) fn client(
        &self,
        kind: EventKind,
        client: &AnnouncedClient,
        reason: Option<DisconnectReason>,
        auth: Option<&str>,
    ) -> String {
        let (dialect, key, value) = match &client.scope {
            ClientScope::Facility(facility, dialect) => (*dialect, "facility", facility),
            ClientScope::Namespace(namespace) => ("socket_io", "namespace", namespace),
        };
        let mut out = self.begin(kind.word(), Some(dialect));
        push_member(&mut out, key, Some(value));
        push_member(&mut out, "sid", Some(&client.sid));
        push_member(&mut out, "user", client.user.as_deref());
        if let Some(auth) = auth {
            out.push_str(r#","auth":"#);
            out.push_str(auth);
        }
        if let Some(reason) = reason {
            push_member(&mut out, "reason", Some(reason.words()));
        }
        out + "}"
    }

    /// Encodes a published message. Text stays text, other bytes become base64.
    pub(super) fn message(
        &self,
        (facility, dialect): (&str, &str),
        sid: Option<&str>,
        user: Option<&str>,
        audiences: &[String],
        payload: &[u8],
    ) -> String {
        let mut out = self.begin(EventKind::Message.word(), Some(dialect));
        push_member(&mut out, "facility", Some(facility));
        if let Some(sid) = sid {
            push_member(&mut out, "sid", Some(sid));
        }
        push_member(&mut out, "user", user);
        out.push_str(r#","audiences":["#);
        for (index, audience) in audiences.iter().enumerate() {
            if index > 0 {
                out.push(',');
            }
            push_json_string(&mut out, audience);
        }
        out.push(']');
        if let Ok(text) = std::str::from_utf8(payload) {
            push_member(&mut out, "data", Some(text));
            return out + r#","binary":false}"#;
        }
        out.push_str(r#","data":""#);
        BASE64_STANDARD.encode_string(payload, &mut out);
        out + r#"","binary":true}"#
    }

    /// Encodes an event of a Socket.IO client. Arguments with attachments have the form of python-socketio 5.15.1: a list of
    /// the arguments, and each attachment in base64.
    pub(super) fn client_event(&self, event: &ClientEvent<'_>) -> String {
        let mut out = self.begin("event", Some("socket_io"));
        push_member(&mut out, "namespace", Some(event.namespace));
        push_member(&mut out, "sid", Some(event.sid));
        push_member(&mut out, "user", event.user);
        push_member(&mut out, "event", Some(event.name));
        out.push_str(r#","args":"#);
        if event.is_binary {
            out.push('[');
            out.push_str(event.arguments);
            for attachment in event.attachments {
                out.push_str(",\"");
                BASE64_STANDARD.encode_string(attachment, &mut out);
                out.push('"');
            }
            out.push(']');
        } else {
            out.push_str(event.arguments);
        }
        let _ = write!(out, r#","binary":{},"id":"#, event.is_binary);
        match event.id {
            Some(id) => drop(write!(out, "{id}")),
            None => out.push_str("null"),
        }
        out + "}"
    }
}

/// Appends a comma and a member with a text or null.
fn push_member(out: &mut String, key: &str, value: Option<&str>) {
    let _ = write!(out, r#","{key}":"#);
    match value {
        Some(value) => push_json_string(out, value),
        None => out.push_str("null"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::Events;

    /// Returns an event without its node and its time, which vary.
    fn fixed(json: &str) -> String {
        let (head, rest) = json.split_once(r#","node":""#).unwrap();
        let rest = rest.split_once(r#","time":"#).unwrap().1;
        let time = rest.find(',').unwrap();
        assert!(rest[..time].parse::<f64>().unwrap() > 1e9, "{json}");
        format!("{head}{}", &rest[time..])
    }

    #[test]
    fn events_have_the_keys_that_the_worker_reads() {
        let encoder = EventEncoder::new(NodeId::random());
        let client = |scope, user: Option<&str>| {
            AnnouncedClient::new(Events::default(), scope, "s".into(), user.map(Into::into))
        };
        let plain = client(ClientScope::Facility("chat".into(), "relay"), Some("jo\"hn"));
        let namespace = client(ClientScope::Namespace("/".into()), None);
        let reason = Some(DisconnectReason::PingTimeout);
        for (json, expected) in [
            (
                encoder.client(EventKind::Disconnect, &plain, reason, None),
                r#"{"type":"disconnect","dialect":"relay","facility":"chat","sid":"s","user":"jo\"hn","reason":"ping timeout"}"#,
            ),
            (
                encoder.client(EventKind::Connect, &namespace, None, Some(r#"{"page":1}"#)),
                r#"{"type":"connect","dialect":"socket_io","namespace":"/","sid":"s","user":null,"auth":{"page":1}}"#,
            ),
            (encoder.node_state("start"), r#"{"type":"node","state":"start"}"#),
            (encoder.presence(EventKind::Online, "john"), r#"{"type":"online","user":"john"}"#),
            (
                encoder.message(
                    ("f", "live"),
                    Some("s"),
                    None,
                    &["broadcast".into(), "user:a".into()],
                    "ż\n".as_bytes(),
                ),
                r#"{"type":"message","dialect":"live","facility":"f","sid":"s","user":null,"audiences":["broadcast","user:a"],"data":"ż\n","binary":false}"#,
            ),
            (
                encoder.message(("f", "relay"), None, Some("john"), &[], b"\xff\x00"),
                r#"{"type":"message","dialect":"relay","facility":"f","user":"john","audiences":[],"data":"/wA=","binary":true}"#,
            ),
        ] {
            assert_eq!(fixed(&json), expected);
        }
    }

    #[test]
    fn an_event_of_a_client_with_attachments_has_the_form_of_python_socketio() {
        let encoder = EventEncoder::new(NodeId::random());
        let event = ClientEvent {
            namespace: "/",
            sid: "s",
            user: Some("john"),
            name: "hi",
            arguments: r#"[1,"a"]"#,
            attachments: &[],
            is_binary: false,
            id: None,
        };
        let head = r#"{"type":"event","dialect":"socket_io","namespace":"/","sid":"s","user":"john","event":"hi","args":"#;
        let text = fixed(&encoder.client_event(&event));
        assert_eq!(text.strip_prefix(head), Some(r#"[1,"a"],"binary":false,"id":null}"#));
        let placeholder = r#"[{"_placeholder":true,"num":0}]"#;
        let attachments = [Bytes::from_static(b"\x01\x02"), Bytes::new()];
        let event = ClientEvent {
            arguments: placeholder,
            attachments: &attachments,
            is_binary: true,
            id: Some(7),
            ..event
        };
        let binary = fixed(&encoder.client_event(&event));
        let expected = format!(r#"[{placeholder},"AQI=",""],"binary":true,"id":7}}"#);
        assert_eq!(binary.strip_prefix(head), Some(expected.as_str()));
    }
}
