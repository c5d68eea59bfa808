//! Sessions in msgpack.

use super::super::Session;
use crate::codec::{DecodeError, msgpack};

fn read(msgpack: &[u8]) -> Result<Session, DecodeError> {
    msgpack::read_record(msgpack)
}

#[track_caller]
fn check(parts: &[&[u8]], expected: &str) {
    let session = read(&parts.concat());
    let session = session.map(|session| (session.user_id, session.username, session.groups));
    assert_eq!(format!("{session:?}"), expected);
}

const ID: &[u8] = b"\xad_auth_user_id";
const NAME: &[u8] = b"\xb1ws4redis:username";
const GROUPS: &[u8] = b"\xb1ws4redis:memberof";

#[test]
fn fields_are_found_and_the_last_value_of_a_key_is_used() {
    check(&[b"\x80"], "Ok((None, None, None))");
    check(&[b"\x82", ID, b"\xa11", ID, b"\xd9\x012"], r#"Ok((Some("2"), None, None))"#);
    check(&[b"\x82", ID, b"\x07", NAME, b"\x07"], r#"Ok((Some("7"), None, None))"#);
    check(&[b"\x81", ID, b"\xd1\xff\xfe"], r#"Ok((Some("-2"), None, None))"#);
    check(&[b"\x81", ID, b"\xcf\xff\xff\xff\xff\xff\xff\xff\xff"], "Ok((None, None, None))");
    check(
        &[b"\xde\x00\x01", GROUPS, b"\x94\xa1a\x01\x91\xa1b\xa1c"],
        r#"Ok((None, None, Some(["a", "c"])))"#,
    );
    check(&[b"\x81", NAME, b"\xa1\xff"], "Ok((None, None, None))");
    check(&[b"\x81", NAME, b"\xc4\x01x"], "Ok((None, None, None))");
}

#[test]
fn values_of_any_type_are_skipped() {
    let deep = [vec![0x91; 5_000], vec![0xc0]].concat();
    let others: [&[u8]; 9] = [
        &deep,
        b"\xc4\x02ab",
        b"\xc7\x03\x05abc",
        b"\xca\x00\x00\x00\x00",
        b"\xcb\x00\x00\x00\x00\x00\x00\x00\x00",
        b"\xd6\xff\x00\x00\x00\x00",
        b"\xdd\x00\x00\x00\x02\x82\x01\x02\x03\x04\xc3",
        b"\xe0",
        b"\xda\x00\x02xy",
    ];
    for other in others {
        check(&[b"\x82\xa1x", other, ID, b"\xa11"], r#"Ok((Some("1"), None, None))"#);
        check(&[b"\x82", other, b"\x01", ID, b"\xa11"], r#"Ok((Some("1"), None, None))"#);
    }
}

#[test]
fn damaged_msgpack_and_values_over_the_limits_are_refused() {
    let cut: [&[u8]; 7] = [
        b"",
        b"\x81",
        b"\x90",
        b"\x80\x00",
        b"\x81\xc1\x00",
        b"\xdf\xff\xff\xff\xff\x01",
        b"\x81\x01\xc6\xff\xff\xff\xff",
    ];
    for msgpack in cut {
        check(&[msgpack], "Err(Damaged)");
    }
    check(&[b"\x81", NAME, b"\xda\x04\x01", &[b'x'; 1_025]], "Err(TooLarge)");
    check(&[b"\x81", GROUPS, b"\xdc\x04\x01", &b"\xa1x".repeat(1_025)], "Err(TooLarge)");
}

proptest::proptest! {
    #[test]
    fn no_bytes_cause_a_panic(bytes in proptest::collection::vec(0_u8.., 0..60)) {
        let _ = read(&bytes);
    }
}
