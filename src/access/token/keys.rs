//! The keys by which tokens are verified, from a key file or a JWKS.

use jsonwebtoken::DecodingKeyKind::{RsaModulusExponent, SecretOrDer};
use jsonwebtoken::jwk::{
    AlgorithmParameters, EllipticCurve, Jwk, JwkSet, KeyAlgorithm, KeyOperations, PublicKeyUse,
};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use serde::de::IgnoredAny;

/// What keys are made of.
#[derive(Clone, Copy)]
pub enum KeyFile<'a> {
    /// One key: for HS256 its bytes, else a public key in PEM.
    Key(&'a [u8]),
    /// A JWKS (RFC 7517).
    Set(&'a [u8]),
}

/// Why tokens cannot be verified with these settings.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// An algorithm that is not known.
    #[error("expected HS256, RS256, ES256 or EdDSA")]
    Algorithm,
    /// A secret that can be guessed.
    #[error(
        "an HS256 key has at least 32 bytes; python3 -c 'import secrets; print(secrets.token_urlsafe(32))' makes one"
    )]
    ShortSecret,
    /// A PEM file, which may be public, in the place of a secret.
    #[error(
        "this is a PEM file, and HS256 takes a secret; for a public key set algorithm to RS256, ES256 or EdDSA"
    )]
    PemForSecret,
    /// A private key.
    #[error(
        "this holds a private key, and the gateway needs the public one; openssl pkey -in private.pem -pubout makes it"
    )]
    Private,
    /// No PEM of a public key that fits the algorithm.
    #[error("expected a public key for {0} in PEM, -----BEGIN PUBLIC KEY-----")]
    NoPem(&'static str),
    /// An RSA key that is too short, or far too long.
    #[error("an RSA key has 2048 to 8192 bits")]
    RsaSize,
    /// No JWKS: the line and column where that shows.
    #[error("expected a JWKS, JSON with a list \"keys\"; line {0}, column {1} is none")]
    NoSet(usize, usize),
    /// A JWKS without a key for the algorithm.
    #[error("this JWKS holds no key for {0}")]
    NoneFits(&'static str),
}

/// A key, and its name in a JWKS.
#[derive(Clone)]
pub(super) struct Key {
    pub(super) id: Option<String>,
    pub(super) key: DecodingKey,
}

/// What makes the keys of a JWKS private.
#[derive(Deserialize)]
struct PrivateSet {
    keys: Vec<PrivateKey>,
}

#[derive(Deserialize)]
struct PrivateKey {
    #[serde(default)]
    d: Option<IgnoredAny>,
}

/// Below this an HMAC-SHA-256 key can be weaker than its algorithm (RFC 7518, section 3.2).
const SECRET_BYTES: usize = 32;

/// Returns the algorithm of that name.
pub(super) fn algorithm(name: &str) -> Result<Algorithm, Unusable> {
    match name {
        "HS256" => Ok(Algorithm::HS256),
        "RS256" => Ok(Algorithm::RS256),
        "ES256" => Ok(Algorithm::ES256),
        "EdDSA" => Ok(Algorithm::EdDSA),
        _ => Err(Unusable::Algorithm),
    }
}

/// Returns the name of an algorithm, as in settings.
pub(super) fn name(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::HS256 => "HS256",
        Algorithm::RS256 => "RS256",
        Algorithm::ES256 => "ES256",
        _ => "EdDSA",
    }
}

/// Reads the keys for an algorithm.
pub(super) fn read(algorithm: Algorithm, file: KeyFile<'_>) -> Result<Vec<Key>, Unusable> {
    match file {
        KeyFile::Key(bytes) => Ok(vec![Key { id: None, key: single(algorithm, bytes)? }]),
        KeyFile::Set(bytes) => set(algorithm, bytes),
    }
}

