//! Settings of `[admin]`, the listener for the operator, checked.

use std::fmt;
use std::time::Duration;

use serde::Deserialize;

use super::error::SettingsError;
use super::fields::{invalid, list, require, seconds, secret};
use super::sections::Listen;
use crate::access::{AllowedHosts, is_loopback};

/// Permissions of the unix socket: everything that the listener shows and does is for its owner.
const UNIX_MODE: u32 = 0o600;

/// Shortest token. It opens everything to its holder, and nothing limits how often it is guessed.
const MIN_TOKEN_BYTES: usize = 16;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAdmin {
    listen: String,
    token: String,
    token_file: String,
    #[serde(deserialize_with = "list")]
    hosts: Vec<String>,
    max_connections: usize,
    request_seconds: u32,
    details: bool,
}

/// Limits that apply to each listener for the operator.
#[derive(Debug, Clone, Copy)]
pub(super) struct AdminLimits {
    max_connections: usize,
    request: Duration,
}

/// A listener for the operator.
#[derive(Clone)]
pub struct AdminSettings {
    /// The address to listen on.
    pub listen: Listen,
    /// Whether only this machine can reach the address.
    pub is_local: bool,
    /// The token; without one, requests over TCP only read.
    pub token: Option<String>,
    /// Values of the Host header that are answered.
    pub hosts: AllowedHosts,
    /// Limit of concurrent connections.
    pub max_connections: usize,
    /// Timeout of a request and its answer.
    pub request: Duration,
    /// Whether connections keep the visitor's address and program.
    pub details: bool,
}

impl AdminSettings {
    /// Returns the settings of a listener that only this machine can reach; `None` for an empty address.
    pub(super) fn loopback(
        address: String,
        key: &'static str,
        limits: AdminLimits,
    ) -> Result<Option<Self>, SettingsError> {
        if address.is_empty() {
            return Ok(None);
        }
        let listen = Listen::parse(address, UNIX_MODE).filter(|listen| matches!(listen, Listen::Tcp(_)));
        let listen = listen.ok_or_else(|| invalid(key, "expected host:port, for example 127.0.0.1:5001"))?;
        require(
            is_local(&listen),
            key,
            "other machines can reach this address, and there is no token for it; listen on 127.0.0.1, or use /yunity of admin.listen",
        )?;
        let AdminLimits { max_connections, request } = limits;
        let hosts = AllowedHosts::default();
        Ok(Some(Self {
            listen,
            is_local: true,
            token: None,
            hosts,
            max_connections,
            request,
            details: false,
        }))
    }
}

fn is_local(listen: &Listen) -> bool {
    match listen {
        Listen::Tcp(address) => address.rsplit_once(':').is_some_and(|(host, _)| is_loopback(host)),
        Listen::Unix(..) => true,
    }
}

impl RawAdmin {
    pub(super) fn limits(&self) -> AdminLimits {
        AdminLimits { max_connections: self.max_connections, request: seconds(self.request_seconds) }
    }

    pub(super) fn check(self) -> Result<Option<AdminSettings>, SettingsError> {
        let AdminLimits { max_connections, request } = self.limits();
        let mut token = self.token;
        if !self.token_file.is_empty() {
            require(token.is_empty(), "admin.token_file", "admin.token is set, too; choose one")?;
            token = secret(&self.token_file, "admin.token_file")?;
            require(!token.is_empty(), "admin.token_file", "contains no token")?;
        }
        let token = Some(token).filter(|token| !token.is_empty());
        if let Some(token) = &token {
            let visible = token.bytes().all(|byte| (0x21..0x7f).contains(&byte));
            require(visible, "admin.token", "must be printable ASCII without blanks")?;
            require(
                token.len() >= MIN_TOKEN_BYTES,
                "admin.token",
                "must have at least 16 characters; `openssl rand -hex 32` makes one",
            )?;
        }
        let hosts = AllowedHosts::new(&self.hosts).map_err(|entry| SettingsError::Invalid {
            key: "admin.hosts",
            problem: format!("{entry:?} is neither a host nor host:port, as in gateway.internal:9000"),
        })?;
        let details = self.details;
        if self.listen.is_empty() {
            let unused = token.is_none() && hosts.is_empty() && !details;
            require(
                unused,
                "admin.listen",
                "is empty, so the token, the hosts and the details have no effect",
            )?;
            return Ok(None);
        }
        let listen = Listen::parse(self.listen, UNIX_MODE).ok_or_else(|| {
            invalid("admin.listen", "expected host:port or unix:/path, for example 127.0.0.1:9000")
        })?;
        let is_local = is_local(&listen);
        require(
            is_local || token.is_some(),
            "admin.listen",
            "other machines can reach this address, and there is no token; set admin.token_file, or listen on 127.0.0.1 or unix:/path",
        )?;
        Ok(Some(AdminSettings { listen, is_local, token, hosts, max_connections, request, details }))
    }
}

