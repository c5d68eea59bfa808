//! Cookies, read as Django reads them.

/// Returns the value of the cookie `name`, from all `Cookie` lines of a request.
///
/// As in Django's `parse_cookie`: only `;` separates, blanks around names and values are dropped, and of several
/// cookies of one name the last one wins. Several lines count as one, joined by `; ` (RFC 9113, 8.2.3).
pub fn value<'a>(lines: impl Iterator<Item = &'a [u8]>, name: &str) -> Option<&'a [u8]> {
    let mut found = None;
    for line in lines {
        for pair in line.split(|byte| *byte == b';') {
            // A piece without "=" is a value of the cookie without a name.
            let Some(at) = pair.iter().position(|byte| *byte == b'=') else { continue };
            if pair[..at].trim_ascii() == name.as_bytes() {
                found = Some(pair[at + 1..].trim_ascii());
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    fn value<'a>(lines: &[&'a str]) -> Option<&'a str> {
        let lines = lines.iter().map(|line| line.as_bytes());
        super::value(lines, "sessionid").map(|value| std::str::from_utf8(value).unwrap())
    }

    #[test]
    fn cookies_are_read_as_django_reads_them() {
        assert_eq!(value(&["sessionid=abc"]), Some("abc"));
        assert_eq!(value(&["sessionid=first; sessionid=last"]), Some("last"));
        assert_eq!(value(&["a=1", "b=2;sessionid=x"]), Some("x"));
        assert_eq!(value(&[" sessionid = a=b=c "]), Some("a=b=c"));
        assert_eq!(value(&["sessionid=", "x"]), Some(""));
        assert_eq!(value(&["xsessionid=abc; y=sessionid; SESSIONID=abc; sessionid"]), None);
    }
}
