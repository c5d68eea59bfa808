//! Heartbeats and pings, from one tick per shard: no connection has a timer of its own.

use std::rc::Rc;

use bytes::{Bytes, BytesMut};

use crate::hub::{Ending, Listener, Opcode, encode};
use crate::settings::Ping;

/// Seconds between heartbeats. Clients are promised one every 4 seconds at least; the tick is good to a second.
const BEAT_SECONDS: u32 = 3;

/// What is sent to connections to which nothing else happens.
#[derive(Debug, Clone)]
pub struct Beats {
    /// The heartbeat's text.
    pub heartbeat: Option<Bytes>,
    /// The heartbeat as a frame.
    pub heartbeat_frame: Bytes,
    ping_frame: Bytes,
    ping: Ping,
}

impl Beats {
    /// Takes the heartbeat's text, if there is one, and the times of pings.
    pub fn new(heartbeat: Option<Bytes>, ping: Ping) -> Self {
        let frame = |opcode, payload: &[u8]| {
            let mut frame = BytesMut::new();
            encode(&mut frame, opcode, payload);
            frame.freeze()
        };
        let heartbeat_frame = frame(Opcode::Text, heartbeat.as_deref().unwrap_or_default());
        Self { heartbeat, heartbeat_frame, ping_frame: frame(Opcode::Ping, b""), ping }
    }

    /// Returns the seconds of silence after which a new connection is to be pinged: with jitter, so that clients that
    /// came together are not pinged together for ever.
    pub fn patience(&self) -> u32 {
        let interval = self.ping.interval_seconds;
        interval - rand::random_range(0..=interval / 8)
    }
}

/// Does what is due for these connections in the shard's second `now`.
///
/// Seconds are counted by ticks, not by the clock: a process that was stopped for a while finds the pongs that came
/// meanwhile in its sockets, and must not take them for missing.
pub fn tick<'a>(listeners: impl Iterator<Item = &'a Rc<Listener>>, now: u32, beats: &Beats) {
    for listener in listeners {
        listener.forget_echoes(now);
        let pulse = &listener.pulse;
        if beats.heartbeat.is_some() && now - pulse.beat.get() >= BEAT_SECONDS {
            listener.beat(beats.heartbeat_frame.clone(), now);
        }
        if pulse.paused.get() {
            pulse.heard.set(now);
        } else if pulse.pinged.get() != 0 {
            if now - pulse.pinged.get() >= beats.ping.timeout_seconds {
                listener.end(Ending::Silent);
            }
        } else if now - pulse.heard.get() >= pulse.patience {
            pulse.pinged.set(now);
            listener.send_uncounted(beats.ping_frame.clone());
        }
    }
}
