//! Formats: pickle, msgpack, JSON, compression, RESP. Bytes in, values out; no policy, no I/O.
//!
//! Pickle, msgpack and JSON have two readers. `read_value` builds a [`Value`] of everything. `read_record` builds a [`Record`]: it
//! takes the record's fields from a map and skips the rest without allocating, which is faster and needs no depth limit.
//! The caller passes the limits. No length that the input announces is used to allocate.

pub mod compression;
pub mod fernet;
pub mod json;
pub mod msgpack;
pub mod pickle;
mod record;
pub mod resp;
mod value;

pub use record::{FieldValue, Record, RecordLimits};
pub use value::{Value, ValueLimits};

/// Why a value cannot be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// It is truncated or invalid.
    #[error("the value is truncated or invalid")]
    Damaged,
    /// It exceeds a limit of the caller.
    #[error("the value exceeds a limit")]
    TooLarge,
    /// It is valid and has no equivalent in [`Value`], such as an instance of a Python class.
    #[error("the value has a type that is not supported")]
    Unsupported,
}
