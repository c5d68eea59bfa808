//! Hostile session values are decoded within limits of time and memory.
//!
//! A separate binary with a single test: its allocator counts the allocations of all threads of the process.
#![expect(clippy::unwrap_used, reason = "test helpers")]

use std::io::Write;
use std::time::Duration;

use lz4_flex::frame::{BlockSize, FrameEncoder, FrameInfo};
use peak_alloc::PeakAlloc;
use tokio::time::Instant;
use ws4redis::access::session::{Forms, Secrets, Undecodable, decode, decode_quickly};
use zlib_rs::{DeflateConfig, ReturnCode, compress_slice};

#[global_allocator]
static PEAK: PeakAlloc = PeakAlloc;

/// Memory that decoding a value may allocate, without the value itself.
const MAX_BYTES: usize = 16 << 20;
/// Time limit for a pickle; debug builds are slower.
const MAX_TIME: Duration = Duration::from_millis(if cfg!(debug_assertions) { 3_000 } else { 50 });
/// Factor for formats that are decoded by dependencies.
const DEPENDENCY_FACTOR: u32 = 5;
/// Each value is decoded several times and the best time counts, because the machine may be loaded.
const ROUNDS: usize = 3;
/// Memory limit of quick decoding.
const MAX_QUICK_BYTES: usize = 1 << 20;
/// Time limit of quick decoding, successful or given up.
const MAX_QUICK_TIME: Duration = Duration::from_millis(if cfg!(debug_assertions) { 100 } else { 2 });
/// The longest value that is decoded quickly.
const SMALL: usize = 16 << 10;
/// The longest value that is decoded at all.
const LONGEST: usize = 4 << 20;

/// Returns a value of the greatest length, filled with a repeated piece.
fn filled(start: &[u8], piece: &[u8], end: &[u8]) -> Vec<u8> {
    let count = (LONGEST - start.len() - end.len()) / piece.len();
    [start, &piece.repeat(count), end].concat()
}

fn pickles() -> Vec<(&'static str, Vec<u8>)> {
    let text = [b"\x80\x04X\xa0\x86\x01\x00".to_vec(), vec![b'x'; 100_000]].concat();
    let wide =
        [b"\x80\x04}\x8c\x11ws4redis:memberof](X\x00\x28\x00\x00".to_vec(), vec![0xff; 10_240], vec![0x94]];
    let laugh = |level: u8| [&[b']', b'q', level + 1, b'('][..], &[b'h', level].repeat(10), b"e"].concat();
    let laughs: Vec<u8> = (0..100).flat_map(laugh).collect();
    vec![
        ("marks", filled(b"", b"(", b"")),
        ("a million marks", b"(".repeat(1_000_000)),
        ("memo bomb", filled(&text, b"\x94", b".")),
        ("dup bomb", filled(&text, b"2", b".")),
        ("nested lists", filled(b"\x80\x04", b"]", b"")),
        ("nested tuples", filled(b"\x80\x04)", b"\x85", b".")),
        (
            "nested and closed",
            [b"\x80\x04".to_vec(), b"]".repeat(200_000), b"a".repeat(199_999), b".".to_vec()].concat(),
        ),
        ("laughs", [&b"\x80\x04]q\0"[..], &laughs, b"."].concat()),
        ("texts", filled(b"\x80\x04", b"\x8c\x01x0", b".")),
        ("lines", filled(b"\x80\x02", b"V\n0", b".")),
        ("numbers", filled(b"\x80\x02", b"I1\n0", b".")),
        ("one line", filled(b"\x80\x02V", b"x", b"\n.")),
        ("puts and gets", filled(b"\x80\x02N", b"r\xff\xff\x03\x00j\xff\xff\x03\x000", b".")),
        ("far put", b"\x80\x02Nr\xff\xff\xff\xff.".to_vec()),
        ("bytes of 2^48", b"\x80\x04\x8e\x00\x00\x00\x00\x00\x00\x01\x00x.".to_vec()),
        ("text of 2^48", b"\x80\x04\x8d\x00\x00\x00\x00\x00\x00\x01\x00x.".to_vec()),
        ("frame of 2^48", b"\x80\x04\x95\x00\x00\x00\x00\x00\x00\x01\x00}.".to_vec()),
        ("integer of 2^31", b"\x80\x04\x8b\xff\xff\xff\x7fx.".to_vec()),
        ("same key", filled(b"\x80\x04}\x8c\x0d_auth_user_id\x940", b"h\x00Ns", b".")),
        ("same long group", [wide.concat(), b"h\x00".repeat(200_000), b"es.".to_vec()].concat()),
        ("wide tuple", [b"(".to_vec(), b"N".repeat(262_000), b"t.".to_vec()].concat()),
        ("all limits at once", all_limits()),
    ]
}

