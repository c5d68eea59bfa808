//! Tokens: as they come, and with headers and claims behind signatures that hold.
#![no_main]

use std::time::SystemTime;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use libfuzzer_sys::fuzz_target;
use ring::hmac;
use ws4redis::access::Token;
use ws4redis::access::token::{KeyFile, Untrusted, Verifier};

const SECRET: &[u8] = &[b'x'; 32];

fuzz_target!(|text: &str| {
    let verifier = Verifier::new("HS256", KeyFile::Key(SECRET), Vec::new(), String::new());
    let verifier = verifier.expect("the secret is long enough");
    let verify = |token: &str| verifier.verify(&Token::new(token), SystemTime::UNIX_EPOCH);
    assert!(verify(text).is_err());
    assert_ne!(verify(&signed(r#"{"alg":"HS256"}"#, text)).err(), Some(Untrusted::Forged));
    let _ = verify(&signed(text, "{}"));
});

fn signed(header: &str, claims: &str) -> String {
    let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET), message.as_bytes());
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
}
