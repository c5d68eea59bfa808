//! Keyspace notifications: the payload is the name of the operation on the channel's key.

use super::Instruction;
use crate::wire::{KeyEvent, Message};

/// Returns what happened to the key. Expiry and eviction count as changes: they do not mean that somebody logged out.
pub(super) fn read(message: &Message) -> Instruction {
    Instruction::KeyChanged(match message.payload() {
        b"del" | b"rename_from" => KeyEvent::Deleted,
        _ => KeyEvent::Changed,
    })
}
