//! The control channel: JSON messages of the Django package.
//!
//! Nothing in a message is trusted: each is only a reason to re-read sessions, or a query of the doctor.

use serde::Deserialize;

use super::Instruction;
use crate::wire::{DoctorQuery, Facility, Invalidation, Message, SessionDigest};

/// Longest message that is parsed, in bytes.
const MAX_BYTES: usize = 4 * 1024;

/// Longest primary key, in bytes.
const MAX_USER_BYTES: usize = 1024;

#[derive(Deserialize)]
struct ControlMessage {
    v: u32,
    user: Option<Box<str>>,
    reason: Option<Box<str>>,
    ended: Option<Box<str>>,
    groups: Option<Box<str>>,
    doctor: Option<Box<str>>,
    session: Option<Box<str>>,
    #[serde(default)]
    facilities: Vec<Box<str>>,
}

/// Returns what a message asks for; `None` if it is malformed or of another version.
pub(super) fn read(message: &Message) -> Option<Instruction> {
    parse(message.payload())
}

fn parse(payload: &[u8]) -> Option<Instruction> {
    if payload.len() > MAX_BYTES {
        return None;
    }
    let message: ControlMessage =
        serde_json::from_slice(payload).ok().filter(|message: &ControlMessage| message.v == 1)?;
    let is_user = |id: &str| (1..=MAX_USER_BYTES).contains(&id.len());
    match (message.user, message.ended, message.groups, message.doctor) {
        (Some(id), None, None, None) if is_user(&id) => {
            let logout = message.reason.as_deref() == Some("logout");
            Some(Instruction::Invalidate(Invalidation::User { id, logout }))
        }
        (None, Some(digest), None, None) if is_hex(&digest, 64) => {
            let first = u64::from_str_radix(digest.get(..16)?, 16).ok()?;
            Some(Instruction::Invalidate(Invalidation::Session(SessionDigest::new(first))))
        }
        (None, None, Some(id), None) if is_user(&id) => {
            Some(Instruction::Invalidate(Invalidation::Groups { id }))
        }
        (None, None, None, Some(nonce)) if is_hex(&nonce, 32) => {
            let facilities = message.facilities.iter().map(|name| Facility::new(name)).collect();
            Some(Instruction::Query(DoctorQuery { nonce, session: message.session, facilities }))
        }
        _ => None,
    }
}

fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn malformed_control_messages_are_ignored() {
        let nonce = "0123456789abcdef0123456789abcdef";
        for (message, expected) in [
            (r#"{"v":1,"user":"7","reason":"user"}"#.to_owned(), Some(("7", false))),
            (r#"{"v":1,"user":"7","reason":"logout","more":[1]}"#.to_owned(), Some(("7", true))),
            (r#"{"v":1,"user":"7"}"#.to_owned(), Some(("7", false))),
            (r#"{"v":2,"user":"7"}"#.to_owned(), None),
            (r#"{"user":"7"}"#.to_owned(), None),
            (r#"{"v":1,"user":7}"#.to_owned(), None),
            (r#"{"v":1,"user":""}"#.to_owned(), None),
            (format!(r#"{{"v":1,"user":"7","doctor":"{nonce}"}}"#), None),
            (format!(r#"{{"v":1,"user":"{}"}}"#, "x".repeat(MAX_USER_BYTES + 1)), None),
            (format!(r#"{{"v":1,"user":"7"{}}}"#, " ".repeat(MAX_BYTES)), None),
            ("[".repeat(1000), None),
            (String::new(), None),
        ] {
            let expected = expected
                .map(|(id, logout)| Instruction::Invalidate(Invalidation::User { id: id.into(), logout }));
            assert_eq!(parse(message.as_bytes()), expected, "{message}");
        }
        let ended = format!(r#"{{"v":1,"ended":"00000000000000ff{}"}}"#, "a".repeat(48));
        let digest = SessionDigest::new(255);
        assert_eq!(parse(ended.as_bytes()), Some(Instruction::Invalidate(Invalidation::Session(digest))));
        assert_eq!(parse(br#"{"v":1,"ended":"ff"}"#), None);
        let groups = Invalidation::Groups { id: "7".into() };
        assert_eq!(parse(br#"{"v":1,"groups":"7"}"#), Some(Instruction::Invalidate(groups)));
        for wrong in [r#"{"v":1,"groups":""}"#, r#"{"v":1,"groups":7}"#, r#"{"v":1,"groups":"7","user":"7"}"#]
        {
            assert_eq!(parse(wrong.as_bytes()), None, "{wrong}");
        }
        let json = format!(r#"{{"v":1,"doctor":"{nonce}","session":"s","facilities":["a"]}}"#);
        let facilities = Box::new([Facility::new("a")]);
        let query = DoctorQuery { nonce: nonce.into(), session: Some("s".into()), facilities };
        assert_eq!(parse(json.as_bytes()), Some(Instruction::Query(query)));
        let json = format!(r#"{{"v":1,"doctor":"{nonce}"}}"#);
        let query = DoctorQuery { nonce: nonce.into(), session: None, facilities: Box::default() };
        assert_eq!(parse(json.as_bytes()), Some(Instruction::Query(query)));
        assert_eq!(parse(format!(r#"{{"v":1,"doctor":"{nonce}","facilities":"a"}}"#).as_bytes()), None);
        for nonce in ["", "0123", "0123456789ABCDEF0123456789abcdef", "0123456789abcdef0123456789abcde:"] {
            assert_eq!(parse(format!(r#"{{"v":1,"doctor":"{nonce}"}}"#).as_bytes()), None, "{nonce}");
        }
    }
}
