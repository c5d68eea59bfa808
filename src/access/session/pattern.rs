//! The pattern of session keys: other cookie values never reach Redis.
//!
//! The syntax is a small subset of regular expressions, so that its matches are easy to verify.

/// Shortest key that Django accepts.
const MIN_KEY_BYTES: usize = 8;
/// Longest key that a pattern may match.
const MAX_KEY_BYTES: usize = 256;

/// A pattern of session keys: characters and classes such as `[a-z0-9]`, each optionally repeated by `{32}` or `{8,40}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPattern(Vec<Part>);

/// Why a key pattern is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// A syntax error.
    #[error(
        "the key pattern must be made of letters, digits, -, _, classes like [a-z0-9] and counts like {{32}} or {{8,40}}"
    )]
    Syntax,
    /// The pattern matches colons, which keys of messages have.
    #[error("the key pattern admits colons, and so keys that are not sessions")]
    Colon,
    /// The pattern matches keys that are too short for Django, or too long.
    #[error("the key pattern must admit keys of 8 to 256 characters only")]
    Length,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Part {
    /// One bit per ASCII character.
    class: u128,
    min: usize,
    max: usize,
}

/// Django's own keys.
impl Default for KeyPattern {
    fn default() -> Self {
        let class = (b'0'..=b'9').chain(b'a'..=b'z').fold(0, |class, byte| class | 1 << byte);
        Self(vec![Part { class, min: 32, max: 32 }])
    }
}

impl KeyPattern {
    /// Parses a pattern.
    ///
    /// # Errors
    ///
    /// When the syntax is wrong, or it matches colons or keys shorter than 8 or longer than 256 characters.
    pub fn new(pattern: &str) -> Result<Self, PatternError> {
        let mut rest = pattern.as_bytes();
        let mut parts = Vec::new();
        while !rest.is_empty() {
            let class = parse_class(&mut rest).ok_or(PatternError::Syntax)?;
            let (min, max) = parse_count(&mut rest).ok_or(PatternError::Syntax)?;
            if class & 1 << b':' != 0 {
                return Err(PatternError::Colon);
            }
            parts.push(Part { class, min, max });
        }
        let min = parts.iter().map(|part| part.min).sum::<usize>();
        let max = parts.iter().map(|part| part.max).sum::<usize>();
        if min < MIN_KEY_BYTES || max > MAX_KEY_BYTES { Err(PatternError::Length) } else { Ok(Self(parts)) }
    }

    /// Returns whether the whole `key` matches. Time is at most the number of parts times 256².
    pub fn admits(&self, key: &str) -> bool {
        let key = key.as_bytes();
        if key.len() > MAX_KEY_BYTES {
            return false;
        }
        // The positions at which the next part may start.
        let mut starts = vec![false; key.len() + 1];
        starts[0] = true;
        for part in &self.0 {
            let mut ends = vec![false; key.len() + 1];
            for start in (0..=key.len()).filter(|start| starts[*start]) {
                let run = key[start..].iter().take(part.max).take_while(|byte| part.takes(**byte)).count();
                if run >= part.min {
                    ends[start + part.min..=start + run].fill(true);
                }
            }
            starts = ends;
        }
        starts[key.len()]
    }
}

impl Part {
    fn takes(&self, byte: u8) -> bool {
        byte.is_ascii() && self.class & 1 << byte != 0
    }
}

