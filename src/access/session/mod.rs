//! Django sessions as they lie in Redis: which key they have, and what their bytes say. No I/O, nothing async.
//!
//! A cookie's value is checked by a [`KeyPattern`] and put into each [`KeyTemplate`]; what Redis holds there is read by
//! [`decode_quickly()`] or [`decode()`]. Only the few fields of [`Session`] are taken out, and nothing in a value is
//! ever called or followed.

mod compression;
mod content;
mod decode;
mod forms;
mod json;
mod msgpack;
mod pattern;
mod pickle;
mod reading;
mod secrets;
mod signed;
mod template;

pub use content::Session;
pub use decode::{Undecodable, decode, decode_quickly};
pub use forms::Forms;
pub use pattern::{KeyPattern, UnfitPattern};
pub use reading::{Reading, UserName};
pub use secrets::Secrets;
pub use template::{KeyTemplate, UnfitTemplate};
