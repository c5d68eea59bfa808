//! A safe reader of Python pickles, protocols 0 to 5.
//!
//! A pickle is a program for a stack machine. This machine runs it over an arena of nodes: the stack, the memo and all
//! containers hold indices of nodes, so that sharing, recursion and depth cost nothing and nothing is copied. Nothing is
//! imported or called: a few classes are recognised by name, and their instances are read as the value that they wrap.
//!
//! For a record, all other instances are opaque, of dictionaries only the fields of the record are kept, of lists only
//! texts. For a [`Value`](crate::codec::Value), everything is kept, and any other class is an error.
//!
//! <https://github.com/python/cpython/blob/main/Lib/pickletools.py>

mod arena;
mod class;
mod input;
mod machine;
mod numbers;
mod objects;
mod opcodes;
mod record;
mod selection;
mod text;
mod value;

pub use record::{PickleItem, RecordPickle};
pub use value::read_value;
