//! Sessions in msgpack: reads the fields of a session and skips the rest.
//!
//! Declared lengths are checked against the bytes that are present and never used to allocate.

use super::content::{Excessive, Field, FieldValue, add_group};
use super::{Session, Undecodable};

impl From<Excessive> for Undecodable {
    fn from(Excessive: Excessive) -> Self {
        Self::TooLarge
    }
}

/// Decodes a session; the last value of a repeated key is used.
pub(super) fn read(msgpack: &[u8]) -> Result<Session, Undecodable> {
    let mut reader = Reader { rest: msgpack };
    let Item::Map(pairs) = reader.item()? else { return Err(Undecodable::Msgpack) };
    let mut session = Session::default();
    for _ in 0..pairs {
        let key = reader.item()?;
        let field = if let Item::Text(key) = key { Field::named(key) } else { None };
        reader.skip_within(key)?;
        let value = reader.item()?;
        match field {
            Some(field) => session.set(field, reader.value(value)?),
            None => reader.skip_within(value)?,
        }
    }
    if reader.rest.is_empty() { Ok(session) } else { Err(Undecodable::Msgpack) }
}

/// A scalar value, or the header of a container.
#[derive(Debug, Clone, Copy)]
enum Item<'a> {
    Text(&'a [u8]),
    Number(i64),
    List(u64),
    Map(u64),
    Other,
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads the next scalar value, or the header of the next container.
    fn item(&mut self) -> Result<Item<'a>, Undecodable> {
        let code = self.take(1)?[0];
        Ok(match code {
            0x00..=0x7f => Item::Number(code.into()),
            0x80..=0x8f => Item::Map((code & 0x0f).into()),
            0x90..=0x9f => Item::List((code & 0x0f).into()),
            0xa0..=0xbf => Item::Text(self.take((code & 0x1f).into())?),
            0xc0 | 0xc2 | 0xc3 => Item::Other,
            0xc1 => return Err(Undecodable::Msgpack),
            0xc4..=0xc6 => {
                let length = self.unsigned(1 << (code - 0xc4))?;
                self.skip(length)?
            }
            0xc7..=0xc9 => {
                let length = self.unsigned(1 << (code - 0xc7))?;
                self.skip(length.saturating_add(1))?
            }
            0xca => self.skip(4)?,
            0xcb => self.skip(8)?,
            0xcc..=0xcf => {
                i64::try_from(self.unsigned(1 << (code - 0xcc))?).map_or(Item::Other, Item::Number)
            }
            0xd0..=0xd3 => Item::Number(self.signed(1 << (code - 0xd0))?),
            0xd4..=0xd8 => self.skip(1 + (1 << (code - 0xd4)))?,
            0xd9..=0xdb => {
                let length = self.unsigned(1 << (code - 0xd9))?;
                Item::Text(self.take(length)?)
            }
            0xdc | 0xdd => Item::List(self.unsigned(2 << (code - 0xdc))?),
            0xde | 0xdf => Item::Map(self.unsigned(2 << (code - 0xde))?),
            0xe0..=0xff => Item::Number(code.cast_signed().into()),
        })
    }

    /// Reads the rest of a field's value after its header.
    fn value(&mut self, item: Item<'a>) -> Result<FieldValue, Undecodable> {
        let Item::List(count) = item else {
            self.skip_within(item)?;
            return Ok(single(item)?);
        };
        let mut groups = Vec::new();
        for _ in 0..count {
            let item = self.item()?;
            self.skip_within(item)?;
            add_group(&mut groups, single(item)?)?;
        }
        Ok(FieldValue::List(groups))
    }

    /// Skips the content of a container without recursion, by counting the values that remain.
    fn skip_within(&mut self, item: Item<'a>) -> Result<(), Undecodable> {
        let mut due = held(item);
        while due > 0 {
            let item = self.item()?;
            due = (due - 1).saturating_add(held(item));
        }
        Ok(())
    }

    fn skip(&mut self, count: u64) -> Result<Item<'a>, Undecodable> {
        self.take(count).map(|_| Item::Other)
    }

    fn take(&mut self, count: u64) -> Result<&'a [u8], Undecodable> {
        let count = usize::try_from(count).map_err(|_| Undecodable::Msgpack)?;
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(Undecodable::Msgpack)?;
        self.rest = rest;
        Ok(taken)
    }

    /// Reads an unsigned integer of 1, 2, 4 or 8 bytes.
    fn unsigned(&mut self, width: u8) -> Result<u64, Undecodable> {
        let bytes = self.take(width.into())?;
        Ok(bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    fn signed(&mut self, width: u8) -> Result<i64, Undecodable> {
        let unused = 64 - 8 * u32::from(width);
        Ok((self.unsigned(width)? << unused).cast_signed() >> unused)
    }
}

/// Returns the number of values in a container.
fn held(item: Item<'_>) -> u64 {
    match item {
        Item::List(count) => count,
        Item::Map(pairs) => pairs * 2,
        _ => 0,
    }
}

/// Converts a scalar value; a text that is not UTF-8 is not a text.
fn single(item: Item<'_>) -> Result<FieldValue, Excessive> {
    match item {
        Item::Text(text) => std::str::from_utf8(text).map_or(Ok(FieldValue::Other), FieldValue::text),
        Item::Number(number) => Ok(FieldValue::Number(number)),
        _ => Ok(FieldValue::Other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(parts: &[&[u8]], expected: &str) {
        let session = read(&parts.concat());
        let session = session.map(|session| (session.user_id, session.username, session.groups));
        assert_eq!(format!("{session:?}"), expected);
    }

    const ID: &[u8] = b"\xad_auth_user_id";
    const NAME: &[u8] = b"\xb1ws4redis:username";
    const GROUPS: &[u8] = b"\xb1ws4redis:memberof";

    #[test]
    fn wanted_fields_are_found_and_the_last_one_counts() {
        check(&[b"\x80"], "Ok((None, None, None))");
        check(&[b"\x82", ID, b"\xa11", ID, b"\xd9\x012"], r#"Ok((Some("2"), None, None))"#);
        check(&[b"\x82", ID, b"\x07", NAME, b"\x07"], r#"Ok((Some("7"), None, None))"#);
        check(&[b"\x81", ID, b"\xd1\xff\xfe"], r#"Ok((Some("-2"), None, None))"#);
        check(&[b"\x81", ID, b"\xcf\xff\xff\xff\xff\xff\xff\xff\xff"], "Ok((None, None, None))");
        check(
            &[b"\xde\x00\x01", GROUPS, b"\x94\xa1a\x01\x91\xa1b\xa1c"],
            r#"Ok((None, None, Some(["a", "c"])))"#,
        );
        check(&[b"\x81", NAME, b"\xa1\xff"], "Ok((None, None, None))");
        check(&[b"\x81", NAME, b"\xc4\x01x"], "Ok((None, None, None))");
    }

    #[test]
    fn everything_else_is_skipped_whatever_it_is() {
        let deep = [vec![0x91; 5_000], vec![0xc0]].concat();
        let others: [&[u8]; 9] = [
            &deep,
            b"\xc4\x02ab",
            b"\xc7\x03\x05abc",
            b"\xca\x00\x00\x00\x00",
            b"\xcb\x00\x00\x00\x00\x00\x00\x00\x00",
            b"\xd6\xff\x00\x00\x00\x00",
            b"\xdd\x00\x00\x00\x02\x82\x01\x02\x03\x04\xc3",
            b"\xe0",
            b"\xda\x00\x02xy",
        ];
        for other in others {
            check(&[b"\x82\xa1x", other, ID, b"\xa11"], r#"Ok((Some("1"), None, None))"#);
            check(&[b"\x82", other, b"\x01", ID, b"\xa11"], r#"Ok((Some("1"), None, None))"#);
        }
    }

    #[test]
    fn damaged_msgpack_and_excess_are_refused() {
        let cut: [&[u8]; 7] = [
            b"",
            b"\x81",
            b"\x90",
            b"\x80\x00",
            b"\x81\xc1\x00",
            b"\xdf\xff\xff\xff\xff\x01",
            b"\x81\x01\xc6\xff\xff\xff\xff",
        ];
        for msgpack in cut {
            check(&[msgpack], "Err(Msgpack)");
        }
        check(&[b"\x81", NAME, b"\xda\x04\x01", &[b'x'; 1_025]], "Err(TooLarge)");
        check(&[b"\x81", GROUPS, b"\xdc\x04\x01", &b"\xa1x".repeat(1_025)], "Err(TooLarge)");
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(0_u8.., 0..60)) {
            let _ = read(&bytes);
        }
    }
}
