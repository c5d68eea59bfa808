//! JSON Web Tokens signed with the keys in `tests/fixtures/jwt`.

use std::path::PathBuf;

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, RSA_PKCS1_SHA256, RsaKeyPair,
};
use ring::{hmac, rsa};

/// The supported algorithms. The key files are named after them.
pub const ALGORITHMS: [&str; 4] = ["HS256", "RS256", "ES256", "EdDSA"];

/// Returns the path of a fixture.
pub fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/jwt").join(name)
}

/// Returns the file name of an algorithm's verification key.
pub fn key_file(algorithm: &str) -> String {
    format!("{algorithm}{}", if algorithm == "HS256" { ".key" } else { ".public.pem" })
}

/// Returns the content of a fixture.
pub fn read(name: &str) -> Vec<u8> {
    std::fs::read(path(name)).unwrap()
}

/// Returns a token with these claims.
pub fn token(algorithm: &str, claims: &str) -> String {
    token_with(algorithm, &format!(r#"{{"typ":"JWT","alg":"{algorithm}"}}"#), claims)
}

/// Returns a token with this header, which may contradict the algorithm used.
pub fn token_with(algorithm: &str, header: &str, claims: &str) -> String {
    signed(header, claims, |message| sign(algorithm, message))
}

/// Returns a token signed with HMAC-SHA256 and this secret.
pub fn hmac_token(header: &str, claims: &str, secret: &[u8]) -> String {
    signed(header, claims, |message| hmac_sha256(secret, message))
}

fn signed(header: &str, claims: &str, sign: impl Fn(&[u8]) -> Vec<u8>) -> String {
    let encode = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
    let message = format!("{}.{}", encode(header.as_bytes()), encode(claims.as_bytes()));
    format!("{message}.{}", encode(&sign(message.as_bytes())))
}

fn sign(algorithm: &str, message: &[u8]) -> Vec<u8> {
    let random = SystemRandom::new();
    match algorithm {
        "HS256" => hmac_sha256(read("HS256.key").trim_ascii_end(), message),
        "RS256" => {
            let key: rsa::KeyPair = RsaKeyPair::from_pkcs8(&private(algorithm)).unwrap();
            let mut signature = vec![0; key.public().modulus_len()];
            key.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).unwrap();
            signature
        }
        "ES256" => {
            let key = private(algorithm);
            let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &key, &random).unwrap();
            key.sign(&random, message).unwrap().as_ref().to_owned()
        }
        _ => {
            let key = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&private(algorithm)).unwrap();
            key.sign(message).as_ref().to_owned()
        }
    }
}

fn hmac_sha256(secret: &[u8], message: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message).as_ref().to_owned()
}

/// Returns a private key as DER.
fn private(algorithm: &str) -> Vec<u8> {
    let pem = String::from_utf8(read(&format!("{algorithm}.private.pem"))).unwrap();
    BASE64_STANDARD.decode(pem.lines().filter(|line| !line.starts_with('-')).collect::<String>()).unwrap()
}
