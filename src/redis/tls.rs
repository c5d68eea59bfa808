//! TLS to Redis: verification of the server's certificate, and the client certificate.

use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use crate::settings::TlsSettings;

/// Returns the TLS configuration.
///
/// # Errors
///
/// With the key of the setting, the problem, and the cure.
pub(super) fn client_config(tls: &TlsSettings) -> Result<ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = verifier(tls, provider.clone())?;
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("redis.url: TLS cannot be set up: {error}"))?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let Some((certificate, key)) = &tls.client else { return Ok(config.with_no_client_auth()) };
    let chain = certificates(certificate, "redis.client_cert_file")?;
    let unreadable = |error: &dyn std::fmt::Display| {
        format!("redis.client_key_file: no private key can be read in {}: {error}", key.display())
    };
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| unreadable(&error))?;
    config
        .with_client_auth_cert(chain, private)
        .map_err(|error| format!("redis.client_key_file: does not belong to redis.client_cert_file: {error}"))
}

fn verifier(tls: &TlsSettings, provider: Arc<CryptoProvider>) -> Result<Arc<ServerVerifier>, String> {
    if !tls.verify {
        return Ok(Arc::new(ServerVerifier { chain: None, pinned: Vec::new(), provider }));
    }
    let (named, key) = match &tls.ca_file {
        Some(file) => (certificates(file, "redis.ca_file")?, "redis.ca_file"),
        None => (rustls_native_certs::load_native_certs().certs, "redis.url"),
    };
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(named.iter().cloned());
    if roots.is_empty() {
        return Err(if tls.ca_file.is_some() {
            "redis.ca_file: contains no certificate of an authority".to_owned()
        } else {
            "redis.url: for TLS there are no certificates of authorities on this machine; install the package ca-certificates, or set SSL_CERT_FILE, or redis.ca_file".to_owned()
        });
    }
    let chain = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build();
    let chain = chain.map_err(|error| format!("{key}: {error}"))?;
    let pinned = if tls.ca_file.is_some() { named } else { Vec::new() };
    Ok(Arc::new(ServerVerifier { chain: Some(chain), pinned, provider }))
}

fn certificates(file: &Path, key: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let unreadable = |error: &dyn std::fmt::Display| {
        format!("{key}: no certificates in PEM can be read in {}: {error}", file.display())
    };
    let read = CertificateDer::pem_file_iter(file).map_err(|error| unreadable(&error))?;
    let read = read.collect::<Result<Vec<_>, _>>().map_err(|error| unreadable(&error))?;
    if read.is_empty() { Err(unreadable(&"no certificate found")) } else { Ok(read) }
}

/// Verifies the server's certificate.
#[derive(Debug)]
struct ServerVerifier {
    /// Verifies the chain to an authority; none if verification is off.
    chain: Option<Arc<WebPkiServerVerifier>>,
    /// Certificates trusted by themselves, for any host name, until they expire: webpki rejects a self-signed
    /// certificate as its own authority, while OpenSSL accepts it in a CA file.
    pinned: Vec<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(chain) = &self.chain else { return Ok(ServerCertVerified::assertion()) };
        match chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // webpki checks the validity period first, so any other error implies a certificate within its period.
            Err(Error::InvalidCertificate(error))
                if !is_about_time(&error) && self.pinned.contains(end_entity) =>
            {
                Ok(ServerCertVerified::assertion())
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn is_about_time(error: &CertificateError) -> bool {
    use CertificateError::{Expired, ExpiredContext, NotValidYet, NotValidYetContext};
    matches!(error, Expired | ExpiredContext { .. } | NotValidYet | NotValidYetContext { .. })
}

/// Returns the cure for a TLS error; empty for other errors.
pub(super) fn hint(reason: &str) -> &'static str {
    let mentions = |words: &[&str]| words.iter().any(|word| reason.contains(word));
    if mentions(&["UnknownIssuer", "CaUsedAsEndEntity"]) {
        "its certificate is signed by an unknown authority: name that authority's certificate, or a self-signed one itself, in redis.ca_file"
    } else if mentions(&["NotValidForName", "not valid for name"]) {
        "its certificate is for another name: use that name in redis.url"
    } else if mentions(&["certificate expired", "certificate: Expired", "NotValidYet", "not valid yet"]) {
        "its certificate has expired or is not valid yet: renew it, or set the clock"
    } else if mentions(&["CertificateRequired", "certificate required"]) {
        "it requests a client certificate: set redis.client_cert_file and redis.client_key_file"
    } else if mentions(&["alert: UnknownCA", "alert: BadCertificate", "alert: DecryptError"]) {
        "it does not trust the client certificate: check redis.client_cert_file"
    } else if mentions(&["InvalidContentType", "corrupt message"]) {
        "the server does not speak TLS: check the port in redis.url, or write redis:// instead of rediss://"
    } else {
        ""
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Self-signed, without a host name, valid from 2026-11-30 to 2036-11-27.
    const SELF_SIGNED: &[u8] = b"-----BEGIN CERTIFICATE-----
MIIBdTCCARugAwIBAgIUC8yPmafc2NWYP/JL2lwhhXZymbgwCgYIKoZIzj0EAwIw
EDEOMAwGA1UEAwwFcmVkaXMwHhcNMjYxMTMwMDI0OTIxWhcNMzYxMTI3MDI0OTIx
WjAQMQ4wDAYDVQQDDAVyZWRpczBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABOfw
V/3blqmtkiO5Q2g8J0wE1WYoPh+jwNrg3HvO3CS3Ek5cD3VP3unYnfTJT5oM68bb
yGKQpZ9epFy9G9hPOzujUzBRMB0GA1UdDgQWBBTEXbI7zjazQ/XWA1kaBBU8WOnG
kDAfBgNVHSMEGDAWgBTEXbI7zjazQ/XWA1kaBBU8WOnGkDAPBgNVHRMBAf8EBTAD
AQH/MAoGCCqGSM49BAMCA0gAMEUCIQDbWq0/8JCf3G0pONA01QNl5PgdnK1xfpeJ
qCL9eGUkFQIgKvcsXLFe0xzyMA3Gr0rweaK4KhtY+S9jpspuzq3tTPo=
-----END CERTIFICATE-----
";

    #[test]
    fn a_configured_self_signed_certificate_is_trusted_until_it_expires() {
        let file = std::env::temp_dir().join(format!("ws4redis-self-signed-{}.pem", std::process::id()));
        std::fs::write(&file, SELF_SIGNED).unwrap();
        let tls = TlsSettings { ca_file: Some(file.clone()), client: None, verify: true };
        let verifier = verifier(&tls, Arc::new(rustls::crypto::ring::default_provider()));
        std::fs::remove_file(file).unwrap();
        let verifier = verifier.unwrap();
        let certificate = CertificateDer::from_pem_slice(SELF_SIGNED).unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let trusted_at = |year: u64| {
            let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs((year - 1970) * 31_557_600));
            verifier.verify_server_cert(&certificate, &[], &name, &[], now).is_ok()
        };
        assert_eq!([2026, 2030, 2040].map(trusted_at), [false, true, false]);
    }
}
