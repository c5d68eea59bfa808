//! The opcodes of classes, functions and their instances. Nothing is instantiated.

use super::arena::{Index, Node, OPAQUE};
use super::class::Class;
use super::machine::Machine;
use super::selection::Selection;
use crate::codec::DecodeError;

impl<S: Selection> Machine<'_, S> {
    /// Runs an opcode of a class or an instance.
    pub(super) fn object(&mut self, code: u8) -> Result<(), DecodeError> {
        match code {
            b'c' => {
                let (module, name) = (self.input.line()?, self.input.line()?);
                self.push_class(Class::named(module, name))
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let class = self.arena.bytes(module).zip(self.arena.bytes(name));
                self.push_class(class.and_then(|((module, _), (name, _))| Class::named(module, name)))
            }
            b'R' | 0x81 => {
                let (arguments, class) = (self.pop()?, self.pop()?);
                self.push_instance(class, arguments)
            }
            0x92 => {
                // NEWOBJ_EX: class, arguments, keyword arguments.
                let (_, _, _) = (self.pop()?, self.pop()?, self.pop()?);
                self.push_opaque()
            }
            // BUILD sets an object's attributes.
            b'b' => self.pop().and_then(|_| self.top()).map(|_| ()),
            b'i' => {
                let (_, _) = (self.input.line()?, self.input.line()?);
                self.drop_to_mark()?;
                self.push_opaque()
            }
            b'o' => {
                self.cut(|_, items| if items.is_empty() { Err(DecodeError::Damaged) } else { Ok(()) })?;
                self.push_opaque()
            }
            // EXT1, EXT2, EXT4: classes by number.
            0x82..=0x84 => {
                self.input.take(1 << (code - 0x82))?;
                self.push_opaque()
            }
            // Persistent ids and out-of-band buffers have a meaning only for their writer.
            _ => Err(DecodeError::Damaged),
        }
    }

    fn push_class(&mut self, class: Option<Class>) -> Result<(), DecodeError> {
        match class {
            Some(class) => self.push_node(Node::Class(class)),
            None => self.push_opaque(),
        }
    }

    /// Pushes the value that an instance wraps, if its class is recognised.
    fn push_instance(&mut self, class: Index, arguments: Index) -> Result<(), DecodeError> {
        let arguments = self.arena.node(arguments);
        match (self.arena.node(class), arguments) {
            (Node::Class(Class::OrderedDict), Node::Tuple { length: 0, .. }) => {
                let dict = self.arena.empty_dict()?;
                self.push(dict)
            }
            (Node::Class(Class::SafeString), Node::Tuple { length: 1, .. }) => {
                let text = self.arena.links(arguments).next().map_or(OPAQUE, |(_, text)| text);
                self.push(text)
            }
            (Node::Class(Class::ByteArray), Node::Tuple { length: 0 | 1, .. }) => {
                let bytes = self.arena.links(arguments).next().map(|(_, bytes)| bytes);
                match bytes.map(|bytes| (bytes, self.arena.node(bytes))) {
                    Some((bytes, Node::Bytes { .. })) => self.push(bytes),
                    None => self.push_other(Node::Bytes { start: 0, length: 0 }),
                    Some(_) => self.push_opaque(),
                }
            }
            (Node::Class(Class::Reconstructor), _) => {
                // Class, its base, and the base's value.
                let wrapped = match self.arena.triple(arguments) {
                    Some([class, _, text]) if self.arena.node(class) == Node::Class(Class::SafeString) => {
                        text
                    }
                    _ => OPAQUE,
                };
                self.push(wrapped)
            }
            _ => self.push_opaque(),
        }
    }
}
