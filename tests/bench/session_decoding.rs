//! Measures the time to decode a session: `cargo bench --bench session_decoding`.
//!
//! Fails if a case reaches its limit: 5 µs for a login session, 15 ms for a large one. The best of several rounds counts,
//! because the machine may be loaded.
//!
//! Two formats miss the 5 µs and have separate limits: zstd takes about 6 µs and xz about 14 µs on an idle machine, 90 % of
//! it in dependencies that build tables for each value. Their allocations hardly matter.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark reports on standard output")]

use std::hint::black_box;
use std::process::ExitCode;
use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};
use tokio::time::Instant;
use ws4redis::access::session::{Forms, Secrets, decode};

/// Fixtures with their time limits.
const CASES: [(&str, Duration); 16] = [
    ("dj52__builtin_cache__login", LOGIN),
    ("dj52__builtin_cache_proto0__login", LOGIN),
    ("dj52__djredis_json__login", LOGIN),
    ("dj52__djredis_msgpack__login", LOGIN),
    ("dj52__redis_sessions_default__login", LOGIN),
    ("dj52__djredis_zlib__login", LOGIN),
    ("dj52__djredis_gzip__login", LOGIN),
    ("made__djredis_lz4", LOGIN),
    ("dj52__djredis_zstd__login", Duration::from_micros(20)),
    ("dj52__djredis_lzma__login", Duration::from_micros(100)),
    ("dj42__builtin_cache_hard__big", LARGE),
    ("dj52__redis_sessions_default__big", LARGE),
    ("dj52__djredis_gzip__big", LARGE),
    ("made__djredis_lz4_big", LARGE),
    ("dj52__djredis_zstd__big", LARGE),
    ("dj52__djredis_lzma__big", LARGE),
];
const LOGIN: Duration = Duration::from_micros(5);
const LARGE: Duration = Duration::from_millis(15);
const ROUNDS: u32 = 7;
const ROUND: Duration = Duration::from_millis(30);

fn main() -> ExitCode {
    let slow = CASES.iter().filter(|(name, limit)| {
        let (best, median) = measure(name);
        println!("{name:40} {best:>10.2?}, {median:>10.2?} in the median, at most {limit:?}");
        best >= *limit
    });
    if slow.count() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Returns the time of one decoding: best round and median round.
fn measure(name: &str) -> (Duration, Duration) {
    let path = format!("{}/tests/fixtures/sessions/{name}.json", env!("CARGO_MANIFEST_DIR"));
    let fixture: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let value = STANDARD.decode(fixture["redis_keys"][0]["value_b64"].as_str().unwrap()).unwrap();
    let secret = fixture["settings"]["SECRET_KEY"].as_str().unwrap();
    let secrets = Secrets::new([secret.as_bytes()], Secrets::STORE);
    let forms = Forms::UNSIGNED.with(Forms::SIGNED);
    let mut rounds: Vec<_> = (0..ROUNDS)
        .map(|_| {
            let (start, mut count) = (Instant::now(), 0);
            while start.elapsed() < ROUND {
                for _ in 0..4 {
                    assert!(decode(black_box(&value), forms, &secrets).unwrap().unwrap().user_id.is_some());
                }
                count += 4;
            }
            start.elapsed() / count
        })
        .collect();
    rounds.sort();
    (rounds[0], rounds[rounds.len() / 2])
}
