//! Random numbers that a seed repeats.

use std::time::Duration;

/// Environment variable with the seed of a run that is to be repeated.
const VARIABLE: &str = "WS4REDIS_TEST_SEED";

/// A generator of random numbers (`SplitMix64`).
#[derive(Debug, Clone)]
pub struct SeededRandom {
    state: u64,
}

/// Returns the seed of this run, and prints it: the output of a failed test has it.
pub fn seed() -> u64 {
    let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let now = u64::from(clock.subsec_nanos());
    let seed = std::env::var(VARIABLE).map_or(now, |given| given.parse().unwrap());
    #[expect(clippy::print_stderr, reason = "a failed test shows how it is repeated")]
    {
        eprintln!("{VARIABLE}={seed}");
    }
    seed
}

impl SeededRandom {
    /// Returns the generator with this number of a seed.
    pub fn new(seed: u64, number: u64) -> Self {
        let mut random = Self { state: seed ^ number.wrapping_mul(0xd134_2543_de82_ef95) };
        random.next();
        random
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Returns a number below `limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).unwrap()
    }

    /// Returns true with this probability in percent.
    pub fn percent(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// Returns a time below this number of milliseconds.
    pub fn millis(&mut self, limit: usize) -> Duration {
        Duration::from_micros(self.below(limit * 1_000) as u64)
    }
}
