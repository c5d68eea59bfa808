//! Values of every unsigned form, compressed or not.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ws4redis::access::session::{Forms, Secrets, decode};

fuzz_target!(|value: &[u8]| {
    let _ = decode(value, Forms::UNSIGNED, &Secrets::default());
});
