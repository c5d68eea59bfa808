//! Keyspace notifications: the payload is the name of the operation on the channel's key.

use super::Instruction;
use crate::wire::{KeyEvent, Message};

/// Returns the key's event. Expiry and eviction count as changes, since they do not mean a logout.
pub(super) fn read(message: &Message) -> Instruction {
    Instruction::KeyChanged(match message.payload() {
        b"del" | b"rename_from" => KeyEvent::Deleted,
        _ => KeyEvent::Changed,
    })
}
