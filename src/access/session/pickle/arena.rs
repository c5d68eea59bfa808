//! The arena of nodes, and the links from containers to their values.

use super::super::content::Field;
use super::class::Class;
use super::text::Encoding;
use super::{MAX_ENTRIES, PickleError};

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
    /// A text, as a range of the pickle.
    Text {
        start: u32,
        length: u32,
        encoding: Encoding,
    },
    /// An integer, by the position of its opcode.
    Integer {
        at: u32,
    },
    /// A linked list, starting with the last link.
    Dict {
        last: u32,
    },
    List {
        last: u32,
    },
    /// Up to three items are all linked; of longer tuples only the texts.
    Tuple {
        last: u32,
        length: u32,
    },
    Class(Class),
}

/// One value in a container.
#[derive(Debug, Clone, Copy)]
struct Link {
    before: u32,
    key: Index,
    value: Index,
}

/// All nodes of a pickle.
pub(super) struct Arena<'a> {
    pickle: &'a [u8],
    nodes: Vec<Node>,
    links: Vec<Link>,
}

impl<'a> Arena<'a> {
    pub(super) fn new(pickle: &'a [u8]) -> Self {
        Self { pickle, nodes: vec![Node::Opaque], links: Vec::new() }
    }

    pub(super) fn node(&self, index: Index) -> Node {
        usize::try_from(index).ok().and_then(|index| self.nodes.get(index)).copied().unwrap_or(Node::Opaque)
    }

    pub(super) fn add(&mut self, node: Node) -> Result<Index, PickleError> {
        push(&mut self.nodes, node)
    }

    pub(super) fn empty_dict(&mut self) -> Result<Index, PickleError> {
        self.add(Node::Dict { last: NONE })
    }

    pub(super) fn empty_list(&mut self) -> Result<Index, PickleError> {
        self.add(Node::List { last: NONE })
    }

    /// Adds a tuple of these values.
    pub(super) fn tuple(&mut self, items: &[Index]) -> Result<Index, PickleError> {
        let length = u32::try_from(items.len()).map_err(|_| PickleError::TooLarge)?;
        let mut last = NONE;
        for &item in items {
            if length <= 3 || self.is_text(item) {
                last = self.link(last, OPAQUE, item)?;
            }
        }
        self.add(Node::Tuple { last, length })
    }

    /// Appends the texts among `items` to a list; ignored for other nodes.
    pub(super) fn append(&mut self, list: Index, items: &[Index]) -> Result<(), PickleError> {
        let Node::List { mut last } = self.node(list) else { return Ok(()) };
        for &item in items {
            if self.is_text(item) {
                last = self.link(last, OPAQUE, item)?;
            }
        }
        self.replace(list, Node::List { last });
        Ok(())
    }

    /// Sets the keys of a dictionary that are fields of a session; ignored for other nodes.
    pub(super) fn set(&mut self, dict: Index, pairs: &[Index]) -> Result<(), PickleError> {
        let (pairs, []) = pairs.as_chunks::<2>() else { return Err(PickleError::Damaged) };
        let Node::Dict { mut last } = self.node(dict) else { return Ok(()) };
        for &[key, value] in pairs {
            if self.field(key).is_some() {
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
        let (start, length) = (usize::try_from(start).ok()?, usize::try_from(length).ok()?);
        Some((self.pickle.get(start..)?.get(..length)?, encoding))
    }

    /// Returns the field of a key. No field name contains an escape in any encoding.
    pub(super) fn field(&self, key: Index) -> Option<Field> {
        Field::named(self.bytes(key)?.0)
    }

    fn is_text(&self, index: Index) -> bool {
        matches!(self.node(index), Node::Text { .. })
    }

    fn link(&mut self, before: u32, key: Index, value: Index) -> Result<u32, PickleError> {
        push(&mut self.links, Link { before, key, value })
    }

    fn replace(&mut self, index: Index, node: Node) {
        if let Some(slot) = usize::try_from(index).ok().and_then(|index| self.nodes.get_mut(index)) {
            *slot = node;
        }
    }
}

/// Pushes an item within the limit, and returns its index.
pub(super) fn push<T>(list: &mut Vec<T>, item: T) -> Result<u32, PickleError> {
    if list.len() >= MAX_ENTRIES {
        return Err(PickleError::TooLarge);
    }
    list.push(item);
    u32::try_from(list.len() - 1).map_err(|_| PickleError::TooLarge)
}
