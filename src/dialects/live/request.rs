//! Requests of a client: objects of JSON.

use bytes::Bytes;

use super::resume::Resume;
use crate::codec::{DecodeError, Value, ValueLimits, json};
use crate::wire::live::decode_binary;
use crate::wire::{Facility, Flags, Handshake};

/// Longest facility, in bytes: a client names up to `messages.max_facilities` of them.
const MAX_FACILITY_BYTES: usize = 1_024;

/// Most values of an object: a user may have 1,024 groups to publish to.
const MAX_ITEMS: usize = 2_048;

/// Deepest nesting of an object. Keys that are not known may have any value within the limits.
const MAX_DEPTH: usize = 8;

/// A request of a client.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ClientRequest {
    /// The number that the client gave the request, if it wants an answer.
    pub(super) number: Option<i64>,
    pub(super) action: ClientAction,
}

/// What a client asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ClientAction {
    /// With what it has to be told of the past.
    Subscribe(Handshake, Option<Resume>),
    Unsubscribe(Facility),
    /// To the audiences that are named, or to all that are granted.
    Publish(Facility, Option<Vec<String>>, Bytes),
    Authenticate(String),
    Heartbeat,
}

impl ClientAction {
    /// Returns the facility that it is about.
    pub(super) fn facility(&self) -> Option<&str> {
        match self {
            Self::Subscribe(Handshake { facility, .. }, _)
            | Self::Unsubscribe(facility)
            | Self::Publish(facility, ..) => Some(facility.as_str()),
            Self::Authenticate(_) | Self::Heartbeat => None,
        }
    }
}

/// Why an object is not a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum InvalidRequest {
    NotJson,
    /// It is JSON, and makes no sense: the client's number, and the reason.
    Senseless(Option<i64>, &'static str),
}

/// Returns whether a message is a request of version 2. `None` if it is not JSON.
pub fn is_request(text: &[u8]) -> Option<bool> {
    match read_request(text) {
        Ok(_) => Some(true),
        Err(InvalidRequest::Senseless(..)) => Some(false),
        Err(InvalidRequest::NotJson) => None,
    }
}

/// Reads a request.
///
/// # Errors
///
/// When it is not JSON, or not a request.
pub(super) fn read_request(text: &[u8]) -> Result<ClientRequest, InvalidRequest> {
    let limits = ValueLimits { bytes: text.len(), items: MAX_ITEMS, depth: MAX_DEPTH };
    let read = match json::read_value(text, limits) {
        // A page that cuts a text within an emoji sends half of it.
        Err(DecodeError::Damaged) => json::without_lone_surrogates(text)
            .map_or(Err(DecodeError::Damaged), |text| json::read_value(&text, limits)),
        read => read,
    };
    let mut members = match read {
        Ok(Value::Map(members)) => ObjectMembers(members),
        Ok(_) => return Err(InvalidRequest::Senseless(None, "expected an object")),
        Err(DecodeError::Damaged) => return Err(InvalidRequest::NotJson),
        Err(_) => return Err(InvalidRequest::Senseless(None, "too many values or too deep")),
    };
    let number = match members.take("r") {
        Some(Value::Integer(number)) => Some(number),
        None | Some(Value::Null) => None,
        Some(_) => return Err(InvalidRequest::Senseless(None, "r has to be an integer")),
    };
    let action = read_action(&mut members).map_err(|why| InvalidRequest::Senseless(number, why))?;
    Ok(ClientRequest { number, action })
}

