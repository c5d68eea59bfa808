//! Replies of any type, parsed as a whole, for rare commands. Frequent replies are parsed token by token.

use crate::codec::resp::{self, NotResp, RespToken};

/// Limits of a reply: depth of nested arrays, and total bytes.
const MAX_DEPTH: usize = 5;
const MAX_BYTES: usize = 4 << 20;

/// A parsed reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ReplyValue {
    /// A status or a bulk string.
    Text(String),
    /// An integer.
    Number(i64),
    /// An error reply, with its text.
    Error(String),
    /// Nil.
    Nil,
    /// An array.
    List(Vec<Self>),
}

impl ReplyValue {
    /// Parses the reply at `start`. Returns it with the offset of its end; `None` if it is incomplete.
    ///
    /// # Errors
    ///
    /// When it is not RESP2, or exceeds the limits.
    pub(crate) fn read(input: &[u8], start: usize) -> Result<Option<(Self, usize)>, NotResp> {
        let reply = read(input, start, MAX_DEPTH)?;
        if reply.is_none() && input.len() - start > MAX_BYTES { Err(NotResp) } else { Ok(reply) }
    }

    /// Returns the text of a status or bulk string.
    pub(crate) fn text(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    /// Returns an integer, also one that is written as a string.
    pub(crate) fn number(&self) -> Option<u64> {
        match self {
            Self::Number(number) => u64::try_from(*number).ok(),
            Self::Text(text) => text.parse().ok(),
            _ => None,
        }
    }

    /// Returns the elements of an array; none for any other type.
    pub(crate) fn list(&self) -> &[Self] {
        if let Self::List(parts) = self { parts } else { &[] }
    }

    /// Returns the value of a name in an array of alternating names and values.
    pub(crate) fn field(&self, name: &str) -> Option<&Self> {
        self.list().chunks_exact(2).find(|pair| pair[0].text() == Some(name)).map(|pair| &pair[1])
    }
}

fn read(input: &[u8], start: usize, depth: usize) -> Result<Option<(ReplyValue, usize)>, NotResp> {
    let Some((token, mut next)) = resp::token(input, start, MAX_BYTES)? else { return Ok(None) };
    let text = |range| String::from_utf8_lossy(&input[range]).into_owned();
    let reply = match token {
        RespToken::Status(range) | RespToken::Bulk(range) => ReplyValue::Text(text(range)),
        RespToken::Error(range) => ReplyValue::Error(text(range)),
        RespToken::Integer(number) => ReplyValue::Number(number),
        RespToken::Nil => ReplyValue::Nil,
        RespToken::Oversize(_) => return Err(NotResp),
        RespToken::Array(_) if depth == 0 => return Err(NotResp),
        RespToken::Array(length) => {
            // The vector grows with the bytes received, never with a length that the server announces.
            let mut parts = Vec::new();
            for _ in 0..length {
                let Some((part, after)) = read(input, next, depth - 1)? else { return Ok(None) };
                parts.push(part);
                next = after;
            }
            ReplyValue::List(parts)
        }
    };
    Ok(Some((reply, next)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_is_parsed_whole_and_an_incomplete_one_waits() {
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
    fn deeply_nested_arrays_are_refused() {
        assert_eq!(ReplyValue::read(&b"*1\r\n".repeat(200_000), 0), Err(NotResp));
    }
}
