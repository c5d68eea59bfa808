//! Fernet: the encryption of Django Channels' layers.
//!
//! <https://github.com/fernet/spec/blob/master/Spec.md>

use aes::Aes128;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE;
use cbc::cipher::block_padding::Pkcs7;
use cbc::cipher::{BlockModeDecrypt, BlockModeEncrypt, KeyIvInit};
use ring::{digest, hmac};

const VERSION: u8 = 0x80;
const BLOCK: usize = 16;

/// Version, time and initialisation vector.
const HEAD: usize = 1 + 8 + BLOCK;
const SIGNATURE: usize = 32;

/// How much later than the clock a token may have been made.
const MAX_SKEW_SECONDS: u64 = 60;

/// Keys: the first one encrypts, any of them decrypts.
#[derive(Clone, Default)]
pub struct FernetKeys(Vec<FernetKey>);

#[derive(Clone)]
struct FernetKey {
    signing: hmac::Key,
    encryption: [u8; BLOCK],
}

/// Shows no key.
impl std::fmt::Debug for FernetKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FernetKeys({})", self.0.len())
    }
}

impl FernetKeys {
    /// Derives a key from each text as `channels_redis` does: by SHA-256.
    pub fn new(texts: &[String]) -> Self {
        Self(texts.iter().map(|text| FernetKey::derive(text.as_bytes())).collect())
    }

    /// Returns whether there is no key: messages are not encrypted.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Decrypts a token. With a time limit in seconds, a token that was made longer before `now` is refused, and one that was
    /// made more than a minute after it as well. Returns `None` if no key fits, or the token is damaged or too old.
    pub fn decrypt(&self, token: &[u8], limit: Option<u64>, now: u64) -> Option<Vec<u8>> {
        let bytes = URL_SAFE.decode(token).ok()?;
        let (signed, signature) = bytes.split_at_checked(bytes.len().checked_sub(SIGNATURE)?)?;
        let (head, encrypted) = signed.split_at_checked(HEAD)?;
        let (version, time) = head[..9].split_first()?;
        if *version != VERSION {
            return None;
        }
        if let Some(limit) = limit {
            let made = u64::from_be_bytes(time.try_into().ok()?);
            if made.saturating_add(limit) < now || now.saturating_add(MAX_SKEW_SECONDS) < made {
                return None;
            }
        }
        let key = self.0.iter().find(|key| hmac::verify(&key.signing, signed, signature).is_ok())?;
        let decryptor = cbc::Decryptor::<Aes128>::new_from_slices(&key.encryption, &head[9..]).ok()?;
        let mut text = encrypted.to_vec();
        let length = decryptor.decrypt_padded::<Pkcs7>(&mut text).ok()?.len();
        text.truncate(length);
        Some(text)
    }

    /// Encrypts with the first key, at the time `now`. Returns the text itself if there is no key.
    pub fn encrypt(&self, text: &[u8], now: u64, vector: [u8; BLOCK]) -> Vec<u8> {
        let Some(key) = self.0.first() else { return text.to_vec() };
        let mut bytes = Vec::with_capacity(HEAD + text.len() + BLOCK + SIGNATURE);
        bytes.push(VERSION);
        bytes.extend_from_slice(&now.to_be_bytes());
        bytes.extend_from_slice(&vector);
        let mut padded = text.to_vec();
        padded.resize((text.len() / BLOCK + 1) * BLOCK, 0);
        let encryptor = cbc::Encryptor::<Aes128>::new(&key.encryption.into(), &vector.into());
        // The buffer has room for the padding.
        if let Ok(encrypted) = encryptor.encrypt_padded::<Pkcs7>(&mut padded, text.len()) {
            bytes.extend_from_slice(encrypted);
        }
        let signature = hmac::sign(&key.signing, &bytes);
        bytes.extend_from_slice(signature.as_ref());
        URL_SAFE.encode(bytes).into_bytes()
    }
}

impl FernetKey {
    fn derive(text: &[u8]) -> Self {
        let hash = digest::digest(&digest::SHA256, text);
        let (signing, encryption) = hash.as_ref().split_at(BLOCK);
        let mut key = Self { signing: hmac::Key::new(hmac::HMAC_SHA256, signing), encryption: [0; BLOCK] };
        key.encryption.copy_from_slice(encryption);
        key
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(texts: &[&str]) -> FernetKeys {
        FernetKeys::new(&texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn a_token_is_read_with_any_key_within_its_time() {
        let token = keys(&["a"]).encrypt(b"hello", 1_000, [7; BLOCK]);
        let both = keys(&["b", "a"]);
        assert_eq!(both.decrypt(&token, Some(70), 1_070).as_deref(), Some(&b"hello"[..]));
        assert_eq!(both.decrypt(&token, Some(70), 1_071), None);
        assert_eq!(both.decrypt(&token, None, 9_999).as_deref(), Some(&b"hello"[..]));
        assert_eq!(both.decrypt(&token, Some(70), 940).as_deref(), Some(&b"hello"[..]));
        assert_eq!(both.decrypt(&token, Some(70), 939), None, "made more than a minute later than the clock");
        assert_eq!(keys(&["b"]).decrypt(&token, None, 1_000), None);
        assert_eq!(keys(&[]).decrypt(&token, None, 1_000), None);
    }

    #[test]
    fn the_token_of_the_specification_is_read() {
        // generate.json of the specification, with its key as it stands there.
        let bytes = URL_SAFE.decode("cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4=").unwrap();
        let mut key =
            FernetKey { signing: hmac::Key::new(hmac::HMAC_SHA256, &bytes[..16]), encryption: [0; 16] };
        key.encryption.copy_from_slice(&bytes[16..]);
        let keys = FernetKeys(vec![key]);
        let token = "gAAAAAAdwJ6wAAECAwQFBgcICQoLDA0ODy021cpGVWKZ_eEwCGM4BLLF_5CV9dOPmrhuVUPgJobwOz7JcbmrR64jVmpU4IwqDA==";
        let vector = std::array::from_fn(|index| u8::try_from(index).unwrap());
        assert_eq!(keys.encrypt(b"hello", 499_162_800, vector), token.as_bytes());
        assert_eq!(keys.decrypt(token.as_bytes(), Some(60), 499_162_801).as_deref(), Some(&b"hello"[..]));
    }

    #[test]
    fn damaged_tokens_are_refused() {
        let keys = keys(&["a"]);
        let token = keys.encrypt(b"hello", 1_000, [7; BLOCK]);
        for end in 0..token.len() {
            assert_eq!(keys.decrypt(&token[..end], None, 0), None);
        }
        for at in 0..token.len() {
            let mut changed = token.clone();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            assert_eq!(keys.decrypt(&changed, None, 0), None, "{at}");
        }
    }
}
