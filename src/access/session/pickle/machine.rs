//! Stack, marks and memo.

use super::arena::{Arena, Index, Node, OPAQUE, push};
use super::input::Input;
use super::text::Encoding;
use super::{Error, MAX_ENTRIES};

/// A memo entry that nothing was put into.
const UNSET: Index = Index::MAX;

/// The machine that a pickle is a program for.
pub(super) struct Machine<'a> {
    pub(super) input: Input<'a>,
    pub(super) arena: Arena<'a>,
    stack: Vec<Index>,
    /// Heights of the stack; below the last one nothing is taken away.
    marks: Vec<u32>,
    memo: Vec<Index>,
}

impl<'a> Machine<'a> {
    /// Runs a pickle; what stands behind its end is not looked at, as in Python.
    pub(super) fn run(pickle: &'a [u8]) -> Result<(Arena<'a>, Index), Error> {
        // Positions and lengths are kept in 32 bits.
        u32::try_from(pickle.len()).map_err(|_| Error::TooLarge)?;
        let mut machine = Self {
            input: Input::new(pickle),
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

    pub(super) fn push(&mut self, index: Index) -> Result<(), Error> {
        push(&mut self.stack, index).map(|_| ())
    }

    /// Pushes a value of no interest.
    pub(super) fn push_opaque(&mut self) -> Result<(), Error> {
        self.push(OPAQUE)
    }

    pub(super) fn push_node(&mut self, node: Node) -> Result<(), Error> {
        let index = self.arena.add(node)?;
        self.push(index)
    }

    /// Pushes the text that ends here, or that many bytes before.
    pub(super) fn push_text(&mut self, text: &[u8], behind: usize, encoding: Encoding) -> Result<(), Error> {
        let start = self.input.position().checked_sub(behind + text.len()).ok_or(Error::Damaged)?;
        let start = u32::try_from(start).map_err(|_| Error::TooLarge)?;
        let length = u32::try_from(text.len()).map_err(|_| Error::TooLarge)?;
        self.push_node(Node::Text { start, length, encoding })
    }

    pub(super) fn pop(&mut self) -> Result<Index, Error> {
        if self.stack.len() <= self.floor() {
            return Err(Error::Damaged);
        }
        self.stack.pop().ok_or(Error::Damaged)
    }

    pub(super) fn top(&self) -> Result<Index, Error> {
        if self.stack.len() <= self.floor() {
            return Err(Error::Damaged);
        }
        self.stack.last().copied().ok_or(Error::Damaged)
    }

    /// Drops the uppermost value, or the mark if that is uppermost.
    pub(super) fn drop_top(&mut self) -> Result<(), Error> {
        if !self.marks.is_empty() && self.stack.len() == self.floor() {
            self.marks.pop();
            return Ok(());
        }
        self.pop().map(|_| ())
    }

    // === marks ===

    pub(super) fn mark(&mut self) -> Result<(), Error> {
        let height = u32::try_from(self.stack.len()).map_err(|_| Error::TooLarge)?;
        push(&mut self.marks, height).map(|_| ())
    }

    /// Takes the last mark away; what lies above it is then to be used up by [`cut`](Self::cut).
    fn unmark(&mut self) -> Result<usize, Error> {
        let height = self.marks.pop().ok_or(Error::Damaged)?;
        usize::try_from(height).ok().filter(|height| *height <= self.stack.len()).ok_or(Error::Damaged)
    }

    /// Drops everything down to the last mark, and the mark.
    pub(super) fn drop_to_mark(&mut self) -> Result<(), Error> {
        let height = self.unmark()?;
        self.stack.truncate(height);
        Ok(())
    }

    /// Hands the values above the last mark to `use_up`, and drops them and the mark.
    pub(super) fn cut<T>(
        &mut self,
        use_up: impl FnOnce(&mut Arena<'a>, &[Index]) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let height = self.unmark()?;
        let used = use_up(&mut self.arena, &self.stack[height..])?;
        self.stack.truncate(height);
        Ok(used)
    }

    /// As [`cut`](Self::cut), for a container that lies below the mark and stays there.
    pub(super) fn cut_into(
        &mut self,
        use_up: impl FnOnce(&mut Arena<'a>, Index, &[Index]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let height = self.unmark()?;
        if height <= self.floor() {
            return Err(Error::Damaged);
        }
        let (below, above) = self.stack.split_at(height);
        use_up(&mut self.arena, *below.last().ok_or(Error::Damaged)?, above)?;
        self.stack.truncate(height);
        Ok(())
    }

    fn floor(&self) -> usize {
        self.marks.last().and_then(|height| usize::try_from(*height).ok()).unwrap_or(0)
    }

    // === the memo ===

    /// Remembers the uppermost value under the next number.
    pub(super) fn memoize(&mut self) -> Result<(), Error> {
        let top = self.top()?;
        push(&mut self.memo, top).map(|_| ())
    }

    /// Remembers the uppermost value under this number.
    pub(super) fn put(&mut self, number: u64) -> Result<(), Error> {
        let top = self.top()?;
        let number = usize::try_from(number).ok().filter(|number| *number < MAX_ENTRIES);
        let number = number.ok_or(Error::TooLarge)?;
        if number >= self.memo.len() {
            self.memo.resize(number + 1, UNSET);
        }
        self.memo[number] = top;
        Ok(())
    }

    /// Pushes what was remembered under this number.
    pub(super) fn get(&mut self, number: u64) -> Result<(), Error> {
        let remembered = usize::try_from(number).ok().and_then(|number| self.memo.get(number).copied());
        match remembered {
            Some(index) if index != UNSET => self.push(index),
            _ => Err(Error::Damaged),
        }
    }
}