/// Omits the token.
impl fmt::Debug for AdminSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdminSettings")
            .field("listen", &self.listen)
            .field("is_local", &self.is_local)
            .field("has_token", &self.token.is_some())
            .field("hosts", &self.hosts)
            .field("max_connections", &self.max_connections)
            .field("request", &self.request)
            .field("details", &self.details)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;

    const TOKEN: &str = "admin.token=0123456789abcdef";

    fn load(assignments: &[&str]) -> Result<Option<AdminSettings>, String> {
        let assignments: Vec<_> = assignments.iter().map(|text| (*text).to_owned()).collect();
        let loaded = Settings::load(None, std::iter::empty(), &assignments);
        loaded.map(|(settings, _)| settings.admin).map_err(|error| error.to_string())
    }

    #[test]
    fn an_address_that_other_machines_can_reach_needs_a_token() {
        for (listen, local) in [
            ("127.0.0.1:9000", true),
            ("127.1.2.3:9000", true),
            ("[::1]:9000", true),
            ("localhost:9000", true),
            ("unix:/run/ws4redis/admin.sock", true),
            ("0.0.0.0:9000", false),
            ("10.0.0.5:9000", false),
            ("[::]:9000", false),
            ("localhost.example:9000", false),
        ] {
            let listen = format!("admin.listen={listen}");
            let without = load(&[&listen]);
            if local {
                assert!(without.unwrap().unwrap().is_local, "{listen}");
            } else {
                let error = without.unwrap_err();
                assert!(
                    error.contains("admin.listen: ") && error.contains("set admin.token_file"),
                    "{error}"
                );
            }
            let with = load(&[&listen, TOKEN]).unwrap().unwrap();
            assert_eq!((with.is_local, with.token.as_deref()), (local, Some("0123456789abcdef")), "{listen}");
            assert!(!format!("{with:?}").contains("0123456789abcdef"), "{with:?}");
        }
    }

    #[test]
    fn settings_that_cannot_be_meant_are_refused() {
        let listen = "admin.listen=127.0.0.1:9000";
        assert!(load(&[]).unwrap().is_none());
        for (assignments, expected) in [
            (vec![TOKEN], "admin.listen: is empty"),
            (vec!["admin.hosts=a.example"], "admin.listen: is empty"),
            (vec!["admin.details=true"], "admin.listen: is empty"),
            (vec!["admin.listen=9000"], "admin.listen: expected host:port"),
            (vec!["admin.listen=unix:admin.sock"], "admin.listen: expected host:port"),
            (vec![listen, "admin.token=short"], "admin.token: must have at least 16"),
            (vec![listen, "admin.token=0123456789abcde ä"], "admin.token: must be printable"),
            (vec![listen, "admin.token_file=/dev/null/none"], "admin.token_file: cannot read"),
            (vec![listen, TOKEN, "admin.token_file=Cargo.toml"], "admin.token_file: admin.token is set"),
            (vec![listen, "admin.hosts=http://a.example"], "admin.hosts: \"http://a.example\""),
            (vec![listen, "admin.max_connections=0"], "admin.max_connections: must be an integer from 1"),
            (vec![listen, "admin.request_seconds=301"], "admin.request_seconds: must be an integer from 1"),
        ] {
            let error = load(&assignments).unwrap_err();
            assert!(error.contains(expected), "{assignments:?}: {error}");
        }
    }
}
