//! The linger after the server's close frame: what it still reads, and for how long.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use crate::support::client::{BINARY, TestClient, frame};
use crate::support::sessions::{connect, john, redis_key, session_key};
use crate::support::{RedisServer, TestGateway, eventually, within_deadline};

/// Returns a frame with an undefined opcode.
fn protocol_violation() -> Vec<u8> {
    frame(0x83, b"")
}

/// Keeps sending after the server's close frame, then answers it.
async fn send_on_then_close(mut client: TestClient, code: u16) {
    let close = client.next_message().await;
    assert_eq!(close.payload.first_chunk().map(|code| u16::from_be_bytes(*code)), Some(code));
    // Proxies treat an early FIN as the end of both directions.
    let sending = async {
        for _ in 0..40 {
            client.send_text("still sending").await;
            let end = timeout(Duration::from_millis(25), client.read_frame()).await;
            assert!(end.is_err(), "{code}: {end:?} before the client has closed");
        }
    };
    sending.await;
    let begun = Instant::now();
    client.send_close(code, "").await;
    client.expect_end().await;
    assert!(begun.elapsed() < Duration::from_secs(2), "{code}: {:?}", begun.elapsed());
}

#[tokio::test]
async fn after_its_close_frame_the_server_reads_until_the_client_closes() {
    let rules = "[[access]]\nfacility = [\"*\"]\nanonymous = [\"*\"]\nusers = [\"*\"]\n\
                 publish_messages_per_second = 1\npublish_burst_seconds = 1\n";
    let gateway = TestGateway::builder().rules(rules).set("server.linger_seconds", "10");
    let gateway = gateway.set("session.recheck_seconds", "1").start().await;
    let key = session_key();
    let cookie = john(&key);
    let without_session = connect(&gateway, "/ws/x?subscribe-user", &cookie).await;
    RedisServer::shared().command(&["DEL", &redis_key(&key)]);
    let mut unsound = gateway.connect("/ws/x").await;
    unsound.send_raw(&protocol_violation()).await;
    let mut fast = gateway.connect("/ws/x?publish-broadcast").await;
    for _ in 0..5 {
        fast.send_text("too much").await;
    }
    let stays = gateway.connect("/ws/y?subscribe-broadcast").await;
    tokio::join!(
        send_on_then_close(without_session, 4401),
        send_on_then_close(unsound, 1002),
        send_on_then_close(fast, 1008),
    );
    gateway.signal("TERM");
    send_on_then_close(stays, 1012).await;
}

#[tokio::test]
async fn a_close_frame_received_with_a_protocol_violation_ends_the_linger() {
    let gateway = TestGateway::start_with(&[("server.linger_seconds", "60")]).await;
    let mut client = gateway.connect("/ws/x").await;
    let close = frame(0x88, &1002_u16.to_be_bytes());
    client.send_raw(&[protocol_violation(), frame(0x81, b"more"), close].concat()).await;
    assert_eq!(client.next_message().await.opcode, 8);
    client.expect_end().await;
}

#[tokio::test]
async fn lingering_connections_count_towards_the_connection_limit() {
    let settings = [("server.max_connections", "3"), ("server.linger_seconds", "3")];
    let gateway = TestGateway::start_with(&settings).await;
    let mut clients = Vec::new();
    let places = async {
        // The readiness probes of the start may still be open.
        while clients.len() < 3 {
            let (response, client) = gateway.request("/ws/x").send().await;
            (response.status == 101).then(|| clients.push(client));
        }
    };
    within_deadline("all places are free", places).await;
    for client in &mut clients {
        client.send_raw(&protocol_violation()).await;
        assert_eq!(client.next_message().await.opcode, 8);
    }
    // They neither answer nor disconnect, so they use up the connection limit.
    gateway.request("/ws/x").expect_status(503).await;
    within_deadline("the linger is over", async {
        while gateway.request("/ws/x").send().await.0.status != 101 {}
    })
    .await;
}

#[tokio::test]
async fn bytes_from_a_lingering_connection_are_discarded_within_limits() {
    let gateway = TestGateway::start_with(&[("server.linger_seconds", "60")]).await;
    let memory = gateway.resident_bytes();
    let files = gateway.open_files();
    let mut client = gateway.connect("/ws/x").await;
    client.send_raw(&protocol_violation()).await;
    assert_eq!(client.next_message().await.opcode, 8);
    let piece = frame(0x80 | BINARY, &vec![b'x'; 1 << 20]);
    let mut sent = 0;
    while client.try_send_raw(&piece).await.is_ok() {
        sent += piece.len();
        assert!(sent < 128 << 20, "everything is read");
    }
    assert!(sent > 8 << 20, "cut after {sent} bytes");
    let grown = gateway.resident_bytes().saturating_sub(memory);
    assert!(grown < 8 << 20, "grown by {grown} bytes");
    eventually("the socket is closed", || (gateway.open_files() <= files).then_some(())).await;
}
