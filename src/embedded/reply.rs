//! Replies as values, and their encoding in RESP2 and RESP3.
//!
//! <https://redis.io/docs/latest/develop/reference/protocol-spec/>

use std::borrow::Cow;

use bytes::{Bytes, BytesMut};

use crate::codec::resp::put_header;

/// The protocol version that a client has selected with HELLO.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Resp2,
    Resp3,
}

/// A reply to a command, or a message to a subscriber.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Reply {
    Simple(&'static str),
    Error(Cow<'static, str>),
    Integer(i64),
    Bulk(Bytes),
    /// Human-readable text; a bulk string in RESP2.
    Verbatim(Bytes),
    Nil,
    NilArray,
    Array(Vec<Reply>),
    Map(Vec<(Reply, Reply)>),
    Push(Vec<Reply>),
    /// Several replies to one command: SUBSCRIBE has one for each channel.
    Sequence(Vec<Reply>),
}

pub(crate) const OK: Reply = Reply::Simple("OK");
pub(crate) const SYNTAX: Reply = Reply::Error(Cow::Borrowed("ERR syntax error"));
pub(crate) const NOT_AN_INTEGER: Reply =
    Reply::Error(Cow::Borrowed("ERR value is not an integer or out of range"));
pub(crate) const WRONG_TYPE: Reply =
    Reply::Error(Cow::Borrowed("WRONGTYPE Operation against a key holding the wrong kind of value"));
pub(crate) const OUT_OF_MEMORY: Reply =
    Reply::Error(Cow::Borrowed("OOM command not allowed when used memory > 'maxmemory'."));

impl Reply {
    /// Creates an error. Line breaks are replaced, because the text may contain bytes of a client.
    pub(crate) fn error(text: &str) -> Self {
        Self::Error(Cow::Owned(text.replace(['\r', '\n'], " ")))
    }

    /// Creates an integer from a count.
    pub(crate) fn count(count: usize) -> Self {
        Self::Integer(i64::try_from(count).unwrap_or(i64::MAX))
    }

    /// Creates a bulk string from a constant.
    pub(crate) fn text(text: &'static str) -> Self {
        Self::Bulk(Bytes::from_static(text.as_bytes()))
    }

    /// Returns an upper bound of the encoded length, so that a reply above the limit is never encoded.
    pub(crate) fn max_encoded_len(&self) -> usize {
        const HEADER_BYTES: usize = 24;
        HEADER_BYTES
            + match self {
                Self::Simple(text) => text.len(),
                Self::Error(text) => text.len(),
                Self::Bulk(data) | Self::Verbatim(data) => data.len() + 8,
                Self::Integer(_) | Self::Nil | Self::NilArray => 0,
                Self::Array(items) | Self::Push(items) | Self::Sequence(items) => {
                    items.iter().map(Self::max_encoded_len).sum()
                }
                Self::Map(pairs) => {
                    pairs.iter().map(|(key, value)| key.max_encoded_len() + value.max_encoded_len()).sum()
                }
            }
    }

    /// Appends the encoded reply.
    pub(crate) fn write(&self, protocol: Protocol, out: &mut BytesMut) {
        let resp3 = protocol == Protocol::Resp3;
        match self {
            Self::Simple(text) => write_line(out, b"+", text),
            Self::Error(text) => write_line(out, b"-", text),
            Self::Integer(number) => write_line(out, b":", &number.to_string()),
            Self::Verbatim(data) if resp3 => {
                const FORMAT: &[u8] = b"txt:";
                put_header(out, b'=', FORMAT.len() + data.len());
                out.extend_from_slice(FORMAT);
                write_line(out, data, "");
            }
            Self::Bulk(data) | Self::Verbatim(data) => {
                put_header(out, b'$', data.len());
                write_line(out, data, "");
            }
            Self::Nil | Self::NilArray if resp3 => write_line(out, b"_", ""),
            Self::Nil => write_line(out, b"$", "-1"),
            Self::NilArray => write_line(out, b"*", "-1"),
            Self::Array(items) => write_items(b'*', items, protocol, out),
            Self::Push(items) => write_items(if resp3 { b'>' } else { b'*' }, items, protocol, out),
            Self::Map(pairs) => {
                let (kind, length) = if resp3 { (b'%', pairs.len()) } else { (b'*', pairs.len() * 2) };
                put_header(out, kind, length);
                for (key, value) in pairs {
                    key.write(protocol, out);
                    value.write(protocol, out);
                }
            }
            Self::Sequence(replies) => {
                for reply in replies {
                    reply.write(protocol, out);
                }
            }
        }
    }
}

fn write_items(kind: u8, items: &[Reply], protocol: Protocol, out: &mut BytesMut) {
    put_header(out, kind, items.len());
    for item in items {
        item.write(protocol, out);
    }
}

fn write_line(out: &mut BytesMut, start: &[u8], rest: &str) {
    out.extend_from_slice(start);
    out.extend_from_slice(rest.as_bytes());
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(reply: &Reply, resp2: &str, resp3: &str) {
        for (protocol, expected) in [(Protocol::Resp2, resp2), (Protocol::Resp3, resp3)] {
            let mut out = BytesMut::new();
            reply.write(protocol, &mut out);
            assert_eq!(std::str::from_utf8(&out).unwrap(), expected);
            assert!(reply.max_encoded_len() >= out.len(), "{reply:?}");
        }
    }

    #[test]
    fn replies_are_encoded_as_by_redis() {
        check(&OK, "+OK\r\n", "+OK\r\n");
        check(&Reply::Nil, "$-1\r\n", "_\r\n");
        check(&Reply::NilArray, "*-1\r\n", "_\r\n");
        check(&Reply::Integer(-7), ":-7\r\n", ":-7\r\n");
        check(&Reply::error("ERR a\nb"), "-ERR a b\r\n", "-ERR a b\r\n");
        check(&Reply::text("ab"), "$2\r\nab\r\n", "$2\r\nab\r\n");
        check(&Reply::Verbatim(Bytes::from_static(b"ab")), "$2\r\nab\r\n", "=6\r\ntxt:ab\r\n");
        check(
            &Reply::Map(vec![(Reply::text("k"), Reply::Integer(1))]),
            "*2\r\n$1\r\nk\r\n:1\r\n",
            "%1\r\n$1\r\nk\r\n:1\r\n",
        );
        check(&Reply::Push(vec![Reply::Nil]), "*1\r\n$-1\r\n", ">1\r\n_\r\n");
        check(&Reply::Sequence(vec![OK, OK]), "+OK\r\n+OK\r\n", "+OK\r\n+OK\r\n");
    }
}
