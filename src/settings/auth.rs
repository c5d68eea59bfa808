//! Settings of `[auth]`: the auth callback, checked. Tokens are in `jwt`.

use std::fmt;
use std::time::Duration;

use serde::Deserialize;
use url::Url;

use super::error::SettingsError;
use super::fields::{invalid, list, require, secret};
use super::jwt::RawJwt;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAuth {
    callback_url: String,
    callback_secret: String,
    callback_secret_file: String,
    #[serde(deserialize_with = "list")]
    callback_forward: Vec<String>,
    #[serde(deserialize_with = "list")]
    callback_headers: Vec<String>,
    callback_timeout_seconds: u32,
    callback_max_calls: usize,
    callback_cache_seconds: u32,
    callback_recheck_seconds: u32,
    pub(super) jwt: RawJwt,
}

/// The auth callback, which identifies visitors by HTTP.
#[derive(Clone)]
pub struct CallbackSettings {
    /// The URL; http or https.
    pub url: Url,
    /// The secret sent with each call; empty means none.
    pub secret: String,
    /// Headers of the visitor that are forwarded in addition to Cookie and Authorization, in lower case.
    pub forward: Vec<String>,
    /// Headers added to every call: name in lower case, value.
    pub headers: Vec<(String, String)>,
    /// Timeout of a call.
    pub timeout: Duration,
    /// Limit of concurrent calls.
    pub max_calls: usize,
    /// Time for which an answer is cached.
    pub cache: Duration,
    /// Seconds after which an open connection is revalidated at the latest.
    pub recheck_seconds: u32,
}

impl RawAuth {
    pub(super) fn callback(self) -> Result<Option<CallbackSettings>, SettingsError> {
        let mut key = self.callback_secret;
        if !self.callback_secret_file.is_empty() {
            require(key.is_empty(), "auth.callback_secret_file", "callback_secret is set, too; choose one")?;
            key = secret(&self.callback_secret_file, "auth.callback_secret_file")?;
        }
        let visible = key.bytes().all(|byte| (0x21..0x7f).contains(&byte));
        require(visible, "auth.callback_secret", "must be printable ASCII without blanks")?;
        let forward = self.callback_forward.iter().map(|name| header_name(name, "auth.callback_forward"));
        let forward = forward.collect::<Result<_, _>>()?;
        let headers = self.callback_headers.iter().map(|line| header(line)).collect::<Result<_, _>>()?;
        if self.callback_url.is_empty() {
            let unused =
                key.is_empty() && self.callback_forward.is_empty() && self.callback_headers.is_empty();
            require(unused, "auth.callback_url", "is empty, so the other callback settings have no effect")?;
            return Ok(None);
        }
        let url = Url::parse(&self.callback_url).ok();
        let url = url.filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        let url = url
            .filter(|url| url.username().is_empty() && url.password().is_none() && url.fragment().is_none());
        let url = url.ok_or_else(|| {
            invalid(
                "auth.callback_url",
                "expected http://host/path or https://host/path, without user or fragment",
            )
        })?;
        Ok(Some(CallbackSettings {
            url,
            secret: key,
            forward,
            headers,
            timeout: Duration::from_secs(self.callback_timeout_seconds.into()),
            max_calls: self.callback_max_calls,
            cache: Duration::from_secs(self.callback_cache_seconds.into()),
            recheck_seconds: self.callback_recheck_seconds,
        }))
    }
}

/// Headers that the call sets itself, and headers of a single connection (RFC 9110, section 7.6.1).
const OWN: &[&str] = &[
    "authorization",
    "connection",
    "content-length",
    "cookie",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-ws4redis-secret",
];

fn header_name(name: &str, key: &'static str) -> Result<String, SettingsError> {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    require(!name.is_empty() && name.bytes().all(token), key, "each has to be the name of a header")?;
    let name = name.to_ascii_lowercase();
    if OWN.contains(&name.as_str()) && !(key == "auth.callback_headers" && name == "host") {
        return Err(SettingsError::Invalid { key, problem: format!("header {name} is reserved") });
    }
    Ok(name)
}

/// Parses `Name: value`.
fn header(line: &str) -> Result<(String, String), SettingsError> {
    const KEY: &str = "auth.callback_headers";
    let (name, value) = line.split_once(':').ok_or_else(|| invalid(KEY, "expected \"Name: value\""))?;
    let value = value.trim();
    require(
        value.bytes().all(|byte| (0x20..0x7f).contains(&byte)),
        KEY,
        "a value has to be printable ASCII",
    )?;
    Ok((header_name(name.trim(), KEY)?, value.to_owned()))
}

/// Omits the secret and the values of headers, which may be secrets, too.
impl fmt::Debug for CallbackSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.headers.iter().map(|(name, _)| name).collect();
        f.debug_struct("Callback")
            .field("url", &self.url.as_str())
            .field("has_secret", &!self.secret.is_empty())
            .field("forward", &self.forward)
            .field("headers", &names)
            .field("timeout", &self.timeout)
            .field("max_calls", &self.max_calls)
            .field("cache", &self.cache)
            .field("recheck_seconds", &self.recheck_seconds)
            .finish()
    }
}
