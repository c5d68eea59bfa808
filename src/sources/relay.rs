//! Channels of django-websocket-redis.

use super::Instruction;
use crate::wire::Message;

/// Returns the message for delivery. An empty one is ignored, as an empty persisted value is.
pub(super) fn read(message: Message) -> Option<Instruction> {
    (!message.payload().is_empty()).then(|| Instruction::Deliver(message))
}
