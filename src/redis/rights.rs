//! Whether Redis lets its user run commands: `ws4redis check`. Nothing is changed by a trial.

use tokio::task::spawn_local;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::connection::RedisConnection;
use super::error_reply::describe_text;
use super::reply_value::ReplyValue;
use super::target::Target;

/// Largest reply.
const MAX_BYTES: usize = 1 << 20;

/// Reply to a command that a transaction keeps.
const QUEUED: &str = "QUEUED";

/// Tries commands on a connection of its own.
pub struct RightsTrial {
    _following: AbortOnDropHandle<()>,
    connection: RedisConnection,
    target: Target,
}

/// The outcome of a trial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Permission {
    /// Redis runs the command.
    Granted,
    /// The ACL denies the command, Redis does not have it, or the key holds another type. The text is Redis' reply.
    Refused(String),
    /// Without the right to MULTI, only running the command would show it.
    Untested,
}

impl RightsTrial {
    /// Connects. Must be called within a `LocalSet`.
    ///
    /// # Errors
    ///
    /// With a description, when Redis cannot be reached or refuses.
    pub async fn open(target: &Target) -> Result<Self, String> {
        let following = AbortOnDropHandle::new(spawn_local(target.clone().follow()));
        let connection = target.dial(MAX_BYTES).await?;
        Ok(Self { _following: following, connection, target: target.clone() })
    }

    /// Sends a command that changes nothing, such as a write with an invalid argument: Redis checks the ACL before it reads
    /// the arguments (`processCommand` in `server.c`), in a cluster also before it redirects.
    ///
    /// # Errors
    ///
    /// With a description, when the connection is lost.
    pub async fn send(&mut self, words: &[&str]) -> Result<Permission, String> {
        self.call(words).await.map(|reply| permission(&reply))
    }

    /// Queues a command in a transaction, which is then discarded: Redis checks the ACL when it queues. For commands without
    /// a form that changes nothing.
    ///
    /// # Errors
    ///
    /// With a description, when the connection is lost.
    pub async fn queue(&mut self, words: &[&str]) -> Result<Permission, String> {
        if self.call(&["MULTI"]).await?.text().is_none() {
            return Ok(Permission::Untested);
        }
        let reply = self.call(words).await?;
        // The end of the connection discards the transaction, too, if DISCARD is refused.
        if self.call(&["DISCARD"]).await?.text().is_none() {
            self.connection = self.target.dial(MAX_BYTES).await?;
        }
        Ok(if reply.text() == Some(QUEUED) { Permission::Granted } else { permission(&reply) })
    }

    /// Returns the flags of `notify-keyspace-events`; `None` if Redis does not permit the question.
    ///
    /// # Errors
    ///
    /// With a description, when the connection is lost.
    pub async fn keyspace_flags(&mut self) -> Result<Option<String>, String> {
        let name = "notify-keyspace-events";
        let reply = self.call(&["CONFIG", "get", name]).await?;
        Ok(reply.field(name).and_then(ReplyValue::text).map(str::to_owned))
    }

    async fn call(&mut self, words: &[&str]) -> Result<ReplyValue, String> {
        let limit = self.target.command_timeout();
        let late = |_| format!("no answer within {} s", limit.as_secs());
        timeout(limit, self.connection.call(words)).await.map_err(late)?
    }
}

/// Returns the permission that a reply shows. Other errors, such as those of invalid arguments, come after the ACL.
fn permission(reply: &ReplyValue) -> Permission {
    let ReplyValue::Error(text) = reply else { return Permission::Granted };
    // EXEC has an error code of its own.
    let denial = text.strip_prefix("EXECABORT Transaction discarded because of: ").unwrap_or(text);
    let is_refusal =
        denial.starts_with("NOPERM") || text.starts_with("WRONGTYPE") || text.contains("unknown command");
    if is_refusal { Permission::Refused(describe_text(text)) } else { Permission::Granted }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_acl_a_missing_command_and_a_wrong_type_count_as_refusals() {
        let of = |text: &str| permission(&ReplyValue::Error(text.to_owned()));
        for text in [
            "NOPERM this user has no permissions to run the 'xadd' command or its subcommand",
            "EXECABORT Transaction discarded because of: NOPERM User gate has no permissions",
            "ERR unknown command 'XADD', with args beginning with: 'secret'",
            "WRONGTYPE Operation against a key holding the wrong kind of value",
        ] {
            let Permission::Refused(reason) = of(text) else { panic!("{text}") };
            assert!(!reason.contains("secret"), "{reason}");
        }
        for text in [
            "ERR value is not an integer or out of range",
            "MOVED 7 127.0.0.1:1",
            "OOM command not",
            "ERR EXEC without MULTI",
        ] {
            assert_eq!(of(text), Permission::Granted, "{text}");
        }
    }
}
