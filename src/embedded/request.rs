//! Decodes requests from a byte stream: arrays of bulk strings, or inline commands.
//!
//! Announced lengths are checked before anything is buffered, so a client cannot make the store reserve memory. The
//! decoder remembers its position in an incomplete request: scanning it again for each piece that arrives would take
//! quadratic time.

use bytes::{Bytes, BytesMut};

use super::{inline, integer};
use crate::codec::resp::{self, LineError, NotResp, RespToken};

/// Longest inline command, as in Redis.
const MAX_LINE_BYTES: usize = 64 * 1024;
/// Memory that an argument takes in addition to its bytes: a `Bytes`, and its share of the queues of a transaction.
const ARGUMENT_BYTES: usize = 64;

/// A malformed request, after which the stream cannot be decoded any further. The text is that of Redis.
#[derive(Debug, thiserror::Error)]
#[error("ERR Protocol error: {0}")]
pub(crate) struct ProtocolError(String);

impl From<&str> for ProtocolError {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

/// A decoder that takes one request after the other from a buffer.
#[derive(Debug)]
pub(crate) struct Requests {
    max_bytes: usize,
    /// Arguments that are still incomplete in the request at the start of the buffer.
    missing: Option<usize>,
    /// Bytes of that request that have been scanned.
    scanned: usize,
    /// Memory that the scanned part takes, compared with `max_bytes`.
    cost: usize,
}

impl Requests {
    /// Creates a decoder for requests of at most `max_bytes`.
    pub(crate) fn new(max_bytes: usize) -> Self {
        Self { max_bytes, missing: None, scanned: 0, cost: 0 }
    }

    fn inline_command(&self, buffer: &mut BytesMut) -> Result<Option<Vec<Bytes>>, ProtocolError> {
        let Some(end) = buffer.iter().take(MAX_LINE_BYTES + 1).position(|&byte| byte == b'\n') else {
            return if buffer.len() > MAX_LINE_BYTES {
                Err("too big inline request".into())
            } else {
                Ok(None)
            };
        };
        let line = buffer.split_to(end + 1);
        let line = &line[..end];
        let words = inline::split(line.strip_suffix(b"\r").unwrap_or(line));
        let words = words.ok_or("unbalanced quotes in request")?;
        if words.len().saturating_mul(ARGUMENT_BYTES) > self.max_bytes {
            return Err("too big inline request".into());
        }
        Ok(Some(words))
    }

    /// Scans the request at the start of the buffer; returns false while bytes are missing.
    fn scan(&mut self, buffer: &[u8]) -> Result<bool, ProtocolError> {
        let mut missing = match self.missing {
            Some(missing) => missing,
            None => match self.scan_count(buffer)? {
                Some(count) => count,
                None => return Ok(false),
            },
        };
        while missing > 0 {
            self.missing = Some(missing);
            match buffer.get(self.scanned) {
                None => return Ok(false),
                Some(b'$') => {}
                Some(other) => {
                    return Err(ProtocolError(format!("expected '$', got '{}'", char::from(*other))));
                }
            }
            let line = header(buffer, self.scanned, "too big bulk count string")?;
            let Some((length, next)) = line else { return Ok(false) };
            let length = length.and_then(|length| usize::try_from(length).ok());
            let length = length.filter(|length| self.cost.saturating_add(*length) <= self.max_bytes);
            let length = length.ok_or("invalid bulk length")?;
            let end = next + length + 2;
            if buffer.len() < end {
                return Ok(false);
            }
            self.scanned = end;
            self.cost += length;
            missing -= 1;
        }
        Ok(true)
    }

    /// Scans the announced number of arguments; `None` means that bytes are missing.
    fn scan_count(&mut self, buffer: &[u8]) -> Result<Option<usize>, ProtocolError> {
        let Some((count, next)) = header(buffer, 0, "too big mbulk count string")? else { return Ok(None) };
        let count = usize::try_from(count.ok_or("invalid multibulk length")?).unwrap_or(0);
        self.cost = count.saturating_mul(ARGUMENT_BYTES);
        if self.cost > self.max_bytes {
            return Err("invalid multibulk length".into());
        }
        self.scanned = next;
        Ok(Some(count))
    }

