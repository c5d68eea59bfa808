//! Signed values: as they come, and with signatures that hold, so that what lies behind them is reached.
#![no_main]

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use libfuzzer_sys::fuzz_target;
use ring::{digest, hmac};
use ws4redis::access::session::{Forms, Secrets, decode};

fuzz_target!(|value: &[u8]| {
    let secrets = Secrets::new([&b"secret"[..]], Secrets::STORE);
    let _ = decode(value, Forms::SIGNED, &secrets);
    assert_ne!(open(&current(value)), Some(false));
    for dot in [".", ""] {
        let data = format!("{dot}{}:1xUKN5", URL_SAFE_NO_PAD.encode(value));
        assert_ne!(open(&current(data.as_bytes())), Some(false));
    }
    assert_ne!(open(&legacy(value)), Some(false));
});

/// Tells whether a signature was found to hold; nothing if the value did not look signed.
fn open(value: &[u8]) -> Option<bool> {
    use ws4redis::access::session::Undecodable::{Forged, Unknown};
    let secrets = Secrets::new([&b"secret"[..]], Secrets::STORE);
    match decode(value, Forms::SIGNED, &secrets) {
        Err(Forged) => Some(false),
        Err(Unknown) => None,
        _ => Some(true),
    }
}

fn current(data: &[u8]) -> Vec<u8> {
    let key = digest::digest(&digest::SHA256, b"django.contrib.sessions.SessionStoresignersecret");
    let key = hmac::Key::new(hmac::HMAC_SHA256, key.as_ref());
    let signature = URL_SAFE_NO_PAD.encode(hmac::sign(&key, data));
    [data, b":", signature.as_bytes()].concat()
}

fn legacy(data: &[u8]) -> Vec<u8> {
    let key = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, b"django.contrib.sessionsSessionStoresecret");
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, key.as_ref());
    let signature: String = hmac::sign(&key, data).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    STANDARD.encode([signature.as_bytes(), b":", data].concat()).into_bytes()
}
