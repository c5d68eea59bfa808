//! Heartbeats and pings, from one tick per shard: no connection has a timer of its own.

use std::rc::Rc;

use bytes::{Bytes, BytesMut};

use super::client_heartbeats::ClientHeartbeats;
use crate::hub::{Ending, Limits, Listener};
use crate::settings::{ClientHeartbeat, PingSettings};
use crate::wire::Form;
use crate::wire::sse::named_event;
use crate::wire::websocket::{Opcode, encode};

/// Seconds between heartbeats. Clients are promised one every 4 seconds at least; the tick is good to a second.
const BEAT_SECONDS: u32 = 3;

/// What is sent to connections to which nothing else happens.
#[derive(Debug, Clone)]
pub struct Keepalive {
    /// The heartbeat's text.
    pub heartbeat: Option<Bytes>,
    heartbeat_frame: Bytes,
    heartbeat_event: Bytes,
    /// Those of client libraries.
    pub of_clients: ClientHeartbeats,
    ping_frame: Bytes,
    ping: PingSettings,
    /// Seconds that a client has for one message.
    pub message_seconds: u32,
}

/// What is no event, and keeps a stream from being taken for dead on its way.
const COMMENT: Bytes = Bytes::from_static(b":\n\n");

impl Keepalive {
    /// Takes the heartbeat's text, if there is one, those of client libraries, the times of pings, and the seconds that a
    /// client has for one message.
    pub fn new(
        heartbeat: Option<Bytes>,
        of_clients: &[ClientHeartbeat],
        ping: PingSettings,
        message_seconds: u32,
    ) -> Self {
        let frame = |opcode, payload: &[u8]| {
            let mut frame = BytesMut::new();
            encode(&mut frame, opcode, payload);
            frame.freeze()
        };
        let text = heartbeat.as_deref().unwrap_or_default();
        let heartbeat_frame = frame(Opcode::Text, text);
        let heartbeat_event = named_event("heartbeat", &String::from_utf8_lossy(text));
        let (of_clients, ping_frame) = (ClientHeartbeats::new(of_clients), frame(Opcode::Ping, b""));
        Self { heartbeat, heartbeat_frame, heartbeat_event, of_clients, ping_frame, ping, message_seconds }
    }

    /// Returns the heartbeat in a form.
    pub fn heartbeat_in(&self, form: Form) -> Bytes {
        match form {
            Form::Frames => self.heartbeat_frame.clone(),
            Form::Events | Form::NamedEvents => self.heartbeat_event.clone(),
        }
    }

    /// Tells whether a text is a heartbeat, and never published.
    pub fn is_heartbeat(&self, text: &[u8]) -> bool {
        self.heartbeat.as_deref() == Some(text) || self.of_clients.answer_to(text).is_some()
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
pub fn tick<'a>(
    listeners: impl Iterator<Item = &'a Rc<Listener>>,
    now: u32,
    keepalive: &Keepalive,
    limits: &Limits,
) {
    for listener in listeners {
        listener.check_outbox(now, limits);
        listener.forget_echoes(now);
        let liveness = &listener.liveness;
        if keepalive.heartbeat.is_some() && now - liveness.beat.get() >= BEAT_SECONDS {
            listener.beat(keepalive.heartbeat_in(listener.form), now, limits);
        }
        if liveness.paused.get() {
            liveness.heard.set(now);
            liveness.begun.set(if liveness.begun.get() == 0 { 0 } else { now });
        } else if liveness.begun.get() != 0 && now - liveness.begun.get() >= keepalive.message_seconds {
            listener.end(Ending::Late);
        } else if liveness.pinged.get() != 0 {
            if now - liveness.pinged.get() >= keepalive.ping.timeout_seconds {
                listener.end(Ending::Silent);
            }
        } else if now - liveness.heard.get() >= liveness.patience && listener.form.is_stream() {
            // Nobody can answer on a stream of events; one that is dead is noticed when it takes no more.
            liveness.heard.set(now);
            listener.send_uncounted(COMMENT, limits);
        } else if now - liveness.heard.get() >= liveness.patience {
            liveness.pinged.set(now);
            listener.send_uncounted(keepalive.ping_frame.clone(), limits);
        }
    }
}
