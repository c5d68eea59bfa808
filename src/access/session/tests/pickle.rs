//! Sessions in pickles: written by Python, by hand, and by an attacker.

use super::super::content::MAX_PICKLE_ENTRIES;
use super::super::{Session, pickle};
use crate::codec::DecodeError;

fn read(pickle: &[u8]) -> Result<Option<Session>, DecodeError> {
    pickle::read(pickle)
}

#[track_caller]
fn check(parts: &[&[u8]], expected: &str) {
    let session = read(&parts.concat());
    let session = session.map(|session| session.map(|s| (s.user_id, s.username, s.groups, s.ends_at)));
    assert_eq!(format!("{session:?}"), expected);
}

/// A pickle of protocol 2 with the user id `1` and another key, whose value `other` pushes.
fn with_other(other: &[u8]) -> Vec<u8> {
    [b"\x80\x02}(X\x05\x00\x00\x00other", other, b"X\x0d\x00\x00\x00_auth_user_idX\x01\x00\x00\x001u."]
        .concat()
}

fn user_id(pickle: &[u8]) -> Result<Option<String>, DecodeError> {
    read(pickle).map(|session| session.and_then(|session: Session| session.user_id))
}

#[test]
fn every_protocol_writes_a_dictionary_its_own_way() {
    let expected = r#"Ok(Some((Some("1"), None, Some(["a", "b"]), None)))"#;
    let name = b"\x8c\x11ws4redis:memberof";
    check(
        &[b"(dp0\nV_auth_user_id\np1\nV1\np2\nsVws4redis:memberof\np3\n(lp4\nVa\np5\naVb\np6\nas."],
        expected,
    );
    check(&[b"(dp1\nS'_auth_user_id'\np2\nS'1'\nsS\"ws4redis:memberof\"\n(lS'a'\naS'b'\nas."], expected);
    check(&[b"}q\x00(U\x0d_auth_user_idq\x01U\x011U\x11ws4redis:memberof]q\x02(U\x01aU\x01beu."], expected);
    check(
        &[
            b"\x80\x04\x95\x00\x00\x00\x00\x00\x00\x00\x00}\x94(\x8c\x0d_auth_user_id\x94\x8c\x011",
            name,
            b"]\x94(\x8c\x01a\x8c\x01beu.",
        ],
        expected,
    );
    check(&[b"\x80\x05}\x94(\x8c\x0d_auth_user_id\x8c\x011", name, b"\x8c\x01a\x8c\x01b\x86u."], expected);
    check(&[b"\x80\x05(\x8c\x0d_auth_user_id\x8c\x011", name, b"\x8c\x01a\x8c\x01b\x86d."], expected);
}

#[test]
fn the_last_value_of_a_key_is_used_and_wrong_types_are_ignored() {
    let id = b"\x8c\x0d_auth_user_id";
    check(
        &[b"\x80\x04}(", id, b"\x8c\x011", id, b"\x8c\x012u."],
        r#"Ok(Some((Some("2"), None, None, None)))"#,
    );
    check(&[b"\x80\x04}(", id, b"\x8c\x011", id, b"Nu."], "Ok(Some((None, None, None, None)))");
    check(
        &[b"\x80\x04}(", id, b"K\x07\x8c\x11ws4redis:usernameK\x07u."],
        r#"Ok(Some((Some("7"), None, None, None)))"#,
    );
    check(&[b"\x80\x04}", id, b"C\x011s."], "Ok(Some((None, None, None, None)))");
    check(&[b"\x80\x04}C\x0d_auth_user_id\x8c\x011s."], "Ok(Some((None, None, None, None)))");
    check(&[b"\x80\x04}", id, b"\x8c\x03\xed\xa0\x80s."], "Ok(Some((None, None, None, None)))");
    check(
        &[b"\x80\x04}\x8c\x11ws4redis:memberof](K\x01\x8c\x01aN]\x8c\x01be\x73."],
        r#"Ok(Some((None, None, Some(["a", "b"]), None)))"#,
    );
}

#[test]
fn other_values_than_dictionaries_are_not_sessions() {
    for pickle in [&b"\x80\x04N."[..], b"\x80\x04]\x94.", b"\x80\x04K\x07.", b"\x80\x04)."] {
        check(&[pickle], "Ok(None)");
    }
}

#[test]
fn djangos_herd_client_wraps_the_session_in_a_tuple() {
    let marker = b"\x80\x04\x8c\x18django_redis.client.herd\x8c\x06Marker\x93)\x81";
    let session = b"}\x8c\x0d_auth_user_id\x8c\x011s";
    check(
        &[marker, session, b"J\x08\xb2\xff\x6a\x87."],
        r#"Ok(Some((Some("1"), None, None, Some(1795142152))))"#,
    );
    check(&[marker, session, b"N\x87."], "Ok(None)");
    check(&[marker, session, b"\x86."], "Ok(None)");
    check(&[b"\x80\x04", session, session, b"K\x01\x87."], "Ok(None)");
    // Before protocol 2 the tuple follows a mark, and a function creates the instance.
    let session = b"(dV_auth_user_id\nV1\ns";
    check(
        &[
            b"(ccopy_reg\n_reconstructor\n(cdjango_redis.client.herd\nMarker\nc__builtin__\nobject\nNtR",
            session,
            b"I1795142152\nt.",
        ],
        r#"Ok(Some((Some("1"), None, None, Some(1795142152))))"#,
    );
}

