//! The flat list of nodes, and the links that hang values on containers.

use super::super::content::Field;
use super::class::Class;
use super::text::Encoding;
use super::{Error, MAX_ENTRIES};

/// The number of a node.
pub(super) type Index = u32;

/// The one node of everything that is of no interest.
pub(super) const OPAQUE: Index = 0;
/// Stands for no link.
const NONE: u32 = u32::MAX;

/// A value of a pickle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Node {
    Opaque,
    /// A text in the pickle itself.
    Text {
        start: u32,
        length: u32,
        encoding: Encoding,
    },
    /// An integer whose opcode stands there.
    Integer {
        at: u32,
    },
    /// The last link leads to the one before, and so on.
    Dict {
        last: u32,
    },
    List {
        last: u32,
    },
    /// Up to three items are all linked, of more only texts.
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

    pub(super) fn add(&mut self, node: Node) -> Result<Index, Error> {
        push(&mut self.nodes, node)
    }

    pub(super) fn empty_dict(&mut self) -> Result<Index, Error> {
        self.add(Node::Dict { last: NONE })
    }

    pub(super) fn empty_list(&mut self) -> Result<Index, Error> {
        self.add(Node::List { last: NONE })
    }

    /// Adds a tuple of these values.
    pub(super) fn tuple(&mut self, items: &[Index]) -> Result<Index, Error> {
        let length = u32::try_from(items.len()).map_err(|_| Error::TooLarge)?;
        let mut last = NONE;
        for &item in items {
            if length <= 3 || self.is_text(item) {
                last = self.link(last, OPAQUE, item)?;
            }
        }
        self.add(Node::Tuple { last, length })
    }

    /// Appends to a list what is text; on anything but a list it does nothing.
    pub(super) fn append(&mut self, list: Index, items: &[Index]) -> Result<(), Error> {
        let Node::List { mut last } = self.node(list) else { return Ok(()) };
        for &item in items {
            if self.is_text(item) {
                last = self.link(last, OPAQUE, item)?;
            }
        }
        self.replace(list, Node::List { last });
        Ok(())
    }

    /// Sets keys of a dictionary, so far as they are wanted; on anything but a dictionary it does nothing.
    pub(super) fn set(&mut self, dict: Index, pairs: &[Index]) -> Result<(), Error> {
        let (pairs, []) = pairs.as_chunks::<2>() else { return Err(Error::Damaged) };
        let Node::Dict { mut last } = self.node(dict) else { return Ok(()) };
        for &[key, value] in pairs {
            if self.field(key).is_some() {
                last = self.link(last, key, value)?;
            }
        }
        self.replace(dict, Node::Dict { last });
        Ok(())
    }

    /// Returns key and value of each link of a container, the last one first.
    pub(super) fn links(&self, container: Node) -> impl Iterator<Item = (Index, Index)> {
        let mut next = match container {
            Node::Dict { last } | Node::List { last } | Node::Tuple { last, .. } => last,
            _ => NONE,
        };
        // A link leads only to older ones, so that this ends.
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

    /// Returns the bytes of a text as they stand in the pickle.
    pub(super) fn bytes(&self, text: Index) -> Option<(&'a [u8], Encoding)> {
        let Node::Text { start, length, encoding } = self.node(text) else { return None };
        let (start, length) = (usize::try_from(start).ok()?, usize::try_from(length).ok()?);
        Some((self.pickle.get(start..)?.get(..length)?, encoding))
    }

    /// Returns the field that a key stands for. No wanted key needs an escape in any encoding.
    pub(super) fn field(&self, key: Index) -> Option<Field> {
        Field::named(self.bytes(key)?.0)
    }

    fn is_text(&self, index: Index) -> bool {
        matches!(self.node(index), Node::Text { .. })
    }

    fn link(&mut self, before: u32, key: Index, value: Index) -> Result<u32, Error> {
        push(&mut self.links, Link { before, key, value })
    }

    fn replace(&mut self, index: Index, node: Node) {
        if let Some(slot) = usize::try_from(index).ok().and_then(|index| self.nodes.get_mut(index)) {
            *slot = node;
        }
    }
}

/// Pushes within the limit, and returns where.
pub(super) fn push<T>(list: &mut Vec<T>, item: T) -> Result<u32, Error> {
    if list.len() >= MAX_ENTRIES {
        return Err(Error::TooLarge);
    }
    list.push(item);
    u32::try_from(list.len() - 1).map_err(|_| Error::TooLarge)
}
