//! Verification of tokens: valid ones made by `PyJWT`, and untrusted ones.
#![expect(clippy::unwrap_used, reason = "test helpers")]

#[path = "gateway/support/tokens.rs"]
mod signing;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proptest::prelude::*;
use serde_json::Value;
use signing::{ALGORITHMS, hmac_token, key_file, read, token, token_with};
use ws4redis::access::Token;
use ws4redis::access::token::{Claims, KeyError, KeyFile, Untrusted, Verifier};

/// 2025-01-01 00:00 UTC.
const NOW: u64 = 1_735_689_600;

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn verifier(algorithm: &str, key: &str) -> Result<Verifier, KeyError> {
    restricted(algorithm, key, &[], "")
}

fn restricted(algorithm: &str, key: &str, audience: &[&str], issuer: &str) -> Result<Verifier, KeyError> {
    let bytes = read(key);
    let keys = if key == "jwks.json" { KeyFile::Set(&bytes) } else { KeyFile::Key(&bytes) };
    let audience = audience.iter().map(|name| (*name).to_owned()).collect();
    Verifier::new(algorithm, keys, audience, issuer.to_owned())
}

fn verify(verifier: &Verifier, token: &str) -> Result<Claims, Untrusted> {
    verifier.verify(&Token::new(token), at(NOW))
}

/// Verifies a token with these claims.
fn claimed(claims: &str) -> Result<Claims, Untrusted> {
    verify(&verifier("HS256", "HS256.key").unwrap(), &token("HS256", claims))
}

fn john() -> Claims {
    let groups = vec!["staff".to_owned(), "red team".to_owned()];
    let expires_at = Some(at(4_102_444_800));
    Claims { subject: Some("john".to_owned()), groups, expires_at, other_name: None }
}

/// Returns a token made by `PyJWT`.
fn made(name: &str) -> String {
    let tokens: Value = serde_json::from_slice(&read("tokens.json")).unwrap();
    tokens[name].as_str().unwrap().to_owned()
}

#[test]
fn tokens_of_pyjwt_are_trusted_by_key_file_and_by_jwks() {
    for algorithm in ALGORITHMS {
        for file in [&key_file(algorithm), "jwks.json"] {
            let verifier = restricted(algorithm, file, &["other", "ws"], "https://www.example.com").unwrap();
            assert_eq!(verify(&verifier, &made(algorithm)), Ok(john()), "{algorithm} by {file}");
            assert_eq!(
                verify(&verifier, &token(algorithm, "{}")),
                Err(Untrusted::WrongAudience),
                "{algorithm}"
            );
        }
    }
    let pkcs1 = verifier("RS256", "RS256.pkcs1.pem").unwrap();
    assert_eq!(verify(&pkcs1, &made("RS256")), Ok(john()));
    let text = [read("HS256.key").trim_ascii_end(), b"\r\n\n"].concat();
    let crlf = Verifier::new("HS256", KeyFile::Key(&text), Vec::new(), String::new()).unwrap();
    assert_eq!(verify(&crlf, &made("HS256")), Ok(john()));
}

