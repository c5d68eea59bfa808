//! Returns freed heap pages to the operating system after a peak of connections, or of what waited for slow clients.
//!
//! glibc itself releases only free memory at the top of the heap, and none below a block in use.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::debug;

use crate::hub::OutboxMemory;

/// Interval at which both are sampled.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(1);

/// Consecutive samples that must be low, so that memory is not released between a restart and the reconnections.
const LOW_SAMPLES: u32 = 5;

/// A sample is low below this fraction of the peak.
const LOW_DIVISOR: usize = 4;

/// Connections that count as a peak. For fewer, walking the heap is not worth it.
const MIN_CONNECTIONS: usize = 1_000;

/// Bytes in all outboxes that count as a peak.
const MIN_OUTBOX_BYTES: usize = 16 << 20;

/// The highest sample since the last release.
#[derive(Debug)]
struct Peak {
    /// Lower samples are no peak.
    min: usize,
    most: usize,
    few_looks: u32,
}

impl Peak {
    fn new(min: usize) -> Self {
        Self { min, most: 0, few_looks: 0 }
    }

    /// Adds a sample of now and the most since the last one; returns true once when the peak is over.
    fn add_sample(&mut self, live: usize, most: usize) -> bool {
        self.most = self.most.max(most);
        if self.most < self.min || live >= self.most / LOW_DIVISOR {
            self.few_looks = 0;
            return false;
        }
        self.few_looks += 1;
        if self.few_looks < LOW_SAMPLES {
            return false;
        }
        *self = Self { most: live, few_looks: 0, ..*self };
        true
    }
}

/// Releases memory after each peak. Never returns; cancel-safe.
pub async fn release_after_peaks(live: Arc<AtomicUsize>, outboxes: Arc<OutboxMemory>) {
    let (mut connections, mut waiting) = (Peak::new(MIN_CONNECTIONS), Peak::new(MIN_OUTBOX_BYTES));
    let mut looks = interval(SAMPLE_INTERVAL);
    // After the process was suspended, clients reconnect first.
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let now = live.load(Ordering::Relaxed);
        let are_gone = connections.add_sample(now, now);
        // A peak may begin and end between two samples.
        if waiting.add_sample(outboxes.used(), outboxes.take_peak()) || are_gone {
            let since = Instant::now();
            // On a blocking thread: shards contend for the heap only when they need fresh memory.
            let given = tokio::task::spawn_blocking(trim).await.unwrap_or(false);
            let elapsed_ms = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
            debug!(given, elapsed_ms, "memory given back");
        }
    }
}

/// Releases all free pages of the heap, and returns whether there were any.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(
    unsafe_code,
    reason = "the only way to tell glibc; it takes no pointers, and nothing has to hold before it"
)]
fn trim() -> bool {
    // SAFETY: malloc_trim(3) is MT-Safe, and frees nothing that is in use.
    unsafe { libc::malloc_trim(0) == 1 }
}

/// Other allocators have no equivalent.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn trim() -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peak_is_over_after_consecutive_low_samples() {
        let mut peak = Peak::new(MIN_CONNECTIONS);
        let mut looks =
            |live: &[usize]| live.iter().map(|live| peak.add_sample(*live, *live)).collect::<Vec<_>>();
        assert_eq!(looks(&[0, 10_000, 2_500, 2_499, 0, 0, 0, 3_000]), [false; 8]);
        assert_eq!(looks(&[0, 0, 2, 1, 0]), [false, false, false, false, true]);
        assert_eq!(looks(&[999, 0, 0, 0, 0, 0, 0]), [false; 7], "too few to be a peak");
        assert_eq!(looks(&[1_000, 249, 249, 249, 249, 249]), [false, false, false, false, false, true]);
        assert_eq!(looks(&[249; 20]), [false; 20], "once for each peak");
        let between: Vec<_> = [9_000, 0, 0, 0, 0].iter().map(|most| peak.add_sample(0, *most)).collect();
        assert_eq!(between, [false, false, false, false, true], "a peak between two samples");
    }
}
