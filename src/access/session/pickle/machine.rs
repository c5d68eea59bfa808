//! The stack, the marks and the memo of the pickle machine.

use super::arena::{Arena, Index, Node, OPAQUE, push};
use super::input::PickleInput;
use super::text::Encoding;
use super::{MAX_ENTRIES, PickleError};

/// An unset memo entry.
const UNSET: Index = Index::MAX;

/// The stack machine that runs a pickle.
pub(super) struct Machine<'a> {
    pub(super) input: PickleInput<'a>,
    pub(super) arena: Arena<'a>,
    stack: Vec<Index>,
    /// Stack heights; values below the last mark cannot be popped.
    marks: Vec<u32>,
    memo: Vec<Index>,
}

impl<'a> Machine<'a> {
    /// Runs a pickle; bytes after STOP are ignored, as in Python.
    pub(super) fn run(pickle: &'a [u8]) -> Result<(Arena<'a>, Index), PickleError> {
        // Positions and lengths are stored in 32 bits.
        u32::try_from(pickle.len()).map_err(|_| PickleError::TooLarge)?;
        let mut machine = Self {
            input: PickleInput::new(pickle),
            arena: Arena::new(pickle),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: Vec::new(),
        };
        while machine.step()? {}
        let root = machine.pop()?;
        Ok((machine.arena, root))
    }

    // === the stack ===

    pub(super) fn push(&mut self, index: Index) -> Result<(), PickleError> {
        push(&mut self.stack, index).map(|_| ())
    }

    /// Pushes a value that is not read.
    pub(super) fn push_opaque(&mut self) -> Result<(), PickleError> {
        self.push(OPAQUE)
    }

    pub(super) fn push_node(&mut self, node: Node) -> Result<(), PickleError> {
        let index = self.arena.add(node)?;
        self.push(index)
    }

    /// Pushes the text that ends `behind` bytes before the cursor.
    pub(super) fn push_text(
        &mut self,
        text: &[u8],
        behind: usize,
        encoding: Encoding,
    ) -> Result<(), PickleError> {
        let start = self.input.position().checked_sub(behind + text.len()).ok_or(PickleError::Damaged)?;
        let start = u32::try_from(start).map_err(|_| PickleError::TooLarge)?;
        let length = u32::try_from(text.len()).map_err(|_| PickleError::TooLarge)?;
        self.push_node(Node::Text { start, length, encoding })
    }

    pub(super) fn pop(&mut self) -> Result<Index, PickleError> {
        if self.stack.len() <= self.floor() {
            return Err(PickleError::Damaged);
        }
        self.stack.pop().ok_or(PickleError::Damaged)
    }

    pub(super) fn top(&self) -> Result<Index, PickleError> {
        if self.stack.len() <= self.floor() {
            return Err(PickleError::Damaged);
        }
        self.stack.last().copied().ok_or(PickleError::Damaged)
    }

    /// Pops the top value, or the mark if it is on top.
    pub(super) fn drop_top(&mut self) -> Result<(), PickleError> {
        if !self.marks.is_empty() && self.stack.len() == self.floor() {
            self.marks.pop();
            return Ok(());
        }
        self.pop().map(|_| ())
    }

    // === marks ===

    pub(super) fn mark(&mut self) -> Result<(), PickleError> {
        let height = u32::try_from(self.stack.len()).map_err(|_| PickleError::TooLarge)?;
        push(&mut self.marks, height).map(|_| ())
    }

    /// Pops the last mark; the caller then consumes the values above it with [`cut`](Self::cut).
    fn unmark(&mut self) -> Result<usize, PickleError> {
        let height = self.marks.pop().ok_or(PickleError::Damaged)?;
        usize::try_from(height).ok().filter(|height| *height <= self.stack.len()).ok_or(PickleError::Damaged)
    }

    /// Pops all values above the last mark, and the mark.
    pub(super) fn drop_to_mark(&mut self) -> Result<(), PickleError> {
        let height = self.unmark()?;
        self.stack.truncate(height);
        Ok(())
    }

    /// Passes the values above the last mark to `use_up`, and pops them and the mark.
    pub(super) fn cut<T>(
        &mut self,
        use_up: impl FnOnce(&mut Arena<'a>, &[Index]) -> Result<T, PickleError>,
    ) -> Result<T, PickleError> {
        let height = self.unmark()?;
        let used = use_up(&mut self.arena, &self.stack[height..])?;
        self.stack.truncate(height);
        Ok(used)
    }

    /// As [`cut`](Self::cut), for a container below the mark, which stays.
    pub(super) fn cut_into(
        &mut self,
        use_up: impl FnOnce(&mut Arena<'a>, Index, &[Index]) -> Result<(), PickleError>,
    ) -> Result<(), PickleError> {
        let height = self.unmark()?;
        if height <= self.floor() {
            return Err(PickleError::Damaged);
        }
        let (below, above) = self.stack.split_at(height);
        use_up(&mut self.arena, *below.last().ok_or(PickleError::Damaged)?, above)?;
        self.stack.truncate(height);
        Ok(())
    }

    fn floor(&self) -> usize {
        self.marks.last().and_then(|height| usize::try_from(*height).ok()).unwrap_or(0)
    }

    // === the memo ===

    /// Stores the top value in the memo under the next number.
    pub(super) fn memoize(&mut self) -> Result<(), PickleError> {
        let top = self.top()?;
        push(&mut self.memo, top).map(|_| ())
    }

    /// Stores the top value in the memo under a number.
    pub(super) fn put(&mut self, number: u64) -> Result<(), PickleError> {
        let top = self.top()?;
        let number = usize::try_from(number).ok().filter(|number| *number < MAX_ENTRIES);
        let number = number.ok_or(PickleError::TooLarge)?;
        if number >= self.memo.len() {
            self.memo.resize(number + 1, UNSET);
        }
        self.memo[number] = top;
        Ok(())
    }

    /// Pushes the memo entry with a number.
    pub(super) fn get(&mut self, number: u64) -> Result<(), PickleError> {
        let remembered = usize::try_from(number).ok().and_then(|number| self.memo.get(number).copied());
        match remembered {
            Some(index) if index != UNSET => self.push(index),
            _ => Err(PickleError::Damaged),
        }
    }
}