#[test]
fn the_key_of_a_jwks_is_chosen_by_name_and_for_its_purpose() {
    let verifier = verifier("RS256", "jwks.json").unwrap();
    assert_eq!(verify(&verifier, &made("rotated")), Ok(john()));
    assert_eq!(verify(&verifier, &made("nameless")), Ok(john()));
    // The same key, but declared for encryption and for another algorithm.
    assert_eq!(verify(&verifier, &made("encryption")), Err(Untrusted::Forged));
    assert_eq!(verify(&verifier, &made("RS512")), Err(Untrusted::Forged));
    for kid in ["RS512", "unknown", "ES256-1", "rotated", "RS256-2", ""] {
        let header = format!(r#"{{"alg":"RS256","kid":"{kid}"}}"#);
        assert_eq!(verify(&verifier, &token_with("RS256", &header, "{}")), Err(Untrusted::Forged), "{kid}");
    }
    // A key file has no key ids.
    let single = self::verifier("RS256", "RS256.public.pem").unwrap();
    assert!(verify(&single, &token_with("RS256", r#"{"alg":"RS256","kid":"any"}"#, "{}")).is_ok());
}

#[test]
fn a_token_without_key_id_is_tried_against_at_most_sixteen_keys() {
    let secret = |number: u8| [number; 32];
    let key = |number| {
        let k = URL_SAFE_NO_PAD.encode(secret(number));
        format!(r#"{{"kty":"oct","kid":"{number}","k":"{k}"}}"#)
    };
    let keys: Vec<_> = (1..=17).map(key).collect();
    let set = format!(r#"{{"keys":[{}]}}"#, keys.join(","));
    let verifier = Verifier::new("HS256", KeyFile::Set(set.as_bytes()), Vec::new(), String::new()).unwrap();
    for (header, number, trusted) in [
        (r#"{"alg":"HS256"}"#, 1, true),
        (r#"{"alg":"HS256"}"#, 16, true),
        (r#"{"alg":"HS256"}"#, 17, false),
        (r#"{"alg":"HS256","kid":"17"}"#, 17, true),
    ] {
        let said = verify(&verifier, &hmac_token(header, "{}", &secret(number)));
        assert_eq!(said.is_ok(), trusted, "{header} {number}");
    }
}

#[test]
fn the_algorithm_is_fixed_by_setting_never_by_the_token() {
    let claims = r#"{"sub":"john"}"#;
    for algorithm in ALGORITHMS {
        let verifier = verifier(algorithm, &key_file(algorithm)).unwrap();
        assert!(verify(&verifier, &token(algorithm, claims)).is_ok(), "{algorithm}");
        for other in
            ["none", "None", "NONE", "", "HS256", "HS384", "RS256", "PS256", "ES256", "EdDSA", "hs256"]
        {
            if other == algorithm {
                continue;
            }
            let header = format!(r#"{{"alg":"{other}"}}"#);
            let forged = token_with(algorithm, &header, claims);
            assert!(verify(&verifier, &forged).is_err(), "{other} as {algorithm}");
            let unsigned = format!("{}.", forged.rsplit_once('.').unwrap().0);
            assert!(verify(&verifier, &unsigned).is_err(), "{other} as {algorithm}");
            // The public key must not serve as an HMAC secret, whatever the token's header claims.
            for said in [&header, r#"{"alg":"HS256"}"#, &format!(r#"{{"alg":"{algorithm}"}}"#)] {
                let public = read(&key_file(algorithm));
                if algorithm != "HS256" {
                    let forged = hmac_token(said, claims, &public);
                    assert!(verify(&verifier, &forged).is_err(), "{said} as {algorithm}");
                }
            }
        }
        for header in [
            r#"{"typ":"JWT"}"#,
            r#"{"alg":null}"#,
            &format!(r#"{{"alg":"{algorithm}","crit":["exp"],"exp":1}}"#),
            &format!(r#"{{"alg":"{algorithm}","b64":false,"crit":["b64"]}}"#),
            &format!(r#"{{"alg":"{algorithm}","alg":"{algorithm}"}}"#),
            &format!(r#"{{"alg":["{algorithm}"]}}"#),
            "",
        ] {
            assert!(
                verify(&verifier, &token_with(algorithm, header, claims)).is_err(),
                "{header} as {algorithm}"
            );
        }
    }
}

#[test]
fn expiry_and_not_before_are_enforced() {
    let end = |exp| claimed(&format!(r#"{{"exp":{exp}}}"#)).map(|claims| claims.expires_at);
    assert_eq!(end("1735689601"), Ok(Some(at(NOW + 1))));
    assert_eq!(end("1735689600.5"), Ok(Some(at(NOW) + Duration::from_millis(500))));
    assert_eq!(claimed("{}"), Ok(Claims::default()));
    for past in ["1735689600", "1735689599", "0", "1735689599.9"] {
        assert_eq!(end(past), Err(Untrusted::Expired), "{past}");
    }
    for senseless in ["-1", "1e300", "1e400", "\"1735689700\"", "null", "true", "[1735689700]", "{}"] {
        assert_eq!(end(senseless), Err(Untrusted::Malformed), "{senseless}");
    }
    for (nbf, expected) in [
        ("1735689600", None),
        ("1735689605", None),
        ("1735689606", Some(Untrusted::NotYetValid)),
        ("\"soon\"", Some(Untrusted::Malformed)),
        ("null", Some(Untrusted::Malformed)),
    ] {
        assert_eq!(claimed(&format!(r#"{{"nbf":{nbf}}}"#)).err(), expected, "{nbf}");
    }
}

#[test]
fn the_subject_and_its_groups_must_be_strings() {
    for (claims, subject, groups) in [
        (r#"{"sub":"john"}"#, Some("john"), &[][..]),
        (r#"{"sub":"jo\u0068n ü"}"#, Some("john ü"), &[]),
        (r#"{"sub":7}"#, Some("7"), &[]),
        (r#"{"sub":-7}"#, Some("-7"), &[]),
        (r#"{"sub":18446744073709551615}"#, Some("18446744073709551615"), &[]),
        (r#"{"sub":"john","groups":["a","b"],"iat":"x","other":[{}]}"#, Some("john"), &["a", "b"]),
        (r#"{"sub":"john","groups":null}"#, Some("john"), &[]),
        (r#"{"sub":"","groups":["a"]}"#, None, &[]),
        (r#"{"groups":["a"]}"#, None, &[]),
    ] {
        let said = claimed(claims).unwrap();
        assert_eq!(said.subject.as_deref(), subject, "{claims}");
        assert_eq!(said.groups, groups, "{claims}");
    }
    for claims in [
        r#"{"sub":null}"#,
        r#"{"sub":1.5}"#,
        r#"{"sub":true}"#,
        r#"{"sub":["john"]}"#,
        r#"{"sub":"john","groups":"staff"}"#,
        r#"{"sub":"john","groups":[1]}"#,
        r#"{"sub":"john","groups":[null]}"#,
        r#"{"sub":"john","groups":[],"groups":[]}"#,
        r#"{"sub":"john","groups":{"staff":true}}"#,
        r#"{"sub":"john","sub":"mary"}"#,
        r#"["john"]"#,
        r#""john""#,
        "",
        "{",
        r#"{"sub":"john"} "#,
    ] {
        let expected = if claims.ends_with("} ") { None } else { Some(Untrusted::Malformed) };
        assert_eq!(claimed(claims).err(), expected, "{claims}");
    }
}

#[test]
fn the_claims_for_user_and_groups_are_configurable() {
    let verifier = verifier("HS256", "HS256.key").unwrap();
    let verifier = verifier.with_claims("user_id".to_owned(), "https://example.com/groups".to_owned());
    for (claims, subject, groups) in [
        (r#"{"user_id":7,"sub":"john","groups":["a"]}"#, Some("7"), &[][..]),
        (r#"{"user_id":"7","https://example.com/groups":["a"]}"#, Some("7"), &["a"]),
        (r#"{"user_id":"7","https://example.com/groups":null,"groups":7}"#, Some("7"), &[]),
        (r#"{"sub":"john"}"#, None, &[]),
    ] {
        let said = verify(&verifier, &token("HS256", claims)).unwrap();
        assert_eq!(said.subject.as_deref(), subject, "{claims}");
        assert_eq!(said.groups, groups, "{claims}");
    }
    for claims in [
        r#"{"user_id":null}"#,
        r#"{"user_id":true}"#,
        r#"{"user_id":1.5}"#,
        r#"{"user_id":{"id":7}}"#,
        r#"{"user_id":7,"user_id":8}"#,
        r#"{"user_id":7,"https://example.com/groups":"a"}"#,
    ] {
        assert_eq!(verify(&verifier, &token("HS256", claims)), Err(Untrusted::Malformed), "{claims}");
    }
}

#[test]
fn the_error_for_a_token_without_user_suggests_a_claim() {
    for (claims, other) in [
        (r#"{"user_id":7}"#, Some("user_id")),
        (r#"{"email":"j@example.com","preferred_username":"john"}"#, Some("preferred_username")),
        (r#"{"sub":"","email":"","user_id":null}"#, None),
        (r#"{"sub":"john","user_id":7}"#, None),
        ("{}", None),
    ] {
        assert_eq!(claimed(claims).unwrap().other_name, other, "{claims}");
    }
}

#[test]
fn names_above_1024_bytes_are_refused() {
    let of = |bytes: usize| "j".repeat(bytes);
    assert_eq!(claimed(&format!(r#"{{"sub":"{}"}}"#, of(1024))).unwrap().subject, Some(of(1024)));
    for claims in [
        format!(r#"{{"sub":"{}"}}"#, of(1025)),
        format!(r#"{{"sub":"{}"}}"#, "ü".repeat(513)),
        format!(r#"{{"sub":"john","groups":["{}"]}}"#, of(1025)),
    ] {
        assert_eq!(claimed(&claims), Err(Untrusted::Malformed), "{claims:.60}");
    }
}

#[test]
fn audience_and_issuer_are_checked_if_configured() {
    let key = |audience: &[&str], issuer| restricted("HS256", "HS256.key", audience, issuer).unwrap();
    for (audience, issuer, claims, trusted) in [
        (&[][..], "", r#"{"aud":"x","iss":"y"}"#, true),
        (&["a", "b"], "", r#"{"aud":"b"}"#, true),
        (&["a", "b"], "", r#"{"aud":["x","a"]}"#, true),
        (&["a"], "", r#"{"aud":["x","A"]}"#, false),
        (&["a"], "", r#"{"aud":[]}"#, false),
        (&["a"], "", "{}", false),
        (&[], "me", r#"{"iss":"me"}"#, true),
        (&[], "me", r#"{"iss":"me/"}"#, false),
        (&[], "me", "{}", false),
        (&["a"], "me", r#"{"aud":"a"}"#, false),
        (&["a"], "me", r#"{"iss":"me"}"#, false),
        (&["a"], "me", r#"{"aud":"a","iss":"me"}"#, true),
    ] {
        let said = verify(&key(audience, issuer), &token("HS256", claims)).map(|_| ());
        assert_eq!(
            said,
            if trusted { Ok(()) } else { Err(Untrusted::WrongAudience) },
            "{audience:?} {claims}"
        );
    }
    for claims in
        [r#"{"aud":null}"#, r#"{"aud":1}"#, r#"{"aud":[1]}"#, r#"{"iss":null}"#, r#"{"iss":["me"]}"#]
    {
        assert_eq!(claimed(claims), Err(Untrusted::Malformed), "{claims}");
    }
}

#[test]
fn text_that_is_not_a_token_is_malformed_and_a_long_token_is_rejected_unparsed() {
    let verifier = verifier("HS256", "HS256.key").unwrap();
    let sound = made("HS256");
    let parts: Vec<_> = sound.split('.').collect();
    for text in [
        "",
        ".",
        "..",
        "...",
        "x",
        &parts[0..2].join("."),
        &format!("{sound}."),
        &format!(".{sound}"),
        &format!("{sound}="),
        &format!(" {sound}"),
        &format!("{sound}\n"),
        &parts.join(".."),
        &"[".repeat(4000),
    ] {
        assert_eq!(verify(&verifier, text), Err(Untrusted::Malformed), "{text:?}");
    }
    let padded = |count| token("HS256", &format!(r#"{{"sub":"john","pad":"{}"}}"#, "x".repeat(count)));
    assert!(padded(6000).len() < 8 * 1024 && verify(&verifier, &padded(6000)).is_ok());
    assert!(padded(6200).len() > 8 * 1024);
    assert_eq!(verify(&verifier, &padded(6200)), Err(Untrusted::Malformed));
}

#[test]
fn invalid_keys_are_rejected_with_a_cure() {
    let single = |algorithm: &str, bytes: &[u8]| {
        Verifier::new(algorithm, KeyFile::Key(bytes), Vec::new(), String::new()).unwrap_err().to_string()
    };
    let set = |algorithm: &str, bytes: &[u8]| {
        Verifier::new(algorithm, KeyFile::Set(bytes), Vec::new(), String::new()).unwrap_err().to_string()
    };
    for (error, expected) in [
        (single("RS512", b""), "expected HS256, RS256, ES256 or EdDSA"),
        (single("rs256", b""), "expected HS256, RS256, ES256 or EdDSA"),
        (single("HS256", b""), "at least 32 bytes"),
        (single("HS256", &[b'x'; 31]), "at least 32 bytes"),
        (single("HS256", &[&[b'x'; 31][..], b"\r\n\r\n"].concat()), "at least 32 bytes"),
        (single("HS256", &read("RS256.public.pem")), "PEM"),
        (single("RS256", &read("RS256.private.pem")), "openssl pkey -in private.pem -pubout"),
        (single("ES256", &read("ES256.private.pem")), "private key"),
        (single("EdDSA", &read("EdDSA.private.pem")), "private key"),
        (single("RS256", b"-----BEGIN RSA PRIVATE KEY-----"), "private key"),
        (single("RS256", &read("RS256-1024.public.pem")), "2048"),
        (single("RS256", &read("ES256.public.pem")), "public key for RS256"),
        (single("ES256", &read("ES384.public.pem")), "public key for ES256"),
        (single("ES256", &read("EdDSA.public.pem")), "public key for ES256"),
        (single("EdDSA", &read("RS256.public.pem")), "public key for EdDSA"),
        (single("EdDSA", b"{}"), "-----BEGIN PUBLIC KEY-----"),
        (set("RS256", b""), "expected a JWKS"),
        (set("RS256", b"{\"keys\":\n{}}"), "line 2"),
        (set("RS256", &read("RS256.public.pem")), "expected a JWKS"),
        (set("RS256", b"{\"keys\":[]}"), "no key for RS256"),
        (set("ES256", br#"{"keys":[{"kty":"EC","crv":"P-384","x":"AA","y":"AA"}]}"#), "no key for ES256"),
        (set("ES256", br#"{"keys":[{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}]}"#), "no key for ES256"),
        (set("EdDSA", br#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"="}]}"#), "no key for EdDSA"),
        (set("RS256", br#"{"keys":[{"kty":"RSA","n":"AQAB","e":"AQAB"}]}"#), "2048"),
        (set("HS256", br#"{"keys":[{"kty":"oct","k":"c2VjcmV0"}]}"#), "at least 32 bytes"),
        (set("RS256", br#"{"keys":[{"kty":"RSA","n":"AQAB","e":"AQAB","d":"AQAB"}]}"#), "private key"),
    ] {
        assert!(error.contains(expected), "{expected}: {error}");
        assert!(!error.contains("c2VjcmV0"), "{error}");
    }
    let shown = format!("{:?}", verifier("HS256", "HS256.key").unwrap());
    let secret = String::from_utf8(read("HS256.key")).unwrap();
    assert!(shown.contains("HS256") && !shown.contains(secret.trim()), "{shown}");
    assert_eq!(format!("{:?}", Token::new("x").fingerprint()), "Fingerprint(***)");
    assert_ne!(Token::new("x").fingerprint(), Token::new("y").fingerprint());
}

proptest! {
    /// A change of any character makes a token invalid.
    #[test]
    fn a_token_with_any_changed_byte_is_untrusted(
        which in 0..4_usize,
        set: bool,
        place: prop::sample::Index,
        byte in 0..128_u8,
    ) {
        let algorithm = ALGORITHMS[which];
        let file = if set { "jwks.json".to_owned() } else { key_file(algorithm) };
        let verifier = verifier(algorithm, &file).unwrap();
        let mut token = made(algorithm).into_bytes();
        let place = place.index(token.len());
        prop_assume!(token[place] != byte);
        token[place] = byte;
        prop_assert!(verify(&verifier, &String::from_utf8(token).unwrap()).is_err());
    }

    /// No random text is accepted as a token, and none causes a panic.
    #[test]
    fn random_text_is_never_trusted(text in "[ -~]{0,40}(\\.[A-Za-z0-9_-]{0,60}){0,4}", header in "\\PC{0,80}", claims in "\\PC{0,80}") {
        let verifier = verifier("HS256", "HS256.key").unwrap();
        prop_assert!(verify(&verifier, &text).is_err());
        let _ = verify(&verifier, &token_with("HS256", &header, &claims));
        let _ = verify(&verifier, &token("HS256", &claims));
    }
}
