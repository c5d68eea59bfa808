//! Ids of sessions and sockets. An id leads to its session without a search, and reveals nothing.

use std::fmt;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ring::aead::quic::{AES_128, HeaderProtectionKey};
use subtle::ConstantTimeEq;

/// Random bytes of an id.
const NONCE_BYTES: usize = 16;

/// Bytes of the shard's number and of the session's slot.
const PLACE_BYTES: usize = 5;

/// Characters of an id.
const SID_CHARS: usize = (NONCE_BYTES + PLACE_BYTES) * 4 / 3;

/// The random part of an id: the secret that names a session, or the public name of a socket. `Debug` shows nothing of it.
#[derive(Clone, Copy)]
pub struct Sid([u8; NONCE_BYTES]);

impl Sid {
    /// Returns a new id.
    pub fn random() -> Self {
        Self(rand::random())
    }

    /// Returns whether both are the same, in constant time.
    pub fn equals(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl fmt::Debug for Sid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sid(***)")
    }
}

/// Encrypts the place of a session in its ids, with a key of this process.
///
/// The mask of QUIC's header protection (RFC 9001, section 5.4.3) is what is needed: 5 bytes from a key and 16 random bytes.
pub struct SidCipher(HeaderProtectionKey);

impl SidCipher {
    /// Creates a key. `None` if the cryptographic library fails.
    pub fn random() -> Option<Self> {
        let key: [u8; 16] = rand::random();
        HeaderProtectionKey::new(&AES_128, &key).ok().map(Self)
    }

    /// Returns an id as text.
    pub fn encode(&self, sid: &Sid, shard: usize, slot: u32) -> String {
        let mut place = [0; PLACE_BYTES];
        place[0] = u8::try_from(shard).unwrap_or(u8::MAX);
        place[1..].copy_from_slice(&slot.to_be_bytes());
        let place = self.masked(sid, place);
        BASE64_URL_SAFE_NO_PAD.encode([&sid.0[..], &place].concat())
    }

    /// Returns an id, its shard and its slot. Any text of the right form has some: whether such a session exists is up to
    /// the caller.
    pub fn decode(&self, text: &str) -> Option<(Sid, usize, u32)> {
        if text.len() != SID_CHARS {
            return None;
        }
        let mut bytes = [0; NONCE_BYTES + PLACE_BYTES];
        BASE64_URL_SAFE_NO_PAD.decode_slice(text, &mut bytes).ok()?;
        let (nonce, place) = bytes.split_first_chunk()?;
        let sid = Sid(*nonce);
        let [shard, slot @ ..] = self.masked(&sid, place.try_into().ok()?);
        Some((sid, usize::from(shard), u32::from_be_bytes(slot)))
    }

    /// Returns the shard of an id. Any text of the right form has one.
    pub fn shard_of(&self, text: &str) -> Option<usize> {
        self.decode(text).map(|(_, shard, _)| shard)
    }

    fn masked(&self, sid: &Sid, mut place: [u8; PLACE_BYTES]) -> [u8; PLACE_BYTES] {
        // The sample has the length that the algorithm needs, so there is no error.
        let mask = self.0.new_mask(&sid.0).unwrap_or_default();
        place.iter_mut().zip(mask).for_each(|(byte, mask)| *byte ^= mask);
        place
    }
}

impl fmt::Debug for SidCipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SidCipher(***)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_leads_to_its_place_in_this_process_only() {
        let (own, other) = (SidCipher::random().unwrap(), SidCipher::random().unwrap());
        let sid = Sid::random();
        let text = own.encode(&sid, 63, 70_000);
        assert_eq!(text.len(), SID_CHARS);
        assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte)), "{text}");
        let (decoded, shard, slot) = own.decode(&text).unwrap();
        assert!(decoded.equals(&sid) && (shard, slot) == (63, 70_000));
        assert!(!decoded.equals(&Sid::random()));
        let places = (0..8).map(|_| own.encode(&Sid::random(), 1, 2)[22..].to_owned());
        assert!(places.collect::<std::collections::HashSet<_>>().len() > 1, "the place is visible");
        assert_ne!(other.decode(&text).map(|(_, shard, slot)| (shard, slot)), Some((63, 70_000)));
        for invalid in ["", "x", &text[1..], &text.replace(|_: char| true, "?")] {
            assert!(own.decode(invalid).is_none(), "{invalid}");
        }
    }
}
