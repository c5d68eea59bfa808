//! The keys that verify Django's signed sessions.

use std::fmt;

use ring::{digest, hmac};

/// Prefix of the salts of both signed forms; the current form appends a dot.
const SALT: &str = "django.contrib.sessions";

/// `SECRET_KEY` and `SECRET_KEY_FALLBACKS`, as the signing keys that Django derives from them.
#[derive(Clone, Default)]
pub struct Secrets {
    pub(super) keys: Vec<SigningKeys>,
    class: Box<str>,
}

/// The signing keys derived from one secret key.
#[derive(Clone)]
pub(super) struct SigningKeys {
    /// The key for the form since Django 3.1.
    pub(super) current: hmac::Key,
    /// The key for the earlier form.
    pub(super) legacy: hmac::Key,
}

impl Secrets {
    /// The class whose name is part of the salt in Django and in django-redis-sessions.
    pub const STORE: &str = "SessionStore";

    /// Derives the keys from `SECRET_KEY`, then the fallbacks. Empty ones are ignored, because they protect nothing.
    ///
    /// `class` is the qualified name of the session store's class, normally [`STORE`](Self::STORE).
    pub fn new<'a>(secret_keys: impl IntoIterator<Item = &'a [u8]>, class: &str) -> Self {
        let secret_keys = secret_keys.into_iter().filter(|key| !key.is_empty());
        Self { keys: secret_keys.map(|key| SigningKeys::derive(key, class)).collect(), class: class.into() }
    }

    /// Returns whether there is no key, so that no signed session can be verified.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secrets({} of {})", self.keys.len(), self.class)
    }
}

impl SigningKeys {
    /// As `django.core.signing` and, for the legacy form, `django.utils.crypto.salted_hmac` do.
    fn derive(secret_key: &[u8], class: &str) -> Self {
        let current = [SALT.as_bytes(), b".", class.as_bytes(), b"signer", secret_key].concat();
        let legacy = [SALT.as_bytes(), class.as_bytes(), secret_key].concat();
        let current = digest::digest(&digest::SHA256, &current);
        let legacy = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, &legacy);
        Self {
            current: hmac::Key::new(hmac::HMAC_SHA256, current.as_ref()),
            legacy: hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, legacy.as_ref()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_hides_secrets_and_empty_ones_are_ignored() {
        let secrets = Secrets::new([&b"geheim"[..], b"", b"alt"], Secrets::STORE);
        assert_eq!(format!("{secrets:?}"), "Secrets(2 of SessionStore)");
        assert!(Secrets::new([&b""[..]], Secrets::STORE).is_empty());
    }
}
