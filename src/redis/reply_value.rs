//! Replies of any kind, read as a whole: for commands that are rarely given. Frequent ones are read token by token.

use super::resp::{self, Malformed, Token};

/// Bounds of a reply: lists within lists, and bytes of all of it.
const MAX_DEPTH: usize = 5;
const MAX_BYTES: usize = 4 << 20;

/// A reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ReplyValue {
    /// A status or a value.
    Text(String),
    /// A number.
    Number(i64),
    /// The text of an error.
    Error(String),
    /// No value, or no list.
    Nil,
    /// A list.
    List(Vec<Self>),
}

impl ReplyValue {
    /// Reads the reply that begins at `start`. Returns it with the offset of what follows; `None` if more has to come.
    ///
    /// # Errors
    ///
    /// When it is not RESP2, or is larger or nested more deeply than any reply that is asked for.
    pub(crate) fn read(input: &[u8], start: usize) -> Result<Option<(Self, usize)>, Malformed> {
        let answer = read(input, start, MAX_DEPTH)?;
        if answer.is_none() && input.len() - start > MAX_BYTES { Err(Malformed) } else { Ok(answer) }
    }

    /// Returns a text.
    pub(crate) fn text(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    /// Returns a number, also one that is written as a text.
    pub(crate) fn number(&self) -> Option<u64> {
        match self {
            Self::Number(number) => u64::try_from(*number).ok(),
            Self::Text(text) => text.parse().ok(),
            _ => None,
        }
    }

    /// Returns the parts of a list; of anything else none.
    pub(crate) fn list(&self) -> &[Self] {
        if let Self::List(parts) = self { parts } else { &[] }
    }

    /// Returns the value behind a name in a list of names and values.
    pub(crate) fn field(&self, name: &str) -> Option<&Self> {
        self.list().chunks_exact(2).find(|pair| pair[0].text() == Some(name)).map(|pair| &pair[1])
    }
}

fn read(input: &[u8], start: usize, depth: usize) -> Result<Option<(ReplyValue, usize)>, Malformed> {
    let Some((token, mut next)) = resp::token(input, start, MAX_BYTES)? else { return Ok(None) };
    let text = |place| String::from_utf8_lossy(&input[place]).into_owned();
    let answer = match token {
        Token::Status(place) | Token::Bulk(place) => ReplyValue::Text(text(place)),
        Token::Error(place) => ReplyValue::Error(text(place)),
        Token::Integer(number) => ReplyValue::Number(number),
        Token::Nil => ReplyValue::Nil,
        Token::Oversize(_) => return Err(Malformed),
        Token::Array(_) if depth == 0 => return Err(Malformed),
        Token::Array(length) => {
            // Grows with what comes, not with what is announced.
            let mut parts = Vec::new();
            for _ in 0..length {
                let Some((part, after)) = read(input, next, depth - 1)? else { return Ok(None) };
                parts.push(part);
                next = after;
            }
            ReplyValue::List(parts)
        }
    };
    Ok(Some((answer, next)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_whole_and_cut_short_it_waits() {
        let bytes = b"*3\r\n$4\r\nrole\r\n+master\r\n*2\r\n:7\r\n*-1\r\nrest";
        let text = |text: &str| ReplyValue::Text(text.to_owned());
        let inner = ReplyValue::List(vec![ReplyValue::Number(7), ReplyValue::Nil]);
        let whole = ReplyValue::List(vec![text("role"), text("master"), inner]);
        assert_eq!(ReplyValue::read(bytes, 0), Ok(Some((whole.clone(), bytes.len() - 4))));
        assert_eq!(whole.field("role"), Some(&text("master")));
        for end in 0..bytes.len() - 4 {
            assert_eq!(ReplyValue::read(&bytes[..end], 0), Ok(None));
        }
    }

    #[test]
    fn what_is_nested_without_end_is_refused() {
        assert_eq!(ReplyValue::read(&b"*1\r\n".repeat(200_000), 0), Err(Malformed));
    }
}
