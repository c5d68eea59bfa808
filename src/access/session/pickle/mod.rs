//! A safe reader of Python pickles, protocols 0 to 5.
//!
//! A pickle is a program for a stack machine. This machine runs it over an arena of nodes: the stack, the memo and all
//! containers hold indices of nodes, so that sharing, recursion and depth cost nothing and nothing is copied. Nothing is
//! imported or called: classes and their instances are opaque, except for a few that are read as the value they wrap.
//! Of dictionaries only the fields of a session are kept, of lists only texts.

mod arena;
mod class;
mod input;
mod machine;
mod numbers;
mod objects;
mod opcodes;
mod root;
mod text;

use super::{Session, Undecodable};

/// Most nodes, links, marks, memo entries and stack values. No session has a million values; 2^18 of each take 9 MiB.
const MAX_ENTRIES: usize = 1 << 18;

/// Why a pickle cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PickleError {
    /// It is truncated, or invalid for the stack machine.
    Damaged,
    /// It exceeds [`MAX_ENTRIES`], or the limits of texts or groups.
    TooLarge,
}

/// Decodes a session; `None` if the pickle is another value.
pub(super) fn read(pickle: &[u8]) -> Result<Option<Session>, Undecodable> {
    let read = machine::Machine::run(pickle).and_then(|(arena, root)| root::session(pickle, &arena, root));
    read.map_err(|error| match error {
        PickleError::Damaged => Undecodable::Pickle,
        PickleError::TooLarge => Undecodable::TooLarge,
    })
}

#[cfg(test)]
mod tests;
