//! TLS to Redis, with certificates generated for each test.

use super::deployments::{TempDir, expect_service, run};
use crate::support::gateway::binary;
use crate::support::sessions::{connect, log_in, session_key};
use crate::support::{RedisServer, TestGateway};

const CURVE: [&str; 5] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];

/// A Redis with a TLS port and a certificate for localhost.
struct TlsRedis {
    dir: TempDir,
    redis: RedisServer,
    port: u16,
}

/// Generates a certificate authority and returns the path of its certificate.
fn make_authority(dir: &TempDir, name: &str) -> String {
    let (certificate, key) = (dir.file(&format!("{name}.pem")), dir.file(&format!("{name}.key")));
    let subject = format!("/CN=Test {name}");
    let named = ["-subj", &subject, "-days", "2", "-keyout", &key, "-out", &certificate];
    run("openssl", &[&["req", "-x509"][..], &CURVE, &named].concat());
    certificate
}

/// Generates a certificate for 127.0.0.1 and `host`, signed by an authority. Returns the paths of certificate and key.
fn make_certificate(dir: &TempDir, name: &str, authority: &str, host: &str) -> (String, String) {
    let (request, key) = (dir.file(&format!("{name}.csr")), dir.file(&format!("{name}.key")));
    let subject = format!("/CN={host}");
    run("openssl", &[&["req"][..], &CURVE, &["-subj", &subject, "-keyout", &key, "-out", &request]].concat());
    let (names, certificate) = (dir.file(&format!("{name}.names")), dir.file(&format!("{name}.pem")));
    std::fs::write(&names, format!("subjectAltName=DNS:{host}")).unwrap();
    let (ca, ca_key) = (dir.file(&format!("{authority}.pem")), dir.file(&format!("{authority}.key")));
    let signing = ["x509", "-req", "-in", &request, "-CA", &ca, "-CAkey", &ca_key, "-CAcreateserial"];
    run("openssl", &[&signing[..], &["-days", "2", "-extfile", &names, "-out", &certificate]].concat());
    (certificate, key)
}

impl TlsRedis {
    fn with(dir: TempDir, certificate: &str, key: &str, clients: &[&str]) -> Self {
        let port = free_port();
        let number = port.to_string();
        let options = ["--tls-port", &number, "--tls-cert-file", certificate, "--tls-key-file", key];
        let redis = RedisServer::start_with(&[&options[..], clients].concat());
        Self { dir, redis, port }
    }

    fn start() -> Self {
        let dir = TempDir::new();
        let ca = make_authority(&dir, "ca");
        let (certificate, key) = make_certificate(&dir, "redis", "ca", "localhost");
        Self::with(dir, &certificate, &key, &["--tls-ca-cert-file", &ca, "--tls-auth-clients", "no"])
    }

    fn url(&self) -> String {
        format!("rediss://localhost:{}", self.port)
    }

    fn gateway(&self) -> crate::support::gateway::GatewayBuilder {
        TestGateway::builder().redis(&self.redis).set("redis.url", &self.url())
    }

    /// Expects that the gateway cannot connect and that one log line contains all of `line`.
    async fn expect_refusal(&self, builder: crate::support::gateway::GatewayBuilder, line: &[&str]) {
        let gateway = builder.without_redis().start().await;
        gateway.request("/ws/chat").expect_status(503).await;
        gateway.expect_log(&[&["WARN", "redis cannot be reached"], line].concat()).await;
        assert_eq!(gateway.count_log(&["start Redis"]), 0, "{:#?}", gateway.log());
    }
}

#[tokio::test]
async fn redis_is_reached_through_tls_with_a_private_certificate_authority() {
    let secured = TlsRedis::start();
    let ca = secured.dir.file("ca.pem");
    for builder in
        [secured.gateway().variable("SSL_CERT_FILE", &ca), secured.gateway().set("redis.ca_file", &ca)]
    {
        let gateway = builder.start().await;
        expect_service(&gateway, &secured.redis, "chat").await;
        secured.redis.kill_clients("pubsub");
        gateway.expect_log(&["WARN", "redis lost"]).await;
        gateway.wait_for_redis().await;
    }
}

#[tokio::test]
async fn a_certificate_of_an_unknown_authority_is_refused_and_the_log_says_so() {
    let secured = TlsRedis::start();
    let other = make_authority(&secured.dir, "other");
    let builder = secured.gateway().set("redis.ca_file", &other);
    secured.expect_refusal(builder, &["UnknownIssuer", "redis.ca_file"]).await;
    // Verification can be disabled by setting.
    let builder = secured.gateway().set("redis.ca_file", &other).set("redis.verify_certificate", "false");
    expect_service(&builder.start().await, &secured.redis, "chat").await;
}

