//! Decoding of sessions.

use std::hint::black_box;

use base64::{Engine, engine::general_purpose::STANDARD};
use ws4redis::access::session::{Forms, Secrets, decode};

use super::{Case, fixture};

const TIMES: u32 = 200;

pub(super) fn cases() -> Vec<Case> {
    let names = [
        "session: pickle, Django's own cache",
        "session: pickle protocol 0",
        "session: JSON, django-redis",
        "session: MessagePack, django-redis",
        "session: signed JSON, django-redis-sessions",
        "session: pickle in zlib, django-redis",
    ];
    names.into_iter().map(|name| Case(name, prepare, TIMES)).collect()
}

fn prepare(name: &str) -> Box<dyn FnMut()> {
    let fixture = fixture(match name {
        "session: pickle, Django's own cache" => "dj52__builtin_cache__login",
        "session: pickle protocol 0" => "dj52__builtin_cache_proto0__login",
        "session: JSON, django-redis" => "dj52__djredis_json__login",
        "session: MessagePack, django-redis" => "dj52__djredis_msgpack__login",
        "session: signed JSON, django-redis-sessions" => "dj52__redis_sessions_default__login",
        _ => "dj52__djredis_zlib__login",
    });
    let value = STANDARD.decode(fixture["redis_keys"][0]["value_b64"].as_str().unwrap()).unwrap();
    let secret = fixture["settings"]["SECRET_KEY"].as_str().unwrap();
    let secrets = Secrets::new([secret.as_bytes()], Secrets::STORE);
    let forms = Forms::UNSIGNED.with(Forms::SIGNED);
    Box::new(move || {
        assert!(decode(black_box(&value), forms, &secrets).unwrap().unwrap().user_id.is_some());
    })
}
