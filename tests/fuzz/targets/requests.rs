//! Requests to the embedded store, arriving whole and in pieces.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ws4redis::embedded::count_requests;

fuzz_target!(|bytes: &[u8]| {
    let Some((&piece, bytes)) = bytes.split_first() else { return };
    count_requests(bytes, bytes.len());
    count_requests(bytes, usize::from(piece));
});
