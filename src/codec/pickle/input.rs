//! A cursor over the bytes of a pickle.

use crate::codec::DecodeError;

/// A position in a pickle.
pub(super) struct PickleInput<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> PickleInput<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Returns the position of the next byte.
    pub(super) fn position(&self) -> usize {
        self.at
    }

    /// Reads one byte.
    pub(super) fn byte(&mut self) -> Result<u8, DecodeError> {
        let byte = *self.bytes.get(self.at).ok_or(DecodeError::Damaged)?;
        self.at += 1;
        Ok(byte)
    }

    /// Reads `count` bytes, if they are present.
    pub(super) fn take(&mut self, count: u64) -> Result<&'a [u8], DecodeError> {
        let count = usize::try_from(count).map_err(|_| DecodeError::Damaged)?;
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let taken = rest.get(..count).ok_or(DecodeError::Damaged)?;
        self.at += count;
        Ok(taken)
    }

    /// Reads an unsigned little-endian integer of `width` bytes, at most 8.
    pub(super) fn unsigned(&mut self, width: u8) -> Result<u64, DecodeError> {
        let bytes = self.take(width.into())?;
        Ok(bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    /// Reads a line, without its line feed.
    pub(super) fn line(&mut self) -> Result<&'a [u8], DecodeError> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let end = rest.iter().position(|byte| *byte == b'\n').ok_or(DecodeError::Damaged)?;
        self.at += end + 1;
        Ok(&rest[..end])
    }
}
