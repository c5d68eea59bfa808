//! The arena of nodes, and the links from containers to their values.

use std::marker::PhantomData;

use super::class::Class;
use super::selection::Selection;
use super::text::Encoding;
use crate::codec::DecodeError;

/// The index of a node.
pub(super) type Index = u32;

/// The node of all values that are not read.
pub(super) const OPAQUE: Index = 0;
/// The absence of a link.
const NONE: u32 = u32::MAX;

/// A value of a pickle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Node {
    Opaque,
    Null,
    Bool(bool),
    /// A text, as a range of the pickle.
    Text {
        start: u32,
        length: u32,
        encoding: Encoding,
    },
    /// A byte string, as a range of the pickle.
    Bytes {
        start: u32,
        length: u32,
    },
    /// An integer, by the position of its opcode.
    Integer {
        at: u32,
    },
    /// A floating-point number, by the position of its opcode.
    Float {
        at: u32,
    },
    /// A linked list, starting with the last link.
    Dict {
        last: u32,
    },
    List {
        last: u32,
    },
    /// Of tuples with more than three items, a record links only the texts.
    Tuple {
        last: u32,
        length: u32,
    },
    Class(Class),
}

/// One value in a container.
#[derive(Debug, Clone, Copy)]
struct ContainerLink {
    before: u32,
    key: Index,
    value: Index,
}

/// All nodes of a pickle.
pub(super) struct Arena<'a, S> {
    pickle: &'a [u8],
    /// Most nodes, and most links.
    max_entries: usize,
    nodes: Vec<Node>,
    links: Vec<ContainerLink>,
    selection: PhantomData<S>,
}

impl<'a, S: Selection> Arena<'a, S> {
    pub(super) fn new(pickle: &'a [u8], max_entries: usize) -> Self {
        Self { pickle, max_entries, nodes: vec![Node::Opaque], links: Vec::new(), selection: PhantomData }
    }

    pub(super) fn pickle(&self) -> &'a [u8] {
        self.pickle
    }

    pub(super) fn node(&self, index: Index) -> Node {
        usize::try_from(index).ok().and_then(|index| self.nodes.get(index)).copied().unwrap_or(Node::Opaque)
    }

    pub(super) fn add(&mut self, node: Node) -> Result<Index, DecodeError> {
        push(&mut self.nodes, node, self.max_entries)
    }

    pub(super) fn empty_dict(&mut self) -> Result<Index, DecodeError> {
        self.add(Node::Dict { last: NONE })
    }

    pub(super) fn empty_list(&mut self) -> Result<Index, DecodeError> {
        self.add(Node::List { last: NONE })
    }

    /// Adds a tuple of these values.
    pub(super) fn tuple(&mut self, items: &[Index]) -> Result<Index, DecodeError> {
        let length = u32::try_from(items.len()).map_err(|_| DecodeError::TooLarge)?;
        let mut last = NONE;
        for &item in items {
            if S::EVERYTHING || length <= 3 || self.is_text(item) {
                last = self.link(last, OPAQUE, item)?;
            }
        }
        self.add(Node::Tuple { last, length })
    }

    /// Appends the selected items to a list; ignored for other nodes.
    pub(super) fn append(&mut self, list: Index, items: &[Index]) -> Result<(), DecodeError> {
        let Node::List { mut last } = self.node(list) else { return Self::ignore() };
        for &item in items {
            if S::EVERYTHING || self.is_text(item) {
                last = self.link(last, OPAQUE, item)?;
            }
        }
        self.replace(list, Node::List { last });
        Ok(())
    }

    /// Sets the selected keys of a dictionary; ignored for other nodes.
    pub(super) fn set(&mut self, dict: Index, pairs: &[Index]) -> Result<(), DecodeError> {
        let (pairs, []) = pairs.as_chunks::<2>() else { return Err(DecodeError::Damaged) };
        let Node::Dict { mut last } = self.node(dict) else { return Self::ignore() };
        for &[key, value] in pairs {
            if S::EVERYTHING || self.bytes(key).is_some_and(|(key, _)| S::keeps(key)) {
                last = self.link(last, key, value)?;
            }
        }
        self.replace(dict, Node::Dict { last });
        Ok(())
    }

    /// Returns key and value of each link of a container, last link first.
    pub(super) fn links(&self, container: Node) -> impl Iterator<Item = (Index, Index)> {
        let mut next = match container {
            Node::Dict { last } | Node::List { last } | Node::Tuple { last, .. } => last,
            _ => NONE,
        };
        // Links lead only to older ones, so this terminates.
        std::iter::from_fn(move || {
            let link = self.links.get(usize::try_from(next).ok()?)?;
            next = link.before;
            Some((link.key, link.value))
        })
    }

    /// Returns the items of a tuple of three.
    pub(super) fn triple(&self, tuple: Node) -> Option<[Index; 3]> {
        let Node::Tuple { length: 3, .. } = tuple else { return None };
        let mut items = self.links(tuple).map(|(_, value)| value);
        let (third, second, first) = (items.next()?, items.next()?, items.next()?);
        Some([first, second, third])
    }

    /// Returns the encoded bytes of a text.
    pub(super) fn bytes(&self, text: Index) -> Option<(&'a [u8], Encoding)> {
        let Node::Text { start, length, encoding } = self.node(text) else { return None };
        Some((self.range(start, length)?, encoding))
    }

    /// Returns a range of the pickle.
    pub(super) fn range(&self, start: u32, length: u32) -> Option<&'a [u8]> {
        let (start, length) = (usize::try_from(start).ok()?, usize::try_from(length).ok()?);
        self.pickle.get(start..)?.get(..length)
    }

    /// Returns the result of changing a node that is not the container that the opcode needs. A record ignores the change,
    /// since opaque instances may be containers of their own.
    fn ignore() -> Result<(), DecodeError> {
        if S::EVERYTHING { Err(DecodeError::Damaged) } else { Ok(()) }
    }

    fn is_text(&self, index: Index) -> bool {
        matches!(self.node(index), Node::Text { .. })
    }

    fn link(&mut self, before: u32, key: Index, value: Index) -> Result<u32, DecodeError> {
        push(&mut self.links, ContainerLink { before, key, value }, self.max_entries)
    }

    fn replace(&mut self, index: Index, node: Node) {
        if let Some(slot) = usize::try_from(index).ok().and_then(|index| self.nodes.get_mut(index)) {
            *slot = node;
        }
    }
}

/// Pushes an item within the limit, and returns its index.
pub(super) fn push<T>(list: &mut Vec<T>, item: T, limit: usize) -> Result<u32, DecodeError> {
    if list.len() >= limit {
        return Err(DecodeError::TooLarge);
    }
    list.push(item);
    u32::try_from(list.len() - 1).map_err(|_| DecodeError::TooLarge)
}
