//! How long it takes to decode a session: `cargo bench --bench session_decoding`.
//!
//! Ends with a failure if a case takes as long as its limit or longer: 5 µs for a plain login session, 15 ms for the one
//! of 407 kB. Compressed logins, to which Django's signed form belongs, have looser limits: unpacking alone takes longer.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark reports on standard output")]

use std::hint::black_box;
use std::process::ExitCode;
use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};
use tokio::time::Instant;
use ws4redis::access::session::{Forms, Secrets, decode};

/// Fixtures, and the time that each may take.
const CASES: [(&str, Duration); 11] = [
    ("dj52__builtin_cache__login", Duration::from_micros(5)),
    ("dj52__builtin_cache_proto0__login", Duration::from_micros(5)),
    ("dj52__djredis_json__login", Duration::from_micros(5)),
    ("dj52__djredis_msgpack__login", Duration::from_micros(5)),
    ("dj52__redis_sessions_default__login", Duration::from_micros(10)),
    ("dj52__djredis_zlib__login", Duration::from_micros(20)),
    ("dj52__djredis_zstd__login", Duration::from_micros(100)),
    ("dj52__djredis_lzma__login", Duration::from_millis(1)),
    ("dj42__builtin_cache_hard__big", Duration::from_millis(15)),
    ("dj52__redis_sessions_default__big", Duration::from_millis(15)),
    ("dj52__djredis_lzma__big", Duration::from_millis(15)),
];
const ROUNDS: u32 = 7;
const ROUND: Duration = Duration::from_millis(30);

fn main() -> ExitCode {
    let slow = CASES.iter().filter(|(name, limit)| {
        let time = measure(name);
        println!("{name:40} {time:>12.2?}, at most {limit:?}");
        time >= *limit
    });
    if slow.count() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Returns the time of one decoding, in the median of some rounds.
fn measure(name: &str) -> Duration {
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
    rounds[rounds.len() / 2]
}
