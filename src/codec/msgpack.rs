//! Msgpack.
//!
//! Announced lengths are checked against the bytes that are present and never used to allocate.
//!
//! <https://github.com/msgpack/msgpack/blob/master/spec.md>

use super::value::ValueBudget;
use super::{DecodeError, FieldValue, Record, Value, ValueLimits};

/// Reads the fields of a record from a map, and skips the rest without recursion.
///
/// # Errors
///
/// When the input is damaged or not a map, or a field exceeds its limit.
pub fn read_record<R: Record>(msgpack: &[u8]) -> Result<R, DecodeError> {
    let mut reader = MsgpackReader { rest: msgpack };
    let Item::Map(pairs) = reader.item()? else { return Err(DecodeError::Damaged) };
    let mut record = R::default();
    for _ in 0..pairs {
        let key = reader.item()?;
        let field = if let Item::Text(key) = key { R::field(key) } else { None };
        reader.skip_within(key)?;
        let value = reader.item()?;
        match field {
            Some(field) => record.set(field, reader.field_value::<R>(value)?),
            None => reader.skip_within(value)?,
        }
    }
    if reader.rest.is_empty() { Ok(record) } else { Err(DecodeError::Damaged) }
}

/// Reads a value.
///
/// # Errors
///
/// When the input is damaged or exceeds a limit. A text that is not UTF-8 is damaged.
pub fn read_value(msgpack: &[u8], limits: ValueLimits) -> Result<Value, DecodeError> {
    let mut budget = ValueBudget::new(msgpack, limits)?;
    let mut reader = MsgpackReader { rest: msgpack };
    let value = reader.value(&mut budget)?;
    if reader.rest.is_empty() { Ok(value) } else { Err(DecodeError::Damaged) }
}

/// Appends the header of a map of `pairs` pairs, which follow.
pub fn push_map(out: &mut Vec<u8>, pairs: usize) {
    push_header(out, pairs, (0x80, 15), &[(0xde, 2), (0xdf, 4)]);
}

/// Appends the header of a list of `items` items, which follow.
pub fn push_list(out: &mut Vec<u8>, items: usize) {
    push_header(out, items, (0x90, 15), &[(0xdc, 2), (0xdd, 4)]);
}

/// Appends a text.
pub fn push_text(out: &mut Vec<u8>, text: &str) {
    push_header(out, text.len(), (0xa0, 31), &[(0xd9, 1), (0xda, 2), (0xdb, 4)]);
    out.extend_from_slice(text.as_bytes());
}

/// Appends nil.
pub fn push_nil(out: &mut Vec<u8>) {
    out.push(0xc0);
}

/// Appends a code and a length in its shortest form: within the code up to a limit, else behind a code of its own. Nothing has
/// more than 2^32 - 1 bytes or items here: the limits of messages are far lower.
fn push_header(out: &mut Vec<u8>, length: usize, (code, most): (u8, u8), longer: &[(u8, usize)]) {
    let bytes = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
    if length <= usize::from(most) {
        out.push(code | bytes[3]);
        return;
    }
    let width = longer.iter().find(|(_, width)| length < 1 << (8 * width)).or(longer.last());
    if let Some((code, width)) = width {
        out.push(*code);
        out.extend_from_slice(&bytes[4 - width..]);
    }
}

/// A scalar value, or the header of a container.
#[derive(Debug, Clone, Copy)]
enum Item<'a> {
    Nil,
    Bool(bool),
    Integer(i64),
    /// An integer above the range of `i64`.
    Unsigned(u64),
    Float(f64),
    Text(&'a [u8]),
    Bytes(&'a [u8]),
    Extension(i8, &'a [u8]),
    List(u64),
    Map(u64),
}

impl Item<'_> {
    /// Returns the number of values in a container.
    fn held(self) -> u64 {
        match self {
            Self::List(count) => count,
            Self::Map(pairs) => pairs * 2,
            _ => 0,
        }
    }
}

/// What is left of an input.
struct MsgpackReader<'a> {
    rest: &'a [u8],
}

