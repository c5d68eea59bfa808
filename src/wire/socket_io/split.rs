//! The elements of a JSON array and the members of a JSON object, as slices of its text.
//!
//! Values are read only as far as needed to find their ends: validate those that are passed on.

use super::json::InvalidJson;
use super::tokens::{is_space, string_length};

/// Iterates over the elements of an array. Ends after the first error.
#[derive(Debug, Clone)]
pub struct JsonElements<'a>(ContainerCursor<'a>);

impl<'a> JsonElements<'a> {
    /// Starts with the text of an array; `None` if it is another value.
    pub fn new(json: &'a str) -> Option<Self> {
        ContainerCursor::new(json, '[', b']').map(Self)
    }
}

impl<'a> Iterator for JsonElements<'a> {
    type Item = Result<&'a str, InvalidJson>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next_with(ContainerCursor::value)
    }
}

/// Iterates over the members of an object: raw keys, with their quotes and escapes, and values. Ends after the first error.
#[derive(Debug, Clone)]
pub struct JsonMembers<'a>(ContainerCursor<'a>);

impl<'a> JsonMembers<'a> {
    /// Starts with the text of an object; `None` if it is another value.
    pub fn new(json: &'a str) -> Option<Self> {
        ContainerCursor::new(json, '{', b'}').map(Self)
    }
}

impl<'a> Iterator for JsonMembers<'a> {
    type Item = Result<(&'a str, &'a str), InvalidJson>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next_with(|cursor| {
            let key = cursor.take(string_length(cursor.rest.as_bytes())?)?;
            cursor.skip_space();
            cursor.rest = cursor.rest.strip_prefix(':')?;
            cursor.skip_space();
            Some((key, cursor.value()?))
        })
    }
}

#[derive(Debug, Clone)]
struct ContainerCursor<'a> {
    rest: &'a str,
    end: u8,
    is_first: bool,
    is_done: bool,
}

impl<'a> ContainerCursor<'a> {
    fn new(json: &'a str, begin: char, end: u8) -> Option<Self> {
        let rest =
            json.trim_start_matches(|c: char| c.is_ascii() && is_space(c as u8)).strip_prefix(begin)?;
        Some(Self { rest, end, is_first: true, is_done: false })
    }

    /// Reads what separates two items, and the next one with `read`.
    fn next_with<T>(&mut self, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<Result<T, InvalidJson>> {
        if self.is_done {
            return None;
        }
        self.skip_space();
        let is_first = std::mem::take(&mut self.is_first);
        match self.rest.as_bytes().first() {
            Some(byte) if *byte == self.end => {
                self.rest = &self.rest[1..];
                self.skip_space();
                self.is_done = true;
                return if self.rest.is_empty() { None } else { Some(Err(InvalidJson::Syntax)) };
            }
            Some(b',') if !is_first => {
                self.rest = &self.rest[1..];
                self.skip_space();
            }
            Some(_) if is_first => {}
            _ => {
                self.is_done = true;
                return Some(Err(InvalidJson::Syntax));
            }
        }
        let item = read(self).ok_or(InvalidJson::Syntax);
        self.is_done = item.is_err();
        Some(item)
    }

    /// Takes one value. Brackets within are counted and not matched.
    fn value(&mut self) -> Option<&'a str> {
        let bytes = self.rest.as_bytes();
        let (mut at, mut depth) = (0, 0_usize);
        loop {
            match bytes.get(at)? {
                b'"' => at += string_length(&bytes[at..])?,
                b'[' | b'{' => {
                    depth += 1;
                    at += 1;
                    continue;
                }
                b']' | b'}' => {
                    depth = depth.checked_sub(1)?;
                    at += 1;
                }
                _ if depth > 0 => {
                    at += 1;
                    continue;
                }
                _ => {
                    let ends = |byte: &u8| is_space(*byte) || b",]}[{\":".contains(byte);
                    let length = bytes[at..].iter().position(ends).unwrap_or(bytes.len() - at);
                    at += length;
                    return if length == 0 { None } else { self.take(at) };
                }
            }
            if depth == 0 {
                return self.take(at);
            }
        }
    }

    fn take(&mut self, count: usize) -> Option<&'a str> {
        let (taken, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(taken)
    }

    fn skip_space(&mut self) {
        let space = self.rest.bytes().take_while(|byte| is_space(*byte)).count();
        self.rest = &self.rest[space..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elements(json: &str) -> Option<Result<Vec<&str>, InvalidJson>> {
        JsonElements::new(json).map(Iterator::collect)
    }

    #[test]
    fn arrays_are_split_into_elements() {
        let json = r#" [ "a,]" , [1,{"b":[2]}] ,{"c":"}"},-1.5e3,null ] "#;
        let expected = [r#""a,]""#, r#"[1,{"b":[2]}]"#, r#"{"c":"}"}"#, "-1.5e3", "null"];
        assert_eq!(elements(json), Some(Ok(expected.to_vec())));
        assert_eq!(elements("[]"), Some(Ok(vec![])));
        assert_eq!(elements("{}"), None);
        assert_eq!(elements(""), None);
    }

    #[test]
    fn objects_are_split_into_members() {
        let members = |json| JsonMembers::new(json).map(Iterator::collect::<Result<Vec<_>, _>>);
        let expected = vec![(r#""a""#, "[1, 2]"), (r#""\u0062""#, r#""}""#)];
        assert_eq!(members(r#"{ "a" : [1, 2] ,"\u0062":"}"}"#), Some(Ok(expected)));
        assert_eq!(members("{}"), Some(Ok(vec![])));
        assert_eq!(members("[]"), None);
        for damaged in ["{", r#"{"a"}"#, r#"{"a":}"#, r#"{"a":1,}"#, "{a:1}", r#"{"a":1"#, r#"{"a":1}x"#] {
            assert_eq!(members(damaged), Some(Err(InvalidJson::Syntax)), "{damaged}");
        }
    }

    #[test]
    fn damaged_arrays_end_with_an_error() {
        for damaged in
            ["[", "[1", "[1,", "[1,]", "[,1]", "[1 2]", "[\"a\"1]", "[[]", "[1]x", "[1}", "[\"]", "[:]"]
        {
            assert_eq!(elements(damaged), Some(Err(InvalidJson::Syntax)), "{damaged}");
        }
    }

    proptest::proptest! {
        #[test]
        fn slices_are_disjoint_and_within_the_text(json in r#"([\[\]{},:"\\ 1a]|é){0,30}"#) {
            let (array, object) = (format!("[{json}"), format!("{{{json}"));
            let elements = JsonElements::new(&array).into_iter().flatten().flatten();
            proptest::prop_assert!(elements.map(str::len).sum::<usize>() < array.len());
            let members = JsonMembers::new(&object).into_iter().flatten().flatten();
            proptest::prop_assert!(members.map(|(key, value)| key.len() + value.len()).sum::<usize>() < object.len());
        }
    }
}
