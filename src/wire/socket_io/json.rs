//! JSON that is passed through: validated and split without building a tree.
//!
//! The scanner keeps numbers, the order of keys and escapes as they are, lone surrogates included.

use super::tokens::{is_key, is_space, number_length, string_length};

/// Deepest nesting of arrays and objects.
pub const MAX_JSON_DEPTH: usize = 64;

/// Why a text is not acceptable JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidJson {
    /// It is not one value of valid JSON.
    #[error("the JSON is invalid")]
    Syntax,
    /// It is nested deeper than [`MAX_JSON_DEPTH`].
    #[error("the JSON is nested too deeply")]
    TooDeep,
    /// A placeholder refers to no attachment. JavaScript clients drop their connection at such a message.
    #[error("a placeholder refers to no attachment")]
    Placeholder,
}

/// Validates one value of JSON and nothing behind it.
///
/// With a number of attachments, each placeholder `{"_placeholder":true,"num":N}` must refer to one of them (`binary.ts`
/// of socket.io-parser); with `None` a placeholder is an object like any other.
///
/// # Errors
///
/// When the JSON is invalid (`NaN` and the infinities are), too deep, or a placeholder is invalid.
pub fn validate_json(json: &str, attachments: Option<usize>) -> Result<(), InvalidJson> {
    JsonScanner::new(json, attachments, None).scan().map(|_| ())
}

/// Validates JSON as [`validate_json`] does and appends it without white space. Replaces Python's `NaN` and infinities with
/// null, as `JSON.stringify` does, and returns how many. Appends at most 4/3 of the bytes of `json`, and on failure an
/// unspecified part.
///
/// # Errors
///
/// When the JSON is invalid, too deep, or a placeholder is invalid.
pub fn push_compact_json(
    out: &mut String,
    json: &str,
    attachments: Option<usize>,
) -> Result<usize, InvalidJson> {
    out.reserve(json.len());
    JsonScanner::new(json, attachments, Some(out)).scan()
}

/// The member of an object in which a value stands, as far as placeholders are concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum JsonMember {
    Mark,
    Number,
    Other,
}

/// One bit for each level of nesting. A level is at most [`MAX_JSON_DEPTH`].
#[derive(Debug, Clone, Copy, Default)]
struct JsonLevels(u64);

impl JsonLevels {
    fn set(&mut self, depth: usize, value: bool) {
        let bit = 1 << (depth - 1);
        self.0 = if value { self.0 | bit } else { self.0 & !bit };
    }

    fn get(self, depth: usize) -> bool {
        self.0 & 1 << (depth - 1) != 0
    }
}

struct JsonScanner<'a> {
    json: &'a str,
    at: usize,
    depth: usize,
    /// Levels that are objects and not arrays.
    objects: JsonLevels,
    /// Objects whose member `_placeholder` is true.
    marked: JsonLevels,
    /// Objects whose member `num` refers to an attachment.
    numbered: JsonLevels,
    attachments: Option<usize>,
    out: Option<&'a mut String>,
    /// Everything before this position has been appended or left out.
    copied: usize,
    replaced: usize,
}

impl<'a> JsonScanner<'a> {
    fn new(json: &'a str, attachments: Option<usize>, out: Option<&'a mut String>) -> Self {
        let levels = JsonLevels::default();
        Self {
            json,
            at: 0,
            depth: 0,
            objects: levels,
            marked: levels,
            numbered: levels,
            attachments,
            out,
            copied: 0,
            replaced: 0,
        }
    }