impl<'a> MsgpackReader<'a> {
    /// Reads the next scalar value, or the header of the next container.
    fn item(&mut self) -> Result<Item<'a>, DecodeError> {
        let code = self.byte()?;
        Ok(match code {
            0x00..=0x7f => Item::Integer(code.into()),
            0x80..=0x8f => Item::Map((code & 0x0f).into()),
            0x90..=0x9f => Item::List((code & 0x0f).into()),
            0xa0..=0xbf => Item::Text(self.take((code & 0x1f).into())?),
            0xc0 => Item::Nil,
            0xc1 => return Err(DecodeError::Damaged),
            0xc2 | 0xc3 => Item::Bool(code == 0xc3),
            0xc4..=0xc6 => {
                let length = self.unsigned(1 << (code - 0xc4))?;
                Item::Bytes(self.take(length)?)
            }
            0xc7..=0xc9 => {
                let length = self.unsigned(1 << (code - 0xc7))?;
                self.extension(length)?
            }
            0xca => Item::Float(f32::from_bits(self.array().map(u32::from_be_bytes)?).into()),
            0xcb => Item::Float(f64::from_bits(self.array().map(u64::from_be_bytes)?)),
            0xcc..=0xcf => {
                let number = self.unsigned(1 << (code - 0xcc))?;
                i64::try_from(number).map_or(Item::Unsigned(number), Item::Integer)
            }
            0xd0..=0xd3 => Item::Integer(self.signed(1 << (code - 0xd0))?),
            0xd4..=0xd8 => self.extension(1 << (code - 0xd4))?,
            0xd9..=0xdb => {
                let length = self.unsigned(1 << (code - 0xd9))?;
                Item::Text(self.take(length)?)
            }
            0xdc | 0xdd => Item::List(self.unsigned(2 << (code - 0xdc))?),
            0xde | 0xdf => Item::Map(self.unsigned(2 << (code - 0xde))?),
            0xe0..=0xff => Item::Integer(code.cast_signed().into()),
        })
    }

    /// Reads a field after its header.
    fn field_value<R: Record>(&mut self, item: Item<'a>) -> Result<FieldValue, DecodeError> {
        let Item::List(count) = item else {
            self.skip_within(item)?;
            return scalar_field::<R>(item);
        };
        let mut list = Vec::new();
        for _ in 0..count {
            let item = self.item()?;
            self.skip_within(item)?;
            scalar_field::<R>(item)?.add_to::<R>(&mut list)?;
        }
        Ok(FieldValue::List(list))
    }

    fn value(&mut self, budget: &mut ValueBudget) -> Result<Value, DecodeError> {
        budget.take_item()?;
        Ok(match self.item()? {
            Item::Nil => Value::Null,
            Item::Bool(value) => Value::Bool(value),
            Item::Integer(number) => Value::Integer(number),
            Item::Unsigned(number) => Value::BigInteger(number.to_string()),
            Item::Float(number) => Value::Float(number),
            Item::Text(text) => {
                let text = std::str::from_utf8(text).map_err(|_| DecodeError::Damaged)?;
                Value::Text(text.to_owned())
            }
            Item::Bytes(bytes) => Value::Bytes(bytes.to_vec()),
            Item::Extension(kind, data) => Value::Extension(kind, data.to_vec()),
            Item::List(count) => {
                budget.enter()?;
                let mut list = Vec::new();
                for _ in 0..count {
                    list.push(self.value(budget)?);
                }
                budget.leave();
                Value::List(list)
            }
            Item::Map(count) => {
                budget.enter()?;
                let mut pairs = Vec::new();
                for _ in 0..count {
                    pairs.push((self.value(budget)?, self.value(budget)?));
                }
                budget.leave();
                Value::Map(pairs)
            }
        })
    }

    /// Skips the content of a container without recursion, by counting the values that remain.
    fn skip_within(&mut self, item: Item<'a>) -> Result<(), DecodeError> {
        let mut due = item.held();
        while due > 0 {
            let item = self.item()?;
            due = (due - 1).saturating_add(item.held());
        }
        Ok(())
    }

    fn extension(&mut self, length: u64) -> Result<Item<'a>, DecodeError> {
        let kind = self.byte()?.cast_signed();
        Ok(Item::Extension(kind, self.take(length)?))
    }

    fn byte(&mut self) -> Result<u8, DecodeError> {
        let (&byte, rest) = self.rest.split_first().ok_or(DecodeError::Damaged)?;
        self.rest = rest;
        Ok(byte)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(DecodeError::Damaged)?;
        self.rest = rest;
        Ok(*taken)
    }

    fn take(&mut self, count: u64) -> Result<&'a [u8], DecodeError> {
        let count = usize::try_from(count).map_err(|_| DecodeError::Damaged)?;
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(DecodeError::Damaged)?;
        self.rest = rest;
        Ok(taken)
    }

    /// Reads an unsigned integer of 1, 2, 4 or 8 bytes.
    fn unsigned(&mut self, width: u8) -> Result<u64, DecodeError> {
        let bytes = self.take(width.into())?;
        Ok(bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    fn signed(&mut self, width: u8) -> Result<i64, DecodeError> {
        let unused = 64 - 8 * u32::from(width);
        Ok((self.unsigned(width)? << unused).cast_signed() >> unused)
    }
}

/// Converts a scalar value; a text that is not UTF-8 is not a text.
fn scalar_field<R: Record>(item: Item<'_>) -> Result<FieldValue, DecodeError> {
    match item {
        Item::Text(text) => std::str::from_utf8(text).map_or(Ok(FieldValue::Other), FieldValue::text::<R>),
        Item::Integer(number) => Ok(FieldValue::Number(number)),
        _ => Ok(FieldValue::Other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: ValueLimits = ValueLimits { bytes: 100, items: 10, depth: 3 };

    #[test]
    fn each_type_becomes_its_value() {
        let text = |text: &str| Value::Text(text.to_owned());
        for (msgpack, expected) in [
            (&b"\xc0"[..], Value::Null),
            (b"\xc2", Value::Bool(false)),
            (b"\xc3", Value::Bool(true)),
            (b"\x7f", Value::Integer(127)),
            (b"\xe0", Value::Integer(-32)),
            (b"\xcd\x01\x00", Value::Integer(256)),
            (b"\xd1\xff\xfe", Value::Integer(-2)),
            (b"\xcf\xff\xff\xff\xff\xff\xff\xff\xff", Value::BigInteger("18446744073709551615".to_owned())),
            (b"\xd3\x80\x00\x00\x00\x00\x00\x00\x00", Value::Integer(i64::MIN)),
            (b"\xca\x3f\xc0\x00\x00", Value::Float(1.5)),
            (b"\xcb\x3f\xf8\x00\x00\x00\x00\x00\x00", Value::Float(1.5)),
            (b"\xa2\xc3\xb6", text("ö")),
            (b"\xd9\x01x", text("x")),
            (b"\xc4\x02\x00\xff", Value::Bytes(vec![0, 255])),
            (b"\xd6\xff\x00\x00\x00\x01", Value::Extension(-1, vec![0, 0, 0, 1])),
            (b"\xc7\x02\x05ab", Value::Extension(5, b"ab".to_vec())),
            (b"\x92\x01\x90", Value::List(vec![Value::Integer(1), Value::List(Vec::new())])),
            (b"\x81\x01\xa1x", Value::Map(vec![(Value::Integer(1), text("x"))])),
        ] {
            assert_eq!(read_value(msgpack, LIMITS), Ok(expected), "{msgpack:?}");
            for end in 0..msgpack.len() {
                assert_eq!(read_value(&msgpack[..end], LIMITS), Err(DecodeError::Damaged), "{msgpack:?}");
            }
        }
        for damaged in
            [&b"\xc1"[..], b"\xc0\xc0", b"\xa1\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff"]
        {
            assert_eq!(read_value(damaged, LIMITS), Err(DecodeError::Damaged), "{damaged:?}");
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let limits = ValueLimits { bytes: 1 << 20, items: 1 << 20, depth: 3 };
        for length in [0, 15, 16, 31, 32, 255, 256, 65_535, 65_536] {
            let text = "x".repeat(length);
            let mut out = Vec::new();
            push_map(&mut out, 2);
            push_text(&mut out, "a");
            push_text(&mut out, &text);
            push_nil(&mut out);
            push_list(&mut out, length);
            out.extend(vec![0xc0; length]);
            let pairs = vec![
                (Value::Text("a".to_owned()), Value::Text(text)),
                (Value::Null, Value::List(vec![Value::Null; length])),
            ];
            assert_eq!(read_value(&out, limits), Ok(Value::Map(pairs)), "{length}");
        }
        let mut out = Vec::new();
        push_text(&mut out, &"x".repeat(32));
        assert_eq!(out[..2], [0xd9, 32], "the shortest form, as Python writes it");
    }

    #[test]
    fn values_beyond_the_limits_are_refused() {
        for (msgpack, fits) in [
            (b"\x91\x91\x90".to_vec(), true),
            (b"\x91\x91\x91\x90".to_vec(), false),
            ([&b"\x99"[..], &[1; 9]].concat(), true),
            ([&b"\x9a"[..], &[1; 10]].concat(), false),
            ([&b"\xd9\x62"[..], &[b'x'; 98]].concat(), true),
            ([&b"\xd9\x63"[..], &[b'x'; 99]].concat(), false),
        ] {
            let value = read_value(&msgpack, LIMITS);
            assert_eq!(value.err(), (!fits).then_some(DecodeError::TooLarge), "{msgpack:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_cause_a_panic(bytes in proptest::collection::vec(0_u8.., 0..60)) {
            let _ = read_value(&bytes, LIMITS);
        }
    }
}
