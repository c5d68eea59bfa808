//! Memory that only a peak of connections has needed goes back to the system.
//!
//! glibc gives back by itself what is free at the end of its heap, and nothing below what is still in use there.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::debug;

/// How often it is looked how many connections there are.
const LOOK: Duration = Duration::from_secs(1);

/// Looks in a row at which there have to be few, so that nothing is given back between a restart and the reconnects.
const FEW_LOOKS: u32 = 5;

/// Few is less than one in so many of the peak's.
const FEW: usize = 4;

/// Connections that make a peak. What fewer have needed is not worth a walk over the heap.
const PEAK: usize = 1_000;

/// The most connections since memory was given back last.
#[derive(Debug, Default)]
struct Peak {
    most: usize,
    few_looks: u32,
}

impl Peak {
    /// Takes how many connections there are, and tells whether the peak is over.
    fn is_over(&mut self, live: usize) -> bool {
        self.most = self.most.max(live);
        if self.most < PEAK || live >= self.most / FEW {
            self.few_looks = 0;
            return false;
        }
        self.few_looks += 1;
        if self.few_looks < FEW_LOOKS {
            return false;
        }
        *self = Self { most: live, few_looks: 0 };
        true
    }
}

/// Gives memory back after each peak of connections, for ever. Safe to cancel.
pub async fn give_back(live: Arc<AtomicUsize>) {
    let (mut peak, mut looks) = (Peak::default(), interval(LOOK));
    // After a standstill clients come back first.
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        if peak.is_over(live.load(Ordering::Relaxed)) {
            let since = Instant::now();
            // On a thread of its own: shards wait for it only where they allocate what they have not at hand.
            let given = tokio::task::spawn_blocking(trim).await.unwrap_or(false);
            let elapsed_ms = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
            debug!(given, elapsed_ms, "memory given back");
        }
    }
}

/// Has the allocator give back all free pages, and tells whether there were some.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(
    unsafe_code,
    reason = "the only way to tell glibc; it takes no pointers, and nothing has to hold before it"
)]
fn trim() -> bool {
    // SAFETY: malloc_trim(3) is MT-Safe, and frees nothing that is in use.
    unsafe { libc::malloc_trim(0) == 1 }
}

/// Other allocators have no such call.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn trim() -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peak_is_over_when_few_are_left_for_a_while() {
        let mut peak = Peak::default();
        let mut looks = |live: &[usize]| live.iter().map(|live| peak.is_over(*live)).collect::<Vec<_>>();
        assert_eq!(looks(&[0, 10_000, 2_500, 2_499, 0, 0, 0, 3_000]), [false; 8]);
        assert_eq!(looks(&[0, 0, 2, 1, 0]), [false, false, false, false, true]);
        assert_eq!(looks(&[999, 0, 0, 0, 0, 0, 0]), [false; 7], "too few to be a peak");
        assert_eq!(looks(&[1_000, 249, 249, 249, 249, 249]), [false, false, false, false, false, true]);
        assert_eq!(looks(&[249; 20]), [false; 20], "once for each peak");
    }
}
