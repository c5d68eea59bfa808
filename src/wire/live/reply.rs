//! The gateway's own objects.

use std::fmt::Write;

use bytes::{BufMut, Bytes, BytesMut};

use crate::wire::socket_io::push_json_string;
use crate::wire::websocket::{Opcode, encode};
use crate::wire::{EntryId, Form};

/// The answer to a subscription.
#[derive(Debug, Clone, Default)]
pub struct SubscribedReply<'a> {
    /// The facility.
    pub facility: &'a str,
    /// The client's number of the request.
    pub request: Option<i64>,
    /// The flags that are granted. `subscribe-` is left out.
    pub granted: Vec<String>,
    /// The flags that are refused.
    pub refused: Vec<String>,
    /// From where each audience continues, if the client cannot know that from messages that follow.
    pub ids: Vec<(String, EntryId)>,
    /// Whether the history reaches back to where the client wants to continue, if it wants that.
    pub recovered: Option<bool>,
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy)]
pub struct ErrorReply<'a> {
    /// The client's number of the request.
    pub request: Option<i64>,
    /// The facility, if the request names one.
    pub facility: Option<&'a str>,
    /// The status of HTTP with this meaning.
    pub code: u16,
    /// The reason, for a developer.
    pub why: &'a str,
}

/// Who is in a facility, or comes or goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PresenceObject<'a> {
    /// All who are there.
    Here {
        /// The users.
        users: Vec<&'a str>,
        /// The number of anonymous visitors.
        anonymous: u64,
    },
    /// The number of anonymous visitors, if only that has changed.
    Anonymous(u64),
    /// A user has come.
    Join(&'a str),
    /// A user has gone.
    Leave(&'a str),
}

impl PresenceObject<'_> {
    /// Encodes the object for a facility.
    pub fn encode(&self, facility: &str) -> String {
        let mut out = begin(match self {
            Self::Here { .. } | Self::Anonymous(_) => "here",
            Self::Join(_) => "join",
            Self::Leave(_) => "leave",
        });
        push_text(&mut out, "f", facility);
        match self {
            Self::Here { users, anonymous } => {
                push_list(&mut out, "users", users);
                let _ = write!(out, r#","anonymous":{anonymous}"#);
            }
            Self::Anonymous(number) => {
                let _ = write!(out, r#","anonymous":{number}"#);
            }
            Self::Join(user) | Self::Leave(user) => push_text(&mut out, "u", user),
        }
        out + "}"
    }
}

impl SubscribedReply<'_> {
    /// Encodes the object.
    pub fn encode(&self) -> String {
        let mut out = begin("sub");
        push_text(&mut out, "f", self.facility);
        push_number(&mut out, self.request);
        push_list(&mut out, "ok", &self.granted);
        push_list(&mut out, "no", &self.refused);
        if !self.ids.is_empty() {
            out.push_str(r#","ids":"#);
            push_ids(&mut out, &self.ids);
        }
        if let Some(recovered) = self.recovered {
            let _ = write!(out, r#","recovered":{recovered}"#);
        }
        out + "}"
    }
}

impl SubscribedReply<'_> {
    /// Returns the ids as one text, which an address takes as `since`.
    pub fn position(&self) -> String {
        if let [(_, id)] = &self.ids[..] {
            return id.to_string();
        }
        let mut out = String::new();
        push_ids(&mut out, &self.ids);
        out
    }
}

impl ErrorReply<'_> {
    /// Encodes the object.
    pub fn encode(&self) -> String {
        let mut out = begin("err");
        push_number(&mut out, self.request);
        if let Some(facility) = self.facility {
            push_text(&mut out, "f", facility);
        }
        let _ = write!(out, r#","code":{}"#, self.code);
        push_text(&mut out, "why", self.why);
        out + "}"
    }
}

fn push_ids(out: &mut String, ids: &[(String, EntryId)]) {
    for (index, (audience, id)) in ids.iter().enumerate() {
        out.push(if index == 0 { '{' } else { ',' });
        push_json_string(out, audience);
        // Writing to a String cannot fail.
        let _ = write!(out, r#":"{id}""#);
    }
    out.push('}');
}

/// Returns the first object of a connection.
pub fn hello(connection: &str, user: Option<&str>) -> String {
    let mut out = begin("hello");
    push_text(&mut out, "c", connection);
    push_user(&mut out, user);
    out + r#","v":2}"#
}

/// Returns the object that tells of another identity.
pub fn user(user: Option<&str>) -> String {
    let mut out = begin("user");
    push_user(&mut out, user);
    out + "}"
}

/// Returns the object that tells that messages of a facility may have been lost.
pub fn gap(facility: &str) -> String {
    let mut out = begin("gap");
    push_text(&mut out, "f", facility);
    out + "}"
}

/// Returns the object that tells that Redis has what a request published.
pub fn ok(request: i64) -> String {
    let mut out = begin("ok");
    push_number(&mut out, Some(request));
    out + "}"
}

/// Returns the heartbeat.
pub fn heartbeat() -> String {
    begin("hb") + "}"
}

/// Returns an object as a server-sent event with an id.
pub fn frame_with_id(object: &str, id: &str) -> Bytes {
    Bytes::from(format!("id: {id}\ndata: {object}\n\n"))
}

/// Returns an object as bytes in a form.
pub fn frame_of(object: &str, form: Form) -> Bytes {
    let mut bytes = BytesMut::with_capacity(object.len() + 10);
    if form.is_stream() {
        bytes.put_slice(b"data: ");
        bytes.put_slice(object.as_bytes());
        bytes.put_slice(b"\n\n");
    } else {
        encode(&mut bytes, Opcode::Text, object.as_bytes());
    }
    bytes.freeze()
}

fn begin(kind: &str) -> String {
    format!(r#"{{"t":"{kind}""#)
}

fn push_text(out: &mut String, key: &str, text: &str) {
    let _ = write!(out, r#","{key}":"#);
    push_json_string(out, text);
}

fn push_user(out: &mut String, user: Option<&str>) {
    match user {
        Some(user) => push_text(out, "user", user),
        None => out.push_str(r#","user":null"#),
    }
}

fn push_number(out: &mut String, request: Option<i64>) {
    if let Some(request) = request {
        let _ = write!(out, r#","r":{request}"#);
    }
}

fn push_list(out: &mut String, key: &str, texts: &[impl AsRef<str>]) {
    let _ = write!(out, r#","{key}":["#);
    for (index, text) in texts.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        push_json_string(out, text.as_ref());
    }
    out.push(']');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_have_the_keys_of_the_protocol() {
        let subscribed = SubscribedReply {
            facility: "chat\"5",
            request: Some(-1),
            granted: vec!["broadcast".into(), "user".into()],
            refused: vec!["group".into()],
            ids: vec![
                ("broadcast".into(), EntryId { ms: 7, seq: 1 }),
                ("group:a".into(), EntryId::default()),
            ],
            recovered: Some(false),
        };
        let expected = r#"{"t":"sub","f":"chat\"5","r":-1,"ok":["broadcast","user"],"no":["group"],"ids":{"broadcast":"7-1","group:a":"0-0"},"recovered":false}"#;
        assert_eq!(subscribed.encode(), expected);
        let error = ErrorReply { request: Some(7), facility: None, code: 403, why: "no" };
        assert_eq!(error.encode(), r#"{"t":"err","r":7,"code":403,"why":"no"}"#);
        assert_eq!(hello("c-1", Some("john")), r#"{"t":"hello","c":"c-1","user":"john","v":2}"#);
        assert_eq!(hello("c-1", None), r#"{"t":"hello","c":"c-1","user":null,"v":2}"#);
        assert_eq!(user(None), r#"{"t":"user","user":null}"#);
        let here = PresenceObject::Here { users: vec!["a\"", "b"], anonymous: 3 };
        assert_eq!(here.encode("x"), r#"{"t":"here","f":"x","users":["a\"","b"],"anonymous":3}"#);
        assert_eq!(PresenceObject::Anonymous(3).encode("x"), r#"{"t":"here","f":"x","anonymous":3}"#);
        assert_eq!(PresenceObject::Join("a").encode("x"), r#"{"t":"join","f":"x","u":"a"}"#);
        assert_eq!(PresenceObject::Leave("a").encode("x"), r#"{"t":"leave","f":"x","u":"a"}"#);
        assert_eq!(gap("x"), r#"{"t":"gap","f":"x"}"#);
        assert_eq!([ok(3), heartbeat()], [r#"{"t":"ok","r":3}"#, r#"{"t":"hb"}"#]);
        assert_eq!(&frame_of("{}", Form::Objects)[..], b"\x81\x02{}");
        assert_eq!(&frame_of("{}", Form::ObjectEvents)[..], b"data: {}\n\n");
    }
}
