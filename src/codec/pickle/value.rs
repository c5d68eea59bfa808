//! Values in a pickle.

use super::arena::{Arena, Index, Node};
use super::machine::Machine;
use super::selection::Everything;
use super::text::Encoding;
use super::{numbers, text};
use crate::codec::value::ValueBudget;
use crate::codec::{DecodeError, Value, ValueLimits};

/// Reads a value. Objects that the pickle shares are repeated in it, within the limits.
///
/// # Errors
///
/// When the pickle is damaged or exceeds a limit, which a container that contains itself always does; or when it has a
/// type without an equivalent: instances of all classes but `OrderedDict`, `SafeString` and `bytearray`, and sets.
pub fn read_value(pickle: &[u8], limits: ValueLimits) -> Result<Value, DecodeError> {
    let budget = ValueBudget::new(pickle, limits)?;
    let (arena, root) = Machine::<Everything>::run(pickle, limits.items)?;
    ValueBuilder { arena, budget }.value(root)
}

/// Builds a value from the nodes of a pickle.
struct ValueBuilder<'a> {
    arena: Arena<'a, Everything>,
    budget: ValueBudget,
}

impl ValueBuilder<'_> {
    fn value(&mut self, index: Index) -> Result<Value, DecodeError> {
        self.budget.take_item()?;
        let pickle = self.arena.pickle();
        let node = self.arena.node(index);
        match node {
            Node::Null => Ok(Value::Null),
            Node::Bool(value) => Ok(Value::Bool(value)),
            Node::Integer { at } => {
                let value = numbers::value(pickle, at)?;
                if let Value::BigInteger(digits) = &value {
                    self.budget.take_bytes(digits.len())?;
                }
                Ok(value)
            }
            Node::Float { at } => numbers::float(pickle, at).map(Value::Float).ok_or(DecodeError::Damaged),
            Node::Text { length, .. } => {
                self.take_bytes(length)?;
                let (bytes, encoding) = self.arena.bytes(index).ok_or(DecodeError::Unsupported)?;
                match text::decode(bytes, encoding) {
                    Some(text) => Ok(Value::Text(text)),
                    None if encoding == Encoding::Utf8 && text::is_surrogate_pass(bytes) => {
                        Ok(Value::Surrogates(bytes.to_vec()))
                    }
                    None => Err(DecodeError::Unsupported),
                }
            }
            Node::Bytes { start, length } => {
                self.take_bytes(length)?;
                let bytes = self.arena.range(start, length).ok_or(DecodeError::Damaged)?;
                Ok(Value::Bytes(bytes.to_vec()))
            }
            Node::List { .. } => self.items(node).map(Value::List),
            Node::Tuple { .. } => self.items(node).map(Value::Tuple),
            Node::Dict { .. } => {
                let links = self.links(node)?;
                self.budget.enter()?;
                let pairs: Result<_, DecodeError> = links
                    .into_iter()
                    .map(|(key, value)| Ok((self.value(key)?, self.value(value)?)))
                    .collect();
                self.budget.leave();
                pairs.map(Value::Map)
            }
            Node::Opaque | Node::Class(_) => Err(DecodeError::Unsupported),
        }
    }

    fn items(&mut self, container: Node) -> Result<Vec<Value>, DecodeError> {
        let links = self.links(container)?;
        self.budget.enter()?;
        let items = links.into_iter().map(|(_, item)| self.value(item)).collect();
        self.budget.leave();
        items
    }

    /// Returns key and value of each link of a container, in the order of the pickle.
    fn links(&self, container: Node) -> Result<Vec<(Index, Index)>, DecodeError> {
        let mut links = Vec::new();
        for link in self.arena.links(container) {
            // A container that is shared many times must not cost more than the items that are left.
            if links.len() >= self.budget.items() {
                return Err(DecodeError::TooLarge);
            }
            links.push(link);
        }
        links.reverse();
        Ok(links)
    }

    fn take_bytes(&mut self, length: u32) -> Result<(), DecodeError> {
        self.budget.take_bytes(usize::try_from(length).map_err(|_| DecodeError::TooLarge)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: ValueLimits = ValueLimits { bytes: 2_000, items: 100, depth: 3 };

    fn text(text: &str) -> Value {
        Value::Text(text.to_owned())
    }

    #[track_caller]
    fn check(pickle: &[u8], expected: &Result<Value, DecodeError>) {
        assert_eq!(read_value(pickle, LIMITS), *expected, "{pickle:?}");
    }

    #[test]
    fn each_type_becomes_its_value() {
        let list = |numbers: &[i64]| numbers.iter().map(|number| Value::Integer(*number)).collect::<Vec<_>>();
        for (pickle, expected) in [
            (&b"\x80\x04N."[..], Value::Null),
            (b"\x80\x04\x88.", Value::Bool(true)),
            (b"I00\n.", Value::Bool(false)),
            (b"I01\n.", Value::Bool(true)),
            (b"J\xfe\xff\xff\xff.", Value::Integer(-2)),
            (b"G\x3f\xf8\x00\x00\x00\x00\x00\x00.", Value::Float(1.5)),
            (b"F-inf\n.", Value::Float(f64::NEG_INFINITY)),
            (b"\x8c\x02\xc3\xb6.", text("ö")),
            (b"V\\u20ac\n.", text("\u{20ac}")),
            (b"\x8c\x05a\xed\xa0\x80b.", Value::Surrogates(b"a\xed\xa0\x80b".to_vec())),
            (b"C\x02\x00\xff.", Value::Bytes(vec![0, 255])),
            (b"\x96\x01\x00\x00\x00\x00\x00\x00\x00a.", Value::Bytes(b"a".to_vec())),
            (b"\x8c\x08builtins\x8c\x09bytearray\x93C\x02\x01\x02\x85R.", Value::Bytes(vec![1, 2])),
            (b"c__builtin__\nbytearray\n)R.", Value::Bytes(Vec::new())),
            (b"(K\x01K\x02K\x03K\x04t.", Value::Tuple(list(&[1, 2, 3, 4]))),
            (b"](K\x01K\x02eK\x03a.", Value::List(list(&[1, 2, 3]))),
            (b"}K\x01\x8c\x01xs.", Value::Map(vec![(Value::Integer(1), text("x"))])),
            (b"\x8c\x0bcollections\x8c\x0bOrderedDict\x93)R.", Value::Map(Vec::new())),
            (b"\x8c\x17django.utils.safestring\x8c\x0aSafeString\x93\x8c\x01x\x85\x81}b.", text("x")),
        ] {
            check(pickle, &Ok(expected));
        }
    }

    #[test]
    fn shared_objects_are_repeated() {
        let one = Value::List(vec![text("x")]);
        check(b"](]\x94\x8c\x01xah\x00e.", &Ok(Value::List(vec![one.clone(), one])));
    }

    #[test]
    fn types_without_an_equivalent_are_refused() {
        for pickle in [
            &b"cos\nsystem\n(S'echo no'\ntR."[..],
            b"cos\nsystem\n.",
            b"\x8c\x08datetime\x8c\x08datetime\x93C\x01x\x85R.",
            b"c__builtin__\nbytearray\n.",
            b"c__builtin__\nbytearray\nK\x05\x85R.",
            b"(imy.app\nThing\n.",
            b"(cmy.app\nThing\nK\x01o.",
            b"\x82\x01.",
            b"\x8f(K\x01\x90.",
            b"(K\x01\x91.",
            b"\x8c\x04\xed\xa0\x80\xff.",
        ] {
            check(pickle, &Err(DecodeError::Unsupported));
        }
    }

    #[test]
    fn damaged_pickles_and_values_over_the_limits_are_refused() {
        for pickle in
            [&b""[..], b"\x80\x04", b".", b"}(K\x01u.", b"Na.", b"Fx\n.", b"Ix\n.", b"NK\x01a.", b"Pid\n."]
        {
            check(pickle, &Err(DecodeError::Damaged));
        }
        for pickle in [
            b"]\x94h\x00a.".to_vec(),
            b"]]]]aaa.".to_vec(),
            b"N".repeat(101),
            [b"]\x94(", &b"K\x01".repeat(20)[..], b"e0](", &b"h\x00".repeat(20), b"e."].concat(),
            [b"](X\x00\x04\x00\x00", &[b'x'; 1_024][..], b"\x94h\x00e."].concat(),
            [b"I", &b"0".repeat(621)[..], b"\n."].concat(),
            [b"F", &b"0".repeat(621)[..], b"\n."].concat(),
            vec![b'N'; 2_001],
        ] {
            check(&pickle, &Err(DecodeError::TooLarge));
        }
    }

    proptest::proptest! {
        #[test]
        fn no_opcodes_cause_a_panic(codes in proptest::collection::vec(proptest::sample::select(b"().0122}]tldaesuNK\x01\x85\x86\x87\x94\x88\x89Rbo\x81\x92\x93\x90\x91\x8f".to_vec()), 0..80)) {
            let _ = read_value(&codes, LIMITS);
            let _ = read_value(&[b"}\x8c\x01x\x94h\x00h\x00", &codes[..], b"."].concat(), LIMITS);
        }
    }
}
