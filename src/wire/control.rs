//! What the Django package says on the control channel. It is believed in nothing: each message is only a reason to
//! look again, or a question of the doctor's.

use std::num::NonZeroU64;

use serde::Deserialize;

/// Longest message that is looked at, in bytes.
const MAX_BYTES: usize = 4 * 1024;

/// Longest primary key, in bytes.
const MAX_USER_BYTES: usize = 1024;

/// A message of the control channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Control {
    /// Something has changed about a user, or their sessions.
    Look(Hint),
    /// The doctor asks what the server sees.
    Ask(DoctorQuery),
}

/// A reason to look again.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Hint {
    /// At a user's sessions.
    User {
        /// The user's primary key.
        id: Box<str>,
        /// Whether one of them was ended on purpose.
        logout: bool,
    },
    /// At one session, which was ended on purpose.
    Session(SessionDigest),
}

/// What tells a session to those who know its key, and nothing to others: the first bytes of a SHA-256.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionDigest(NonZeroU64);

/// A question of `manage.py ws4redis_doctor`.
#[derive(Clone, PartialEq, Eq)]
pub struct DoctorQuery {
    /// 32 hexadecimal digits that name the channel of the answer.
    pub nonce: Box<str>,
    /// The key of the session that the doctor has made, if sessions are in Redis.
    pub session: Option<Box<str>>,
}

/// The key of a session is not shown.
impl std::fmt::Debug for DoctorQuery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DoctorQuery").field("nonce", &self.nonce).finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct Written {
    v: u32,
    user: Option<Box<str>>,
    reason: Option<Box<str>>,
    ended: Option<Box<str>>,
    doctor: Option<Box<str>>,
    session: Option<Box<str>>,
}

impl SessionDigest {
    /// Takes the first bytes. Zero counts as one, so that it takes no more room where there may be none.
    pub fn new(first: u64) -> Self {
        Self(NonZeroU64::new(first).unwrap_or(NonZeroU64::MIN))
    }
}

impl Control {
    /// Reads a message; `None` if it is none that the server knows.
    pub fn parse(message: &[u8]) -> Option<Self> {
        if message.len() > MAX_BYTES {
            return None;
        }
        let written: Written =
            serde_json::from_slice(message).ok().filter(|written: &Written| written.v == 1)?;
        match (written.user, written.ended, written.doctor) {
            (Some(id), None, None) if (1..=MAX_USER_BYTES).contains(&id.len()) => {
                Some(Self::Look(Hint::User { id, logout: written.reason.as_deref() == Some("logout") }))
            }
            (None, Some(digest), None) if is_hex(&digest, 64) => {
                let first = u64::from_str_radix(digest.get(..16)?, 16).ok()?;
                Some(Self::Look(Hint::Session(SessionDigest::new(first))))
            }
            (None, None, Some(nonce)) if is_hex(&nonce, 32) => {
                Some(Self::Ask(DoctorQuery { nonce, session: written.session }))
            }
            _ => None,
        }
    }
}

fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_message_of_the_package_says_nothing() {
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
            let expected = expected.map(|(id, logout)| Control::Look(Hint::User { id: id.into(), logout }));
            assert_eq!(Control::parse(message.as_bytes()), expected, "{message}");
        }
        let ended = format!(r#"{{"v":1,"ended":"00000000000000ff{}"}}"#, "a".repeat(48));
        let digest = SessionDigest::new(255);
        assert_eq!(Control::parse(ended.as_bytes()), Some(Control::Look(Hint::Session(digest))));
        assert_eq!(Control::parse(br#"{"v":1,"ended":"ff"}"#), None);
        let asked = format!(r#"{{"v":1,"doctor":"{nonce}","session":"s"}}"#);
        let question = DoctorQuery { nonce: nonce.into(), session: Some("s".into()) };
        assert_eq!(Control::parse(asked.as_bytes()), Some(Control::Ask(question)));
        for nonce in ["", "0123", "0123456789ABCDEF0123456789abcdef", "0123456789abcdef0123456789abcde:"] {
            assert_eq!(
                Control::parse(format!(r#"{{"v":1,"doctor":"{nonce}"}}"#).as_bytes()),
                None,
                "{nonce}"
            );
        }
    }
}
