//! Outcomes of commands: a reply, an error reply, or no reply.

use bytes::Bytes;

use super::reply_value::ReplyValue;

/// The reply to a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CommandReply {
    Integer(i64),
    /// A bulk string, or nil.
    Value(Option<Bytes>),
    /// A bulk string over the size limit, with its length. Its bytes were discarded.
    TooLarge(usize),
    /// A status.
    Done,
    /// An array.
    Other(ReplyValue),
}

/// There is no connection: nothing was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotConnected;

/// Why a command has no reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CommandFailure {
    /// An error reply, with its text.
    Refused(String),
    /// The connection was lost before the reply, or there was none.
    Lost,
}

/// The outcomes of a batch, one per command, in order.
pub(crate) type CommandReplies = Vec<Result<CommandReply, CommandFailure>>;
