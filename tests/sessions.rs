//! Decoding of sessions written by Django, intact and damaged.
#![expect(clippy::unwrap_used, reason = "test helpers")]

use std::path::Path;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::Value;
use ws4redis::access::session::{
    Forms, KeyPattern, KeyTemplate, Secrets, Session, Undecodable, decode, decode_quickly,
};
use ws4redis::wire::{Namespace, SessionKey};

/// A fixture: value, location and content.
struct Fixture {
    name: String,
    /// The class that the salt of signed values names.
    class: &'static str,
    forms: Forms,
    secrets: Vec<String>,
    value: Vec<u8>,
    session_key: String,
    redis_key: Option<String>,
    expected: Session,
}

impl Fixture {
    fn read(path: &Path) -> Self {
        let fixture: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let name = fixture["name"].as_str().unwrap().to_owned();
        let settings = &fixture["settings"];
        let mut secrets = vec![settings["SECRET_KEY"].as_str().unwrap().to_owned()];
        let fallbacks = settings["SECRET_KEY_FALLBACKS"].as_array();
        secrets.extend(fallbacks.into_iter().flatten().map(|key| key.as_str().unwrap().to_owned()));
        let elsewhere = &fixture["not_in_redis"];
        let value = match elsewhere["session_data"].as_str().or(elsewhere["cookie_value"].as_str()) {
            Some(value) => value.as_bytes().to_vec(),
            None => STANDARD.decode(fixture["redis_keys"][0]["value_b64"].as_str().unwrap()).unwrap(),
        };
        let text = |key: &str| fixture["expected_auth"][key].as_str().map(str::to_owned);
        let groups = fixture["expected_auth"]["ws4redis:memberof"].as_array();
        let groups = groups.map(|list| list.iter().map(|name| name.as_str().unwrap().to_owned()).collect());
        let signed = ["redis_sessions", "signed", "db_default"].iter().any(|engine| name.contains(engine));
        Self {
            class: class(&name),
            forms: if signed { Forms::SIGNED } else { Forms::UNSIGNED },
            secrets,
            value,
            session_key: fixture["session_key"].as_str().unwrap().to_owned(),
            redis_key: fixture["redis_key"].as_str().map(str::to_owned),
            expected: Session {
                namespace: None,
                user_id: text("_auth_user_id"),
                backend: text("_auth_user_backend"),
                auth_hash: text("_auth_user_hash"),
                username: None,
                groups,
                doctor: None,
                ends_at: fixture["expected_ends_at"].as_i64(),
            },
            name,
        }
    }

    fn all() -> Vec<Self> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/sessions");
        let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let files = files.filter(|path| path.extension().is_some_and(|extension| extension == "json"));
        let files = files.filter(|path| !path.file_name().unwrap().to_str().unwrap().starts_with('_'));
        let fixtures: Vec<_> = files.map(|path| Self::read(&path)).collect();
        assert!(fixtures.len() > 140);
        fixtures
    }

    fn secrets(&self) -> Secrets {
        Secrets::new(self.secrets.iter().map(String::as_bytes), self.class)
    }

    fn decode(&self, value: &[u8]) -> Result<Option<Session>, Undecodable> {
        decode(value, self.forms, &self.secrets())
    }
}

/// Returns the number of changes to try on a value of this length; large values are slow in debug builds.
fn rounds(length: usize) -> usize {
    if length > 10_000 { 10 } else { 100 }
}

fn class(name: &str) -> &'static str {
    if name.contains("signed_cookies") { "backends.signed_cookies" } else { Secrets::STORE }
}

#[test]
fn every_session_that_django_wrote_is_read() {
    for fixture in Fixture::all() {
        let session = fixture.decode(&fixture.value);
        // Compares field by field, because the Debug output of a session hides its digest.
        let expected = Ok(Some(fixture.expected.clone()));
        assert!(session == expected, "{}: {session:?} is not {expected:?}", fixture.name);
    }
}

#[test]
fn every_session_is_found_under_a_template() {
    let namespace = Namespace::default();
    let pattern = KeyPattern::default();
    let mut by_default = 0;
    for fixture in Fixture::all() {
        let Some(redis_key) = &fixture.redis_key else { continue };
        assert!(pattern.admits(&fixture.session_key), "{}", fixture.name);
        let key = SessionKey::new(&fixture.session_key);
        let template = redis_key.replace(&fixture.session_key, "{key}");
        let template = KeyTemplate::new(&template, fixture.forms, &namespace).unwrap();
        assert_eq!(&template.render(&key), redis_key);
        by_default += usize::from(KeyTemplate::defaults().contains(&template));
    }
    assert!(by_default > 110, "{by_default} found by the defaults");
}

#[test]
fn an_untrusted_serialization_is_not_read() {
    for fixture in Fixture::all() {
        let others = if fixture.forms == Forms::SIGNED { Forms::UNSIGNED } else { Forms::SIGNED };
        let session = decode(&fixture.value, others, &fixture.secrets());
        assert_eq!(session, Err(Undecodable::Untrusted), "{}", fixture.name);
        if fixture.forms == Forms::SIGNED {
            let other = Secrets::new([&b"another key"[..]], fixture.class);
            assert_eq!(decode(&fixture.value, fixture.forms, &other), Err(Undecodable::Forged));
            let none = Secrets::default();
            assert_eq!(decode(&fixture.value, fixture.forms, &none), Err(Undecodable::NoSecret));
        }
    }
}

