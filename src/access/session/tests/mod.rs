//! Decoding of sessions in each format. The values of real sites are in `tests/sessions.rs`.

mod json;
mod msgpack;
mod pickle;
