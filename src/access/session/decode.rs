//! Decoding of a session from its value in Redis.

use super::signed::{self, SignatureError};
use super::{Forms, Secrets, Session, pickle};
use crate::codec::compression::Compression;
use crate::codec::{DecodeError, json, msgpack};

/// Longest value, in Redis and after decompression.
const MAX_VALUE_BYTES: usize = 4 << 20;
/// Longest value that is decoded on a shard's thread, in Redis and after decompression.
const QUICK_BYTES: usize = 16 << 10;

/// Why a value cannot be decoded. The text quotes nothing of the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Undecodable {
    /// Too many bytes, items or groups, or a name is too long.
    #[error("the session is larger than its limits")]
    TooLarge,
    /// The first bytes match no known form.
    #[error("the value has no form that a session can have")]
    Unknown,
    /// The key template does not trust this form.
    #[error("the value has a form that the key template does not trust")]
    Untrusted,
    /// The value is signed, and no secret key is configured.
    #[error("the session is signed, and no secret key is set")]
    NoSecret,
    /// The signature matches no secret key.
    #[error("the session's signature was made with another secret key or salt, or it is forged")]
    Forged,
    /// The compressed data is corrupt.
    #[error("the session's compressed data is damaged")]
    Packed,
    /// The pickle is truncated or invalid.
    #[error("the session's pickle is damaged")]
    Pickle,
    /// The JSON is invalid.
    #[error("the session's JSON is damaged")]
    Json,
    /// The msgpack is invalid.
    #[error("the session's msgpack is damaged")]
    Msgpack,
}

impl Undecodable {
    /// Converts an error of a codec: `damaged` is the variant of its format.
    fn of(error: DecodeError, damaged: Self) -> Self {
        if error == DecodeError::TooLarge { Self::TooLarge } else { damaged }
    }
}

impl From<SignatureError> for Undecodable {
    fn from(error: SignatureError) -> Self {
        match error {
            SignatureError::Malformed => Self::Unknown,
            SignatureError::Forged => Self::Forged,
            SignatureError::Decompression(error) => Self::of(error, Self::Packed),
        }
    }
}

/// Decodes a session in any of the trusted forms; `None` if the value is valid but not a dictionary.
///
/// The size limits bound memory to 16 MiB and time to some tens of milliseconds, for a value of 4 MiB. Call it on a
/// blocking thread; see [`decode_quickly()`].
///
/// # Errors
///
/// When the form is unknown or not trusted, the signature does not match, the value is corrupt or exceeds a limit.
pub fn decode(value: &[u8], forms: Forms, secrets: &Secrets) -> Result<Option<Session>, Undecodable> {
    decode_up_to(MAX_VALUE_BYTES, value, forms, secrets)
}

/// Decodes a session as [`decode()`] does, or returns `None` if that may take long: if the value has more than 16 KiB,
/// compressed or decompressed. Then call `decode()` on a blocking thread.
///
/// The decompressed size is known only by decompressing, because few formats declare it, and a declared size may be
/// wrong. An ordinary session is decompressed once; of a large one, 16 KiB are decompressed in vain.
pub fn decode_quickly(
    value: &[u8],
    forms: Forms,
    secrets: &Secrets,
) -> Option<Result<Option<Session>, Undecodable>> {
    let result = decode_up_to(QUICK_BYTES, value, forms, secrets);
    if result == Err(Undecodable::TooLarge) { None } else { Some(result) }
}

/// Decodes a session of at most `limit` bytes, compressed and decompressed.
fn decode_up_to(
    limit: usize,
    value: &[u8],
    forms: Forms,
    secrets: &Secrets,
) -> Result<Option<Session>, Undecodable> {
    if value.len() > limit {
        return Err(Undecodable::TooLarge);
    }
    if let Some(compression) = Compression::of(value) {
        if !forms.intersects(Forms::UNSIGNED) {
            return Err(Undecodable::Untrusted);
        }
        let value = compression.decompress(value, limit);
        return read(&value.map_err(|error| Undecodable::of(error, Undecodable::Packed))?, forms);
    }
    if Forms::unsigned(value).is_some() {
        return read(value, forms);
    }
    if forms.intersects(Forms::UNSIGNED) && is_integer(value) {
        return Ok(None);
    }
    if !signed::resembles(value) {
        return Err(Undecodable::Unknown);
    }
    if !forms.intersects(Forms::SIGNED) {
        return Err(Undecodable::Untrusted);
    }
    if secrets.is_empty() {
        return Err(Undecodable::NoSecret);
    }
    read(&signed::open(value, secrets, limit)?, Forms::UNSIGNED)
}

/// Deserialises a session.
fn read(value: &[u8], forms: Forms) -> Result<Option<Session>, Undecodable> {
    let form = Forms::unsigned(value).ok_or(Undecodable::Unknown)?;
    if !forms.intersects(form) {
        return Err(Undecodable::Untrusted);
    }
    match form {
        Forms::JSON => {
            json::read_record(value).map(Some).map_err(|error| Undecodable::of(error, Undecodable::Json))
        }
        Forms::MSGPACK => msgpack::read_record(value)
            .map(Some)
            .map_err(|error| Undecodable::of(error, Undecodable::Msgpack)),
        _ => pickle::read(value).map_err(|error| Undecodable::of(error, Undecodable::Pickle)),
    }
}

/// Django's cache backends store integers as decimal text.
fn is_integer(value: &[u8]) -> bool {
    let digits = value.strip_prefix(b"-").unwrap_or(value);
    !digits.is_empty() && digits.iter().all(u8::is_ascii_digit)
}
