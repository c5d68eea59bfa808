//! A reader of Python's pickles, protocols 0 to 5, that only ever reads.
//!
//! A pickle is a program for a stack machine. This one runs it over a flat list of nodes: the stack, the memo and all
//! containers hold numbers of nodes, so that sharing, recursion and depth cost nothing and nothing is copied. Nothing
//! is imported or called: classes and what they make are opaque, but for a few that are as good as what they wrap.
//! Of dictionaries only the wanted keys are kept, of lists only texts.

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

/// Most nodes, links, marks, memo entries, and values on the stack. A million small values in one list are no
/// session; 2^18 of each are 9 MiB in all.
const MAX_ENTRIES: usize = 1 << 18;

/// Why a pickle is not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Error {
    /// It is cut short, or breaks the rules of the stack machine.
    Damaged,
    /// It is beyond [`MAX_ENTRIES`], or its texts or groups are beyond theirs.
    TooLarge,
}

/// Reads a session; `None` if the pickle holds something else.
pub(super) fn read(pickle: &[u8]) -> Result<Option<Session>, Undecodable> {
    let read = machine::Machine::run(pickle).and_then(|(arena, root)| root::session(pickle, &arena, root));
    read.map_err(|error| match error {
        Error::Damaged => Undecodable::Pickle,
        Error::TooLarge => Undecodable::TooLarge,
    })
}

#[cfg(test)]
mod tests;
