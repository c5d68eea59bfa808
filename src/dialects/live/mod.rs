//! The dialect `ws4redis.2`: several facilities on one socket, and objects of JSON that say what they are.
//!
//! A subscription passes the same policy, order and replay as a handshake of the relay, whose functions it uses.

mod additions;
mod answers;
mod client;
mod connection;
mod describe;
mod facility;
mod gaps;
mod history;
mod open;
mod presence;
mod proof;
mod publish;
mod reading;
mod reauthorize;
mod receive;
mod refusal;
mod request;
mod request_limit;
mod resume;
mod subscribe;
mod verdict;

pub use open::open;
pub use request::is_request;
pub(super) use verdict::Verdict;