/// Returns a pickle at every limit: nodes, links, marks, memo entries and stack.
fn all_limits() -> Vec<u8> {
    let some = 262_000;
    let parts =
        [b"\x80\x04]".to_vec(), b"\x8c\x00\x94a".repeat(some), b"N".repeat(some - 10), b"(".repeat(some)];
    parts.concat()
}

fn others() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("JSON lists", filled(b"{\"a\":", b"[", b"")),
        ("JSON objects", filled(b"", b"{\"a\":", b"")),
        ("JSON constants", filled(b"{\"a\":[", b"NaN,", b"")),
        ("JSON escapes", filled(b"{\"", b"\\u0000", b"\":1}")),
        ("JSON wanted", filled(b"{\"ws4redis:username\":\"", b"\\u0000", b"\"}")),
        ("JSON digits", filled(b"{\"_auth_user_id\":", b"9", b"}")),
        ("JSON same key", filled(b"{", b"\"_auth_user_id\":\"1\",", b"\"a\":1}")),
        ("msgpack lists", filled(b"\x81\xa1a", b"\xdd\xff\xff\xff\xff", b"")),
        ("msgpack nested", filled(b"\x81\xa1a", b"\x91", b"\xc0")),
        ("msgpack maps", filled(b"", b"\xdf\xff\xff\xff\xff", b"")),
        ("msgpack groups", filled(b"\x81\xb1ws4redis:memberof\xdd\x7f\xff\xff\xff", b"\xa1x", b"")),
        ("digits", filled(b"", b"7", b"")),
        ("signed", filled(b"", b":", b"")),
        ("legacy", filled(b"", b"MDAw", b"")),
    ]
}

