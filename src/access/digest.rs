//! The digest of a session key. The Django package publishes it instead of the key, because others may subscribe.

use ring::digest::{SHA256, digest};

use crate::wire::{SessionDigest, SessionKey};

/// Returns the name of a session in invalidations of the Django package: SHA-256 of `ws4redis:session:<key>`.
pub fn session_digest(key: &SessionKey) -> SessionDigest {
    let whole = digest(&SHA256, ["ws4redis:session:", key.as_str()].concat().as_bytes());
    let first = whole.as_ref().first_chunk().copied().unwrap_or_default();
    SessionDigest::new(u64::from_be_bytes(first))
}

/// Returns that name in hexadecimal digits, as the Django package writes it.
pub fn session_hash(key: &SessionKey) -> String {
    let whole = digest(&SHA256, ["ws4redis:session:", key.as_str()].concat().as_bytes());
    whole.as_ref().iter().fold(String::with_capacity(64), |mut hex, byte| {
        for digit in [byte >> 4, byte & 15] {
            hex.extend(char::from_digit(digit.into(), 16));
        }
        hex
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_agrees_with_pythons() {
        // hashlib.sha256(b"ws4redis:session:abc").hexdigest()[:16]
        assert_eq!(session_digest(&SessionKey::new("abc")), SessionDigest::new(0x0190_a8ae_faed_27cd));
        let hash = session_hash(&SessionKey::new("abc"));
        assert!(hash.starts_with("0190a8aefaed27cd") && hash.len() == 64, "{hash}");
    }
}
