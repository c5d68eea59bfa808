//! Path and query of a request.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ws4redis::wire::Handshake;

fuzz_target!(|target: &str| {
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    if let Ok(handshake) = Handshake::parse(path, query, "/ws/") {
        assert!(!handshake.facility.as_str().chars().any(char::is_control));
    }
});
