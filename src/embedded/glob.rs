//! Glob patterns of KEYS, SCAN and PSUBSCRIBE: `*`, `?`, `[a-c]`, `[^a]` and `\` before a character.
//!
//! The time is bounded by pattern length times text length, because backtracking goes only to the last `*`.

/// Returns whether the whole `text` matches `pattern`.
pub(crate) fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut position) = (0, 0);
    let mut retry = None;
    while position < text.len() {
        if pattern.get(at) == Some(&b'*') {
            retry = Some((at + 1, position));
            at += 1;
            continue;
        }
        if let Some((next, true)) = match_element(&pattern[at..], text[position]) {
            at += next;
            position += 1;
            continue;
        }
        let Some((after_star, start)) = retry else { return false };
        retry = Some((after_star, start + 1));
        (at, position) = (after_star, start + 1);
    }
    pattern[at..].iter().all(|&byte| byte == b'*')
}

/// Compares one byte with the first element of the pattern; returns the element's length and whether it matches.
fn match_element(pattern: &[u8], byte: u8) -> Option<(usize, bool)> {
    match *pattern {
        [] => None,
        [b'?', ..] => Some((1, true)),
        [b'[', ..] => Some(match_class(pattern, byte)),
        [b'\\', literal, ..] => Some((2, literal == byte)),
        [literal, ..] => Some((1, literal == byte)),
    }
}

/// Compares one byte with a class. As in Redis, a class without `]` extends to the end of the pattern.
fn match_class(pattern: &[u8], byte: u8) -> (usize, bool) {
    let negated = pattern.get(1) == Some(&b'^');
    let mut at = if negated { 2 } else { 1 };
    let mut found = false;
    loop {
        match *pattern.get(at..).unwrap_or_default() {
            [] => break,
            [b'\\', literal, ..] => {
                found |= literal == byte;
                at += 2;
            }
            [b']', ..] => {
                at += 1;
                break;
            }
            [start, b'-', end, ..] => {
                found |= (start.min(end)..=start.max(end)).contains(&byte);
                at += 3;
            }
            [literal, ..] => {
                found |= literal == byte;
                at += 1;
            }
        }
    }
    (at, found != negated)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{match_element, matches};

    #[test]
    fn patterns_match_as_in_redis() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("a*c", "abbc", true),
            ("a*c", "abbd", false),
            ("h?llo", "hello", true),
            ("h[ae]llo", "hallo", true),
            ("h[^e]llo", "hello", false),
            ("h[a-c]llo", "hbllo", true),
            ("h[c-a]llo", "hbllo", true),
            ("[", "a", false),
            ("[a", "a", true),
            ("[]", "a", false),
            ("[^]", "a", true),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("[\\]]", "]", true),
            ("a\\", "a\\", true),
            ("*[", "", false),
        ] {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), expected, "{pattern:?} {text:?}");
        }
    }

    #[test]
    fn many_stars_take_no_exponential_time() {
        let pattern = "*a".repeat(40) + "b";
        assert!(!matches(pattern.as_bytes(), "a".repeat(2_000).as_bytes()));
    }

    /// Tries every split at every star, in exponential time.
    fn naive(pattern: &[u8], text: &[u8]) -> bool {
        match (pattern, text) {
            ([], _) => text.is_empty(),
            ([b'*', rest @ ..], _) => (0..=text.len()).any(|skip| naive(rest, &text[skip..])),
            (_, []) => false,
            (_, [byte, tail @ ..]) => {
                match_element(pattern, *byte).is_some_and(|(n, yes)| yes && naive(&pattern[n..], tail))
            }
        }
    }

    proptest! {
        #[test]
        fn agrees_with_an_exhaustive_search(pattern in "[ab*?\\[\\]\\\\^-]{0,8}", text in "[ab*\\]^-]{0,8}") {
            prop_assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), naive(pattern.as_bytes(), text.as_bytes()));
        }
    }
}
