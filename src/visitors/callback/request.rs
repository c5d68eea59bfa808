//! A request to the callback: the visitor's credentials, its facility and its flags.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::IpAddr;

use ring::digest::{Context, SHA256, SHA256_OUTPUT_LEN};

use crate::access::Credentials;
use crate::wire::{Facility, Flags, Handshake};

/// SHA-256 of all parts of a request: equal requests have equal digests.
pub(super) type Digest = [u8; SHA256_OUTPUT_LEN];

/// A header's name in lower case, and its value.
type Header = (Box<str>, Box<[u8]>);

/// A request to the callback. It holds credentials, so `Debug` shows none of it.
pub struct CallbackRequest {
    headers: Box<[Header]>,
    address: Option<IpAddr>,
    facility: Facility,
    flags: Flags,
    digest: Digest,
}

impl CallbackRequest {
    /// Creates the request for a handshake. Without `with_address` the site receives the visitor's address only in a
    /// forwarded header of a proxy.
    pub fn new(credentials: &Credentials, handshake: &Handshake, with_address: bool) -> Self {
        let headers = credentials.headers.iter();
        let headers = headers.map(|(name, value)| (name.as_str().into(), value.as_slice().into())).collect();
        let address = credentials.address.filter(|_| with_address);
        let mut request = Self {
            headers,
            address,
            facility: handshake.facility.clone(),
            flags: handshake.flags,
            digest: Digest::default(),
        };
        request.digest = request.digest();
        request
    }

    /// Creates the request for a visitor without credentials.
    pub fn anonymous() -> Self {
        let handshake = Handshake { facility: Facility::new(""), flags: Flags::default() };
        Self::new(&Credentials::default(), &handshake, false)
    }

    /// Returns the visitor's headers: names in lower case, and values.
    pub(super) fn headers(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.headers.iter().map(|(name, value)| (&**name, &**value))
    }

    /// Returns the address that the site receives.
    pub(super) fn address(&self) -> Option<IpAddr> {
        self.address
    }

    /// Returns the facility.
    pub(super) fn facility(&self) -> &str {
        self.facility.as_str()
    }

    /// Returns the names of the flags that the site may allow.
    pub(super) fn flags(&self) -> impl Iterator<Item = String> {
        self.flags.names()
    }

    /// Returns the digest of the request.
    pub(super) fn id(&self) -> Digest {
        self.digest
    }

    fn digest(&self) -> Digest {
        let mut context = Context::new(&SHA256);
        // The number of headers and the length of each part are hashed too, so that no two requests hash the same bytes.
        let mut add = |part: &[u8]| {
            context.update(&(part.len() as u64).to_le_bytes());
            context.update(part);
        };
        add(&(self.headers.len() as u64).to_le_bytes());
        for (name, value) in self.headers() {
            add(name.as_bytes());
            add(value);
        }
        add(self.address.map(|address| address.to_string()).unwrap_or_default().as_bytes());
        add(self.facility.as_str().as_bytes());
        self.flags().for_each(|name| add(name.as_bytes()));
        let mut digest = Digest::default();
        digest.copy_from_slice(context.finish().as_ref());
        digest
    }
}

impl PartialEq for CallbackRequest {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl Eq for CallbackRequest {}

impl Hash for CallbackRequest {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.digest.hash(state);
    }
}

impl fmt::Debug for CallbackRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CallbackRequest(***)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(headers: &[(&str, &str)], address: Option<&str>, path: &str, query: &str) -> CallbackRequest {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec()));
        let credentials = Credentials {
            headers: headers.collect(),
            address: address.map(|address| address.parse().unwrap()),
            ..Credentials::default()
        };
        CallbackRequest::new(&credentials, &Handshake::parse(path, Some(query), "/ws/").unwrap(), true)
    }

    #[test]
    fn requests_that_differ_in_any_part_are_different() {
        let cookie = [("cookie", "a=1")];
        let same = || request(&cookie, Some("10.0.0.1"), "/ws/x", "subscribe-user&echo");
        let others = [
            request(&[], Some("10.0.0.1"), "/ws/x", "subscribe-user"),
            request(&[("cookie", "a=2")], Some("10.0.0.1"), "/ws/x", "subscribe-user"),
            request(&[("x-cookie", "a=1")], Some("10.0.0.1"), "/ws/x", "subscribe-user"),
            request(&[("cookie", "a="), ("1", "")], Some("10.0.0.1"), "/ws/x", "subscribe-user"),
            request(&[cookie[0], cookie[0]], Some("10.0.0.1"), "/ws/x", "subscribe-user"),
            request(&cookie, Some("10.0.0.2"), "/ws/x", "subscribe-user"),
            request(&cookie, None, "/ws/x", "subscribe-user"),
            request(&cookie, None, "/ws/10.0.0.1", "subscribe-user"),
            request(&cookie, Some("10.0.0.1"), "/ws/y", "subscribe-user"),
            request(&cookie, Some("10.0.0.1"), "/ws/x", "publish-user"),
            request(&cookie, Some("10.0.0.1"), "/ws/x", "subscribe-user&publish-user"),
        ];
        assert_eq!(same(), request(&cookie, Some("10.0.0.1"), "/ws/x", "subscribe-user&x=1"));
        let mut ids: Vec<_> = others.iter().map(CallbackRequest::id).collect();
        ids.push(same().id());
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), others.len() + 1);
    }

    #[test]
    fn debug_output_hides_the_credentials() {
        let request = request(&[("cookie", "sessionid=geheim")], None, "/ws/x", "");
        assert_eq!(format!("{request:?}"), "CallbackRequest(***)");
    }
}