#[test]
fn safe_strings_and_ordered_dictionaries_are_read_as_plain_ones() {
    let name = b"\x8c\x11ws4redis:username";
    let expected = r#"Ok(Some((None, Some("john"), None, None)))"#;
    let safe = b"\x8c\x17django.utils.safestring\x8c\x0aSafeString\x93\x8c\x04john\x85\x81";
    check(&[b"\x80\x04}", name, safe, b"}bs."], expected);
    check(&[b"\x80\x04\x8c\x0bcollections\x8c\x0bOrderedDict\x93)R(", name, b"\x8c\x04johnu."], expected);
    let safe =
        b"ccopy_reg\n_reconstructor\n(cdjango.utils.safestring\nSafeText\nc__builtin__\nunicode\nVjohn\ntR";
    check(&[b"(dVws4redis:username\n", safe, b"s."], expected);
    let other = b"\x8c\x06my.app\x8c\x0aSafeString\x93\x8c\x04john\x85\x81";
    check(&[b"\x80\x04}", name, other, b"s."], "Ok(Some((None, None, None, None)))");
}

#[test]
fn values_of_any_type_are_skipped() {
    let deep = [vec![b']'; 5_000], vec![b'a'; 4_999]].concat();
    let others: [&[u8]; 23] = [
        &deep,
        b"]q\x00h\x00a",
        b"}q\x00U\x01ah\x00s",
        b"cos\nsystem\n(S'echo no'\ntR",
        b"cdatetime\ndate\nU\x04\x07\xea\x0b\x14\x85R",
        b"cmy.app\nThing\n)\x81}U\x01aK\x01sb",
        b"cmy.app\nThing\n)}\x92",
        b"(imy.app\nThing\n",
        b"(cmy.app\nThing\nK\x01o",
        b"cmy.app\nList\n)\x81(K\x01K\x02e",
        b"cmy.app\nDict\n)\x81(K\x01K\x02u",
        b"\x82\x01",
        b"\x83\x01\x00",
        b"\x84\x01\x00\x00\x00",
        b"G\x00\x00\x00\x00\x00\x00\x00\x00",
        b"F1.5\n",
        b"I01\n",
        b"L12345678901234567890L\n",
        b"\x8b\x02\x00\x00\x00ab",
        b"\x8f(K\x01\x90",
        b"(K\x01\x91",
        b"\x96\x01\x00\x00\x00\x00\x00\x00\x00a\x98",
        b"X\x03\x00\x00\x00\xed\xa0\x80",
    ];
    for other in others {
        assert_eq!(user_id(&with_other(other)), Ok(Some("1".to_owned())), "{other:?}");
    }
    assert_eq!(user_id(&with_other(b"N(NN1(0(N00")), Ok(Some("1".to_owned())));
    assert_eq!(user_id(&[&with_other(b"N")[..], b"anything"].concat()), Ok(Some("1".to_owned())));
}

#[test]
fn invalid_pickles_are_damaged() {
    for pickle in [
        &b""[..],
        b"\x80\x04",
        b".",
        b"\x80\x06}.",
        b"}(.",
        b"}u.",
        b"}(K\x01u.",
        b"(u.",
        b"(e.",
        b"a.",
        b"Na.",
        b"2.",
        b"0.",
        b"1.",
        b"t.",
        b"(\x94.",
        b"h\x00.",
        b"Nq\x05h\x04.",
        b"gx\n.",
        b"Np-1\n.",
        b"Sabc\n.",
        b"Vabc",
        b"(o.",
        b"Pid\n.",
        b"Q.",
        b"\x97.",
        b"\xff.",
        b"\x8e\x00\x00\x00\x00\x00\x00\x01\x00.",
        b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff.",
        b"\x8b\xff\xff\xff\xff.",
    ] {
        assert_eq!(read(pickle), Err(DecodeError::Damaged), "{pickle:?}");
    }
}

#[test]
fn pickles_beyond_the_limits_are_refused() {
    let many = |code: u8| vec![code; MAX_PICKLE_ENTRIES + 1];
    for pickle in [
        many(b'('),
        many(b'N'),
        many(b']'),
        [b"N".to_vec(), many(b'2')].concat(),
        [b"N".to_vec(), many(0x94)].concat(),
        b"Nr\xff\xff\xff\x7f.".to_vec(),
    ] {
        assert_eq!(read(&pickle), Err(DecodeError::TooLarge));
    }
    let groups = [
        b"\x80\x04}\x8c\x11ws4redis:memberof](\x8c\x01x\x94".to_vec(),
        b"h\x00".repeat(1_024),
        b"es.".to_vec(),
    ];
    assert_eq!(read(&groups.concat()), Err(DecodeError::TooLarge));
    let name =
        [b"\x80\x04}\x8c\x11ws4redis:usernameX\x01\x04\x00\x00".to_vec(), vec![b'x'; 1_025], b"s.".to_vec()];
    assert_eq!(read(&name.concat()), Err(DecodeError::TooLarge));
}

proptest::proptest! {
    #[test]
    fn no_bytes_cause_a_panic(bytes in proptest::collection::vec(0_u8.., 0..80)) {
        let _ = read(&bytes);
    }

    /// Opcodes without arguments reach deeper states than random bytes.
    #[test]
    fn no_opcodes_cause_a_panic(codes in proptest::collection::vec(proptest::sample::select(b"().0122}]tldaesuN\x85\x86\x87\x94Rbo\x81\x92\x93\x90\x91\x8f".to_vec()), 0..80)) {
        let _ = read(&codes);
        let _ = read(&[b"}\x8c\x0d_auth_user_id\x94h\x00h\x00", &codes[..], b"."].concat());
    }
}
