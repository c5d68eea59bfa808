//! The gateway's own objects.

use std::fmt::Write;

use bytes::{BufMut, Bytes, BytesMut};

use crate::wire::Form;
use crate::wire::socket_io::push_json_string;
use crate::wire::websocket::{Opcode, encode};

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

impl SubscribedReply<'_> {
    /// Encodes the object.
    pub fn encode(&self) -> String {
        let mut out = begin("sub");
        push_text(&mut out, "f", self.facility);
        push_number(&mut out, self.request);
        push_list(&mut out, "ok", &self.granted);
        push_list(&mut out, "no", &self.refused);
        if let Some(recovered) = self.recovered {
            // Writing to a String cannot fail.
            let _ = write!(out, r#","recovered":{recovered}"#);
        }
        out + "}"
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

fn push_list(out: &mut String, key: &str, texts: &[String]) {
    let _ = write!(out, r#","{key}":["#);
    for (index, text) in texts.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        push_json_string(out, text);
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
            recovered: Some(false),
        };
        let expected =
            r#"{"t":"sub","f":"chat\"5","r":-1,"ok":["broadcast","user"],"no":["group"],"recovered":false}"#;
        assert_eq!(subscribed.encode(), expected);
        let error = ErrorReply { request: Some(7), facility: None, code: 403, why: "no" };
        assert_eq!(error.encode(), r#"{"t":"err","r":7,"code":403,"why":"no"}"#);
        assert_eq!(hello("c-1", Some("john")), r#"{"t":"hello","c":"c-1","user":"john","v":2}"#);
        assert_eq!(hello("c-1", None), r#"{"t":"hello","c":"c-1","user":null,"v":2}"#);
        assert_eq!(user(None), r#"{"t":"user","user":null}"#);
        assert_eq!(gap("x"), r#"{"t":"gap","f":"x"}"#);
        assert_eq!([ok(3), heartbeat()], [r#"{"t":"ok","r":3}"#, r#"{"t":"hb"}"#]);
        assert_eq!(&frame_of("{}", Form::Objects)[..], b"\x81\x02{}");
        assert_eq!(&frame_of("{}", Form::ObjectEvents)[..], b"data: {}\n\n");
    }
}
