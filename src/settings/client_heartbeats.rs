//! Heartbeats of client libraries: parses `messages.client_heartbeats`.

use bytes::Bytes;

use super::error::SettingsError;
use super::fields::invalid;

const KEY: &str = "messages.client_heartbeats";

/// Longest text and longest answer, in bytes.
const MAX_BYTES: usize = 1024;

/// Most entries: each message of a client is compared with all of them.
const MAX_ENTRIES: usize = 16;

/// A text that a client library sends to probe the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientHeartbeat {
    /// The text. It is never published.
    pub text: Bytes,
    /// The answer; empty means none.
    pub answer: Bytes,
}

/// Parses `TEXT` (answered with itself), `TEXT=ANSWER` and `TEXT=` (not answered).
pub(super) fn parse(list: &[String]) -> Result<Vec<ClientHeartbeat>, SettingsError> {
    if list.len() > MAX_ENTRIES {
        return Err(invalid(KEY, "must not have more than 16 entries"));
    }
    let mut parsed = Vec::<ClientHeartbeat>::new();
    for entry in list {
        let (text, answer) = entry.rsplit_once('=').unwrap_or((entry, entry));
        if text.is_empty() {
            return Err(invalid(KEY, "expected TEXT, TEXT=ANSWER or TEXT=, for example ping or ping=pong"));
        }
        if text.len() > MAX_BYTES || answer.len() > MAX_BYTES {
            return Err(invalid(KEY, "a text must not be longer than 1024 bytes"));
        }
        if parsed.iter().any(|other| other.text == text) {
            return Err(invalid(KEY, "has a text twice"));
        }
        let copy = |text: &str| Bytes::copy_from_slice(text.as_bytes());
        parsed.push(ClientHeartbeat { text: copy(text), answer: copy(answer) });
    }
    Ok(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_answered_with_itself_another_or_nothing() {
        let list = ["ping", "hello=world", "quiet=", r#"{"type":"ping"}={"type":"pong"}"#];
        let parsed = parse(&list.map(str::to_owned)).unwrap();
        let pairs: Vec<_> = parsed.iter().map(|beat| (&beat.text[..], &beat.answer[..])).collect();
        let expected: [(&[u8], &[u8]); 4] = [
            (b"ping", b"ping"),
            (b"hello", b"world"),
            (b"quiet", b""),
            (br#"{"type":"ping"}"#, br#"{"type":"pong"}"#),
        ];
        assert_eq!(pairs, expected);
        let long = "x".repeat(1025);
        for list in [&["=x"][..], &[""], &["a", "a=b"], &[&long], &["x"; 17]] {
            let list: Vec<_> = list.iter().map(|entry| (*entry).to_owned()).collect();
            assert!(parse(&list).unwrap_err().to_string().contains("messages.client_heartbeats"), "{list:?}");
        }
    }
}
