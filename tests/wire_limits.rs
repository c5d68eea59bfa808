//! Hostile packets, payloads and JSON are decoded within limits of time and memory.
//!
//! A separate binary with a single test: its allocator counts the allocations of all threads of the process.

use std::time::Duration;

use bytes::Bytes;
use peak_alloc::PeakAlloc;
use tokio::time::Instant;
use ws4redis::wire::engine_io::{EngineVersion, PayloadDecoder, PayloadForm, PayloadRules, decode_text};
use ws4redis::wire::socket_io::{
    AttachmentCollector, EventData, EventValue, JsonElements, MessageLimits, SocketPacket, encode_values,
    push_compact_json, validate_json,
};

#[global_allocator]
static PEAK: PeakAlloc = PeakAlloc;

/// The largest payload or message that a client may send.
const MAX_PAYLOAD: usize = 1_000_000;
const RULES: PayloadRules = PayloadRules { max_bytes: MAX_PAYLOAD, max_packets: 1_000, repair_text: true };
const LIMITS: MessageLimits = MessageLimits {
    text_bytes: MAX_PAYLOAD,
    attachments: 10,
    attachment_bytes: MAX_PAYLOAD,
    total_bytes: 4 * MAX_PAYLOAD,
};
/// A decoder that is quadratic takes minutes for a megabyte. Debug builds are slower.
const MAX_TIME: Duration = Duration::from_millis(if cfg!(debug_assertions) { 2_000 } else { 50 });

/// Checks that a step allocates no more than this beyond what was allocated before, and is fast.
#[track_caller]
fn check(name: &str, max_bytes: usize, step: impl Fn()) {
    let before = PEAK.current_usage();
    PEAK.reset_peak_usage();
    // Up to three attempts, because the machine may be loaded.
    let is_fast = (0..3).any(|_| {
        let start = Instant::now();
        step();
        start.elapsed() <= MAX_TIME
    });
    let bytes = PEAK.peak_usage() - before;
    assert!(bytes <= max_bytes, "{name}: {bytes} bytes");
    assert!(is_fast, "{name}: slower than {MAX_TIME:?}");
}

fn filled(start: &str, piece: &str, end: &str) -> String {
    let count = (MAX_PAYLOAD - start.len() - end.len()) / piece.len();
    [start, &piece.repeat(count), end].concat()
}

fn payloads() -> Vec<(PayloadForm, Vec<u8>)> {
    use PayloadForm::{Binary, LengthPrefixed, Records};
    vec![
        (Records, filled("", "4\x1e", "4").into()),
        (Records, filled("", "b\x1e", "b").into()),
        (Records, filled("b", "AAAA", "").into()),
        (Records, filled("4", "é", "").into()),
        (LengthPrefixed, filled("", "1:4", "").into()),
        (LengthPrefixed, filled("", "2:4é", "").into()),
        (LengthPrefixed, filled("", "2:4Å", "").into()),
        (LengthPrefixed, filled("499991:4", "é", "").into()),
        (LengthPrefixed, filled("499991:4", "Ã©", "").into()),
        (LengthPrefixed, filled("9999999999:4", "🎉", "").into()),
        (Binary, b"\x00\x01\xff4".repeat(MAX_PAYLOAD / 4)),
        (Binary, b"\x01\x09\x09\x09\x09\x09\x09\x09\x09\x09\x09\xff\x04".to_vec()),
        (Binary, vec![0; MAX_PAYLOAD]),
    ]
}

fn texts() -> Vec<String> {
    vec![
        filled("2", "[", ""),
        filled("2[\"a\",", "{\"a\":", ""),
        filled("2[\"a\"", ",[]", "]"),
        filled("2[\"", "\\u0061", "\"]"),
        filled("2[\"a\",\"", "\\ud800", "\"]"),
        filled("2[\"a\",", " ", "1]"),
        filled("2[", "9", "]"),
        filled("2/", "n", ",[\"a\"]"),
        filled("2", "9", ""),
        filled("5", "9", "-[\"a\"]"),
        filled("510-[\"a\"", ",{\"_placeholder\":true,\"num\":9}", "]"),
        filled("510-[\"a\"", ",{\"_plac\\u0065holder\":true,\"num\":9}", "]"),
    ]
}

#[test]
fn hostile_input_stays_within_the_limits() {
    for (form, body) in payloads() {
        let name = format!("{form:?} {:?}", String::from_utf8_lossy(&body[..12]));
        // A payload of one packet is copied at most twice while its double encoding is undone.
        check(&name, 2 * MAX_PAYLOAD + 4_096, || {
            let packets = PayloadDecoder::new(form, &body, RULES).unwrap();
            assert!(packets.take_while(Result::is_ok).count() <= RULES.max_packets);
        });
    }
    for text in texts() {
        // Only the name of the event is copied, if it has escapes.
        check(&text[..12], MAX_PAYLOAD, || {
            let _ = decode_text(EngineVersion::V3, &text);
            let packet = SocketPacket::decode(EngineVersion::V4, &text, LIMITS.attachments);
            let _ = packet.map(|packet| packet.arguments().count());
        });
        check(&text[..12], 0, || {
            let _ = validate_json(&text[1..], Some(10));
            let _ = JsonElements::new(&text[1..]).map(Iterator::count);
        });
        check(&text[..12], 2 * MAX_PAYLOAD, || {
            let _ = push_compact_json(&mut String::new(), &text[1..], None);
        });
    }
    check("constants", 2 * MAX_PAYLOAD, || {
        let json = "NaN,".repeat(MAX_PAYLOAD / 4);
        let _ = EventData::from_json(None, [json.as_str()], vec![], false, LIMITS);
    });
    // Each byte takes six in JSON. A string that grows is copied to twice its space.
    let one = [EventValue::Text("\u{1}".repeat(MAX_PAYLOAD).into())];
    let several = vec![EventValue::Text("\u{1}".repeat(MAX_PAYLOAD / 10).into()); 10];
    for (name, values, max_bytes) in [("one text", &one[..], 4_096), ("several texts", &several, 3 << 20)] {
        check(name, max_bytes, || assert!(encode_values(None, values, LIMITS).is_err()));
    }
    check("announced attachments", 4_096, || {
        let mut collector = AttachmentCollector::default();
        let packet = SocketPacket::decode(EngineVersion::V4, "510-[\"a\"]", LIMITS.attachments).unwrap();
        assert_eq!(collector.take_packet(packet), Ok(None));
        assert_eq!(collector.take_attachment(Bytes::new(), LIMITS), Ok(None));
    });
}