    /// Scans one value and the white space around it, without recursion.
    fn scan(mut self) -> Result<usize, InvalidJson> {
        let mut member = JsonMember::Other;
        'values: loop {
            self.skip_space();
            if self.scalar_or_begin(member)? {
                self.skip_space();
                let is_object = self.objects.get(self.depth);
                if self.peek() != Some(if is_object { b'}' } else { b']' }) {
                    member = if is_object { self.key()? } else { JsonMember::Other };
                    continue;
                }
            }
            while self.depth > 0 {
                self.skip_space();
                let is_object = self.objects.get(self.depth);
                match self.peek() {
                    Some(b',') => {
                        self.at += 1;
                        self.skip_space();
                        member = if is_object { self.key()? } else { JsonMember::Other };
                        continue 'values;
                    }
                    Some(b'}') if is_object => self.end_object()?,
                    Some(b']') if !is_object => {}
                    _ => return Err(InvalidJson::Syntax),
                }
                self.at += 1;
                self.depth -= 1;
            }
            self.skip_space();
            if self.at < self.json.len() {
                return Err(InvalidJson::Syntax);
            }
            self.flush();
            return Ok(self.replaced);
        }
    }

    fn peek(&self) -> Option<u8> {
        self.json.as_bytes().get(self.at).copied()
    }

    fn rest(&self) -> &'a [u8] {
        &self.json.as_bytes()[self.at..]
    }

    /// Scans a scalar, or begins a container and returns true.
    fn scalar_or_begin(&mut self, member: JsonMember) -> Result<bool, InvalidJson> {
        let (start, is_checked) = (self.at, self.attachments.is_some() && member != JsonMember::Other);
        let first = self.peek().ok_or(InvalidJson::Syntax)?;
        match first {
            b'"' => self.at += string_length(self.rest()).ok_or(InvalidJson::Syntax)?,
            b'{' | b'[' => {}
            b't' => self.word("true")?,
            b'f' => self.word("false")?,
            b'n' => self.word("null")?,
            _ => match number_length(self.rest()) {
                Some(length) => self.at += length,
                None => self.replace_constant()?,
            },
        }
        if is_checked {
            if member == JsonMember::Mark {
                self.marked.set(self.depth, first == b't');
            } else {
                // Only plain digits count, so that no two clients can disagree about the number.
                let number = self.json[start..self.at].parse::<usize>().ok();
                let is_valid = first.is_ascii_digit() && number.is_some() && number < self.attachments;
                self.numbered.set(self.depth, is_valid);
            }
        }
        if !matches!(first, b'{' | b'[') {
            return Ok(false);
        }
        if self.depth == MAX_JSON_DEPTH {
            return Err(InvalidJson::TooDeep);
        }
        self.at += 1;
        self.depth += 1;
        self.objects.set(self.depth, first == b'{');
        self.marked.set(self.depth, false);
        self.numbered.set(self.depth, false);
        Ok(true)
    }

    fn end_object(&self) -> Result<(), InvalidJson> {
        let is_invalid = self.marked.get(self.depth) && !self.numbered.get(self.depth);
        if is_invalid { Err(InvalidJson::Placeholder) } else { Ok(()) }
    }

    /// Scans a key and the colon behind it.
    fn key(&mut self) -> Result<JsonMember, InvalidJson> {
        let length = string_length(self.rest()).ok_or(InvalidJson::Syntax)?;
        let key = &self.json[self.at..self.at + length];
        self.at += length;
        self.skip_space();
        if self.peek() != Some(b':') {
            return Err(InvalidJson::Syntax);
        }
        self.at += 1;
        Ok(match self.attachments {
            Some(_) if is_key(key, "_placeholder") => JsonMember::Mark,
            Some(_) if is_key(key, "num") => JsonMember::Number,
            _ => JsonMember::Other,
        })
    }

    fn word(&mut self, word: &str) -> Result<(), InvalidJson> {
        if !self.rest().starts_with(word.as_bytes()) {
            return Err(InvalidJson::Syntax);
        }
        self.at += word.len();
        Ok(())
    }

    fn replace_constant(&mut self) -> Result<(), InvalidJson> {
        let constants = ["NaN", "Infinity", "-Infinity"];
        let rest = self.rest();
        let constant = constants.iter().find(|constant| rest.starts_with(constant.as_bytes()));
        let (Some(constant), true) = (constant, self.out.is_some()) else { return Err(InvalidJson::Syntax) };
        self.flush();
        if let Some(out) = &mut self.out {
            out.push_str("null");
        }
        self.at += constant.len();
        self.copied = self.at;
        self.replaced += 1;
        Ok(())
    }

    fn skip_space(&mut self) {
        let space = self.rest().iter().take_while(|byte| is_space(**byte)).count();
        if space > 0 {
            self.flush();
            self.at += space;
            self.copied = self.at;
        }
    }

    fn flush(&mut self) {
        if let Some(out) = &mut self.out {
            out.push_str(&self.json[self.copied..self.at]);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn compact(json: &str, attachments: Option<usize>) -> Result<(String, usize), InvalidJson> {
        let mut out = String::new();
        push_compact_json(&mut out, json, attachments).map(|replaced| (out, replaced))
    }

    #[test]
    fn values_keep_their_form() {
        for json in [
            "null",
            "true",
            "0",
            "-0",
            "1.50",
            "1E+2",
            "123456789012345678901234567890",
            r#""\ud800""#,
            r#"{"b":1,"a":1,"b":2}"#,
            "[]",
            "{}",
            "[[],{}]",
            r#"["\u00e9é\/\"\\"]"#,
            r#"[{"_placeholder":true,"num":9}]"#,
        ] {
            assert_eq!(validate_json(json, None), Ok(()), "{json}");
            assert_eq!(compact(json, None), Ok((json.to_owned(), 0)), "{json}");
        }
    }

    #[test]
    fn compacting_removes_space_and_replaces_constants() {
        let json = " [ 1 ,\n\t{ \"a b\" : NaN , \"c\" : [ -Infinity,Infinity ] } ,\r\"NaN\" ] ";
        assert_eq!(compact(json, None), Ok((r#"[1,{"a b":null,"c":[null,null]},"NaN"]"#.to_owned(), 3)));
        assert_eq!(validate_json("[NaN]", None), Err(InvalidJson::Syntax), "clients must not send it");
    }

    #[test]
    fn anything_else_is_refused() {
        for json in [
            "",
            " ",
            "[",
            "]",
            "{",
            "[1,]",
            "[,1]",
            "{,}",
            "{1:2}",
            r#"{"a"}"#,
            r#"{"a":}"#,
            r#"{"a":1,}"#,
            "[1}",
            "{]",
            "[1 2]",
            "01",
            "-",
            "1.",
            ".1",
            "1e",
            "+1",
            "0x1",
            "nul",
            "True",
            "-NaN",
            "Inf",
            "'a'",
            "\"a",
            "\"\n\"",
            r#""\x41""#,
            r#""\u12g4""#,
            r#""\u123"#,
            "1 1",
            "[] []",
            "\u{feff}1",
            "\u{a0}1",
            "[\"a\" \"b\"]",
        ] {
            assert_eq!(validate_json(json, None), Err(InvalidJson::Syntax), "{json}");
            assert_eq!(compact(json, None), Err(InvalidJson::Syntax), "{json}");
        }
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert_eq!(validate_json(&nested(64), None), Ok(()));
        assert_eq!(validate_json(&nested(65), None), Err(InvalidJson::TooDeep));
    }

    #[test]
    fn placeholders_refer_to_attachments() {
        for valid in [
            r#"[{"_placeholder":true,"num":0},{"num":1,"_placeholder":true},{"_placeholder":true,"num":0}]"#,
            r#"{"_placeholder":false,"num":7}"#,
            r#"{"_placeholder":1}"#,
            r#"{"num":7}"#,
            r#"{"_placeholder":{"_placeholder":true,"num":1},"num":{}}"#,
            r#"{"_placeholder":true,"_placeholder":false}"#,
            "[true,7]",
        ] {
            assert_eq!(validate_json(valid, Some(2)), Ok(()), "{valid}");
        }
        for invalid in [
            r#"{"_placeholder":true,"num":2}"#,
            r#"{"_placeholder":true,"num":-1}"#,
            r#"{"_placeholder":true,"num":-0}"#,
            r#"{"_placeholder":true,"num":0.0}"#,
            r#"{"_placeholder":true,"num":1e0}"#,
            r#"{"_placeholder":true,"num":"1"}"#,
            r#"{"_placeholder":true,"num":[0]}"#,
            r#"{"_placeholder":true}"#,
            r#"{"_placeholder":true,"num":0,"num":2}"#,
            r#"{"_placehold\u0065r":true,"n\u0075m":2}"#,
            r#"[[{"a":{"_placeholder":true,"num":99999999999999999999}}]]"#,
        ] {
            assert_eq!(validate_json(invalid, Some(2)), Err(InvalidJson::Placeholder), "{invalid}");
            assert_eq!(validate_json(invalid, None), Ok(()), "{invalid}");
        }
    }

    proptest! {
        /// serde_json accepts the same texts, but for lone surrogates, its own depth, and numbers out of range.
        #[test]
        fn serde_json_agrees(json in r#"([\[\]{},: ]|"a"|"_placeholder"|"num"|true|1|-0\.5e3 |"\\u00e9"|é){0,12}"#) {
            let expected = serde_json::from_str::<serde_json::Value>(&json).ok();
            prop_assert_eq!(validate_json(&json, None).is_ok(), expected.is_some());
            if let Ok((out, _)) = compact(&json, None) {
                prop_assert!(out.len() <= json.len());
                prop_assert_eq!(serde_json::from_str::<serde_json::Value>(&out).ok(), expected);
            }
        }

        #[test]
        fn no_text_makes_it_panic(json in r#"([\[\]{},:"\\u0-9d8NaNInfinity. -]|\PC){0,40}"#) {
            let _ = validate_json(&json, Some(1));
            let mut out = String::new();
            let _ = push_compact_json(&mut out, &json, Some(1));
            prop_assert!(out.len() <= json.len() + json.len() / 3);
        }
    }
}