fn packed() -> Vec<(&'static str, Vec<u8>)> {
    let marks = filled(b"", b"(", b"");
    let limits = all_limits();
    let zeros = vec![0; 64 << 20];
    let file = |name: &str| {
        std::fs::read(format!("{}/tests/fixtures/packed/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
    };
    vec![
        ("zlib zeros", zlib(&zeros)),
        ("zlib marks", zlib(&marks)),
        ("zlib limits", zlib(&limits)),
        ("gzip zeros", gzip(&zeros)),
        ("lz4 zeros", lz4(&zeros)),
        ("lz4 limits", lz4(&limits)),
        ("zstd zeros", file("zeros.zst")),
        ("zstd large", file("large.zst")),
        ("zstd window of 128 MiB", file("window.zst")),
        ("xz zeros", file("zeros.xz")),
        ("xz large", file("large.xz")),
        ("xz dictionary of 64 MiB", file("dictionary.xz")),
    ]
}

/// Returns small values that decompress to large ones or need the most decoding work for their size.
fn small() -> Vec<(&'static str, Vec<u8>)> {
    let zeros = vec![0; 4 << 20];
    let file = |name: &str| {
        std::fs::read(format!("{}/tests/fixtures/packed/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
    };
    vec![
        ("small zlib", zlib(&zeros)),
        ("small gzip", gzip(&zeros)),
        ("small lz4", lz4(&zeros[..SMALL * 200])),
        ("small lz4 with large blocks", lz4_in(&zeros[..SMALL * 200], BlockSize::Max4MB)),
        ("small zstd", file("zeros.zst")),
        ("small zstd with a large window", file("window.zst")),
        ("small xz", file("zeros.xz")),
        ("small zlib of empty blocks with a table each", empty_blocks()),
        ("small marks", b"(".repeat(SMALL)),
        ("small laughs", b"\x80\x04]q\x01".iter().chain(&b"h\x01a".repeat(SMALL / 3 - 3)).copied().collect()),
        ("small JSON", [b"{".to_vec(), b"\"a\":1,".repeat(SMALL / 6 - 1)].concat()),
    ]
}

fn zlib(data: &[u8]) -> Vec<u8> {
    deflate(data, 15)
}

fn gzip(data: &[u8]) -> Vec<u8> {
    deflate(data, 31)
}

fn deflate(data: &[u8], window_bits: i32) -> Vec<u8> {
    let mut packed = vec![0; data.len() + 1_000];
    let config = DeflateConfig { window_bits, ..DeflateConfig::default() };
    let (packed, status) = compress_slice(&mut packed, data, config);
    assert_eq!(status, ReturnCode::Ok);
    packed.to_vec()
}

/// Returns a stream of the shortest possible deflate blocks with dynamic tables.
fn empty_blocks() -> Vec<u8> {
    // Each number and its bits, least significant first: a dynamic block, 257 literals, 1 distance, 18 lengths of
    // codes; of those that for 138 and 118 zeros (the third) and that for a length of one (the last) have one bit.
    let mut block = vec![(0_u64, 1), (2, 2), (0, 5), (0, 5), (14, 4), (0, 6), (1, 3), (0, 42), (1, 3)];
    // The zeros, the length of the end of a block and of a distance, and the end itself.
    block.extend([(1, 1), (127, 7), (1, 1), (107, 7), (0, 1), (0, 1), (0, 1)]);
    let bits = block.iter().flat_map(|(number, count)| (0..*count).map(move |bit| number >> bit & 1));
    let bits = bits.collect::<Vec<_>>().repeat(8 * SMALL / 90 - 1);
    let bytes = bits
        .chunks_exact(8)
        .map(|bits| bits.iter().rev().fold(0, |byte, bit| byte << 1 | u8::from(*bit == 1)));
    b"x\x9c".iter().copied().chain(bytes).collect()
}

fn lz4(data: &[u8]) -> Vec<u8> {
    lz4_in(data, BlockSize::Max64KB)
}

fn lz4_in(data: &[u8], block_size: BlockSize) -> Vec<u8> {
    let frame = FrameInfo::new().block_size(block_size);
    let mut encoder = FrameEncoder::with_frame_info(frame, Vec::new());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn hostile_values_decode_within_time_and_memory_limits() {
    let secrets = Secrets::new([&b"secret"[..]], Secrets::STORE);
    let forms = Forms::UNSIGNED.with(Forms::SIGNED);
    let mut failures = Vec::new();
    let (pickles, others) = (pickles(), [others(), packed()].concat());
    let factor = pickles.iter().map(|_| 1).chain(others.iter().map(|_| DEPENDENCY_FACTOR));
    for ((name, value), factor) in pickles.iter().chain(&others).zip(factor) {
        let (time, bytes, session) = measure(|| decode(value, forms, &secrets));
        let result = if session.is_ok() { "read" } else { "refused" };
        let report =
            format!("{name}: {} kB in, {} kB, {time:?}, {result}", value.len() / 1_000, bytes / 1_000);
        if bytes > MAX_BYTES || time > MAX_TIME * factor {
            failures.push(report.clone());
        }
        show(&report);
    }
    for (name, value) in pickles.iter().chain(&others).chain(&small()) {
        let (time, bytes, session) = measure(|| decode_quickly(value, forms, &secrets));
        let result = if session.is_some() { "decoded" } else { "left" };
        let report = format!("{name}, quickly: {} kB, {time:?}, {result}", bytes / 1_000);
        let unfit = name.starts_with("small") && value.len() > SMALL;
        if bytes > MAX_QUICK_BYTES || time > MAX_QUICK_TIME || unfit {
            failures.push(report.clone());
        }
        show(&report);
    }
    assert!(failures.is_empty(), "{failures:#?}");
    let longer = filled(b"", b"(", b"(".repeat(100).as_slice());
    let longer = [longer, vec![b'('; 200]].concat();
    assert_eq!(decode(&longer, forms, &secrets), Err(Undecodable::TooLarge));
}

/// Returns the best time, the peak memory and the result of a decoding.
fn measure<T>(decode: impl Fn() -> T) -> (Duration, usize, T) {
    let rounds = (0..ROUNDS).map(|_| {
        let before = PEAK.current_usage();
        PEAK.reset_peak_usage();
        let start = Instant::now();
        let result = decode();
        (start.elapsed(), PEAK.peak_usage() - before, result)
    });
    rounds.reduce(|best, next| (best.0.min(next.0), best.1.max(next.1), next.2)).unwrap()
}

/// Shown with `--nocapture`.
#[expect(clippy::print_stderr, reason = "the figures are worth a look")]
fn show(report: &str) {
    eprintln!("{report}");
}
