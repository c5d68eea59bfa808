//! RESP2, the protocol of Redis, token by token: replies and messages of channels, and requests.
//!
//! No length that a peer announces is used to allocate: a token refers to the input, and a bulk string over the caller's
//! limit is reported before it arrives.
//!
//! <https://redis.io/docs/latest/develop/reference/protocol-spec/>

use std::ops::Range;

use bytes::{BufMut, BytesMut};

/// Longest line, without its type and its end: the text of an error, or a number.
const MAX_LINE_BYTES: usize = 64 * 1024;

/// Longest value that Redis itself allows (`proto-max-bulk-len`), and longest array.
const MAX_BULK_BYTES: usize = 512 << 20;
const MAX_ARRAY_ITEMS: usize = 1 << 20;

/// Digits of the largest number.
const MAX_DIGITS: usize = 19;

/// The input is not RESP2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("Protocol error: the input is not RESP2")]
pub struct NotResp;

/// Why a line is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineError {
    /// It is longer than 64 KiB.
    TooLong,
    /// A carriage return is not followed by a line feed.
    NoLineFeed,
}

impl From<LineError> for NotResp {
    fn from(_: LineError) -> Self {
        Self
    }
}

/// A scalar value, or the header of an array. Ranges are offsets into the input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RespToken {
    /// A status, such as `OK`.
    Status(Range<usize>),
    /// The text of an error.
    Error(Range<usize>),
    /// An integer.
    Integer(i64),
    /// A bulk string.
    Bulk(Range<usize>),
    /// The length of a bulk string over the caller's limit. Its bytes and a line end follow.
    Oversize(usize),
    /// A null bulk string or a null array.
    Nil,
    /// An array: this many values follow.
    Array(usize),
}

/// Appends a command.
pub fn encode(out: &mut BytesMut, name: &str, arguments: &[&[u8]]) {
    out.reserve(arguments.iter().map(|word| word.len() + 16).sum::<usize>() + name.len() + 32);
    put_header(out, b'*', arguments.len() + 1);
    for word in [name.as_bytes()].iter().chain(arguments) {
        put_header(out, b'$', word.len());
        out.put_slice(word);
        out.put_slice(b"\r\n");
    }
}

/// Appends a type and a length.
pub fn put_header(out: &mut BytesMut, kind: u8, length: usize) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    let mut left = length;
    loop {
        at -= 1;
        digits[at] = b"0123456789"[left % 10];
        left /= 10;
        if left == 0 {
            break;
        }
    }
    out.put_u8(kind);
    out.put_slice(&digits[at..]);
    out.put_slice(b"\r\n");
}

/// Reads the token at `start`. Returns it with the offset of what follows; `None` if it is incomplete.
///
/// # Errors
///
/// When the input is not RESP2.
pub fn token(
    input: &[u8],
    start: usize,
    max_bulk_bytes: usize,
) -> Result<Option<(RespToken, usize)>, NotResp> {
    let Some(kind) = input.get(start) else { return Ok(None) };
    if let b'+' | b'-' = kind {
        let Some(line) = line(input, start + 1)? else { return Ok(None) };
        let next = line.end + 2;
        return Ok(Some((
            if *kind == b'+' { RespToken::Status(line) } else { RespToken::Error(line) },
            next,
        )));
    }
    if !b":$*".contains(kind) {
        return Err(NotResp);
    }
    let Some((number, next)) = integer(input, start + 1)? else { return Ok(None) };
    let token = match (kind, usize::try_from(number)) {
        (b':', _) => RespToken::Integer(number),
        // No other length is negative, and -1 has no other spelling.
        (_, Err(_)) if &input[start + 1..next] == b"-1\r\n" => RespToken::Nil,
        (b'*', Ok(length)) if length <= MAX_ARRAY_ITEMS => RespToken::Array(length),
        (b'$', Ok(length)) if length <= max_bulk_bytes.min(MAX_BULK_BYTES) => {
            let end = next + length;
            let Some(after) = input.get(end..end + 2) else { return Ok(None) };
            if after != b"\r\n" {
                return Err(NotResp);
            }
            return Ok(Some((RespToken::Bulk(next..end), end + 2)));
        }
        (b'$', Ok(length)) if length <= MAX_BULK_BYTES => RespToken::Oversize(length),
        _ => return Err(NotResp),
    };
    Ok(Some((token, next)))
}

/// Returns the range of the line at `start`, without its end; `None` if it is incomplete.
///
/// # Errors
///
/// When it is too long, or its carriage return is not followed by a line feed.
pub fn line(input: &[u8], start: usize) -> Result<Option<Range<usize>>, LineError> {
    let rest = input.get(start..).unwrap_or_default();
    match rest.iter().take(MAX_LINE_BYTES).position(|byte| *byte == b'\r') {
        Some(length) => match rest.get(length + 1) {
            Some(b'\n') => Ok(Some(start..start + length)),
            Some(_) => Err(LineError::NoLineFeed),
            None => Ok(None),
        },
        None if rest.len() >= MAX_LINE_BYTES => Err(LineError::TooLong),
        None => Ok(None),
    }
}

