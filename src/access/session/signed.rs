//! Django's signed form: `data:time:signature` since Django 3.1, base64 of `signature:data` before.
//!
//! The signature is checked before anything of the data is looked at, and compared in constant time.

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use ring::hmac;

use super::{Secrets, compression};

/// Why a signed value is not opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unopened {
    /// It is not the signed form at all.
    Malformed,
    /// No key made this signature.
    Forged,
    /// The signature holds, but what it covers is damaged or too large.
    Unpacked(compression::Error),
}

/// Tells whether a value is written in the characters of the signed forms.
pub(super) fn resembles(value: &[u8]) -> bool {
    let fits = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_+/=.:".contains(byte);
    !value.is_empty() && value.iter().all(fits)
}

/// Returns the serialised session within a signed value, which is unpacked up to the limit.
pub(super) fn open(value: &[u8], secrets: &Secrets, limit: usize) -> Result<Vec<u8>, Unopened> {
    match split_last(value) {
        Some((signed, signature)) => open_current(signed, signature, secrets, limit),
        None => open_legacy(value, secrets),
    }
}

/// The form since Django 3.1: the signature covers data and time as text, the leading dot included.
fn open_current(
    signed: &[u8],
    signature: &[u8],
    secrets: &Secrets,
    limit: usize,
) -> Result<Vec<u8>, Unopened> {
    // Strict base64: a text has one way to be written, so that decoding it is as good as comparing the text.
    let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| Unopened::Forged)?;
    let holds = |key: &hmac::Key| hmac::verify(key, signed, &signature).is_ok();
    if !secrets.keys.iter().any(|keys| holds(&keys.current)) {
        return Err(Unopened::Forged);
    }
    // The time is not looked at: how long a stored session lives is up to the key's time to live.
    let (data, _time) = split_last(signed).ok_or(Unopened::Malformed)?;
    let (data, packed) = data.strip_prefix(b".").map_or((data, false), |data| (data, true));
    let data = URL_SAFE_NO_PAD.decode(data).map_err(|_| Unopened::Malformed)?;
    if packed { compression::unpack_zlib(&data, limit).map_err(Unopened::Unpacked) } else { Ok(data) }
}

/// The form before Django 3.1: base64 of a signature in hex, a colon, and the data.
fn open_legacy(value: &[u8], secrets: &Secrets) -> Result<Vec<u8>, Unopened> {
    let mut text = STANDARD.decode(value).map_err(|_| Unopened::Malformed)?;
    let colon = text.iter().position(|byte| *byte == b':').ok_or(Unopened::Malformed)?;
    let signature = hex(&text[..colon]).ok_or(Unopened::Malformed)?;
    let data = text.split_off(colon + 1);
    let holds = |key: &hmac::Key| hmac::verify(key, &data, &signature).is_ok();
    if secrets.keys.iter().any(|keys| holds(&keys.legacy)) { Ok(data) } else { Err(Unopened::Forged) }
}

fn split_last(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = text.iter().rposition(|byte| *byte == b':')?;
    Some((&text[..colon], &text[colon + 1..]))
}

/// Reads a SHA-1 digest in hex, in lower case as Python writes it.
fn hex(text: &[u8]) -> Option<[u8; 20]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut digest = [0; 20];
    if text.len() != 2 * digest.len() {
        return None;
    }
    for (byte, pair) in digest.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &[u8] = b"fixture-secret-key-not-for-production-0123456789abcdef";
    const ANONYMOUS: &str = "eyJjYXJ0Ijp7Iml0ZW1zIjpbMSwyLDNdLCJub3RlIjoiR3JcdTAwZmNcdTAwZGZlIFx1MjYwMyBcdWQ4M2RcdWRlMDAifSwidmlzaXRzIjo3fQ:1xUKN6:TvmHI7oAp58Vf_FqA15EeWEhwTFBB3gmlkD262mhflM";

    fn opened(value: &str, keys: &[&[u8]], class: &str) -> Result<String, Unopened> {
        let secrets = Secrets::new(keys.iter().copied(), class);
        open(value.as_bytes(), &secrets, 1_000).map(|data| String::from_utf8(data).unwrap())
    }

    #[test]
    fn every_key_is_tried_and_no_other_will_do() {
        let store = Secrets::STORE;
        assert!(opened(ANONYMOUS, &[SECRET], store).unwrap().starts_with("{\"cart\":"));
        assert!(opened(ANONYMOUS, &[b"new", b"other", SECRET], store).is_ok());
        assert_eq!(opened(ANONYMOUS, &[b"new"], store), Err(Unopened::Forged));
        assert_eq!(opened(ANONYMOUS, &[SECRET], "OtherStore"), Err(Unopened::Forged));
        assert_eq!(opened(ANONYMOUS, &[], store), Err(Unopened::Forged));
    }

    #[test]
    fn every_changed_character_is_noticed() {
        for at in 0..ANONYMOUS.len() {
            let mut value = ANONYMOUS.to_owned().into_bytes();
            value[at] = if value[at] == b'A' { b'B' } else { b'A' };
            let value = String::from_utf8(value).unwrap();
            assert!(opened(&value, &[SECRET], Secrets::STORE).is_err(), "{at}");
        }
        // The last two bits of the last character mean nothing, and must be zero.
        let value = format!("{}N", ANONYMOUS.strip_suffix('M').unwrap());
        assert_eq!(opened(&value, &[SECRET], Secrets::STORE), Err(Unopened::Forged));
    }

    #[test]
    fn what_is_not_the_signed_form_is_malformed() {
        for value in ["", "None", "abc", "YWJj", "YWI6", "====", "\u{e9}"] {
            assert_eq!(opened(value, &[SECRET], Secrets::STORE), Err(Unopened::Malformed), "{value}");
        }
        for value in [":", "::", "a:b:c", ".:.:."] {
            assert_eq!(opened(value, &[SECRET], Secrets::STORE), Err(Unopened::Forged), "{value}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[a-zA-Z0-9.:=_+/-]{0,80}") {
            let _ = opened(&text, &[SECRET], Secrets::STORE);
        }
    }
}
