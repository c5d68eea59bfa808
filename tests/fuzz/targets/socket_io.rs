//! Packets of Socket.IO, each line one packet, and JSON that is passed through.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ws4redis::wire::engine_io::EngineVersion;
use ws4redis::wire::socket_io::{
    AttachmentCollector, EventData, JsonElements, JsonMembers, MessageLimits, SocketPacket, encode,
    push_compact_json, unescape_json, validate_json,
};

const LIMITS: MessageLimits =
    MessageLimits { text_bytes: 4_096, attachments: 3, attachment_bytes: 64, total_bytes: 4_200 };

fn json(text: &str) {
    let mut compact = String::new();
    match push_compact_json(&mut compact, text, Some(2)) {
        Ok(replaced) => {
            assert_eq!(validate_json(&compact, Some(2)), Ok(()));
            assert_eq!(validate_json(text, Some(2)).is_ok(), replaced == 0);
        }
        Err(error) => assert!(validate_json(text, Some(2)).is_err(), "{error}"),
    }
    assert!(compact.len() <= text.len() + text.len() / 3);
    for (key, value) in JsonMembers::new(text).into_iter().flatten().flatten() {
        let _ = (unescape_json(key), unescape_json(value));
    }
    JsonElements::new(text).into_iter().flatten().for_each(drop);
}

fn packet(version: EngineVersion, text: &str, collector: &mut AttachmentCollector) {
    let Ok(packet) = SocketPacket::decode(version, text, LIMITS.attachments) else {
        let _ = collector.take_attachment(text.as_bytes().to_vec().into(), LIMITS);
        assert!(collector.bytes() <= LIMITS.total_bytes);
        return;
    };
    let mut encoded = String::new();
    encode::push_packet(&mut encoded, &packet);
    assert_eq!(SocketPacket::decode(version, &encoded, LIMITS.attachments), Ok(packet));
    let mut ascii = String::new();
    encode::push_ascii_packet(&mut ascii, &encoded);
    let escaped = SocketPacket::decode(version, &ascii, LIMITS.attachments).expect("a valid packet");
    assert!(escaped.data.is_ascii() && escaped.namespace == packet.namespace);
    assert_eq!(escaped.event_name(), packet.event_name());
    if packet.kind.is_event() && !packet.kind.is_binary() {
        let name = JsonElements::new(packet.data).and_then(|mut elements| elements.next()?.ok());
        if let Ok(data) = EventData::from_json(name, packet.arguments(), vec![], false, LIMITS) {
            assert!(data.json().len() <= packet.data.len());
            assert_eq!(validate_json(data.json(), None), Ok(()));
        }
    }
    if text.len() <= LIMITS.text_bytes {
        let _ = collector.take_packet(packet);
    }
}

fuzz_target!(|input: &str| {
    json(input);
    let mut collector = AttachmentCollector::default();
    for line in input.split('\n') {
        packet(EngineVersion::V4, line, &mut collector);
        packet(EngineVersion::V3, line, &mut AttachmentCollector::default());
    }
});
