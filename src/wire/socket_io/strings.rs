//! Writes JSON strings and numbers.

use std::fmt::Write;

/// Appends a string as `JSON.stringify` does: only quotes, backslashes and control characters are escaped.
pub fn push_json_string(out: &mut String, text: &str) {
    out.push('"');
    push_escaped(out, text);
    out.push('"');
}

/// Appends the inside of a string.
pub(super) fn push_escaped(out: &mut String, text: &str) {
    let mut rest = text;
    while let Some(at) = rest.bytes().position(|byte| matches!(byte, b'"' | b'\\' | 0..0x20)) {
        let (plain, escaped) = rest.split_at(at);
        out.push_str(plain);
        match escaped.as_bytes()[0] {
            b'\x08' => out.push_str("\\b"),
            b'\x0c' => out.push_str("\\f"),
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'\t' => out.push_str("\\t"),
            byte @ (b'"' | b'\\') => out.extend(['\\', char::from(byte)]),
            byte => push_unit(out, byte.into()),
        }
        rest = &escaped[1..];
    }
    out.push_str(rest);
}

/// Returns the length of the inside of a string.
pub(super) fn escaped_length(text: &str) -> usize {
    let length = |byte| match byte {
        b'"' | b'\\' | b'\x08' | b'\x0c' | b'\n' | b'\r' | b'\t' => 2,
        0..0x20 => 6,
        _ => 1,
    };
    text.bytes().map(length).sum()
}

/// Appends one UTF-16 unit as an escape. Lower case, as Python and JavaScript write it.
pub(super) fn push_unit(out: &mut String, unit: u16) {
    // Writing to a String cannot fail.
    let _ = write!(out, "\\u{unit:04x}");
}

/// Appends JSON with all other characters than ASCII escaped, which can stand only in strings.
pub(super) fn push_ascii_json(out: &mut String, json: &str) {
    let mut rest = json;
    while let Some(at) = rest.bytes().position(|byte| !byte.is_ascii()) {
        let (plain, other) = rest.split_at(at);
        out.push_str(plain);
        let end = other.bytes().position(|byte| byte.is_ascii()).unwrap_or(other.len());
        other[..end].encode_utf16().for_each(|unit| push_unit(out, unit));
        rest = &other[end..];
    }
    out.push_str(rest);
}

/// Appends a finite number as Python's `repr` writes it: a float stays one for Python clients, and JavaScript reads the same
/// value.
pub(super) fn push_float(out: &mut String, number: f64) {
    let start = out.len();
    let _ = write!(out, "{number:?}");
    // Rust writes `1e16` and `1e-5`, Python `1e+16` and `1e-05`.
    let Some(exponent) = out[start..].find('e').map(|at| start + at + 1) else { return };
    let digits = out.split_off(exponent);
    let (sign, digits) = digits.strip_prefix('-').map_or(('+', &*digits), |digits| ('-', digits));
    let _ = write!(out, "{sign}{digits:0>2}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::socket_io::unescape_json;

    #[test]
    fn strings_are_those_of_javascript() {
        let mut out = String::new();
        push_json_string(&mut out, "a\"\\/\u{0}\u{8}\t\n\u{b}\u{c}\r\u{1f}\u{7f}é\u{2028}");
        assert_eq!(out, "\"a\\\"\\\\/\\u0000\\b\\t\\n\\u000b\\f\\r\\u001f\u{7f}é\u{2028}\"");
    }

    #[test]
    fn floats_are_those_of_python() {
        for (number, expected) in [
            (1.5, "1.5"),
            (1.0, "1.0"),
            (-0.0, "-0.0"),
            (0.1, "0.1"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.5e300, "1.5e+300"),
            (1e-4, "0.0001"),
            (1e-5, "1e-05"),
            (-1.25e-7, "-1.25e-07"),
            (5e-324, "5e-324"),
            (1_795_993_052.12, "1795993052.12"),
        ] {
            let mut out = String::from("[");
            push_float(&mut out, number);
            assert_eq!(out[1..], *expected);
        }
    }

    proptest::proptest! {
        #[test]
        fn strings_are_read_back(text in "([\0-\"\\\\]|\\PC){0,20}") {
            let mut out = String::new();
            push_json_string(&mut out, &text);
            proptest::prop_assert_eq!(escaped_length(&text), out.len() - 2);
            proptest::prop_assert!(unescape_json(&out).is_some_and(|read| read == text));
            let mut ascii = String::new();
            push_ascii_json(&mut ascii, &out);
            proptest::prop_assert!(ascii.is_ascii());
            proptest::prop_assert!(unescape_json(&ascii).is_some_and(|read| read == text));
        }
    }
}
