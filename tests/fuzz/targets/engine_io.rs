//! WebSocket messages and polling payloads of Engine.IO. The first byte chooses the form.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use ws4redis::wire::engine_io::{
    EnginePacket, EngineVersion, PayloadDecoder, PayloadForm, PayloadRules, decode_text, push_attachment,
    push_packet,
};

const RULES: PayloadRules = PayloadRules { max_bytes: 4_096, max_packets: 16, repair_text: false };

fn decode<'a>(form: PayloadForm, body: &'a [u8], rules: PayloadRules) -> Vec<EnginePacket<'a>> {
    let packets: Vec<_> = PayloadDecoder::new(form, body, rules).into_iter().flatten().flatten().collect();
    let size = |packet: &EnginePacket<'_>| match packet {
        EnginePacket::Text(_, data) => data.len(),
        EnginePacket::Attachment(bytes) => bytes.len(),
    };
    assert!(packets.len() <= rules.max_packets && body.len() <= rules.max_bytes || packets.is_empty());
    assert!(packets.iter().map(size).sum::<usize>() <= body.len());
    packets
}

fuzz_target!(|input: &[u8]| {
    let Some((first, body)) = input.split_first() else { return };
    let form =
        [PayloadForm::Records, PayloadForm::LengthPrefixed, PayloadForm::Binary][usize::from(first % 3)];
    decode(form, body, PayloadRules { repair_text: true, ..RULES });
    let packets = decode(form, body, RULES);
    let mut payload = BytesMut::new();
    for packet in &packets {
        match packet {
            EnginePacket::Text(kind, data) => {
                push_packet(&mut payload, form, &format!("{}{data}", kind.digit()))
            }
            EnginePacket::Attachment(bytes) => push_attachment(&mut payload, form, bytes),
        }
    }
    // The binary form may carry base64, which is encoded as bytes.
    assert_eq!(decode(form, &payload, PayloadRules { max_bytes: 2 * RULES.max_bytes, ..RULES }), packets);
    if let Ok(text) = std::str::from_utf8(body) {
        for version in [EngineVersion::V3, EngineVersion::V4] {
            let _ = decode_text(version, text);
        }
    }
});
