//! Sessions in JSON.

use super::super::Session;
use crate::codec::{DecodeError, json};

fn read(json: &[u8]) -> Result<Session, DecodeError> {
    json::read_record(json)
}

#[track_caller]
fn check(json: &str, expected: &str) {
    let session = read(json.as_bytes()).map(|session| (session.user_id, session.username, session.groups));
    assert_eq!(format!("{session:?}"), expected, "{json}");
}

#[test]
fn the_last_value_of_a_key_is_used_and_wrong_types_are_ignored() {
    check("{}", "Ok((None, None, None))");
    check(r#"{"_auth_user_id":"1","_auth_user_id":"2"}"#, r#"Ok((Some("2"), None, None))"#);
    check(r#"{"_auth_user_id":7,"ws4redis:username":7}"#, r#"Ok((Some("7"), None, None))"#);
    check(r#"{"_auth_user_id":"1","_auth_user_id":null}"#, "Ok((None, None, None))");
    check(r#"{"ws4redis:username":{"a":[]},"_auth_user_id":true}"#, "Ok((None, None, None))");
    check(r#"{"ws4redis:memberof":["a",1,["b"],{"c":2},"d"]}"#, r#"Ok((None, None, Some(["a", "d"])))"#);
    check(r#"{"ws4redis:username":"J\u00f6hn"}"#, r#"Ok((None, Some("Jöhn"), None))"#);
}

#[test]
fn values_of_any_type_are_skipped() {
    let deep = format!("{}{}", "[".repeat(5_000), "]".repeat(5_000));
    let huge = "9".repeat(1_000);
    for other in [deep.as_str(), huge.as_str(), r#""\ud800""#, "NaN", "[-Infinity,Infinity]", r#""\"NaN""#] {
        let expected = r#"Ok((Some("1"), None, None))"#;
        check(&format!(r#"{{"other":{other},"_auth_user_id":"1"}}"#), expected);
        check(&format!(r#"{{"ws4redis:memberof":{{"x":{other}}},"_auth_user_id":"1"}}"#), expected);
    }
    check(r#"{"\ud800":NaN,"_auth_user_id":"NaN"}"#, r#"Ok((Some("NaN"), None, None))"#);
}

#[test]
fn damaged_json_and_values_over_the_limits_are_refused() {
    for json in ["{", "{} x", r#"{"a":}"#, r#"{"_auth_user_id":"1""#, "[]", "{\"\\", "{\"a\":Nan}"] {
        check(json, "Err(Damaged)");
    }
    check(&format!(r#"{{"ws4redis:username":"{}","a":[1]}}"#, "x".repeat(1_025)), "Err(TooLarge)");
    check(
        &format!(r#"{{"ws4redis:memberof":[{}"x",1,"y"],"_auth_user_id":"1"}}"#, r#""x","#.repeat(1_024)),
        "Err(TooLarge)",
    );
}

proptest::proptest! {
    #[test]
    fn no_bytes_cause_a_panic(bytes in proptest::collection::vec(proptest::sample::select(b"{}[]\":,\\NaNInfinity-019u".to_vec()), 0..60)) {
        let _ = read(&bytes);
    }
}