/// Parses a character, or a class in brackets.
fn parse_class(rest: &mut &[u8]) -> Option<u128> {
    let Some(mut inner) = rest.strip_prefix(b"[") else {
        let (&byte, after) = rest.split_first()?;
        *rest = after;
        return (byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_' || byte == b':')
            .then(|| 1 << byte);
    };
    let mut class = 0;
    loop {
        let (start, end) = match *inner {
            [b']', ref after @ ..] => {
                *rest = after;
                return (class != 0).then_some(class);
            }
            [start, b'-', end, ref after @ ..] if end != b']' => {
                inner = after;
                (start, end)
            }
            [byte, ref after @ ..] => {
                inner = after;
                (byte, byte)
            }
            [] => return None,
        };
        // Negation and escapes are not supported, so their characters are refused rather than taken literally.
        let plain = |byte: u8| byte.is_ascii_graphic() && !b"^\\[".contains(&byte);
        if !plain(start) || !plain(end) || start > end {
            return None;
        }
        class |= (start..=end).fold(0, |class, byte| class | 1 << byte);
    }
}

/// Parses a repetition in braces, if there is one.
fn parse_count(rest: &mut &[u8]) -> Option<(usize, usize)> {
    let Some(inner) = rest.strip_prefix(b"{") else { return Some((1, 1)) };
    let end = inner.iter().position(|byte| *byte == b'}')?;
    let count = std::str::from_utf8(&inner[..end]).ok()?;
    *rest = &inner[end + 1..];
    let (min, max) = count.split_once(',').unwrap_or((count, count));
    let number = |text: &str| text.parse::<u16>().ok().map(usize::from);
    let (min, max) = (number(min)?, number(max)?);
    (min <= max).then_some((min, max))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_pattern_matches_the_keys_of_django() {
        let pattern = KeyPattern::default();
        assert_eq!(KeyPattern::new("[a-z0-9]{32}"), Ok(pattern.clone()));
        assert!(pattern.admits("aonhk897c0q74kqva7rtv278kgdpr276"));
        let long = "a".repeat(100_000);
        for key in ["", "*", "aonhk897c0q74kqva7rtv278kgdpr27", "aonhk897c0q74kqva7rtv278kgdpr2766", &long] {
            assert!(!pattern.admits(key), "{key}");
        }
        for byte in (0..32_u8).chain(b" :*?[A-_d\r\n\x7f".iter().copied()) {
            let key = format!("aonhk897c0q74kqva7rtv278kgdpr27{}", char::from(byte));
            assert_eq!(pattern.admits(&key), byte == b'd', "{key:?}");
        }
        assert!(!pattern.admits("aonhk897c0q74kqva7rtv278kgdpr2\u{e9}"));
    }

    #[test]
    fn every_split_of_a_key_into_parts_is_tried() {
        let pattern = KeyPattern::new("s_[a-f0-9]{4,8}[a-c]{2,3}x").unwrap();
        for (key, expected) in [
            ("s_0000aax", true),
            ("s_aaaaaaaaaaax", true),
            ("s_aaaaaaaaaaaax", false),
            ("s_0000ax", false),
            ("s_0000aa", false),
            ("S_0000aax", false),
            ("s_0000aaxx", false),
        ] {
            assert_eq!(pattern.admits(key), expected, "{key}");
        }
    }

    #[test]
    fn patterns_that_match_too_much_are_refused() {
        for (pattern, expected) in [
            ("[a-z:]{32}", PatternError::Colon),
            ("[!-~]{32}", PatternError::Colon),
            ("[!-Z]{32}", PatternError::Colon),
            ("[0-Z]{32}", PatternError::Colon),
            ("user:[a-z]{32}", PatternError::Colon),
            ("", PatternError::Length),
            ("[a-z]{7}", PatternError::Length),
            ("[a-z]{0,32}", PatternError::Length),
            ("[a-z]{8,257}", PatternError::Length),
            (".{32}", PatternError::Syntax),
            ("[^a]{32}", PatternError::Syntax),
            ("[a-z]+", PatternError::Syntax),
            ("[a-z]{8,}", PatternError::Syntax),
            ("[a-z]{8", PatternError::Syntax),
            ("[z-a]{32}", PatternError::Syntax),
            ("[a-z", PatternError::Syntax),
            ("[]{32}", PatternError::Syntax),
            ("[ ]{32}", PatternError::Syntax),
            ("\\w{32}", PatternError::Syntax),
            ("\u{e9}{32}", PatternError::Syntax),
            ("[a-z]{99999}", PatternError::Syntax),
        ] {
            assert_eq!(KeyPattern::new(pattern), Err(expected), "{pattern}");
        }
        assert!(KeyPattern::new("[A-Za-z0-9_-]{8,64}").unwrap().admits("a-b_C-d9"));
    }

    proptest::proptest! {
        #[test]
        fn no_pattern_causes_a_panic_or_matches_a_colon(pattern in "[a-c:0-9{},\\[\\]-]{0,20}", key in "[a-c:0-9]{0,20}") {
            if let Ok(pattern) = KeyPattern::new(&pattern) {
                proptest::prop_assert!(!pattern.admits(&key) || !key.contains(':'));
            }
        }
    }
}