#[test]
fn a_truncated_session_is_rejected_or_unchanged() {
    for fixture in Fixture::all() {
        let length = fixture.value.len();
        for end in (0..length).step_by(length / rounds(length) + 1) {
            match fixture.decode(&fixture.value[..end]) {
                // Either only a trailer such as an index is missing, or the rest happens to be valid msgpack.
                Ok(Some(session)) => {
                    let same = session == fixture.expected || end == 1 && session == Session::default();
                    assert!(same, "{} cut at {end}", fixture.name);
                }
                Ok(None) => panic!("{} cut at {end}", fixture.name),
                Err(_) => {}
            }
        }
    }
}

#[test]
fn quick_decoding_gives_the_same_result_for_all_but_large_sessions() {
    for fixture in Fixture::all() {
        let quick = decode_quickly(&fixture.value, fixture.forms, &fixture.secrets());
        let large = fixture.name.ends_with("_big") || fixture.value.len() > 16 << 10;
        assert_eq!(quick.is_none(), large, "{}: {} bytes", fixture.name, fixture.value.len());
        assert!(quick.is_none_or(|session| session == fixture.decode(&fixture.value)), "{}", fixture.name);
    }
}

#[test]
fn a_changed_byte_never_causes_a_panic() {
    for fixture in Fixture::all() {
        let mut value = fixture.value.clone();
        for at in (0..value.len()).step_by(value.len() / rounds(value.len()) + 1) {
            for change in [0x01, 0x80, 0xff] {
                value[at] ^= change;
                let session = fixture.decode(&value);
                assert!(
                    fixture.forms != Forms::SIGNED || session.is_err(),
                    "{} changed at {at}",
                    fixture.name
                );
                value[at] ^= change;
            }
        }
    }
}

#[test]
fn signing_vectors_agree() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/sessions/_signing_vectors.json");
    let vectors: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let secret = b"fixture-secret-key-not-for-production-0123456789abcdef";
    let mut checked = 0;
    for vector in vectors.as_array().unwrap() {
        let Some(value) = vector["signed"].as_str().or(vector["encoded"].as_str()) else { continue };
        let secrets = Secrets::new([&secret[..]], class(vector["from_fixture"].as_str().unwrap()));
        let session = decode(value.as_bytes(), Forms::SIGNED, &secrets).unwrap().unwrap();
        let payload: Value = serde_json::from_str(vector["payload_text"].as_str().unwrap()).unwrap();
        assert_eq!(session.auth_hash.as_deref(), payload["_auth_user_hash"].as_str());
        checked += 1;
    }
    assert_eq!(checked, 8);
}

#[test]
fn values_that_are_not_sessions_are_classified() {
    let secrets = Secrets::new([&b"secret"[..]], Secrets::STORE);
    let all = Forms::UNSIGNED.with(Forms::SIGNED);
    for (value, forms, expected) in [
        (&b"7"[..], Forms::UNSIGNED, Ok(None)),
        (b"-12", Forms::UNSIGNED, Ok(None)),
        (b"7", Forms::SIGNED, Err(Undecodable::Unknown)),
        (b"", all, Err(Undecodable::Unknown)),
        (b"\0\0", all, Err(Undecodable::Unknown)),
        (b"None", all, Err(Undecodable::Unknown)),
        (b"hello world", all, Err(Undecodable::Unknown)),
        (b"a:b:c", all, Err(Undecodable::Forged)),
        (b"{}", Forms::UNSIGNED, Ok(Some(Session::default()))),
        (b"{}", Forms::PICKLE, Err(Undecodable::Untrusted)),
        (b"{}", Forms::SIGNED, Err(Undecodable::Untrusted)),
        (b"\x80", Forms::MSGPACK, Ok(Some(Session::default()))),
        (b"\x80\x04N.", Forms::PICKLE, Ok(None)),
        (b"x\x9cgarbage", Forms::UNSIGNED, Err(Undecodable::Packed)),
        (b"\x1f\x8bgarbage", Forms::UNSIGNED, Err(Undecodable::Packed)),
        (b"\x04\x22\x4d\x18garbage", Forms::UNSIGNED, Err(Undecodable::Packed)),
        (b"\x28\xb5\x2f\xfdgarbage", Forms::UNSIGNED, Err(Undecodable::Packed)),
        (b"\xfd7zXZ\0garbage", Forms::UNSIGNED, Err(Undecodable::Packed)),
    ] {
        assert_eq!(decode(value, forms, &secrets), expected, "{value:?}");
    }
}

proptest::proptest! {
    #[test]
    fn no_input_causes_a_panic(start in proptest::sample::select(vec![&b"\x80\x04"[..], b"\x80\x02}(", b"(d", b"{\"", b"\x82", b"x\x9c", b"\x1f\x8b\x08", b"\x04\x22\x4d\x18", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ\0\0\x04", b".eJ", b""]), rest in proptest::collection::vec(0_u8.., 0..200)) {
        let value = [start, &rest[..]].concat();
        let secrets = Secrets::new([&b"secret"[..]], Secrets::STORE);
        let _ = decode(&value, Forms::UNSIGNED.with(Forms::SIGNED), &secrets);
    }
}