#[tokio::test]
async fn a_self_signed_certificate_is_trusted_if_configured_or_if_verification_is_off() {
    let dir = TempDir::new();
    let certificate = make_authority(&dir, "self");
    let key = dir.file("self.key");
    let clients = ["--tls-ca-cert-file", &certificate, "--tls-auth-clients", "no"];
    let other = make_authority(&dir, "other");
    let secured = TlsRedis::with(dir, &certificate, &key, &clients);
    secured
        .expect_refusal(secured.gateway().set("redis.ca_file", &other), &["ertificate", "redis.ca_file"])
        .await;
    let named = secured.gateway().set("redis.ca_file", &certificate).start().await;
    expect_service(&named, &secured.redis, "named").await;
    let unverified = secured.gateway().set("redis.verify_certificate", "false").start().await;
    expect_service(&unverified, &secured.redis, "unverified").await;
}

#[tokio::test]
async fn a_certificate_for_another_host_is_refused_and_the_log_says_so() {
    let dir = TempDir::new();
    let ca = make_authority(&dir, "ca");
    let (certificate, key) = make_certificate(&dir, "redis", "ca", "redis.example.com");
    let clients = ["--tls-ca-cert-file", &ca, "--tls-auth-clients", "no"];
    let secured = TlsRedis::with(dir, &certificate, &key, &clients);
    secured.expect_refusal(secured.gateway().set("redis.ca_file", &ca), &["another name"]).await;
}

#[tokio::test]
async fn a_client_certificate_is_sent_if_redis_requests_one() {
    let dir = TempDir::new();
    let ca = make_authority(&dir, "ca");
    let (certificate, key) = make_certificate(&dir, "redis", "ca", "localhost");
    let (own, own_key) = make_certificate(&dir, "gateway", "ca", "gateway");
    let secured =
        TlsRedis::with(dir, &certificate, &key, &["--tls-ca-cert-file", &ca, "--tls-auth-clients", "yes"]);
    let builder = || secured.gateway().set("redis.ca_file", &ca);
    let with = builder().set("redis.client_cert_file", &own).set("redis.client_key_file", &own_key);
    expect_service(&with.start().await, &secured.redis, "chat").await;
    secured.expect_refusal(builder(), &["redis.client_cert_file"]).await;
}

#[tokio::test]
async fn a_plaintext_port_is_named_in_the_log() {
    let secured = TlsRedis::start();
    let url = format!("rediss://localhost:{}", secured.redis.port());
    let builder = secured.gateway().set("redis.ca_file", &secured.dir.file("ca.pem")).set("redis.url", &url);
    let builder = builder.set("redis.connect_timeout_seconds", "1");
    secured.expect_refusal(builder, &["does not speak TLS"]).await;
}

#[tokio::test]
async fn a_tls_only_port_is_named_in_the_log() {
    let secured = TlsRedis::start();
    let url = format!("redis://localhost:{}", secured.port);
    secured.expect_refusal(secured.gateway().set("redis.url", &url), &["write rediss://"]).await;
}

#[tokio::test]
async fn a_password_for_a_redis_without_one_is_named_in_the_log() {
    let secured = TlsRedis::start();
    let url = format!("redis://:geheim@localhost:{}", secured.redis.port());
    secured.expect_refusal(secured.gateway().set("redis.url", &url), &["check user and password"]).await;
}

#[tokio::test]
async fn sessions_in_a_separate_redis_are_read_through_tls() {
    let (redis, secured) = (RedisServer::start(), TlsRedis::start());
    let builder = TestGateway::builder().redis(&redis).set("session.redis_url", &secured.url());
    let gateway = builder.set("redis.ca_file", &secured.dir.file("ca.pem")).start().await;
    let cookie = log_in(&secured.redis, &session_key(), "7", "john", &[]);
    let mut client = connect(&gateway, "/ws/chat?subscribe-user", &cookie).await;
    redis.publish(&gateway.channel("user:john:chat"), "heard");
    client.expect_text("heard").await;
}

/// Runs `ws4redis check` with unusable TLS settings and returns its output.
fn check(variables: &[(&str, &str)]) -> String {
    let mut command = binary();
    command.env("WS4REDIS_REDIS__URL", "rediss://localhost:1").envs(variables.iter().copied());
    let output = command.arg("check").output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(64), "{text}");
    text
}

#[test]
fn without_system_certificates_the_cure_is_logged() {
    let text = check(&[("SSL_CERT_FILE", "/dev/null"), ("SSL_CERT_DIR", "/nowhere")]);
    assert!(text.contains("ca-certificates") && text.contains("SSL_CERT_FILE"), "{text}");
    assert!(text.contains("redis.ca_file"), "{text}");
    for (key, variable) in [
        ("ca_file", "CA_FILE"),
        ("client_key_file", "CLIENT_CERT_FILE"),
        ("client_cert_file", "CLIENT_KEY_FILE"),
    ] {
        let text = check(&[(&format!("WS4REDIS_REDIS__{variable}"), "/nowhere/file.pem")]);
        assert!(text.contains(&format!("redis.{key}: ")), "{text}");
    }
}

/// Returns a free port of the tests' range.
fn free_port() -> u16 {
    static TURN: std::sync::atomic::AtomicU16 = std::sync::atomic::AtomicU16::new(0);
    let first = u16::try_from(std::process::id() % 97).unwrap();
    (0..97)
        .map(|_| 17702 + (first + TURN.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) % 97)
        .find(|port| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("a free port")
}