/// Reads the number at `start` and its line end; `None` if it is incomplete.
fn integer(input: &[u8], start: usize) -> Result<Option<(i64, usize)>, NotResp> {
    let negative = input.get(start) == Some(&b'-');
    let first = start + usize::from(negative);
    let (mut number, mut at) = (0_i64, first);
    // `i64::MIN` overflows here; no reply that is read has it.
    while let Some(digit @ b'0'..=b'9') = input.get(at) {
        let more = number.checked_mul(10).and_then(|number| number.checked_add(i64::from(digit - b'0')));
        number = more.filter(|_| at < first + MAX_DIGITS).ok_or(NotResp)?;
        at += 1;
    }
    match input.get(at..).unwrap_or_default() {
        [] => Ok(None),
        [b'\r'] if at > first => Ok(None),
        [b'\r', b'\n', ..] if at > first => Ok(Some((if negative { -number } else { number }, at + 2))),
        _ => Err(NotResp),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use redis_protocol::resp2::decode::decode;
    use redis_protocol::resp2::types::OwnedFrame;

    use super::*;

    const MAX: usize = 1000;

    /// Reads a whole frame as redis-protocol represents it.
    fn whole(input: &[u8], start: usize) -> Option<(OwnedFrame, usize)> {
        let (token, next) = token(input, start, MAX).ok()??;
        let text = |range: Range<usize>| input[range].to_vec();
        Some(match token {
            RespToken::Status(range) => (OwnedFrame::SimpleString(text(range)), next),
            RespToken::Error(range) => (OwnedFrame::Error(String::from_utf8(text(range)).ok()?), next),
            RespToken::Integer(number) => (OwnedFrame::Integer(number), next),
            RespToken::Bulk(range) => (OwnedFrame::BulkString(text(range)), next),
            RespToken::Nil => (OwnedFrame::Null, next),
            RespToken::Oversize(_) => return None,
            RespToken::Array(length) => {
                let mut next = next;
                let mut parts = Vec::new();
                for _ in 0..length {
                    let (part, after) = whole(input, next)?;
                    parts.push(part);
                    next = after;
                }
                (OwnedFrame::Array(parts), next)
            }
        })
    }

    fn frames() -> impl Strategy<Value = OwnedFrame> {
        let leaf = prop_oneof![
            "[ -~]{0,40}".prop_map(|text| OwnedFrame::SimpleString(text.into_bytes())),
            "[ -~]{1,40}".prop_map(OwnedFrame::Error),
            (-i64::MAX..=i64::MAX).prop_map(OwnedFrame::Integer),
            prop::collection::vec(any::<u8>(), 0..200).prop_map(OwnedFrame::BulkString),
            Just(OwnedFrame::Null),
        ];
        leaf.prop_recursive(2, 16, 5, |inner| prop::collection::vec(inner, 0..5).prop_map(OwnedFrame::Array))
    }

    fn encoded(frame: &OwnedFrame) -> Vec<u8> {
        let mut out = vec![0; 65536];
        let length = redis_protocol::resp2::encode::encode(&mut out, frame, false).expect("encodes");
        out.truncate(length);
        out
    }

    proptest! {
        #[test]
        fn replies_are_read_as_by_redis_protocol_and_incomplete_ones_wait(frame in frames()) {
            let bytes = encoded(&frame);
            let known = decode(&bytes).expect("valid").expect("complete");
            prop_assert_eq!(whole(&bytes, 0), Some((known.0, known.1)));
            for end in 0..bytes.len() {
                prop_assert!(whole(&bytes[..end], 0).is_none());
            }
        }

        #[test]
        fn a_command_is_an_array_of_its_words(words in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..6)) {
            let mut out = BytesMut::new();
            encode(&mut out, "SETEX", &words.iter().map(Vec::as_slice).collect::<Vec<_>>());
            let words = [b"SETEX".to_vec()].into_iter().chain(words);
            let expected = OwnedFrame::Array(words.map(OwnedFrame::BulkString).collect());
            prop_assert_eq!(whole(&out, 0), Some((expected, out.len())));
        }

        #[test]
        fn any_bytes_are_tokens_or_an_error_or_incomplete(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let mut next = 0;
            while let Ok(Some((_, after))) = token(&bytes, next, MAX) {
                prop_assert!(after > next && after <= bytes.len());
                next = after;
            }
        }
    }

    #[test]
    fn an_oversized_value_is_reported_before_it_arrives() {
        assert_eq!(token(b"$1001\r\n", 0, MAX), Ok(Some((RespToken::Oversize(1001), 7))));
        assert_eq!(token(b"$1000\r\n", 0, MAX), Ok(None));
        for wrong in [
            "$600000000\r\n",
            "*2000000\r\n",
            ":9999999999999999999\r\n",
            "$-2\r\n",
            "$\r\n",
            ":1x\r\n",
            "!a\r\n",
            "$1\r\nabc",
            "+a\rb",
        ] {
            assert_eq!(token(wrong.as_bytes(), 0, MAX), Err(NotResp), "{wrong}");
        }
    }
}
