//! Django sessions in Redis: their keys, and the decoding of their values. No I/O.
//!
//! A cookie's value must match a [`KeyPattern`] and is inserted into each [`KeyTemplate`]; the value of that key is
//! decoded by [`decode_quickly()`] or [`decode()`]. Only the fields of [`Session`] are read, by the readers of
//! [`codec`](crate::codec), which execute and import nothing.

mod content;
mod decode;
mod forms;
mod pattern;
mod pickle;
mod reading;
mod secrets;
mod signed;
mod template;
#[cfg(test)]
mod tests;

pub use content::{Session, SessionField};
pub use decode::{Undecodable, decode, decode_quickly};
pub use forms::Forms;
pub use pattern::{KeyPattern, PatternError};
pub use reading::{Reading, UserName};
pub use secrets::Secrets;
pub use template::{KeyTemplate, TemplateError};
