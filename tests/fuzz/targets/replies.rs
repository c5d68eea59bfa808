//! Replies of Redis, read to their end or to the first error.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ws4redis::codec::resp::{RespToken, token};

fuzz_target!(|bytes: &[u8]| {
    let mut start = 0;
    while let Ok(Some((token, next))) = token(bytes, start, 64) {
        assert!(next > start && next <= bytes.len());
        if let RespToken::Bulk(range) | RespToken::Status(range) | RespToken::Error(range) = token {
            assert!(bytes.get(range).is_some_and(|text| text.len() < bytes.len()));
        }
        start = next;
    }
});
