//! The stack, the marks and the memo of the pickle machine.

use super::arena::{Arena, Index, Node, OPAQUE, push};
use super::input::PickleInput;
use super::selection::Selection;
use super::text::Encoding;
use crate::codec::DecodeError;

/// An unset memo entry.
const UNSET: Index = Index::MAX;

/// The stack machine that runs a pickle.
pub(super) struct Machine<'a, S> {
    pub(super) input: PickleInput<'a>,
    pub(super) arena: Arena<'a, S>,
    /// Most stack values, marks and memo entries.
    max_entries: usize,
    stack: Vec<Index>,
    /// Stack heights; values below the last mark cannot be popped.
    marks: Vec<u32>,
    memo: Vec<Index>,
}

impl<'a, S: Selection> Machine<'a, S> {
    /// Runs a pickle; bytes after STOP are ignored, as in Python.
    pub(super) fn run(pickle: &'a [u8], max_entries: usize) -> Result<(Arena<'a, S>, Index), DecodeError> {
        // Positions and lengths are stored in 32 bits.
        u32::try_from(pickle.len()).map_err(|_| DecodeError::TooLarge)?;
        let mut machine = Self {
            input: PickleInput::new(pickle),
            arena: Arena::new(pickle, max_entries),
            max_entries,
            stack: Vec::new(),
            marks: Vec::new(),
            memo: Vec::new(),
        };
        while machine.step()? {}
        let root = machine.pop()?;
        Ok((machine.arena, root))
    }

    // === the stack ===

    pub(super) fn push(&mut self, index: Index) -> Result<(), DecodeError> {
        push(&mut self.stack, index, self.max_entries).map(|_| ())
    }

    /// Pushes a value that is not read.
    pub(super) fn push_opaque(&mut self) -> Result<(), DecodeError> {
        if S::EVERYTHING { Err(DecodeError::Unsupported) } else { self.push(OPAQUE) }
    }

    /// Pushes a value of a type that no record has.
    pub(super) fn push_other(&mut self, node: Node) -> Result<(), DecodeError> {
        if S::EVERYTHING { self.push_node(node) } else { self.push(OPAQUE) }
    }

    pub(super) fn push_node(&mut self, node: Node) -> Result<(), DecodeError> {
        let index = self.arena.add(node)?;
        self.push(index)
    }

    /// Pushes the text that ends `behind` bytes before the cursor.
    pub(super) fn push_text(
        &mut self,
        text: &[u8],
        behind: usize,
        encoding: Encoding,
    ) -> Result<(), DecodeError> {
        let (start, length) = self.range(text, behind)?;
        self.push_node(Node::Text { start, length, encoding })
    }

    /// Pushes the byte string that ends at the cursor.
    pub(super) fn push_bytes(&mut self, bytes: &[u8]) -> Result<(), DecodeError> {
        let (start, length) = self.range(bytes, 0)?;
        self.push_other(Node::Bytes { start, length })
    }

    /// Returns start and length of the bytes that end `behind` bytes before the cursor.
    fn range(&self, bytes: &[u8], behind: usize) -> Result<(u32, u32), DecodeError> {
        let start = self.input.position().checked_sub(behind + bytes.len()).ok_or(DecodeError::Damaged)?;
        let start = u32::try_from(start).map_err(|_| DecodeError::TooLarge)?;
        Ok((start, u32::try_from(bytes.len()).map_err(|_| DecodeError::TooLarge)?))
    }

    pub(super) fn pop(&mut self) -> Result<Index, DecodeError> {
        if self.stack.len() <= self.floor() {
            return Err(DecodeError::Damaged);
        }
        self.stack.pop().ok_or(DecodeError::Damaged)
    }

    pub(super) fn top(&self) -> Result<Index, DecodeError> {
        if self.stack.len() <= self.floor() {
            return Err(DecodeError::Damaged);
        }
        self.stack.last().copied().ok_or(DecodeError::Damaged)
    }

    /// Pops the top value, or the mark if it is on top.
    pub(super) fn drop_top(&mut self) -> Result<(), DecodeError> {
        if !self.marks.is_empty() && self.stack.len() == self.floor() {
            self.marks.pop();
            return Ok(());
        }
        self.pop().map(|_| ())
    }

    // === marks ===

    pub(super) fn mark(&mut self) -> Result<(), DecodeError> {
        let height = u32::try_from(self.stack.len()).map_err(|_| DecodeError::TooLarge)?;
        push(&mut self.marks, height, self.max_entries).map(|_| ())
    }

    /// Pops the last mark; the caller then consumes the values above it with [`cut`](Self::cut).
    fn unmark(&mut self) -> Result<usize, DecodeError> {
        let height = self.marks.pop().ok_or(DecodeError::Damaged)?;
        usize::try_from(height).ok().filter(|height| *height <= self.stack.len()).ok_or(DecodeError::Damaged)
    }

    /// Pops all values above the last mark, and the mark.
    pub(super) fn drop_to_mark(&mut self) -> Result<(), DecodeError> {
        let height = self.unmark()?;
        self.stack.truncate(height);
        Ok(())
    }

    /// Passes the values above the last mark to `use_up`, and pops them and the mark.
    pub(super) fn cut<T>(
        &mut self,
        use_up: impl FnOnce(&mut Arena<'a, S>, &[Index]) -> Result<T, DecodeError>,
    ) -> Result<T, DecodeError> {
        let height = self.unmark()?;
        let used = use_up(&mut self.arena, &self.stack[height..])?;
        self.stack.truncate(height);
        Ok(used)
    }

    /// As [`cut`](Self::cut), for a container below the mark, which stays.
    pub(super) fn cut_into(
        &mut self,
        use_up: impl FnOnce(&mut Arena<'a, S>, Index, &[Index]) -> Result<(), DecodeError>,
    ) -> Result<(), DecodeError> {
        let height = self.unmark()?;
        if height <= self.floor() {
            return Err(DecodeError::Damaged);
        }
        let (below, above) = self.stack.split_at(height);
        use_up(&mut self.arena, *below.last().ok_or(DecodeError::Damaged)?, above)?;
        self.stack.truncate(height);
        Ok(())
    }

    fn floor(&self) -> usize {
        self.marks.last().and_then(|height| usize::try_from(*height).ok()).unwrap_or(0)
    }

    // === the memo ===

    /// Stores the top value in the memo under the next number.
    pub(super) fn memoize(&mut self) -> Result<(), DecodeError> {
        let top = self.top()?;
        push(&mut self.memo, top, self.max_entries).map(|_| ())
    }

    /// Stores the top value in the memo under a number.
    pub(super) fn put(&mut self, number: u64) -> Result<(), DecodeError> {
        let top = self.top()?;
        let number = usize::try_from(number).ok().filter(|number| *number < self.max_entries);
        let number = number.ok_or(DecodeError::TooLarge)?;
        if number >= self.memo.len() {
            self.memo.resize(number + 1, UNSET);
        }
        self.memo[number] = top;
        Ok(())
    }

    /// Pushes the memo entry with a number.
    pub(super) fn get(&mut self, number: u64) -> Result<(), DecodeError> {
        let remembered = usize::try_from(number).ok().and_then(|number| self.memo.get(number).copied());
        match remembered {
            Some(index) if index != UNSET => self.push(index),
            _ => Err(DecodeError::Damaged),
        }
    }
}
