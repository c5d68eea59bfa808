//! The opcodes, as in Python's `pickletools`, one function for each kind. Those of classes are in `objects`.

use super::arena::{Arena, Node, OPAQUE};
use super::machine::Machine;
use super::numbers::MAX_LINE_BYTES;
use super::selection::Selection;
use super::text::{Encoding, unquoted};
use crate::codec::DecodeError;

/// Newest protocol.
const MAX_PROTOCOL: u8 = 5;

impl<S: Selection> Machine<'_, S> {
    /// Runs one opcode; returns false after STOP.
    pub(super) fn step(&mut self) -> Result<bool, DecodeError> {
        let at = self.input.position();
        match self.input.byte()? {
            b'.' => return Ok(false),
            code @ (0x8c | b'X' | 0x8d | b'V' | b'U' | b'T' | b'S') => self.text(code)?,
            code @ (0x94 | b'h' | b'q' | b'j' | b'r' | b'g' | b'p') => self.memo(code)?,
            code @ (b'(' | b'0' | b'1' | b'2' | 0x80 | 0x95 | 0x98) => self.structure(code)?,
            code @ (b'K' | b'J' | b'M' | b'I' | b'L' | 0x8a | 0x8b) => self.integer(code, at)?,
            code @ (b'}' | b']' | b')' | b'l' | b'd' | b't' | 0x85..=0x87 | b'a' | b'e' | b's' | b'u') => {
                self.container(code)?;
            }
            code @ (b'N' | 0x88 | 0x89 | b'F' | b'G' | b'B' | b'C' | 0x8e | 0x96 | 0x8f | 0x90 | 0x91) => {
                self.other(code, at)?;
            }
            code => self.object(code)?,
        }
        Ok(true)
    }

    fn structure(&mut self, code: u8) -> Result<(), DecodeError> {
        match code {
            b'(' => self.mark(),
            b'0' => self.drop_top(),
            b'1' => self.drop_to_mark(),
            b'2' => {
                let top = self.top()?;
                self.push(top)
            }
            0x80 => {
                let protocol = self.input.byte()?;
                if protocol > MAX_PROTOCOL { Err(DecodeError::Damaged) } else { Ok(()) }
            }
            // FRAME is only a hint for reading ahead.
            0x95 => self.input.unsigned(8).map(|_| ()),
            // READONLY_BUFFER leaves the stack as it is.
            _ => self.top().map(|_| ()),
        }
    }

    fn memo(&mut self, code: u8) -> Result<(), DecodeError> {
        match code {
            0x94 => self.memoize(),
            b'h' => self.input.unsigned(1).and_then(|number| self.get(number)),
            b'j' => self.input.unsigned(4).and_then(|number| self.get(number)),
            b'q' => self.input.unsigned(1).and_then(|number| self.put(number)),
            b'r' => self.input.unsigned(4).and_then(|number| self.put(number)),
            b'g' => decimal(self.input.line()?).and_then(|number| self.get(number)),
            _ => decimal(self.input.line()?).and_then(|number| self.put(number)),
        }
    }

    fn integer(&mut self, code: u8, at: usize) -> Result<(), DecodeError> {
        match code {
            b'K' => self.input.take(1)?,
            b'M' => self.input.take(2)?,
            b'J' => self.input.take(4)?,
            b'I' | b'L' => self.number_line()?,
            width => {
                let width = if width == 0x8a { 1 } else { 4 };
                let length = self.input.unsigned(width)?;
                self.input.take(length)?
            }
        };
        let at = u32::try_from(at).map_err(|_| DecodeError::TooLarge)?;
        self.push_node(Node::Integer { at })
    }

    fn number_line(&mut self) -> Result<&[u8], DecodeError> {
        let line = self.input.line()?;
        if S::EVERYTHING && line.len() > MAX_LINE_BYTES { Err(DecodeError::TooLarge) } else { Ok(line) }
    }

    fn text(&mut self, code: u8) -> Result<(), DecodeError> {
        let width = match code {
            b'V' => {
                let line = self.input.line()?;
                return self.push_text(line, 1, Encoding::Escaped);
            }
            b'S' => {
                let line = self.input.line()?;
                let text = unquoted(line).ok_or(DecodeError::Damaged)?;
                // The text is followed by its quote, optional whitespace and the line end.
                return self.push_text(text, line.len() - text.len(), Encoding::Literal);
            }
            0x8c | b'U' => 1,
            b'X' | b'T' => 4,
            _ => 8,
        };
        let length = self.input.unsigned(width)?;
        let text = self.input.take(length)?;
        self.push_text(text, 0, Encoding::Utf8)
    }

    fn container(&mut self, code: u8) -> Result<(), DecodeError> {
        let made = match code {
            b'}' => self.arena.empty_dict()?,
            b']' => self.arena.empty_list()?,
            b')' => self.arena.tuple(&[])?,
            b't' => self.cut(Arena::tuple)?,
            b'l' => self.cut(|arena, items| {
                let list = arena.empty_list()?;
                arena.append(list, items).map(|()| list)
            })?,
            b'd' => self.cut(|arena, pairs| {
                let dict = arena.empty_dict()?;
                arena.set(dict, pairs).map(|()| dict)
            })?,
            0x85..=0x87 => {
                let mut items = [OPAQUE; 3];
                let items = &mut items[..usize::from(code - 0x84)];
                for item in items.iter_mut().rev() {
                    *item = self.pop()?;
                }
                self.arena.tuple(items)?
            }
            b'a' => {
                let item = self.pop()?;
                let list = self.top()?;
                return self.arena.append(list, &[item]);
            }
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                let dict = self.top()?;
                return self.arena.set(dict, &[key, value]);
            }
            b'e' => return self.cut_into(Arena::append),
            _ => return self.cut_into(Arena::set),
        };
        self.push(made)
    }

    /// Runs an opcode of None, booleans, floats, bytes or sets, which no record has.
    fn other(&mut self, code: u8, at: usize) -> Result<(), DecodeError> {
        match code {
            b'N' => self.push_other(Node::Null),
            0x88 | 0x89 => self.push_other(Node::Bool(code == 0x88)),
            b'F' | b'G' => {
                if code == b'F' {
                    self.number_line()?;
                } else {
                    self.input.take(8)?;
                }
                let at = u32::try_from(at).map_err(|_| DecodeError::TooLarge)?;
                self.push_other(Node::Float { at })
            }
            b'C' | b'B' | 0x8e | 0x96 => {
                let width = match code {
                    b'C' => 1,
                    b'B' => 4,
                    _ => 8,
                };
                let length = self.input.unsigned(width)?;
                let bytes = self.input.take(length)?;
                self.push_bytes(bytes)
            }
            // ADDITEMS adds to the set below the mark.
            0x90 => self.cut_into(|_, _, _| Ok(())),
            0x91 => {
                self.drop_to_mark()?;
                self.push_opaque()
            }
            _ => self.push_opaque(),
        }
    }
}

/// Parses a memo number of protocol 0.
fn decimal(line: &[u8]) -> Result<u64, DecodeError> {
    std::str::from_utf8(line).ok().and_then(|line| line.trim().parse().ok()).ok_or(DecodeError::Damaged)
}
