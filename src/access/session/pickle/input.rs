//! The bytes of a pickle, and how far they have been read.

use super::Error;

/// A position in a pickle.
pub(super) struct Input<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Input<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Returns the position of the next byte.
    pub(super) fn position(&self) -> usize {
        self.at
    }

    /// Takes one byte.
    pub(super) fn byte(&mut self) -> Result<u8, Error> {
        let byte = *self.bytes.get(self.at).ok_or(Error::Damaged)?;
        self.at += 1;
        Ok(byte)
    }

    /// Takes as many bytes as announced, if they are there.
    pub(super) fn take(&mut self, count: u64) -> Result<&'a [u8], Error> {
        let count = usize::try_from(count).map_err(|_| Error::Damaged)?;
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let taken = rest.get(..count).ok_or(Error::Damaged)?;
        self.at += count;
        Ok(taken)
    }

    /// Takes an unsigned number of `width` bytes, at most 8, the lowest first.
    pub(super) fn unsigned(&mut self, width: u8) -> Result<u64, Error> {
        let bytes = self.take(width.into())?;
        Ok(bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    /// Takes a line, and returns it without its end.
    pub(super) fn line(&mut self) -> Result<&'a [u8], Error> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let end = rest.iter().position(|byte| *byte == b'\n').ok_or(Error::Damaged)?;
        self.at += end + 1;
        Ok(&rest[..end])
    }
}
