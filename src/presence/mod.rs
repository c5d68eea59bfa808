//! Who is online: the users of the site and the visitors of facilities, as sorted sets in Redis whose scores are times.
//!
//! One system for all dialects. A connection holds an [`Attendance`]; one table counts
//! them for the process; one task writes what has changed, and refreshes everything, since entries that are not refreshed
//! go stale by themselves: nobody cleans up after a gateway that was killed.
//!
//! - `[PREFIX:]ws4redis:online`: the users of the site,
//! - `[PREFIX:]ws4redis:online:<user>`: the public ids of a user's connections,
//! - `[PREFIX:]ws4redis:presence:<facility>`: `<gateway>/<user>`, and `<gateway>#<number>` for anonymous visitors, where
//!   `<gateway>` is the first 12 hexadecimal digits of its id.
//!
//! - the channel `[PREFIX:]ws4redis:visitors:<facility>`: the entries of a facility have changed, where clients may be told so.
//!
//! Users come online and go offline with their entry in the first key: the gateway whose command adds or removes it
//! announces it, and no other.
//!
//! Without settings that need it nothing is counted and nothing is written.

mod attendance;
mod commands;
mod departure;
mod rooms;
mod rules;
mod table;
mod writer;

pub use attendance::{Attendance, Presence};
pub use rooms::{PresenceRoom, PresenceRooms, Present, PresentEntries, presence_channel, read_present};
pub use writer::{PresenceChange, PresenceWriter};
