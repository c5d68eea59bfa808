//! What yunity-sockets lists of a client's handshake: the `handshake` of Socket.IO 1.x, as JSON, without its secrets.

use std::borrow::Cow;
use std::fmt::Write;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::query_pairs;
use super::socket_io::push_json_string;
use super::timestamp::date_text;

/// Replaces a secret.
const MASK: &str = "***";

/// Words in the names of headers and query parameters that hold secrets. A name too many does no harm.
const SECRET_WORDS: &[&str] = &[
    "auth",
    "bearer",
    "cookie",
    "credential",
    "csrf",
    "jwt",
    "key",
    "pass",
    "secret",
    "session",
    "sid",
    "sign",
    "ticket",
    "token",
];

/// May hold a token, as an offered subprotocol.
const PROTOCOL: &str = "sec-websocket-protocol";

/// The start of a JSON Web Token: `{"` in base64.
const JWT_START: &str = "eyJ";

/// Most bytes of a record. Headers and parameters that do not fit are left out.
const MAX_BYTES: usize = 16 << 10;

/// Most bytes of its headers.
const MAX_HEADER_BYTES: usize = 8 << 10;

/// Most bytes of the URL, which is cut.
const MAX_URL_BYTES: usize = 1 << 10;

/// Most parameters of a query.
const MAX_PARAMETERS: usize = 100;

/// What a client's handshake was, as JSON. It holds no secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandshakeRecord(Arc<str>);

/// A handshake as it arrived, with its secrets.
pub struct HandshakeParts<'a> {
    /// Names in lower case, and values.
    pub headers: Vec<(&'a str, Cow<'a, str>)>,
    /// The path.
    pub path: &'a str,
    /// The query.
    pub query: Option<&'a str>,
    /// The visitor's address; none through a unix socket.
    pub address: Option<IpAddr>,
    /// The time since 1970.
    pub time: Duration,
}

