//! Socket.IO, protocols 4 (over Engine.IO 3) and 5 (over Engine.IO 4): packets, attachments, and JSON that is passed through.
//!
//! Not here: namespaces that exist, rooms, who may connect, and acknowledgements that are awaited.
//!
//! Sources of the rules: <https://github.com/socketio/socket.io-protocol> (branches `v4` and `main`) and `socket.io-parser`.

mod attachments;
mod data;
pub mod encode;
mod json;
mod packet;
mod pickled;
mod split;
mod strings;
mod tokens;
mod value;

pub use attachments::{AttachmentCollector, AttachmentError, BinaryMessage, MessageLimits};
pub use data::{EventData, EventDataWriter, InvalidEventData};
pub use json::{InvalidJson, MAX_JSON_DEPTH, push_compact_json, validate_json};
pub use packet::{MAX_NAMESPACE_BYTES, SocketPacket, SocketPacketError, SocketType, is_reserved_event};
pub use pickled::pickled_callback;
pub use split::{JsonElements, JsonMembers};
pub use strings::push_json_string;
pub use tokens::unescape_json;
pub use value::{EventValue, encode_values};
