//! Cookies, parsed as Django parses them.

use std::borrow::Cow;

/// Returns the value of the cookie `name`, from all `Cookie` lines of a request.
///
/// As in Django's `parse_cookie`: only `;` separates, whitespace around names and values is removed, the last of several
/// cookies with one name wins, and a value in double quotes is unquoted. Several lines count as one, joined by `; `
/// (RFC 9113, section 8.2.3). Bytes that are not UTF-8 become U+FFFD.
pub fn value<'a>(lines: impl Iterator<Item = &'a [u8]>, name: &str) -> Option<String> {
    let mut found = None;
    for line in lines {
        for pair in line.split(|byte| *byte == b';') {
            // A pair without "=" is the value of a cookie without a name.
            let Some(at) = pair.iter().position(|byte| *byte == b'=') else { continue };
            if strip(&String::from_utf8_lossy(&pair[..at])) == name {
                found = Some(&pair[at + 1..]);
            }
        }
    }
    found.map(|value| unquote(strip(&String::from_utf8_lossy(value))).into_owned())
}

/// Python's `str.strip`, which also removes the four ASCII separators.
fn strip(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || ('\x1c'..='\x1f').contains(&c))
}

/// Python's `http.cookies._unquote`: in a value in double quotes, `\ooo` stands for the character of that octal number
/// and any other `\c` for `c`.
fn unquote(value: &str) -> Cow<'_, str> {
    let Some(inner) = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else {
        return value.into();
    };
    let mut text = String::with_capacity(inner.len());
    let mut rest = inner.chars();
    while let Some(c) = rest.next() {
        let after = rest.as_str();
        match (c, after.as_bytes()) {
            ('\\', &[high @ b'0'..=b'3', middle @ b'0'..=b'7', low @ b'0'..=b'7', ..]) => {
                text.push(((high - b'0') << 6 | (middle - b'0') << 3 | (low - b'0')).into());
                rest = after[3..].chars();
            }
            // Python's regular expression uses a dot, which does not match a line end.
            ('\\', &[escaped, ..]) if escaped != b'\n' => text.extend(rest.next()),
            _ => text.push(c),
        }
    }
    text.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cookie(lines: &[&str]) -> Option<String> {
        value(lines.iter().map(|line| line.as_bytes()), "sessionid")
    }

    #[test]
    fn cookies_are_read_as_django_reads_them() {
        for (lines, expected) in [
            (&["sessionid=abc"][..], Some("abc")),
            (&["sessionid=first; sessionid=last"], Some("last")),
            (&["sessionid=first", "sessionid=last"], Some("last")),
            (&["sessionid=first; sessionid=\"\""], Some("")),
            (&["a=1", "b=2;sessionid=x"], Some("x")),
            (&["a=1;;; sessionid=x;"], Some("x")),
            (&[" sessionid = a=b=c "], Some("a=b=c")),
            (&["\u{a0}sessionid\u{2003}=\u{3000}abc\u{85}"], Some("abc")),
            (&["sessionid=", "x"], Some("")),
            (&["a=sessionid=abc; sessionid,b=1; \"sessionid\"=abc"], None),
            (&["xsessionid=abc; y=sessionid; SESSIONID=abc; sessionid"], None),
            (&[], None),
        ] {
            assert_eq!(cookie(lines).as_deref(), expected, "{lines:?}");
        }
        assert_eq!(value([&b"s=a\xffb"[..]].into_iter(), "s").as_deref(), Some("a\u{fffd}b"));
    }

    #[test]
    fn quotes_are_removed_as_in_python() {
        for (written, expected) in [
            (r#""abc""#, "abc"),
            (r#""""#, ""),
            (r#"""#, r#"""#),
            (r#""abc"#, r#""abc"#),
            (r#"abc""#, r#"abc""#),
            (r#"a"b"c"#, r#"a"b"c"#),
            (r#""a\"b\\c""#, r#"a"b\c"#),
            (r#""\101\102""#, "AB"),
            (r#""\377""#, "\u{ff}"),
            (r#""\400\08\1""#, "400081"),
            (r#""\1011""#, "A1"),
            (r#""\\101""#, r"\101"),
            (r#""\é""#, "é"),
            (r#""a\""#, r"a\"),
            (r#"" a ""#, " a "),
        ] {
            assert_eq!(cookie(&[&format!("sessionid={written}")]).as_deref(), Some(expected), "{written}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(proptest::sample::select(b"s=;\" \\0123478\xff\xc3\xa9\n".to_vec()), 0..40)) {
            let _ = value(std::iter::once(&bytes[..]), "s");
        }
    }
}
