//! Values of every unsigned form, compressed or not.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ws4redis::access::session::{Forms, Secrets, decode, decode_quickly};

fuzz_target!(|value: &[u8]| {
    let session = decode(value, Forms::UNSIGNED, &Secrets::default());
    if let Some(quick) = decode_quickly(value, Forms::UNSIGNED, &Secrets::default()) {
        assert_eq!(quick, session);
    }
});
