//! Histograms of one thread.

use std::cell::Cell;
use std::time::Duration;

/// A histogram with fixed bounds.
#[derive(Debug)]
pub struct Histogram<const N: usize> {
    bounds: &'static [u64; N],
    buckets: [Cell<u64>; N],
    above: Cell<u64>,
    sum: Cell<u64>,
}

/// What a histogram has counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistogramSample {
    /// The upper bound of each bucket.
    pub bounds: &'static [u64],
    /// The observations of each bucket alone, and those above the last bound.
    pub counts: Vec<u64>,
    /// The sum of all observations.
    pub sum: u64,
}

impl<const N: usize> Histogram<N> {
    /// Creates an empty histogram. The bounds rise.
    pub(super) const fn new(bounds: &'static [u64; N]) -> Self {
        Self { bounds, buckets: [const { Cell::new(0) }; N], above: Cell::new(0), sum: Cell::new(0) }
    }

    /// Counts an observation.
    pub fn observe(&self, value: u64) {
        let bucket = self.bounds.iter().position(|bound| value <= *bound);
        let bucket = bucket.map_or(&self.above, |bucket| &self.buckets[bucket]);
        bucket.set(bucket.get() + 1);
        self.sum.set(self.sum.get().saturating_add(value));
    }

    /// Counts a time, in microseconds.
    pub fn observe_time(&self, time: Duration) {
        self.observe(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
    }

    pub(super) fn sample(&self) -> HistogramSample {
        let counts = self.buckets.iter().chain([&self.above]).map(Cell::get).collect();
        HistogramSample { bounds: self.bounds, counts, sum: self.sum.get() }
    }
}

impl HistogramSample {
    /// Adds the observations of another histogram with the same bounds.
    pub(super) fn add(&mut self, other: &Self) {
        self.counts.iter_mut().zip(&other.counts).for_each(|(count, more)| *count += more);
        self.sum = self.sum.saturating_add(other.sum);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_observation_is_in_the_first_bucket_whose_bound_it_does_not_exceed() {
        let histogram = Histogram::new(&[1, 10]);
        for value in [0, 1, 2, 10, 11, 1_000] {
            histogram.observe(value);
        }
        let mut sample = histogram.sample();
        assert_eq!((&sample.counts[..], sample.sum), (&[2, 2, 2][..], 1_024));
        sample.add(&histogram.sample());
        assert_eq!((&sample.counts[..], sample.sum), (&[4, 4, 4][..], 2_048));
    }
}