fn read_action(members: &mut ObjectMembers) -> Result<ClientAction, &'static str> {
    let kind = members.text("t").ok_or("t has to be a text")?;
    Ok(match kind.as_str() {
        "sub" => {
            let facility = members.facility()?;
            let flags = members.texts("flags", "flags has to be a list of texts")?;
            let flags = Flags::named(flags.iter().flatten().map(String::as_str));
            let resume = members.resume()?;
            ClientAction::Subscribe(Handshake { facility, flags }, resume)
        }
        "unsub" => ClientAction::Unsubscribe(members.facility()?),
        "pub" => {
            let facility = members.facility()?;
            let audiences = members.texts("a", "a has to be a list of texts")?;
            ClientAction::Publish(facility, audiences, members.payload()?)
        }
        "auth" => ClientAction::Authenticate(members.text("token").ok_or("token has to be a text")?),
        "hb" => ClientAction::Heartbeat,
        _ => return Err("unknown t"),
    })
}

/// The members of an object.
struct ObjectMembers(Vec<(Value, Value)>);

impl ObjectMembers {
    /// Takes the value of a member. The last one counts.
    fn take(&mut self, key: &str) -> Option<Value> {
        let index = self.0.iter().rposition(|(name, _)| name.as_str() == Some(key))?;
        Some(self.0.swap_remove(index).1)
    }

    fn text(&mut self, key: &str) -> Option<String> {
        if let Some(Value::Text(text)) = self.take(key) { Some(text) } else { None }
    }

    /// Takes a list of texts; none without the member.
    fn texts(&mut self, key: &str, why: &'static str) -> Result<Option<Vec<String>>, &'static str> {
        let list = match self.take(key) {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::List(list)) => list,
            Some(_) => return Err(why),
        };
        let texts = list.into_iter().map(|item| if let Value::Text(text) = item { Some(text) } else { None });
        texts.collect::<Option<Vec<_>>>().map(Some).ok_or(why)
    }