fn single(algorithm: Algorithm, bytes: &[u8]) -> Result<DecodingKey, Unusable> {
    let text = String::from_utf8_lossy(bytes);
    if algorithm == Algorithm::HS256 {
        if text.contains("-----BEGIN ") {
            return Err(Unusable::PemForSecret);
        }
        let end = bytes.iter().rposition(|byte| !b"\r\n".contains(byte)).map_or(0, |last| last + 1);
        return sound(DecodingKey::from_secret(&bytes[..end]), Unusable::ShortSecret);
    }
    if text.contains("PRIVATE KEY-----") {
        return Err(Unusable::Private);
    }
    let key = match algorithm {
        Algorithm::RS256 => DecodingKey::from_rsa_pem(bytes),
        Algorithm::ES256 => DecodingKey::from_ec_pem(bytes),
        _ => DecodingKey::from_ed_pem(bytes),
    };
    let unfit = Unusable::NoPem(name(algorithm));
    key.map_err(|_| unfit.clone()).and_then(|key| sound(key, unfit))
}

fn set(algorithm: Algorithm, bytes: &[u8]) -> Result<Vec<Key>, Unusable> {
    // Its own words may show a secret.
    let broken = |error: serde_json::Error| Unusable::NoSet(error.line(), error.column());
    let private: PrivateSet = serde_json::from_slice(bytes).map_err(broken)?;
    if private.keys.iter().any(|key| key.d.is_some()) {
        return Err(Unusable::Private);
    }
    let JwkSet { keys } = serde_json::from_slice(bytes).map_err(broken)?;
    let unfit = Unusable::NoneFits(name(algorithm));
    let fitting = keys.into_iter().filter(|jwk| fits(algorithm, jwk)).map(|jwk| {
        let key = DecodingKey::from_jwk(&jwk).map_err(|_| unfit.clone())?;
        Ok(Key { id: jwk.common.key_id, key: sound(key, unfit.clone())? })
    });
    let keys = fitting.collect::<Result<Vec<_>, _>>()?;
    if keys.is_empty() { Err(unfit) } else { Ok(keys) }
}

/// Tells whether a key is for this algorithm, and for signatures.
fn fits(algorithm: Algorithm, jwk: &Jwk) -> bool {
    let common = &jwk.common;
    let kind = match &jwk.algorithm {
        AlgorithmParameters::OctetKey(_) => algorithm == Algorithm::HS256,
        AlgorithmParameters::RSA(_) => algorithm == Algorithm::RS256,
        AlgorithmParameters::EllipticCurve(key) => {
            algorithm == Algorithm::ES256 && key.curve == EllipticCurve::P256
        }
        AlgorithmParameters::OctetKeyPair(key) => {
            algorithm == Algorithm::EdDSA && key.curve == EllipticCurve::Ed25519
        }
        _ => false,
    };
    kind && common.key_algorithm.is_none_or(|own| own == KeyAlgorithm::from(algorithm))
        && common.public_key_use.as_ref().is_none_or(|own| *own == PublicKeyUse::Signature)
        && common.key_operations.as_ref().is_none_or(|own| own.contains(&KeyOperations::Verify))
}

/// Checks the size of a key: with another, each signature would be found forged. `unfit` is the error for a point.
fn sound(key: DecodingKey, unfit: Unusable) -> Result<DecodingKey, Unusable> {
    use jsonwebtoken::AlgorithmFamily::{Ec, Ed, Hmac, Rsa};
    let (sound, problem) = match (key.family(), key.kind()) {
        (Hmac, SecretOrDer(secret)) => (secret.len() >= SECRET_BYTES, Unusable::ShortSecret),
        // Around the modulus there are the exponent and a few bytes of DER.
        (Rsa, SecretOrDer(der)) => ((256 + 8..=1024 + 24).contains(&der.len()), Unusable::RsaSize),
        (Rsa, RsaModulusExponent { n, .. }) => ((256..=1024).contains(&n.len()), Unusable::RsaSize),
        (Ec, SecretOrDer(point)) => (point.len() == 65 && point[0] == 4, unfit),
        (Ed, SecretOrDer(point)) => (point.len() == 32, unfit),
        _ => (false, unfit),
    };
    if sound { Ok(key) } else { Err(problem) }
}
