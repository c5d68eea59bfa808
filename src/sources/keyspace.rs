//! Keyspace notifications: the payload is the name of the operation on the channel's key.

use super::Instruction;
use crate::wire::{KeyEvent, Message};

/// Returns the key's event.
pub(super) fn read(message: &Message) -> Instruction {
    let is = |name: &[u8]| message.payload() == name;
    Instruction::KeyChanged(KeyEvent {
        is_deleted: is(b"del"),
        is_renamed: is(b"rename_from"),
        is_expired: is(b"expired"),
        is_written: is(b"set"),
    })
}