    fn facility(&mut self) -> Result<Facility, &'static str> {
        let name = self.text("f").ok_or("f has to be a text")?;
        if name.len() > MAX_FACILITY_BYTES || name.chars().any(char::is_control) {
            return Err("f is too long or has control characters");
        }
        Ok(Facility::new(&name))
    }

    /// Takes where histories are read from: `since` with an id, or with an id for each audience, or else `last`.
    fn resume(&mut self) -> Result<Option<Resume>, &'static str> {
        const WHY: &str = "since has to be an id, or an object with an id for each audience";
        let last = match self.take("last") {
            None | Some(Value::Null) => None,
            Some(Value::Integer(count)) if count > 0 => usize::try_from(count).ok().map(Resume::Last),
            Some(_) => return Err("last has to be a positive number"),
        };
        match self.take("since") {
            None | Some(Value::Null) => Ok(last),
            Some(value) => Resume::since(value).map(Some).ok_or(WHY),
        }
    }

    fn payload(&mut self) -> Result<Bytes, &'static str> {
        let payload = match (self.take("d"), self.take("b")) {
            (Some(Value::Text(text)), None) => Bytes::from(text),
            (None, Some(Value::Text(text))) => decode_binary(&text).ok_or("b is not base64")?,
            _ => return Err("expected d with a text, or b with base64"),
        };
        if payload.is_empty() { Err("the message is empty") } else { Ok(payload) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::EntryId;

    fn action(text: &str) -> Result<ClientAction, InvalidRequest> {
        read_request(text.as_bytes()).map(|request| request.action)
    }

    #[test]
    fn requests_are_read() {
        let facility = || Facility::new("x");
        let flags = Flags::named(["subscribe-broadcast"]);
        for (text, expected) in [
            (
                r#"{"t":"sub","f":"x","flags":["Subscribe-Broadcast","other"],"new":{"a":[1]}}"#,
                ClientAction::Subscribe(Handshake { facility: facility(), flags }, None),
            ),
            (
                r#"{"f":"x","t":"sub"}"#,
                ClientAction::Subscribe(Handshake { facility: facility(), flags: Flags::default() }, None),
            ),
            (r#"{"t":"unsub","f":"x"}"#, ClientAction::Unsubscribe(facility())),
            (r#"{"t":"pub","f":"x","d":"é"}"#, ClientAction::Publish(facility(), None, "é".into())),
            (
                r#"{"t":"pub","f":"x","a":["user"],"b":"/wA="}"#,
                ClientAction::Publish(facility(), Some(vec!["user".into()]), Bytes::from_static(b"\xff\x00")),
            ),
            (
                r#"{"t":"pub","f":"x","d":"\ud83d \\ud83d\ud83d\ude00\udE00\ud83d\ud83d\ude00"}"#,
                ClientAction::Publish(facility(), None, "\u{fffd} \\ud83d😀\u{fffd}\u{fffd}😀".into()),
            ),
            (r#"{"t":"auth","token":"a.b"}"#, ClientAction::Authenticate("a.b".into())),
            (r#"{"t":"hb"}"#, ClientAction::Heartbeat),
        ] {
            assert_eq!(action(text), Ok(expected), "{text}");
        }
        assert_eq!(read_request(br#"{"t":"hb","r":-7}"#).map(|request| request.number), Ok(Some(-7)));
    }

    #[test]
    fn a_subscription_may_resume() {
        let id = |ms, seq| EntryId { ms, seq };
        for (members, expected) in [
            (r#""since":"17-2""#, Resume::Since(id(17, 2))),
            (r#""since":"17-2","last":5"#, Resume::Since(id(17, 2))),
            (r#""last":5"#, Resume::Last(5)),
            (
                r#""since":{"user":"1-0","group:a":"2-0"}"#,
                Resume::SinceEach(vec![("user".into(), id(1, 0)), ("group:a".into(), id(2, 0))]),
            ),
        ] {
            let text = format!(r#"{{"t":"sub","f":"x",{members}}}"#);
            let Ok(ClientAction::Subscribe(_, resume)) = action(&text) else { panic!("{text}") };
            assert_eq!(resume, Some(expected));
        }
    }

    #[test]
    fn what_is_no_request_is_told_apart_from_what_is_no_json() {
        for text in
            ["", "{", "hello", "{}x", r#"{"t":"hb"}{"t":"hb"}"#, "{'t':1}", r#"{"t":"\ud83d"#, r#""\ud8"#]
        {
            assert_eq!(action(text), Err(InvalidRequest::NotJson), "{text}");
        }
        let long = format!(r#"{{"t":"unsub","f":"{}"}}"#, "x".repeat(1_025));
        let deep = format!(r#"{{"t":"hb","x":{}{}}}"#, "[".repeat(20), "]".repeat(20));
        for text in [
            "1",
            "[]",
            "{}",
            r#"{"t":"x"}"#,
            r#"{"t":7}"#,
            r#"{"t":"hb","r":"1"}"#,
            r#"{"t":"sub"}"#,
            r#"{"t":"sub","f":"a\nb"}"#,
            r#"{"t":"sub","f":"a","flags":"subscribe-broadcast"}"#,
            r#"{"t":"sub","f":"a","flags":[1]}"#,
            r#"{"t":"sub","f":"a","since":"x"}"#,
            r#"{"t":"sub","f":"a","since":{"user":1}}"#,
            r#"{"t":"sub","f":"a","last":0}"#,
            r#"{"t":"pub","f":"a"}"#,
            r#"{"t":"pub","f":"a","d":""}"#,
            r#"{"t":"pub","f":"a","d":"x","b":"eA=="}"#,
            r#"{"t":"pub","f":"a","d":{}}"#,
            r#"{"t":"pub","f":"a","b":"%"}"#,
            r#"{"t":"pub","f":"a","a":"user","d":"x"}"#,
            r#"{"t":"auth"}"#,
            &long,
            &deep,
        ] {
            assert!(matches!(action(text), Err(InvalidRequest::Senseless(..))), "{text}");
        }
        let refused = read_request(br#"{"t":"x","r":3}"#);
        assert_eq!(refused, Err(InvalidRequest::Senseless(Some(3), "unknown t")));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_cause_a_panic(text in "[{}\\[\\]\":,tfrdab0-9a-z]{0,60}") {
            let _ = read_request(text.as_bytes());
        }
    }
}
