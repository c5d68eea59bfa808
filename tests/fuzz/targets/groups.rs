//! Messages of Django Channels' groups: the Fernet token, msgpack or JSON, and each form of delivery.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ws4redis::codec::fernet::FernetKeys;
use ws4redis::settings::{ChannelLayer, DeliveredPart, GroupDelivery, LayerKind};
use ws4redis::sources::GroupReader;

const MAX_BYTES: usize = 1 << 20;

fn reader(kind: LayerKind, is_json: bool, keys: &[String]) -> GroupReader {
    let layer = ChannelLayer {
        kind,
        prefix: "asgi".to_owned(),
        hosts: Vec::new(),
        is_json,
        encryption_keys: keys.to_vec(),
        capacity: 100,
        keep_seconds: 0,
        refuses_bytes: false,
    };
    GroupReader::new(&layer, MAX_BYTES)
}

fuzz_target!(|input: &[u8]| {
    let keys = ["key".to_owned()];
    let token = FernetKeys::new(&keys).encrypt(input, 1_000, [7; 16]);
    for (is_json, encrypted, message) in [
        (false, false, input),
        (true, false, input),
        (false, true, input),
        (false, true, &*token),
        (true, true, &*token),
    ] {
        let reader = reader(LayerKind::Core, is_json, if encrypted { &keys } else { &[] });
        let Ok(read) = reader.strip(message).and_then(|_| reader.read(message, 1_001)) else { continue };
        for part in [DeliveredPart::Event, DeliveredPart::Field("message".into())] {
            let delivery = GroupDelivery { part, types: Box::default() };
            if let Ok(Some(delivered)) = reader.deliver(&read, &delivery)
                && delivery.part == DeliveredPart::Event
            {
                assert!(std::str::from_utf8(&delivered).is_ok(), "an event is text");
            }
        }
    }
});
