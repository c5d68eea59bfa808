//! Inline commands, as typed into telnet: words separated by blanks, with the quotes of `redis-cli`.

use bytes::Bytes;

/// Splits a line into words; `None` means that a quote is not closed, or that its end is not the end of the word.
pub(crate) fn split(line: &[u8]) -> Option<Vec<Bytes>> {
    let mut words = Vec::new();
    let mut rest = line.trim_ascii_start();
    while !rest.is_empty() {
        let mut word = Vec::new();
        while let [first, tail @ ..] = rest {
            if is_blank(*first) {
                break;
            }
            rest = match first {
                b'"' => double_quoted(tail, &mut word)?,
                b'\'' => single_quoted(tail, &mut word)?,
                _ => {
                    word.push(*first);
                    tail
                }
            };
        }
        words.push(Bytes::from(word));
        rest = skip_blanks(rest);
    }
    Some(words)
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0 | 0x0b | 0x0c)
}

fn skip_blanks(text: &[u8]) -> &[u8] {
    let start = text.iter().position(|&byte| !is_blank(byte)).unwrap_or(text.len());
    &text[start..]
}

fn double_quoted<'a>(mut rest: &'a [u8], word: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        rest = match rest {
            [] => return None,
            [b'\\', b'x', high, low, tail @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                word.push(hex(*high) << 4 | hex(*low));
                tail
            }
            [b'\\', escaped, tail @ ..] => {
                word.push(match escaped {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 0x08,
                    b'a' => 0x07,
                    other => *other,
                });
                tail
            }
            [b'"', tail @ ..] => return closed(tail),
            [byte, tail @ ..] => {
                word.push(*byte);
                tail
            }
        };
    }
}

fn single_quoted<'a>(mut rest: &'a [u8], word: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        rest = match rest {
            [] => return None,
            [b'\\', b'\'', tail @ ..] => {
                word.push(b'\'');
                tail
            }
            [b'\'', tail @ ..] => return closed(tail),
            [byte, tail @ ..] => {
                word.push(*byte);
                tail
            }
        };
    }
}

fn closed(tail: &[u8]) -> Option<&[u8]> {
    tail.first().is_none_or(|&byte| is_blank(byte)).then_some(tail)
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20) - b'a' + 10,
    }
}

#[cfg(test)]
mod tests {
    use super::split;

    #[track_caller]
    fn check(line: &str, expected: Option<&[&[u8]]>) {
        let words = split(line.as_bytes());
        let words: Option<Vec<&[u8]>> =
            words.as_ref().map(|words| words.iter().map(|word| &word[..]).collect());
        assert_eq!(words.as_deref(), expected, "{line:?}");
    }

    #[test]
    fn words_and_quotes_are_parsed_as_by_redis() {
        check("  ping ", Some(&[b"ping"]));
        check("", Some(&[]));
        check("set a \"b c\"", Some(&[b"set", b"a", b"b c"]));
        check(r#"set a "\x41\n\"" "#, Some(&[b"set", b"a", b"A\n\""]));
        check(r"set a 'it\'s'", Some(&[b"set", b"a", b"it's"]));
        check("a\"b\" c", Some(&[b"ab", b"c"]));
        check("set a \"b", None);
        check("set a \"b\"c", None);
        check("set a 'b", None);
    }
}
