//! Redis URLs: unix socket, database, credentials, IPv6.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::support::{RedisServer, TestGateway, unique};

/// A directory that is removed at the end of the test.
pub(super) struct TempDir(PathBuf);

impl TempDir {
    pub(super) fn new() -> Self {
        let path = std::env::temp_dir().join(unique("ws4redis-deployment"));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(super) fn file(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Runs a program and expects success.
pub(super) fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
}

/// Expects that messages are delivered, published and stored.
pub(super) async fn expect_service(gateway: &TestGateway, redis: &RedisServer, facility: &str) {
    let mut client =
        gateway.connect(&format!("/ws/{facility}?subscribe-broadcast&publish-broadcast&echo")).await;
    redis.publish(&gateway.channel(&format!("broadcast:{facility}")), "to the client");
    client.expect_text("to the client").await;
    client.send_text("from the client").await;
    client.expect_text("from the client").await;
    let mut second = gateway.connect(&format!("/ws/{facility}?subscribe-broadcast")).await;
    second.expect_text("from the client").await;
}

#[tokio::test]
async fn redis_is_reached_through_a_unix_socket_and_in_a_database() {
    let redis = RedisServer::start();
    let path = redis.unix_path().display().to_string();
    let url = format!("unix:{path}?db=3");
    let gateway = TestGateway::builder().redis(&redis).set("redis.url", &url).start().await;
    expect_service(&gateway, &redis, "chat").await;
    let key = gateway.channel("broadcast:chat");
    assert_eq!(redis.get(&key), None, "it is in another database");
    let mut third = redis.connection();
    third.command(&["SELECT", "3"]);
    assert_eq!(third.command(&["GET", &key]).bulk().as_deref(), Some(&b"from the client"[..]));
    let url = format!("{}/3", redis.url());
    let other = TestGateway::builder().redis(&redis).namespace(gateway.namespace()).set("redis.url", &url);
    let other = other.start().await;
    other.connect("/ws/chat?subscribe-broadcast").await.expect_text("from the client").await;
}

/// redis-py, and with it the Django package, parses URLs so; `tests/fixtures/redis_urls.json` has more cases.
#[tokio::test]
async fn database_user_and_password_of_redis_may_be_in_the_query() {
    let redis = RedisServer::start_with(&["--user", "gate", "on", ">geheim", "~*", "&*", "+@all"]);
    let (address, path) = (format!("127.0.0.1:{}", redis.port()), redis.unix_path().display().to_string());
    for (url, database) in [
        (format!("redis://{address}?db=2"), "2"),
        (format!("redis://{address}/3?db=4"), "4"),
        (format!("redis://{address}/5/"), "5"),
        (format!("redis://{address}/?username=gate&password=geheim&db=6"), "6"),
        (format!("unix://gate:geheim@{path}?db=7"), "7"),
        (format!("unix:{path}?db=8&username=gate&password=geheim"), "8"),
    ] {
        let gateway = TestGateway::builder().redis(&redis).set("redis.url", &url).start().await;
        expect_service(&gateway, &redis, "chat").await;
        let mut connection = redis.connection();
        connection.command(&["SELECT", database]);
        let kept = connection.command(&["GET", &gateway.channel("broadcast:chat")]).bulk();
        assert_eq!(kept.as_deref(), Some(&b"from the client"[..]), "{url}");
        assert_eq!(gateway.count_log(&["geheim"]), 0, "{:#?}", gateway.log());
    }
}

#[tokio::test]
async fn redis_is_reached_by_an_ipv6_address() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        return;
    }
    let redis = RedisServer::start_with(&["--bind", "127.0.0.1", "::1"]);
    let url = format!("redis://[::1]:{}", redis.port());
    let gateway = TestGateway::builder().redis(&redis).set("redis.url", &url).start().await;
    expect_service(&gateway, &redis, "chat").await;
}
