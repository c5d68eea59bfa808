//! What became of the events of a batch, from the replies of Redis.

use crate::redis::error_reply::ErrorClass;
use crate::redis::{CommandFailure, CommandReply, ReplyValue};

/// How a batch is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BatchForm {
    /// One command for each event.
    Single,
    /// The same in a transaction: Redis executes all of them or none, so an error that passes never changes the order.
    Transaction,
    /// One command for all events, and one for the length of the list.
    List,
}

/// What became of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum EventOutcome {
    Written,
    /// Redis has refused it for now.
    Postponed,
    /// Redis has refused it, with this error.
    Refused(String),
    /// It may have been written.
    Unknown,
}

type EventReply = Result<CommandReply, CommandFailure>;

/// Returns the outcome of each event of a batch.
pub(super) fn outcomes(form: BatchForm, count: usize, replies: Vec<EventReply>) -> Vec<EventOutcome> {
    let mut replies = replies.into_iter();
    match form {
        BatchForm::List => vec![outcome(replies.next()); count],
        BatchForm::Single => (0..count).map(|_| outcome(replies.next())).collect(),
        BatchForm::Transaction => {
            let _started = replies.next();
            let own: Vec<_> = replies.by_ref().take(count).collect();
            let executed = replies.next();
            let own = own.into_iter().map(Some).chain(std::iter::repeat(None)).take(count);
            own.enumerate().map(|(at, reply)| in_transaction(at, reply, executed.as_ref())).collect()
        }
    }
}

/// Returns the outcome of an event in a transaction. Redis answers a queued command with a status; a command that was
/// executed outside of a transaction, because Redis refused to start one or its slot has moved, has a reply of its own.
fn in_transaction(at: usize, own: Option<EventReply>, executed: Option<&EventReply>) -> EventOutcome {
    if !matches!(own, Some(Ok(CommandReply::Done))) {
        return outcome(own);
    }
    match executed {
        Some(Ok(CommandReply::Other(results))) => match results.list().get(at) {
            Some(ReplyValue::Error(error)) => refused(error.clone()),
            Some(_) => EventOutcome::Written,
            None => EventOutcome::Unknown,
        },
        // EXECABORT: nothing was executed.
        Some(Err(CommandFailure::Refused(_))) => EventOutcome::Postponed,
        _ => EventOutcome::Unknown,
    }
}

/// Returns what a reply means; none is a lost connection.
fn outcome(reply: Option<EventReply>) -> EventOutcome {
    match reply {
        Some(Ok(_)) => EventOutcome::Written,
        Some(Err(CommandFailure::Refused(error))) => refused(error),
        Some(Err(CommandFailure::Lost)) | None => EventOutcome::Unknown,
    }
}

fn refused(error: String) -> EventOutcome {
    // A replica executes nothing; the connection to it ends, and the next one is to a master.
    if matches!(ErrorClass::of(&error), ErrorClass::Temporary | ErrorClass::NotMaster) {
        EventOutcome::Postponed
    } else {
        EventOutcome::Refused(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> EventReply {
        Err(CommandFailure::Refused(text.to_owned()))
    }

    #[expect(clippy::unnecessary_wraps, reason = "it is a reply like the others")]
    fn written() -> EventReply {
        Ok(CommandReply::Value(Some("1-0".into())))
    }

    #[test]
    fn each_single_command_has_its_own_outcome_and_a_list_one_for_all() {
        let (oom, type_error) = ("OOM full", "WRONGTYPE x");
        let replies = vec![written(), error(oom), error(type_error), Err(CommandFailure::Lost)];
        let expected = [
            EventOutcome::Written,
            EventOutcome::Postponed,
            EventOutcome::Refused(type_error.to_owned()),
            EventOutcome::Unknown,
            EventOutcome::Unknown,
        ];
        assert_eq!(outcomes(BatchForm::Single, 5, replies), expected);
        let replies = vec![error(oom), Ok(CommandReply::Done)];
        assert_eq!(outcomes(BatchForm::List, 2, replies), [EventOutcome::Postponed, EventOutcome::Postponed]);
    }

    #[test]
    fn a_transaction_is_written_as_a_whole() {
        let queued = || Ok(CommandReply::Done);
        let aborted = vec![queued(), error("OOM full"), queued(), error("EXECABORT discarded")];
        assert_eq!(
            outcomes(BatchForm::Transaction, 2, aborted),
            [EventOutcome::Postponed, EventOutcome::Postponed]
        );
        let results = vec![ReplyValue::Text("1-0".to_owned()), ReplyValue::Error("WRONGTYPE x".to_owned())];
        let executed = vec![queued(), queued(), queued(), Ok(CommandReply::Other(ReplyValue::List(results)))];
        let expected = [EventOutcome::Written, EventOutcome::Refused("WRONGTYPE x".to_owned())];
        assert_eq!(outcomes(BatchForm::Transaction, 2, executed), expected);
        let lost = vec![queued(), queued(), queued(), Err(CommandFailure::Lost)];
        assert_eq!(outcomes(BatchForm::Transaction, 2, lost), [EventOutcome::Unknown, EventOutcome::Unknown]);
        let replica = vec![queued(), error("READONLY x"), error("READONLY x"), error("EXECABORT discarded")];
        assert_eq!(
            outcomes(BatchForm::Transaction, 2, replica),
            [EventOutcome::Postponed, EventOutcome::Postponed]
        );
        // Without the right to transactions each command is executed at once.
        let denied = vec![error("NOPERM multi"), written(), error("OOM full"), error("NOPERM exec")];
        assert_eq!(
            outcomes(BatchForm::Transaction, 2, denied),
            [EventOutcome::Written, EventOutcome::Postponed]
        );
    }
}
