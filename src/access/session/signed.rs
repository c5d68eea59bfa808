//! Django's signed form: `data:time:signature` since Django 3.1, base64 of `signature:data` before.
//!
//! The signature is verified, in constant time, before the data is decoded.

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use ring::hmac;

use super::Secrets;
use crate::codec::{DecodeError, compression};

/// Why a signed value is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SignatureError {
    /// It is not in the signed form.
    Malformed,
    /// The signature matches no key.
    Forged,
    /// The signature is valid, but the data is corrupt or too large.
    Decompression(DecodeError),
}

/// Returns whether a value consists of the characters of the signed forms.
pub(super) fn resembles(value: &[u8]) -> bool {
    let fits = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_+/=.:".contains(byte);
    !value.is_empty() && value.iter().all(fits)
}

/// Verifies a signed value and returns the serialised session, decompressed up to `limit` bytes.
pub(super) fn open(value: &[u8], secrets: &Secrets, limit: usize) -> Result<Vec<u8>, SignatureError> {
    match split_last(value) {
        Some((signed, signature)) => open_current(signed, signature, secrets, limit),
        None => open_legacy(value, secrets),
    }
}

/// Opens the form since Django 3.1: the signature covers data and time as text, with the leading dot.
fn open_current(
    signed: &[u8],
    signature: &[u8],
    secrets: &Secrets,
    limit: usize,
) -> Result<Vec<u8>, SignatureError> {
    // Strict base64 has one encoding per value, so comparing the decoded signature is equivalent to comparing the text.
    let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| SignatureError::Forged)?;
    let holds = |key: &hmac::Key| hmac::verify(key, signed, &signature).is_ok();
    if !secrets.keys.iter().any(|keys| holds(&keys.current)) {
        return Err(SignatureError::Forged);
    }
    // The time is not checked: the key's time to live limits the session.
    let (data, _time) = split_last(signed).ok_or(SignatureError::Malformed)?;
    let (data, packed) = data.strip_prefix(b".").map_or((data, false), |data| (data, true));
    let data = URL_SAFE_NO_PAD.decode(data).map_err(|_| SignatureError::Malformed)?;
    if packed {
        compression::decompress_zlib(&data, limit).map_err(SignatureError::Decompression)
    } else {
        Ok(data)
    }
}

/// Opens the form before Django 3.1: base64 of a signature in hex, a colon, and the data.
fn open_legacy(value: &[u8], secrets: &Secrets) -> Result<Vec<u8>, SignatureError> {
    let mut text = STANDARD.decode(value).map_err(|_| SignatureError::Malformed)?;
    let colon = text.iter().position(|byte| *byte == b':').ok_or(SignatureError::Malformed)?;
    let signature = hex(&text[..colon]).ok_or(SignatureError::Malformed)?;
    let data = text.split_off(colon + 1);
    let holds = |key: &hmac::Key| hmac::verify(key, &data, &signature).is_ok();
    if secrets.keys.iter().any(|keys| holds(&keys.legacy)) { Ok(data) } else { Err(SignatureError::Forged) }
}

fn split_last(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = text.iter().rposition(|byte| *byte == b':')?;
    Some((&text[..colon], &text[colon + 1..]))
}

/// Parses a SHA-1 digest in lower-case hex, as Python writes it.
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

    fn opened(value: &str, keys: &[&[u8]], class: &str) -> Result<String, SignatureError> {
        let secrets = Secrets::new(keys.iter().copied(), class);
        open(value.as_bytes(), &secrets, 1_000).map(|data| String::from_utf8(data).unwrap())
    }

    #[test]
    fn every_configured_key_is_tried_and_others_are_refused() {
        let store = Secrets::STORE;
        assert!(opened(ANONYMOUS, &[SECRET], store).unwrap().starts_with("{\"cart\":"));
        assert!(opened(ANONYMOUS, &[b"new", b"other", SECRET], store).is_ok());
        assert_eq!(opened(ANONYMOUS, &[b"new"], store), Err(SignatureError::Forged));
        assert_eq!(opened(ANONYMOUS, &[SECRET], "OtherStore"), Err(SignatureError::Forged));
        assert_eq!(opened(ANONYMOUS, &[], store), Err(SignatureError::Forged));
    }

    #[test]
    fn a_change_of_any_character_is_detected() {
        for at in 0..ANONYMOUS.len() {
            let mut value = ANONYMOUS.to_owned().into_bytes();
            value[at] = if value[at] == b'A' { b'B' } else { b'A' };
            let value = String::from_utf8(value).unwrap();
            assert!(opened(&value, &[SECRET], Secrets::STORE).is_err(), "{at}");
        }
        // The last two bits of the last character are unused and must be zero.
        let value = format!("{}N", ANONYMOUS.strip_suffix('M').unwrap());
        assert_eq!(opened(&value, &[SECRET], Secrets::STORE), Err(SignatureError::Forged));
    }

    #[test]
    fn other_texts_are_malformed_or_forged() {
        for value in ["", "None", "abc", "YWJj", "YWI6", "====", "\u{e9}"] {
            assert_eq!(opened(value, &[SECRET], Secrets::STORE), Err(SignatureError::Malformed), "{value}");
        }
        for value in [":", "::", "a:b:c", ".:.:."] {
            assert_eq!(opened(value, &[SECRET], Secrets::STORE), Err(SignatureError::Forged), "{value}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_causes_a_panic(text in "[a-zA-Z0-9.:=_+/-]{0,80}") {
            let _ = opened(&text, &[SECRET], Secrets::STORE);
        }
    }
}
