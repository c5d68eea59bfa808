//! Replies as values, and their encoding in RESP2 and RESP3.
//!
//! The codec of `redis-protocol` encodes scalars. Headers of aggregates are written here, because the codec's maps have
//! no order and its RESP2 has no null array.

use std::borrow::Cow;

use bytes::{Bytes, BytesMut};
use redis_protocol::{
    codec::{Resp2, Resp3},
    error::RedisProtocolError,
    resp2::types::BorrowedFrame as Resp2Frame,
    resp3::types::{BorrowedFrame as Resp3Frame, VerbatimStringFormat},
};
use tokio_util::codec::Encoder;

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
    ///
    /// # Errors
    /// When the codec refuses a frame; it accepts all that are created here.
    pub(crate) fn write(&self, protocol: Protocol, out: &mut BytesMut) -> Result<(), RedisProtocolError> {
        let resp3 = protocol == Protocol::Resp3;
        match self {
            Self::Array(items) => write_header(out, '*', items.len()),
            Self::Push(items) => write_header(out, if resp3 { '>' } else { '*' }, items.len()),
            Self::Map(pairs) if resp3 => write_header(out, '%', pairs.len()),
            Self::Map(pairs) => write_header(out, '*', pairs.len() * 2),
            Self::NilArray if !resp3 => out.extend_from_slice(b"*-1\r\n"),
            Self::Sequence(_) => {}
            scalar => return scalar.write_scalar(protocol, out),
        }
        match self {
            Self::Array(items) | Self::Push(items) | Self::Sequence(items) => {
                items.iter().try_for_each(|item| item.write(protocol, out))
            }
            Self::Map(pairs) => pairs.iter().try_for_each(|(key, value)| {
                key.write(protocol, out)?;
                value.write(protocol, out)
            }),
            _ => Ok(()),
        }
    }

    fn write_scalar(&self, protocol: Protocol, out: &mut BytesMut) -> Result<(), RedisProtocolError> {
        match protocol {
            Protocol::Resp2 => Resp2::default().encode(self.resp2(), out),
            Protocol::Resp3 => Resp3::default().encode(self.resp3(), out),
        }
    }

    fn resp2(&self) -> Resp2Frame<'_> {
        match self {
            Self::Simple(text) => Resp2Frame::SimpleString(text.as_bytes()),
            Self::Error(text) => Resp2Frame::Error(text),
            Self::Integer(number) => Resp2Frame::Integer(*number),
            Self::Bulk(data) | Self::Verbatim(data) => Resp2Frame::BulkString(data),
            _ => Resp2Frame::Null,
        }
    }

    fn resp3(&self) -> Resp3Frame<'_> {
        let attributes = None;
        match self {
            Self::Simple(text) => Resp3Frame::SimpleString { data: text.as_bytes(), attributes },
            Self::Error(text) => Resp3Frame::SimpleError { data: text, attributes },
            Self::Integer(number) => Resp3Frame::Number { data: *number, attributes },
            Self::Bulk(data) => Resp3Frame::BlobString { data, attributes },
            Self::Verbatim(data) => {
                Resp3Frame::VerbatimString { data, format: VerbatimStringFormat::Text, attributes }
            }
            _ => Resp3Frame::Null,
        }
    }
}

fn write_header(out: &mut BytesMut, kind: char, count: usize) {
    out.extend_from_slice(format!("{kind}{count}\r\n").as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(reply: &Reply, resp2: &str, resp3: &str) {
        for (protocol, expected) in [(Protocol::Resp2, resp2), (Protocol::Resp3, resp3)] {
            let mut out = BytesMut::new();
            reply.write(protocol, &mut out).unwrap();
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
