//! What the Django package says on the control channel. It is believed in nothing: each message is only a reason to
//! look again, or a question of the doctor's.

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
    Ask(Question),
}

/// A reason to look again at a user's sessions.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Hint {
    /// The user's primary key.
    pub user_id: Box<str>,
    /// Whether a session of theirs was ended on purpose.
    pub logout: bool,
}

/// A question of `manage.py ws4redis_doctor`.
#[derive(Clone, PartialEq, Eq)]
pub struct Question {
    /// 32 hexadecimal digits that name the channel of the answer.
    pub nonce: Box<str>,
    /// The key of the session that the doctor has made, if sessions are in Redis.
    pub session: Option<Box<str>>,
}

/// The key of a session is not shown.
impl std::fmt::Debug for Question {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Question").field("nonce", &self.nonce).finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct Written {
    v: u32,
    user: Option<Box<str>>,
    reason: Option<Box<str>>,
    doctor: Option<Box<str>>,
    session: Option<Box<str>>,
}

impl Control {
    /// Reads a message; `None` if it is none that the server knows.
    pub fn parse(message: &[u8]) -> Option<Self> {
        if message.len() > MAX_BYTES {
            return None;
        }
        let written: Written =
            serde_json::from_slice(message).ok().filter(|written: &Written| written.v == 1)?;
        match (written.user, written.doctor) {
            (Some(user_id), None) if (1..=MAX_USER_BYTES).contains(&user_id.len()) => {
                Some(Self::Look(Hint { user_id, logout: written.reason.as_deref() == Some("logout") }))
            }
            (None, Some(nonce)) if is_nonce(&nonce) => {
                Some(Self::Ask(Question { nonce, session: written.session }))
            }
            _ => None,
        }
    }
}

fn is_nonce(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
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
            let hint = match Control::parse(message.as_bytes()) {
                Some(Control::Look(hint)) => Some(hint),
                other => {
                    assert_eq!(other, None, "{message}");
                    None
                }
            };
            assert_eq!(hint.as_ref().map(|hint| (&*hint.user_id, hint.logout)), expected, "{message}");
        }
        let asked = format!(r#"{{"v":1,"doctor":"{nonce}","session":"s"}}"#);
        let question = Question { nonce: nonce.into(), session: Some("s".into()) };
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