    /// Returns the next request, which has no words after an empty line or array; `None` if it is incomplete.
    ///
    /// # Errors
    /// When the stream is malformed, or the request exceeds the limit.
    pub(crate) fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Vec<Bytes>>, ProtocolError> {
        match buffer.first() {
            None => return Ok(None),
            Some(b'*') => {}
            Some(_) => return self.inline_command(buffer),
        }
        if !self.scan(buffer)? {
            return Ok(None);
        }
        let cost = std::mem::take(&mut self.cost);
        self.missing = None;
        let request = buffer.split_to(std::mem::take(&mut self.scanned)).freeze();
        if cost == 0 {
            // Redis takes `*-5` for an empty request.
            return Ok(Some(Vec::new()));
        }
        words(&request, self.max_bytes).map(Some).map_err(|NotResp| "invalid request".into())
    }
}

/// Counts the requests in a stream that arrives in pieces of `piece` bytes, up to the first error. For the fuzz target.
pub fn count_requests(stream: &[u8], piece: usize) -> usize {
    let mut requests = Requests::new(1 << 20);
    let (mut buffer, mut count) = (BytesMut::new(), 0);
    for part in stream.chunks(piece.max(1)) {
        buffer.extend_from_slice(part);
        loop {
            match requests.decode(&mut buffer) {
                Ok(Some(_)) => count += 1,
                Ok(None) => break,
                Err(_) => return count,
            }
        }
    }
    count
}

/// Returns the words of a complete request, which share its memory.
fn words(request: &Bytes, max_bytes: usize) -> Result<Vec<Bytes>, NotResp> {
    let Some((RespToken::Array(count), mut next)) = resp::token(request, 0, max_bytes)? else {
        return Err(NotResp);
    };
    let mut words = Vec::new();
    for _ in 0..count {
        let Some((RespToken::Bulk(range), after)) = resp::token(request, next, max_bytes)? else {
            return Err(NotResp);
        };
        words.push(request.slice(range));
        next = after;
    }
    Ok(words)
}

/// Reads the header at `start`: returns its number, or `None` if that is invalid, with the offset of what follows. Returns
/// `None` if the header is incomplete.
fn header(input: &[u8], start: usize, too_long: &str) -> Result<Option<(Option<i64>, usize)>, ProtocolError> {
    match resp::line(input, start + 1) {
        Ok(line) => Ok(line.map(|line| (integer::parse(&input[line.clone()]), line.end + 2))),
        Err(LineError::NoLineFeed) => Err("invalid line end".into()),
        Err(LineError::TooLong) => Err(too_long.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(bytes: &[u8], chunk: usize) -> Result<Vec<Vec<Bytes>>, ProtocolError> {
        let mut requests = Requests::new(1_000);
        let (mut buffer, mut found) = (BytesMut::new(), Vec::new());
        for part in bytes.chunks(chunk) {
            buffer.extend_from_slice(part);
            while let Some(request) = requests.decode(&mut buffer)? {
                found.push(request);
            }
        }
        Ok(found)
    }

    #[test]
    fn requests_are_decoded_from_chunks_of_any_size() {
        let bytes =
            b"*2\r\n$3\r\nGET\r\n$1\r\na\r\nPING x\r\n*0\r\n*-3\r\n*1\r\n$0\r\n\r\n\r\n*1\r\n$4\r\nPING\r\n";
        let expected: Vec<Vec<&[u8]>> =
            vec![vec![b"GET", b"a"], vec![b"PING", b"x"], vec![], vec![], vec![b""], vec![], vec![b"PING"]];
        for chunk in 1..=bytes.len() {
            assert_eq!(all(bytes, chunk).unwrap(), expected, "chunks of {chunk}");
        }
    }

    #[test]
    fn invalid_lengths_are_refused_before_anything_is_buffered() {
        for (bytes, text) in [
            ("*1\r\n$536870912\r\n", "invalid bulk length"),
            ("*1\r\n$-1\r\n", "invalid bulk length"),
            ("*1\r\n$99999999999999999999\r\n", "invalid bulk length"),
            ("*2\r\n$600\r\n", ""),
            ("*1000000\r\n", "invalid multibulk length"),
            ("*x\r\n", "invalid multibulk length"),
            ("*1\r\n:1\r\n", "expected '$', got ':'"),
            ("set a \"b\r\n", "unbalanced quotes in request"),
        ] {
            let result = all(bytes.as_bytes(), 1_000);
            let found = result.err().map_or(String::new(), |error| error.to_string());
            assert_eq!(found.strip_prefix("ERR Protocol error: ").unwrap_or(&found), text, "{bytes:?}");
        }
    }

    #[test]
    fn lines_without_an_end_are_refused() {
        for (start, text) in
            [("x", "inline request"), ("*", "mbulk count string"), ("*1\r\n$", "bulk count string")]
        {
            let bytes = [start, &"1".repeat(MAX_LINE_BYTES + 1)].concat();
            let error = all(bytes.as_bytes(), 4_096).unwrap_err().to_string();
            assert_eq!(error, format!("ERR Protocol error: too big {text}"));
        }
    }

    proptest::proptest! {
        #[test]
        fn no_input_causes_a_panic(bytes in proptest::collection::vec(proptest::sample::select(b"*$-0129\r\na\" \xff".to_vec()), 0..40), chunk in 1..8_usize) {
            let _ = all(&bytes, chunk);
        }
    }
}
