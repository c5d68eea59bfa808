//! What a shard counts while it works. Each shard is a thread, so plain cells of the thread do: no lock, no atomic, and no
//! reference that every part would have to carry.

use std::cell::Cell;

use super::histogram::Histogram;

/// Bounds of times, in microseconds.
const TIMES: [u64; 14] =
    [50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000, 5_000_000];

/// Bounds of the number of messages that are sent with one write: powers of two, up to the messages of a batch.
pub(super) const RUN_LENGTHS: [u64; 14] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1_024, 2_048, 4_096, 8_192];

/// The statuses of handshakes that are counted one by one; all others together.
pub(super) const STATUSES: [u16; 12] = [101, 200, 400, 401, 403, 404, 408, 413, 426, 429, 431, 503];

/// Templates of session keys that are counted one by one; all others as the last of these.
pub(super) const TEMPLATES: usize = 16;

/// The cells of a thread.
#[derive(Debug)]
pub struct ShardCells {
    pub(super) handshakes: [Cell<u64>; STATUSES.len() + 1],
    /// Messages of clients.
    pub received_messages: Cell<u64>,
    /// Their bytes, without framing.
    pub received_bytes: Cell<u64>,
    /// Messages that were handed to clients.
    pub delivered_messages: Cell<u64>,
    /// Their bytes, framed for a WebSocket.
    pub delivered_bytes: Cell<u64>,
    /// Runs of channels by their number of messages, those above the last bound included.
    pub(super) runs: [Cell<u64>; RUN_LENGTHS.len() + 1],
    /// Messages of these runs.
    pub(super) run_messages: Cell<u64>,
    /// Gaps that clients of version 2 were told of.
    pub gaps: Cell<u64>,
    /// Publications of clients that Redis has acknowledged.
    pub acknowledged: Cell<u64>,
    pub(super) sessions_found: [Cell<u64>; TEMPLATES],
    /// Cookies that are not those of a session.
    pub sessions_invalid: Cell<u64>,
    /// Cookies without a session in Redis.
    pub sessions_missing: Cell<u64>,
    /// Sessions that could not be decoded.
    pub sessions_undecodable: Cell<u64>,
    /// Sessions that Redis did not give.
    pub sessions_unavailable: Cell<u64>,
    /// Times of calls of the callback.
    pub callback_times: Histogram<{ TIMES.len() }>,
    /// Times of batches of commands to Redis.
    pub command_times: Histogram<{ TIMES.len() }>,
    /// Times from the arrival of a message from Redis to its last write to a client.
    pub delivery_times: Histogram<{ TIMES.len() }>,
}

thread_local! {
    static CELLS: ShardCells = const {
        ShardCells {
            handshakes: [const { Cell::new(0) }; STATUSES.len() + 1],
            received_messages: Cell::new(0),
            received_bytes: Cell::new(0),
            delivered_messages: Cell::new(0),
            delivered_bytes: Cell::new(0),
            runs: [const { Cell::new(0) }; RUN_LENGTHS.len() + 1],
            run_messages: Cell::new(0),
            gaps: Cell::new(0),
            acknowledged: Cell::new(0),
            sessions_found: [const { Cell::new(0) }; TEMPLATES],
            sessions_invalid: Cell::new(0),
            sessions_missing: Cell::new(0),
            sessions_undecodable: Cell::new(0),
            sessions_unavailable: Cell::new(0),
            callback_times: Histogram::new(&TIMES),
            command_times: Histogram::new(&TIMES),
            delivery_times: Histogram::new(&TIMES),
        }
    };
}

/// Calls a function with the cells of this thread.
#[expect(clippy::inline_always, reason = "each delivery pays for it")]
#[inline(always)]
pub fn cells<T>(work: impl FnOnce(&ShardCells) -> T) -> T {
    CELLS.with(work)
}

impl ShardCells {
    /// Adds to a cell.
    #[expect(clippy::inline_always, reason = "each delivery pays for it")]
    #[inline(always)]
    pub fn add(cell: &Cell<u64>, count: u64) {
        cell.set(cell.get() + count);
    }

    /// Counts messages that so many listeners get.
    #[expect(clippy::inline_always, reason = "each delivery pays for it")]
    #[inline(always)]
    pub fn count_delivered(&self, listeners: u64, messages: u32, bytes: u64) {
        Self::add(&self.delivered_messages, listeners * u64::from(messages));
        Self::add(&self.delivered_bytes, listeners * bytes);
    }

    /// Counts a run by its length, without a search.
    #[expect(clippy::inline_always, reason = "each delivery pays for it")]
    #[inline(always)]
    pub fn count_run(&self, messages: u32) {
        Self::add(&self.run_messages, messages.into());
        let exponent = (u32::BITS - messages.saturating_sub(1).leading_zeros()) as usize;
        Self::add(&self.runs[exponent.min(RUN_LENGTHS.len())], 1);
    }

    /// Counts a message of a client.
    #[inline]
    pub fn count_received(&self, bytes: usize) {
        Self::add(&self.received_messages, 1);
        Self::add(&self.received_bytes, bytes as u64);
    }

    /// Counts an answer to a handshake.
    pub fn count_handshake(&self, status: u16) {
        let index = STATUSES.iter().position(|known| *known == status).unwrap_or(STATUSES.len());
        Self::add(&self.handshakes[index], 1);
    }

    /// Counts a session that was found under this template of `session.keys`.
    pub fn count_session(&self, template: usize) {
        Self::add(&self.sessions_found[template.min(TEMPLATES - 1)], 1);
    }
}
