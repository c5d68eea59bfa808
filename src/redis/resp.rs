//! RESP2, as far as it is spoken on connections of our own: commands out; replies, and messages of channels, in.
//!
//! <https://redis.io/docs/latest/develop/reference/protocol-spec/>

use std::ops::Range;

use bytes::{BufMut, BytesMut};

/// Longest line that is taken in: the text of an error, or a number.
const MAX_LINE: usize = 64 * 1024;

/// Largest value that Redis itself allows (`proto-max-bulk-len`), and longest array that is taken in.
const MAX_BULK: usize = 512 << 20;
const MAX_ARRAY: usize = 1 << 20;

/// Digits of the highest number.
const MAX_DIGITS: usize = 19;

/// What came is not RESP2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("Protocol error: what answers does not speak RESP2")]
pub struct Malformed;

/// The next piece of what came. Places are offsets into it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Token {
    /// A status, such as `OK`.
    Status(Range<usize>),
    /// The text of an error.
    Error(Range<usize>),
    /// A number.
    Integer(i64),
    /// A value.
    Bulk(Range<usize>),
    /// A value that is larger than what is wanted: so many bytes and an end of line are to follow.
    Oversize(usize),
    /// No value, or no array.
    Nil,
    /// So many pieces follow.
    Array(usize),
}

/// Writes a command.
pub fn encode(out: &mut BytesMut, name: &str, arguments: &[&[u8]]) {
    out.reserve(arguments.iter().map(|word| word.len() + 16).sum::<usize>() + name.len() + 32);
    put_length(out, b'*', arguments.len() + 1);
    for word in [name.as_bytes()].iter().chain(arguments) {
        put_length(out, b'$', word.len());
        out.put_slice(word);
        out.put_slice(b"\r\n");
    }
}

fn put_length(out: &mut BytesMut, sign: u8, length: usize) {
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
    out.put_u8(sign);
    out.put_slice(&digits[at..]);
    out.put_slice(b"\r\n");
}

/// Reads the piece that begins at `start`. Returns it with the offset of what follows; none if more has to come.
///
/// Values larger than `max_bytes` are told of by their length alone.
///
/// # Errors
///
/// When it is not RESP2.
pub fn token(input: &[u8], start: usize, max_bytes: usize) -> Result<Option<(Token, usize)>, Malformed> {
    let Some(sign) = input.get(start) else { return Ok(None) };
    if let b'+' | b'-' = sign {
        let Some(line) = line(input, start + 1)? else { return Ok(None) };
        let next = line.end + 2;
        return Ok(Some((if *sign == b'+' { Token::Status(line) } else { Token::Error(line) }, next)));
    }
    if !b":$*".contains(sign) {
        return Err(Malformed);
    }
    let Some((number, next)) = integer(input, start + 1)? else { return Ok(None) };
    let token = match (sign, usize::try_from(number)) {
        (b':', _) => Token::Integer(number),
        // There is no other length below 0, and no other way to write it.
        (_, Err(_)) if &input[start + 1..next] == b"-1\r\n" => Token::Nil,
        (b'*', Ok(length)) if length <= MAX_ARRAY => Token::Array(length),
        (b'$', Ok(length)) if length <= max_bytes.min(MAX_BULK) => {
            let end = next + length;
            let Some(after) = input.get(end..end + 2) else { return Ok(None) };
            if after != b"\r\n" {
                return Err(Malformed);
            }
            return Ok(Some((Token::Bulk(next..end), end + 2)));
        }
        (b'$', Ok(length)) if length <= MAX_BULK => Token::Oversize(length),
        _ => return Err(Malformed),
    };
    Ok(Some((token, next)))
}

/// Returns where the line that begins at `start` is, without its end; none if that has not come yet.
fn line(input: &[u8], start: usize) -> Result<Option<Range<usize>>, Malformed> {
    let rest = &input[start..];
    match rest.iter().take(MAX_LINE).position(|byte| *byte == b'\r') {
        Some(length) => match rest.get(length + 1) {
            Some(b'\n') => Ok(Some(start..start + length)),
            Some(_) => Err(Malformed),
            None => Ok(None),
        },
        None if rest.len() >= MAX_LINE => Err(Malformed),
        None => Ok(None),
    }
}

/// Reads the number that begins at `start`, and the end of its line; none if more has to come.
fn integer(input: &[u8], start: usize) -> Result<Option<(i64, usize)>, Malformed> {
    let negative = input.get(start) == Some(&b'-');
    let first = start + usize::from(negative);
    let (mut number, mut at) = (0_i64, first);
    // The lowest number of all has one more than the highest; nothing that is asked here is answered with it.
    while let Some(digit @ b'0'..=b'9') = input.get(at) {
        let more = number.checked_mul(10).and_then(|number| number.checked_add(i64::from(digit - b'0')));
        number = more.filter(|_| at < first + MAX_DIGITS).ok_or(Malformed)?;
        at += 1;
    }
    match input.get(at..).unwrap_or_default() {
        [] => Ok(None),
        [b'\r'] if at > first => Ok(None),
        [b'\r', b'\n', ..] if at > first => Ok(Some((if negative { -number } else { number }, at + 2))),
        _ => Err(Malformed),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use redis_protocol::resp2::decode::decode;
    use redis_protocol::resp2::types::OwnedFrame;

    use super::*;

    const MAX: usize = 1000;

    /// Reads a whole frame, as the well-known codec shows it.
    fn whole(input: &[u8], start: usize) -> Option<(OwnedFrame, usize)> {
        let (token, next) = token(input, start, MAX).ok()??;
        let text = |place: Range<usize>| input[place].to_vec();
        Some(match token {
            Token::Status(place) => (OwnedFrame::SimpleString(text(place)), next),
            Token::Error(place) => (OwnedFrame::Error(String::from_utf8(text(place)).ok()?), next),
            Token::Integer(number) => (OwnedFrame::Integer(number), next),
            Token::Bulk(place) => (OwnedFrame::BulkString(text(place)), next),
            Token::Nil => (OwnedFrame::Null, next),
            Token::Oversize(_) => return None,
            Token::Array(length) => {
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
        fn what_redis_says_is_read_as_by_the_codec_and_cut_short_it_waits(frame in frames()) {
            let bytes = encoded(&frame);
            let known = decode(&bytes).expect("sound").expect("whole");
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
            let wanted = OwnedFrame::Array(words.map(OwnedFrame::BulkString).collect());
            prop_assert_eq!(whole(&out, 0), Some((wanted, out.len())));
        }

        #[test]
        fn anything_else_ends_in_an_error_or_waits(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let mut next = 0;
            while let Ok(Some((_, after))) = token(&bytes, next, MAX) {
                prop_assert!(after > next && after <= bytes.len());
                next = after;
            }
        }
    }

    #[test]
    fn a_value_that_is_too_large_is_told_of_before_it_comes() {
        assert_eq!(token(b"$1001\r\n", 0, MAX), Ok(Some((Token::Oversize(1001), 7))));
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
            assert_eq!(token(wrong.as_bytes(), 0, MAX), Err(Malformed), "{wrong}");
        }
    }
}
