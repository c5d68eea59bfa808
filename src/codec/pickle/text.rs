//! Texts, in the encodings of pickles.

/// The encoding of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    /// UTF-8, possibly with lone surrogates; also the byte strings of Python 2.
    Utf8,
    /// Latin-1 with `\uXXXX` and `\UXXXXXXXX` (protocol 0).
    Escaped,
    /// A literal of Python 2, without its quotes (protocol 0).
    Literal,
}

/// Decodes a text; `None` if it has lone surrogates or bytes that are not UTF-8.
pub(super) fn decode(bytes: &[u8], encoding: Encoding) -> Option<String> {
    match encoding {
        Encoding::Utf8 => std::str::from_utf8(bytes).ok().map(str::to_owned),
        Encoding::Escaped => escaped(bytes),
        Encoding::Literal => String::from_utf8(literal(bytes)?).ok(),
    }
}

/// Returns whether a text would be UTF-8 without its lone surrogates, which `surrogatepass` encodes as three bytes.
pub(super) fn is_surrogate_pass(bytes: &[u8]) -> bool {
    let mut rest = bytes;
    while let Err(error) = std::str::from_utf8(rest) {
        match &rest[error.valid_up_to()..] {
            [0xed, 0xa0..=0xbf, 0x80..=0xbf, after @ ..] => rest = after,
            _ => return false,
        }
    }
    true
}

/// Removes the quotes of a literal.
pub(super) fn unquoted(line: &[u8]) -> Option<&[u8]> {
    match *line.trim_ascii_end() {
        [b'"', ref text @ .., b'"'] | [b'\'', ref text @ .., b'\''] => Some(text),
        _ => None,
    }
}

/// Decodes Python's `raw-unicode-escape`: a backslash is literal except before `u` and `U`.
fn escaped(bytes: &[u8]) -> Option<String> {
    let mut text = String::new();
    let mut rest = bytes;
    while let Some((&byte, after)) = rest.split_first() {
        let digits = match rest {
            [b'\\', b'u', ..] => 4,
            [b'\\', b'U', ..] => 8,
            _ => {
                text.push(byte.into());
                rest = after;
                continue;
            }
        };
        text.push(char::from_u32(number(rest.get(2..2 + digits)?, 16)?)?);
        rest = &rest[2 + digits..];
    }
    Some(text)
}

/// Decodes a Python 2 string literal: `\n` and similar, `\xhh`, `\ooo`.
fn literal(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut text = Vec::new();
    let mut rest = bytes;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'\\' {
            text.push(byte);
            continue;
        }
        let (&code, after) = rest.split_first()?;
        rest = after;
        match code {
            b'\\' | b'\'' | b'"' => text.push(code),
            b'n' => text.push(b'\n'),
            b'r' => text.push(b'\r'),
            b't' => text.push(b'\t'),
            b'x' => {
                text.push(u8::try_from(number(rest.get(..2)?, 16)?).ok()?);
                rest = &rest[2..];
            }
            // Python's repr writes no others.
            _ => return None,
        }
    }
    Some(text)
}

/// Parses a number without a sign.
fn number(digits: &[u8], radix: u32) -> Option<u32> {
    digits.iter().try_fold(0_u32, |number, digit| {
        number.checked_mul(radix)?.checked_add(char::from(*digit).to_digit(radix)?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_read_as_python_writes_them() {
        for (encoding, written, expected) in [
            (Encoding::Utf8, &b"J\xc3\xb6rg"[..], Some("J\u{f6}rg")),
            (Encoding::Utf8, b"\xed\xa0\x80", None),
            (Encoding::Utf8, b"\xff", None),
            (Encoding::Escaped, b"J\xf6rg\\u20ac\\U0001f600\\x", Some("J\u{f6}rg\u{20ac}\u{1f600}\\x")),
            (Encoding::Escaped, b"a\\u005cu0041", Some("a\\u0041")),
            (Encoding::Escaped, b"\\ud800", None),
            (Encoding::Escaped, b"\\u12", None),
            (Encoding::Escaped, b"\\u+123", None),
            (Encoding::Literal, b"it\\'s\\n\\t\\r\\\\", Some("it's\n\t\r\\")),
            (Encoding::Literal, b"J\\xc3\\xb6rg", Some("J\u{f6}rg")),
            (Encoding::Literal, b"\\xff", None),
            (Encoding::Literal, b"\\q", None),
            (Encoding::Literal, b"\\", None),
            (Encoding::Literal, b"\\x1", None),
        ] {
            assert_eq!(decode(written, encoding).as_deref(), expected, "{written:?}");
        }
        assert_eq!(unquoted(b"'a'"), Some(&b"a"[..]));
        assert_eq!(unquoted(b"\"\" "), Some(&b""[..]));
        assert_eq!(unquoted(b"'"), None);
        assert_eq!(unquoted(b"'a\""), None);
    }
}
