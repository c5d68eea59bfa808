//! From a value in Redis to a session.

use super::compression::{self, Compression, MAX_UNPACKED_BYTES};
use super::signed::{self, Unopened};
use super::{Forms, Secrets, Session, json, msgpack, pickle};

/// Longest value that is looked at, as it lies in Redis.
const MAX_VALUE_BYTES: usize = MAX_UNPACKED_BYTES;
/// Longest value that is decoded quickly, as it lies in Redis and after unpacking.
const QUICK_BYTES: usize = 16 << 10;

/// Why a value is no session. It says nothing of what is in the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Undecodable {
    /// More bytes, items, groups or characters in a name than any session has.
    #[error("the session is larger than its limits")]
    TooLarge,
    /// No form is known that begins like this.
    #[error("the value has no form that a session can have")]
    Unknown,
    /// The value has a form that its key template does not trust.
    #[error("the value has a form that the key template does not trust")]
    Untrusted,
    /// The value is signed, and there is no key to check it with.
    #[error("the session is signed, and no secret key is set")]
    NoSecret,
    /// No key made this signature.
    #[error("the session's signature was made with another secret key or salt, or it is forged")]
    Forged,
    /// Compressed data cannot be unpacked.
    #[error("the session's compressed data is damaged")]
    Packed,
    /// A pickle is cut short, or breaks the rules.
    #[error("the session's pickle is damaged")]
    Pickle,
    /// JSON that is none.
    #[error("the session's JSON is damaged")]
    Json,
    /// Msgpack that is none.
    #[error("the session's msgpack is damaged")]
    Msgpack,
}

impl From<compression::Error> for Undecodable {
    fn from(error: compression::Error) -> Self {
        match error {
            compression::Error::Damaged => Self::Packed,
            compression::Error::TooLarge => Self::TooLarge,
        }
    }
}

impl From<Unopened> for Undecodable {
    fn from(error: Unopened) -> Self {
        match error {
            Unopened::Malformed => Self::Unknown,
            Unopened::Forged => Self::Forged,
            Unopened::Unpacked(error) => error.into(),
        }
    }
}

/// Reads a session out of a value, in whichever of the trusted forms it comes; `None` if the value is well-formed but
/// not a dictionary.
///
/// Time and memory are bounded by the limits on size: 16 MiB, and some tens of milliseconds for a value that is, or
/// unpacks to, the 4 MiB that are allowed. So this is for threads that nobody waits for; see [`decode_quickly()`].
///
/// # Errors
///
/// When the value has no known or no trusted form, is signed by nobody who is trusted, damaged, or beyond a limit.
pub fn decode(value: &[u8], forms: Forms, secrets: &Secrets) -> Result<Option<Session>, Undecodable> {
    decode_up_to(MAX_VALUE_BYTES, value, forms, secrets)
}

/// Reads a session as [`decode()`] does, or nothing at all if that may take long: if the value is, or turns out to
/// unpack to, more than 16 KiB. Then it is `decode()`'s, elsewhere.
///
/// How much comes out of a compressed value is seen by unpacking it, as few of them say so, and those may lie. What
/// ordinary sessions cost is thus spent once, and for a large one no more than 16 KiB of it is unpacked in vain.
pub fn decode_quickly(
    value: &[u8],
    forms: Forms,
    secrets: &Secrets,
) -> Option<Result<Option<Session>, Undecodable>> {
    let result = decode_up_to(QUICK_BYTES, value, forms, secrets);
    if result == Err(Undecodable::TooLarge) { None } else { Some(result) }
}

/// Reads a session that is no longer than the limit, neither as it lies in Redis nor after unpacking.
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
        if !forms.meets(Forms::UNSIGNED) {
            return Err(Undecodable::Untrusted);
        }
        return read(&compression.unpack(value, limit)?, forms);
    }
    if Forms::unsigned(value).is_some() {
        return read(value, forms);
    }
    if forms.meets(Forms::UNSIGNED) && is_integer(value) {
        return Ok(None);
    }
    if !signed::resembles(value) {
        return Err(Undecodable::Unknown);
    }
    if !forms.meets(Forms::SIGNED) {
        return Err(Undecodable::Untrusted);
    }
    if secrets.is_empty() {
        return Err(Undecodable::NoSecret);
    }
    read(&signed::open(value, secrets, limit)?, Forms::UNSIGNED)
}

/// Reads a serialised session.
fn read(value: &[u8], forms: Forms) -> Result<Option<Session>, Undecodable> {
    let form = Forms::unsigned(value).ok_or(Undecodable::Unknown)?;
    if !forms.meets(form) {
        return Err(Undecodable::Untrusted);
    }
    match form {
        Forms::JSON => json::read(value).map(Some),
        Forms::MSGPACK => msgpack::read(value).map(Some),
        _ => pickle::read(value),
    }
}

/// Django's cache backends write integers as decimal text, and read such text as an integer.
fn is_integer(value: &[u8]) -> bool {
    let digits = value.strip_prefix(b"-").unwrap_or(value);
    !digits.is_empty() && digits.iter().all(u8::is_ascii_digit)
}
