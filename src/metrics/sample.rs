//! What was counted so far, as plain values: a shard gives them to the admin listener.

use std::cell::Cell;
use std::time::Duration;

use super::cells::{RUN_LENGTHS, STATUSES, ShardCells, cells};
use super::histogram::HistogramSample;

/// The cells of a shard at a moment.
#[derive(Debug, Clone)]
pub struct CellsSample {
    /// Numbers of handshakes, by status. The last one is that of all others.
    pub handshakes: Vec<u64>,
    /// Sums, by name.
    pub sums: Vec<(&'static str, &'static str, u64)>,
    /// Sessions that were found, by the number of their template.
    pub sessions_found: Vec<u64>,
    /// Sessions that were not found, by the reason.
    pub sessions_unusable: Vec<(&'static str, u64)>,
    /// Histograms of times in microseconds, by name.
    pub times: Vec<(&'static str, &'static str, HistogramSample)>,
    /// Messages per run.
    pub run_lengths: HistogramSample,
}

/// The clients of a form, by what is known without asking them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SampledForm {
    /// The dialect.
    pub dialect: &'static str,
    /// The form, as in the list of connections.
    pub form: &'static str,
    /// The clients.
    pub clients: u64,
}

/// What a shard tells of itself.
#[derive(Debug, Clone)]
pub struct ShardSample {
    /// What it has counted.
    pub cells: CellsSample,
    /// Its clients.
    pub forms: Vec<SampledForm>,
    /// Bytes that wait for the client with the most.
    pub largest_outbox: usize,
    /// Its topics: channels with listeners.
    pub topics: usize,
    /// Time for which its thread has worked.
    pub busy: Duration,
    /// Whether it has Redis for messages, and for sessions.
    pub has_redis: [bool; 2],
    /// The process, as the first shard sees it.
    pub process: Option<ProcessSample>,
}

/// What the shards share.
#[derive(Debug, Clone)]
pub struct ProcessSample {
    /// Rare events: name, meaning, number.
    pub counters: Vec<(&'static str, &'static str, u64)>,
    /// Levels: name, meaning, value.
    pub levels: Vec<(&'static str, &'static str, u64)>,
}

impl CellsSample {
    /// Copies the cells of this thread.
    pub fn take() -> Self {
        cells(Self::of)
    }

    fn of(cells: &ShardCells) -> Self {
        let all = |cells: &[Cell<u64>]| cells.iter().map(Cell::get).collect();
        Self {
            handshakes: all(&cells.handshakes),
            sums: vec![
                ("received_messages", "Messages of clients", cells.received_messages.get()),
                (
                    "received_bytes",
                    "Bytes of the messages of clients, without framing",
                    cells.received_bytes.get(),
                ),
                ("delivered_messages", "Messages handed to clients", cells.delivered_messages.get()),
                (
                    "delivered_bytes",
                    "Bytes of the messages handed to clients, framed for a WebSocket",
                    cells.delivered_bytes.get(),
                ),
                ("gaps", "Gaps that clients of version 2 were told of", cells.gaps.get()),
                (
                    "acknowledged_publications",
                    "Publications of clients that Redis has acknowledged",
                    cells.acknowledged.get(),
                ),
            ],
            sessions_found: all(&cells.sessions_found),
            sessions_unusable: vec![
                ("invalid", cells.sessions_invalid.get()),
                ("missing", cells.sessions_missing.get()),
                ("undecodable", cells.sessions_undecodable.get()),
                ("unavailable", cells.sessions_unavailable.get()),
            ],
            times: vec![
                ("callback_seconds", "Calls of the callback", cells.callback_times.sample()),
                ("redis_command_seconds", "Batches of commands to Redis", cells.command_times.sample()),
                (
                    "delivery_seconds",
                    "From the arrival of a message from Redis to its last write to a client",
                    cells.delivery_times.sample(),
                ),
            ],
            run_lengths: HistogramSample {
                bounds: &RUN_LENGTHS,
                counts: all(&cells.runs),
                sum: cells.run_messages.get(),
            },
        }
    }

    /// Adds what another shard has counted.
    pub fn add(&mut self, other: &Self) {
        fn add<'a>(own: impl Iterator<Item = &'a mut u64>, other: impl Iterator<Item = &'a u64>) {
            own.zip(other).for_each(|(own, other)| *own += other);
        }
        add(self.handshakes.iter_mut(), other.handshakes.iter());
        add(self.sums.iter_mut().map(|(_, _, sum)| sum), other.sums.iter().map(|(_, _, sum)| sum));
        add(self.sessions_found.iter_mut(), other.sessions_found.iter());
        add(
            self.sessions_unusable.iter_mut().map(|(_, count)| count),
            other.sessions_unusable.iter().map(|(_, count)| count),
        );
        self.times.iter_mut().zip(&other.times).for_each(|((_, _, own), (_, _, other))| own.add(other));
        self.run_lengths.add(&other.run_lengths);
    }

    /// Returns the handshakes of each status; the last one is `other`.
    pub fn by_status(&self) -> impl Iterator<Item = (String, u64)> {
        let names = STATUSES.iter().map(ToString::to_string).chain(["other".to_owned()]);
        names.zip(self.handshakes.iter().copied())
    }
}
