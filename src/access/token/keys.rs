//! The keys that verify tokens, from a key file or a JWKS.

use jsonwebtoken::DecodingKeyKind::{RsaModulusExponent, SecretOrDer};
use jsonwebtoken::jwk::{
    AlgorithmParameters, EllipticCurve, Jwk, JwkSet, KeyAlgorithm, KeyOperations, PublicKeyUse,
};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use serde::de::IgnoredAny;

/// The content of a key file.
#[derive(Clone, Copy)]
pub enum KeyFile<'a> {
    /// One key: raw bytes for HS256, else a public key in PEM.
    Key(&'a [u8]),
    /// A JWKS (RFC 7517).
    Set(&'a [u8]),
}

/// Why a key file or an algorithm is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// An unsupported algorithm.
    #[error("expected HS256, RS256, ES256 or EdDSA")]
    Algorithm,
    /// A secret that is too short.
    #[error(
        "an HS256 key has at least 32 bytes; python3 -c 'import secrets; print(secrets.token_urlsafe(32))' makes one"
    )]
    ShortSecret,
    /// A PEM file, which may be public, instead of a secret.
    #[error(
        "this is a PEM file, and HS256 takes a secret; for a public key set algorithm to RS256, ES256 or EdDSA"
    )]
    PemForSecret,
    /// A private key.
    #[error(
        "this holds a private key, and the gateway needs the public one; openssl pkey -in private.pem -pubout makes it"
    )]
    Private,
    /// No PEM of a public key for the algorithm.
    #[error("expected a public key for {0} in PEM, -----BEGIN PUBLIC KEY-----")]
    NoPem(&'static str),
    /// An RSA key that is too short or too long.
    #[error("an RSA key has 2048 to 8192 bits")]
    RsaSize,
    /// Not a JWKS: line and column of the error.
    #[error("expected a JWKS, JSON with a list \"keys\"; line {0}, column {1} is invalid")]
    NotJwks(usize, usize),
    /// A JWKS without a key for the algorithm.
    #[error("this JWKS holds no key for {0}")]
    NoMatchingKey(&'static str),
}

/// A key with its `kid` in a JWKS.
#[derive(Clone)]
pub(super) struct VerificationKey {
    pub(super) id: Option<String>,
    pub(super) key: DecodingKey,
}

/// The members of a JWKS that make its keys private.
#[derive(Deserialize)]
struct PrivateSet {
    keys: Vec<PrivateKey>,
}

#[derive(Deserialize)]
struct PrivateKey {
    #[serde(default)]
    d: Option<IgnoredAny>,
}

/// Shortest key of HMAC-SHA-256 in bytes (RFC 7518, section 3.2).
const MIN_SECRET_BYTES: usize = 32;

/// Returns the algorithm with this name.
pub(super) fn algorithm(name: &str) -> Result<Algorithm, KeyError> {
    match name {
        "HS256" => Ok(Algorithm::HS256),
        "RS256" => Ok(Algorithm::RS256),
        "ES256" => Ok(Algorithm::ES256),
        "EdDSA" => Ok(Algorithm::EdDSA),
        _ => Err(KeyError::Algorithm),
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

/// Parses the keys for an algorithm.
pub(super) fn read(algorithm: Algorithm, file: KeyFile<'_>) -> Result<Vec<VerificationKey>, KeyError> {
    match file {
        KeyFile::Key(bytes) => Ok(vec![VerificationKey { id: None, key: single(algorithm, bytes)? }]),
        KeyFile::Set(bytes) => set(algorithm, bytes),
    }
}

fn single(algorithm: Algorithm, bytes: &[u8]) -> Result<DecodingKey, KeyError> {
    let text = String::from_utf8_lossy(bytes);
    if algorithm == Algorithm::HS256 {
        if text.contains("-----BEGIN ") {
            return Err(KeyError::PemForSecret);
        }
        let end = bytes.iter().rposition(|byte| !b"\r\n".contains(byte)).map_or(0, |last| last + 1);
        return check_size(DecodingKey::from_secret(&bytes[..end]), KeyError::ShortSecret);
    }
    if text.contains("PRIVATE KEY-----") {
        return Err(KeyError::Private);
    }
    let key = match algorithm {
        Algorithm::RS256 => DecodingKey::from_rsa_pem(bytes),
        Algorithm::ES256 => DecodingKey::from_ec_pem(bytes),
        _ => DecodingKey::from_ed_pem(bytes),
    };
    let error = KeyError::NoPem(name(algorithm));
    key.map_err(|_| error.clone()).and_then(|key| check_size(key, error))
}

fn set(algorithm: Algorithm, bytes: &[u8]) -> Result<Vec<VerificationKey>, KeyError> {
    // The error's own text may quote a secret.
    let malformed = |error: serde_json::Error| KeyError::NotJwks(error.line(), error.column());
    let private: PrivateSet = serde_json::from_slice(bytes).map_err(malformed)?;
    if private.keys.iter().any(|key| key.d.is_some()) {
        return Err(KeyError::Private);
    }
    let JwkSet { keys } = serde_json::from_slice(bytes).map_err(malformed)?;
    let error = KeyError::NoMatchingKey(name(algorithm));
    let fitting = keys.into_iter().filter(|jwk| matches(algorithm, jwk)).map(|jwk| {
        let key = DecodingKey::from_jwk(&jwk).map_err(|_| error.clone())?;
        Ok(VerificationKey { id: jwk.common.key_id, key: check_size(key, error.clone())? })
    });
    let keys = fitting.collect::<Result<Vec<_>, _>>()?;
    if keys.is_empty() { Err(error) } else { Ok(keys) }
}

/// Returns whether a key is for this algorithm and for signatures.
fn matches(algorithm: Algorithm, jwk: &Jwk) -> bool {
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

/// Checks the size of a key: with a wrong size, each signature would be refused as forged. `error` is the error for an
/// elliptic-curve point.
fn check_size(key: DecodingKey, error: KeyError) -> Result<DecodingKey, KeyError> {
    use jsonwebtoken::AlgorithmFamily::{Ec, Ed, Hmac, Rsa};
    let (valid, problem) = match (key.family(), key.kind()) {
        (Hmac, SecretOrDer(secret)) => (secret.len() >= MIN_SECRET_BYTES, KeyError::ShortSecret),
        // DER adds the exponent and a few bytes to the modulus.
        (Rsa, SecretOrDer(der)) => ((256 + 8..=1024 + 24).contains(&der.len()), KeyError::RsaSize),
        (Rsa, RsaModulusExponent { n, .. }) => ((256..=1024).contains(&n.len()), KeyError::RsaSize),
        (Ec, SecretOrDer(point)) => (point.len() == 65 && point[0] == 4, error),
        (Ed, SecretOrDer(point)) => (point.len() == 32, error),
        _ => (false, error),
    };
    if valid { Ok(key) } else { Err(problem) }
}
