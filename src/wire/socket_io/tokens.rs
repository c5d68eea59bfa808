//! Strings and numbers of JSON.

use std::borrow::Cow;

/// Returns whether JSON allows the byte between values.
pub(super) fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

/// Returns the length of the string with its quotes at the start of the bytes; `None` if there is no valid one.
pub(super) fn string_length(json: &[u8]) -> Option<usize> {
    let mut at = 1;
    if json.first() != Some(&b'"') {
        return None;
    }
    loop {
        at += json.get(at..)?.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..0x20))?;
        match (json[at], json.get(at + 1)) {
            (b'"', _) => return Some(at + 1),
            (b'\\', Some(b'u')) => {
                let digits = json.get(at + 2..at + 6)?;
                if !digits.iter().all(u8::is_ascii_hexdigit) {
                    return None;
                }
                at += 6;
            }
            (b'\\', Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't')) => at += 2,
            _ => return None,
        }
    }
}

/// Returns the length of the number at the start of the bytes.
pub(super) fn number_length(json: &[u8]) -> Option<usize> {
    let digits =
        |at: usize| json[at.min(json.len())..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let mut at = usize::from(json.first() == Some(&b'-'));
    match (json.get(at), digits(at)) {
        (_, 0) | (Some(b'0'), 2..) => return None,
        (_, count) => at += count,
    }
    if json.get(at) == Some(&b'.') {
        at += 1 + Some(digits(at + 1)).filter(|count| *count > 0)?;
    }
    if let Some(b'e' | b'E') = json.get(at) {
        at += 1 + usize::from(matches!(json.get(at + 1), Some(b'+' | b'-')));
        at += Some(digits(at)).filter(|count| *count > 0)?;
    }
    Some(at)
}

/// Compares a raw key. Escapes count: clients decode `"_placehold\u0065r"` to the same key.
pub(super) fn is_key(raw: &str, name: &str) -> bool {
    let inner = &raw[1..raw.len() - 1];
    inner == name || inner.contains('\\') && unescape_json(raw).is_some_and(|key| key == name)
}

/// Returns the text of a raw JSON string, its quotes included; `None` if it is no valid string. Lone surrogates, which have
/// no UTF-8, become U+FFFD.
pub fn unescape_json(raw: &str) -> Option<Cow<'_, str>> {
    if string_length(raw.as_bytes()) != Some(raw.len()) {
        return None;
    }
    let inner = &raw[1..raw.len() - 1];
    if !inner.contains('\\') {
        return Some(Cow::Borrowed(inner));
    }
    let mut text = String::with_capacity(inner.len());
    let mut rest = inner;
    while let Some((plain, escape)) = rest.split_once('\\') {
        text.push_str(plain);
        let code = |escape: &str| u16::from_str_radix(escape.strip_prefix('u')?.get(..4)?, 16).ok();
        let Some(unit) = code(escape) else {
            text.push(match escape.as_bytes().first()? {
                b'b' => '\u{8}',
                b'f' => '\u{c}',
                b'n' => '\n',
                b'r' => '\r',
                b't' => '\t',
                byte => char::from(*byte),
            });
            rest = &escape[1..];
            continue;
        };
        rest = &escape[5..];
        let low = rest.strip_prefix('\\').and_then(code);
        match char::decode_utf16([unit].into_iter().chain(low)).next()? {
            Ok(c) => {
                text.push(c);
                rest = if c.len_utf16() == 2 { &rest[6..] } else { rest };
            }
            Err(_) => text.push(char::REPLACEMENT_CHARACTER),
        }
    }
    text.push_str(rest);
    Some(Cow::Owned(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_unescaped() {
        let text = r#""a\"\\\/\b\f\n\r\té\u017c\ud83c\udf89\ud800x\udc00\ud800\u0041""#;
        let expected = "a\"\\/\u{8}\u{c}\n\r\téż🎉\u{fffd}x\u{fffd}\u{fffd}A";
        assert_eq!(unescape_json(text).as_deref(), Some(expected));
        assert!(matches!(unescape_json(r#""plain""#), Some(Cow::Borrowed("plain"))));
        for invalid in ["", "a", "\"", "\"a\"b", r#""\"#, r#""\u+123""#] {
            assert_eq!(unescape_json(invalid), None, "{invalid}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(json in r#"([\[\]{},:"\\u0-9d8 -]|\PC){0,40}"#) {
            if let Some(text) = unescape_json(&json) {
                proptest::prop_assert!(text.len() <= json.len());
            }
        }
    }
}
