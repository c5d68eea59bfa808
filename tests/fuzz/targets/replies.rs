//! What Redis says, read to its end or to the first fault.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ws4redis::redis::resp::{Token, token};

fuzz_target!(|bytes: &[u8]| {
    let mut start = 0;
    while let Ok(Some((token, next))) = token(bytes, start, 64) {
        assert!(next > start && next <= bytes.len());
        if let Token::Bulk(place) | Token::Status(place) | Token::Error(place) = token {
            assert!(bytes.get(place).is_some_and(|text| text.len() < bytes.len()));
        }
        start = next;
    }
});
