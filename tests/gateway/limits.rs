//! Limits of memory and descriptors, unix sockets, and the ranges of settings.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::support::gateway::binary;
use crate::support::{RedisServer, TestGateway, eventually, signal, unique};

#[tokio::test]
async fn memory_is_returned_to_the_system_after_a_peak() {
    let files = rlimit::increase_nofile_limit(4_096).unwrap();
    assert!(
        files >= 1_200,
        "{files} open files are too few for this test; raise the hard limit (ulimit -Hn)"
    );
    // Without spans of connections, whose storage in tracing's registry is never freed.
    let filter = "info,ws4redis::server=debug";
    let gateway = TestGateway::builder().variable("RUST_LOG", filter).start().await;
    let before = gateway.resident_bytes();
    let mut clients = Vec::new();
    for number in 0..1_050 {
        // A long name per connection makes the growth measurable.
        clients.push(gateway.connect(&format!("/ws/{number:0200}?subscribe-broadcast")).await);
    }
    // The number of connections is sampled once a second.
    let begun = tokio::time::Instant::now();
    while begun.elapsed() < Duration::from_secs(2) {
        clients[0].expect_nothing().await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let peak = gateway.resident_bytes();
    drop(clients);
    gateway.expect_log(&["memory given back", "given=true"]).await;
    // The pages of the executable stay resident.
    let (taken, left) = (peak - before, gateway.resident_bytes().saturating_sub(before));
    assert!(left < taken * 7 / 8, "of {taken} bytes {left} are left");
}

/// Limits the process to `more` descriptors above those it has open.
fn limit_free_files(gateway: &TestGateway, more: usize) {
    let limit = gateway.open_files() + more;
    let status = std::process::Command::new("prlimit")
        .args(["--pid", &gateway.pid().to_string(), &format!("--nofile={limit}:{limit}")])
        .status();
    assert!(status.unwrap().success(), "prlimit");
}

#[tokio::test]
async fn without_free_file_descriptors_accepting_pauses_and_connected_clients_are_served() {
    let gateway = TestGateway::start().await;
    let mut client = gateway.connect("/ws/fd?subscribe-broadcast").await;
    limit_free_files(&gateway, 10);
    let mut crowd = Vec::new();
    for _ in 0..60 {
        crowd.push(gateway.request("/ws/fd").open().await);
    }
    gateway.expect_log(&["WARN", "cannot accept connections", "ulimit"]).await;
    let before = gateway.processor_time();
    let begun = tokio::time::Instant::now();
    while begun.elapsed() < Duration::from_secs(1) {
        client.expect_nothing().await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let used = gateway.processor_time().saturating_sub(before);
    // A busy loop would use the whole second.
    assert!(used < Duration::from_millis(400), "{used:?} of processor time in a second");
    // A descriptor becomes free and is used again, several times.
    for _ in 0..10 {
        crowd.remove(0);
        crowd.push(gateway.request("/ws/fd").open().await);
        client.expect_nothing().await;
        tokio::time::sleep(Duration::from_millis(120)).await;
    }
    assert_eq!(gateway.count_log(&["cannot accept connections"]), 1, "said once");
    drop(crowd);
    gateway.expect_log(&["INFO", "accepting connections again"]).await;
    assert_eq!(gateway.count_log(&["accepting connections again"]), 1, "said once");
    gateway.connect("/ws/fd?subscribe-broadcast").await.expect_nothing().await;
}

#[tokio::test]
async fn silent_connections_that_are_reset_leave_no_resources_behind() {
    let gateway = TestGateway::start().await;
    let mut client = gateway.connect("/ws/x?subscribe-broadcast").await;
    client.expect_nothing().await;
    let files = gateway.open_files();
    for _ in 0..5 {
        let mut crowd = Vec::new();
        for _ in 0..100 {
            let stream = gateway.request("/ws/x").open().await.stream;
            stream.set_zero_linger().unwrap();
            crowd.push(stream);
        }
    }
    eventually("the sockets are closed", || (gateway.open_files() <= files).then_some(())).await;
    client.expect_nothing().await;
}

#[tokio::test]
async fn disconnected_clients_leave_no_sockets_and_no_subscriptions_behind() {
    let gateway = TestGateway::start_with(&[("redis.unsubscribe_linger_seconds", "0")]).await;
    let mut client = gateway.connect("/ws/stays?subscribe-broadcast").await;
    let files = gateway.open_files();
    for round in 0..200 {
        let target = format!("/ws/churn{}?subscribe-broadcast&publish-broadcast", round % 50);
        let mut visitor = gateway.connect(&target).await;
        if round % 3 == 0 {
            visitor.stream.set_zero_linger().unwrap();
        } else {
            visitor.send_close(1000, "").await;
        }
    }
    eventually("the sockets are closed", || (gateway.open_files() <= files).then_some(())).await;
    let stays = vec![gateway.channel("broadcast:stays")];
    let left = || (RedisServer::shared().channels(&gateway.channel("")) == stays).then_some(());
    eventually("the channels are left", left).await;
    client.expect_nothing().await;
}

/// Sends a handshake and returns the start of the response.
pub fn handshake_over_unix(path: &str) -> String {
    handshake_over_unix_with(path, "")
}

/// Sends a handshake with additional header lines.
pub fn handshake_over_unix_with(path: &str, lines: &str) -> String {
    let mut stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(crate::support::DEADLINE)).unwrap();
    let head = format!(
        "GET /ws/u HTTP/1.1\r\nHost: unix\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{lines}\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn a_unix_socket_gets_its_permissions_replaces_a_stale_one_and_is_removed_on_exit() {
    let path = std::env::temp_dir().join(unique("ws4redis-listen"));
    let path = path.to_str().unwrap();
    let start = || {
        let mut command = binary();
        command.args(["--set", &format!("server.listen=unix:{path}"), "--set", "server.unix_mode=0600"]);
        command.args(["--set", &format!("redis.url={}", RedisServer::shared().url())]);
        command.stderr(std::process::Stdio::null()).spawn().unwrap()
    };
    let ready = "HTTP/1.1 101";
    let up = || (UnixStream::connect(path).is_ok() && handshake_over_unix(path) == ready).then_some(());
    let mut first = start();
    eventually("a 101 over the unix socket", up).await;
    assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
    let mut second = start();
    let status = eventually("the second one refuses", || second.try_wait().unwrap()).await;
    assert_eq!(status.code(), Some(1), "another process listens there");
    assert_eq!(handshake_over_unix(path), ready, "and still does");
    first.kill().unwrap();
    first.wait().unwrap();
    assert!(std::fs::exists(path).unwrap(), "killed, it left its socket behind");
    let mut third = start();
    eventually("a 101 over the socket that replaced the stale one", up).await;
    signal(third.id(), "TERM");
    let status = eventually("it stops", || third.try_wait().unwrap()).await;
    assert_eq!(status.code(), Some(0));
    assert!(!std::fs::exists(path).unwrap(), "stopped, it removed its socket");
}

/// Returns the numeric settings with the range from their comment in settings.toml.
fn numbers() -> Vec<(String, String, String)> {
    let mut section = String::new();
    let mut numbers = Vec::new();
    for line in include_str!("../../settings.toml").lines() {
        if let Some(name) = line.strip_prefix('[') {
            section = format!("{}.", name.trim_end_matches(']'));
        } else if let Some((setting, range)) = line.split_once("  # ").filter(|_| !line.starts_with('#')) {
            let key = setting.split(" = ").next().unwrap();
            let (least, most) = range.split_once(" to ").unwrap();
            numbers.push((format!("{section}{key}"), least.to_owned(), most.to_owned()));
        }
    }
    numbers
}

#[tokio::test]
async fn a_client_is_served_with_every_number_at_either_end_of_its_range() {
    let numbers = numbers();
    assert!(numbers.len() >= 29, "{numbers:?}");
    for end in ["least", "most"] {
        let mut gateway = TestGateway::builder();
        for (key, least, most) in &numbers {
            gateway = match (end, key.as_str()) {
                // The test needs two connections.
                ("least", "server.max_connections") => gateway.set(key, "8"),
                // Together with the interval it is at least 500.
                ("least", "socketio.ping_timeout_ms") => gateway.set(key, "400"),
                ("least", _) => gateway.set(key, least),
                _ => gateway.set(key, most),
            };
        }
        let gateway = gateway.start().await;
        let mut speaker = gateway.connect("/ws/x?publish-broadcast").await;
        let mut listener = gateway.connect("/ws/x?subscribe-broadcast").await;
        speaker.send_text("x").await;
        listener.expect_text("x").await;
        assert_eq!(gateway.count_log(&["panicked"]), 0, "{end}: {:#?}", gateway.log());
    }
}
