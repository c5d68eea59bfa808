//! Cookie lines, and what they yield under the default key pattern and one made of the input.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ws4redis::access::{cookie_value, session::KeyPattern};

fuzz_target!(|input: &[u8]| {
    let lines = input.split(|byte| *byte == b'\n');
    let Some(value) = cookie_value(lines, "s") else { return };
    if KeyPattern::default().admits(&value) {
        assert!(value.len() == 32 && value.bytes().all(|byte| byte.is_ascii_alphanumeric()));
    }
    if let Ok(pattern) = KeyPattern::new(&value) {
        assert!(!pattern.admits("session:key:with:colons"));
        let _ = pattern.admits(&value);
    }
});
