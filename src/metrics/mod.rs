//! What the gateway counts: rare events of the process, and what each shard does.

mod cells;
mod counters;
mod histogram;
mod sample;

pub use cells::{ShardCells, cells};
pub use counters::Counters;
pub use histogram::{Histogram, HistogramSample};
pub use sample::{CellsSample, ProcessSample, SampledForm, ShardSample};
