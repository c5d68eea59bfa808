//! Engine.IO, protocols 3 and 4: packets, WebSocket messages and polling payloads.
//!
//! Not here: sessions, deadlines, the order of packets, and which packet a client may send.
//!
//! Sources of the rules: <https://github.com/socketio/engine.io-protocol> (branches `v3` and `main`) and `engine.io-parser`.

mod decode;
mod packet;
mod payload;

pub use decode::{PayloadDecoder, PayloadRules};
pub use packet::{
    EnginePacket, EnginePacketError, EngineType, EngineVersion, OpenPacket, binary_message, decode_binary,
    decode_text, push_text,
};
pub use payload::{PayloadForm, push_attachment, push_packet, utf16_length};