impl HandshakeRecord {
    /// Returns the record of a handshake. Headers for which `is_secret` is true are masked, in addition to those whose names
    /// or values look like secrets.
    pub fn new(parts: &HandshakeParts<'_>, is_secret: impl Fn(&str) -> bool) -> Self {
        let HandshakeParts { headers, path, query, address, time } = parts;
        let mut out = String::from(r#"{"headers":{"#);
        for (name, value) in headers {
            let value = without_secrets_in_query(value);
            let is_masked = is_secret(name) || *name == PROTOCOL || is_secret_pair(name, &value);
            let value = if is_masked { MASK.into() } else { value };
            push_member(&mut out, name, MAX_HEADER_BYTES, |out| push_json_string(out, &value));
        }
        out.push_str(r#"},"time":"#);
        push_json_string(&mut out, &date_text(time.as_secs()));
        if let Some(address) = address {
            out.push_str(r#","address":"#);
            push_json_string(&mut out, &address.to_string());
        }
        let has_origin = headers.iter().any(|(name, _)| *name == "origin");
        let milliseconds = time.as_millis();
        // Writing to a string cannot fail.
        let _ = write!(out, r#","xdomain":{has_origin},"secure":false,"issued":{milliseconds},"url":"#);
        let url = query
            .map_or(Cow::Borrowed(*path), |query| Cow::Owned(format!("{path}?{}", without_secrets(query))));
        push_json_string(&mut out, &url[..url.floor_char_boundary(MAX_URL_BYTES)]);
        out.push_str(r#","query":{"#);
        for (name, values) in parameters_by_name(*query) {
            push_member(&mut out, &name, MAX_BYTES - 2, |out| push_values(out, &values));
        }
        out.push_str("}}");
        Self(out.into())
    }

    /// Returns the record as a JSON object.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Appends a member to an object, unless the text would be longer than `most`.
fn push_member(out: &mut String, name: &str, most: usize, push_value: impl FnOnce(&mut String)) {
    let length = out.len();
    if !out.ends_with('{') {
        out.push(',');
    }
    push_json_string(out, name);
    out.push(':');
    push_value(out);
    if out.len() > most {
        out.truncate(length);
    }
}

/// Appends the value of a parameter: a list if it was given several times, as in Node.js.
fn push_values(out: &mut String, values: &[Cow<'_, str>]) {
    if let [value] = values {
        return push_json_string(out, value);
    }
    for (index, value) in values.iter().enumerate() {
        out.push(if index == 0 { '[' } else { ',' });
        push_json_string(out, value);
    }
    out.push(']');
}

/// Returns the parameters of a query with their values, masked.
fn parameters_by_name(query: Option<&str>) -> Vec<(Cow<'_, str>, Vec<Cow<'_, str>>)> {
    let mut found: Vec<(Cow<'_, str>, Vec<Cow<'_, str>>)> = Vec::new();
    for (name, value) in query_pairs(query).take(MAX_PARAMETERS) {
        let value = if is_secret_pair(&name, &value) { MASK.into() } else { value };
        let name = if name.contains(JWT_START) { MASK.into() } else { name };
        match found.iter_mut().find(|(known, _)| *known == name) {
            Some((_, values)) => values.push(value),
            None => found.push((name, vec![value])),
        }
    }
    found
}

/// Returns a query with its secrets masked, and without the parameters above the most.
fn without_secrets(query: &str) -> String {
    let pairs = query.split('&').take(MAX_PARAMETERS).map(|pair| {
        let decoded = query_pairs(Some(pair)).next();
        let is_secret = decoded.as_ref().is_some_and(|(name, value)| is_secret_pair(name, value));
        let (name, _) = pair.split_once('=').filter(|_| is_secret).unwrap_or((pair, ""));
        match decoded {
            Some((decoded, _)) if decoded.contains(JWT_START) => MASK.to_owned(),
            _ if is_secret => format!("{name}={MASK}"),
            _ => pair.to_owned(),
        }
    });
    pairs.collect::<Vec<_>>().join("&")
}

/// Returns the value of a header; if that is a URL, as in `Referer`, with the secrets in its query masked.
fn without_secrets_in_query(value: &str) -> Cow<'_, str> {
    match value.split_once('?') {
        Some((before, query)) => format!("{before}?{}", without_secrets(query)).into(),
        None => value.into(),
    }
}

/// Returns whether a header or a parameter looks like a secret.
fn is_secret_pair(name: &str, value: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    SECRET_WORDS.iter().any(|word| lower.contains(word))
        || [name, value].iter().any(|text| text.contains(JWT_START))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::socket_io::validate_json;

    fn record(headers: &[(&str, &str)], path: &str, query: Option<&str>) -> String {
        let headers = headers.iter().map(|(name, value)| (*name, Cow::Borrowed(*value))).collect();
        let (address, time) = (Some([192, 0, 2, 7].into()), Duration::from_millis(951_782_400_123));
        let parts = HandshakeParts { headers, path, query, address, time };
        HandshakeRecord::new(&parts, |name| name == "x-visitor").as_str().to_owned()
    }

    #[test]
    fn a_record_has_the_members_that_socket_io_gave_a_handshake() {
        let headers = [("host", "a.example"), ("user-agent", "\"x\"")];
        assert_eq!(
            record(&headers, "/socket/", Some("EIO=3&transport=polling&t=L&a=1&a=%C5%BC&b")),
            concat!(
                r#"{"headers":{"host":"a.example","user-agent":"\"x\""},"#,
                r#""time":"Tue Feb 29 2000 00:00:00 GMT+0000 (Coordinated Universal Time)","address":"192.0.2.7","#,
                r#""xdomain":false,"secure":false,"issued":951782400123,"#,
                r#""url":"/socket/?EIO=3&transport=polling&t=L&a=1&a=%C5%BC&b","#,
                r#""query":{"EIO":"3","transport":"polling","t":"L","a":["1","ż"],"b":""}}"#
            )
        );
        let record = record(&[("origin", "null")], "/socket", None);
        assert!(record.contains(r#""xdomain":true"#) && record.ends_with(r#""url":"/socket","query":{}}"#));
    }

    #[test]
    fn secrets_are_masked_wherever_they_are() {
        let headers = [
            ("cookie", "sessionid=S3CRET"),
            ("authorization", "Bearer S3CRET"),
            ("proxy-authorization", "S3CRET"),
            ("sec-websocket-protocol", "bearer.S3CRET"),
            ("x-csrftoken", "S3CRET"),
            ("x-api-key", "S3CRET"),
            ("x-amzn-oidc-data", "eyJhbGciOiJIUzI1NiJ9.S3CRET"),
            ("x-visitor", "S3CRET"),
            ("referer", "https://a.example/chat?next=1&token=S3CRET&x=eyJS3CRET"),
        ];
        let query = "EIO=3&sid=S3CRET&Token=S3CRET&%61ccess_token=S3CRET&sessionId=S3CRET&q=eyJS3CRET&eyJS3CRET\
                     &eyJS3CRET=1&t%6Fken=S3CRET&api+key=S3CRET&page=2";
        let record = record(&headers, "/socket/", Some(query));
        assert!(!record.contains("S3CRET"), "{record}");
        for kept in [
            r#""referer":"https://a.example/chat?next=1&token=***&x=***""#,
            r#""url":"/socket/?EIO=3&sid=***&Token=***&%61ccess_token=***&sessionId=***&q=***&***&***&"#,
            r#""EIO":"3","sid":"***","Token":"***","access_token":"***","sessionId":"***","q":"***","***":["#,
            r#""page":"2"}}"#,
        ] {
            assert!(record.contains(kept), "{kept}: {record}");
        }
    }

    #[test]
    fn a_record_is_bounded() {
        let long = "\"".repeat(20_000);
        let many: Vec<_> = (0..100).map(|_| ("x-some", "\"\\\"\\\"\\\"\\".repeat(100))).collect();
        let many: Vec<_> = many.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let queries =
            [long.clone(), "a=%00%00%00&".repeat(2_000), "ż=ż&".repeat(1_000), format!("a={long}&b=1")];
        for query in &queries {
            for headers in [&many[..], &[("a", long.as_str()), ("b", "short")]] {
                let record = record(headers, &long, Some(query));
                assert!(record.len() <= MAX_BYTES, "{}", record.len());
                assert!(record.ends_with("}}"), "{record}");
                assert_eq!(validate_json(&record, None), Ok(()));
            }
        }
    }
}
