//! Socket.IO over Engine.IO: clients join namespaces, and Django sends them events and changes their rooms.
//!
//! The rules are those of the official servers, engine.io and socket.io of npm, as their clients need them.

mod acks;
mod auth_fields;
mod bridges;
mod client_events;
mod connection;
mod describe;
mod directives;
mod ending;
mod messenger;
mod namespaces;
mod open;
mod outgoing;
mod payload;
mod polling;
mod reach;
mod receive;
mod tick;
mod upgrade;
mod withdraw;
mod yunity;
mod yunity_clients;

pub use describe::describe;
pub use directives::apply;
pub use ending::close_by_operator;
pub use open::open;
pub use polling::serve_calls;
pub use reach::count;
pub use tick::tick;
pub use withdraw::withdraw;
pub use yunity::{read_session_keys, session_key_changed};
pub use yunity_clients::yunity_clients;
