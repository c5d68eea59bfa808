//! Protocol pings: idle clients are pinged, dead ones disconnected, and a paused server closes no healthy client.

use std::time::Duration;

use tokio::time::Instant;

use crate::support::TestGateway;
use crate::support::client::{CLOSE, PING};

async fn gateway_with_pings(interval: &str, timeout: &str) -> TestGateway {
    TestGateway::start_with(&[("ping.interval_seconds", interval), ("ping.timeout_seconds", timeout)]).await
}

#[tokio::test]
async fn an_idle_client_is_pinged_and_stays_while_it_answers() {
    let gateway = gateway_with_pings("1", "2").await;
    let mut client = gateway.connect("/ws/ping?subscribe-broadcast").await;
    let begun = Instant::now();
    for _ in 0..4 {
        let frame = client.next_frame().await;
        assert_eq!(frame.opcode, PING, "{frame:?}");
        client.send_pong(&frame.payload).await;
    }
    assert!(begun.elapsed() > Duration::from_secs(2), "{:?}: pinged without pause", begun.elapsed());
    client.expect_nothing().await;
}

#[tokio::test]
async fn a_client_that_does_not_answer_is_closed_with_1011() {
    let gateway = gateway_with_pings("1", "1").await;
    let mut client = gateway.connect("/ws/ping?subscribe-broadcast").await;
    assert_eq!(client.next_frame().await.opcode, PING);
    let frame = client.next_frame().await;
    assert_eq!((frame.opcode, &frame.payload[..2]), (CLOSE, &1011_u16.to_be_bytes()[..]), "{frame:?}");
    client.expect_end().await;
    gateway.expect_log(&["connection ended", "close_code=1011"]).await;
}

#[tokio::test]
async fn a_client_that_sends_anything_counts_as_alive() {
    let gateway = gateway_with_pings("1", "1").await;
    let mut client = gateway.connect("/ws/ping").await;
    let begun = Instant::now();
    // Sends a message instead of a pong.
    while begun.elapsed() < Duration::from_secs(5) {
        let frame = client.next_frame().await;
        assert_eq!(frame.opcode, PING, "{frame:?}");
        client.send_text("I am here").await;
    }
}

#[tokio::test]
async fn a_client_that_only_receives_is_pinged_even_under_traffic() {
    let gateway = gateway_with_pings("1", "30").await;
    let mut client = gateway.connect("/ws/ping?subscribe-broadcast").await;
    let begun = Instant::now();
    loop {
        gateway.publish("broadcast:ping", "x");
        let frame = client.next_frame().await;
        if frame.opcode == PING {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(8), "no ping among the messages");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_paused_server_does_not_close_healthy_clients_when_it_resumes() {
    let gateway = gateway_with_pings("1", "3").await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(gateway.connect("/ws/ping?subscribe-broadcast").await);
    }
    // All have been pinged, and their pongs wait in the sockets while the server is paused.
    for client in &mut clients {
        assert_eq!(client.next_frame().await.opcode, PING);
    }
    gateway.signal("STOP");
    for client in &mut clients {
        client.send_pong(b"").await;
    }
    tokio::time::sleep(Duration::from_secs(6)).await;
    gateway.signal("CONT");
    for client in &mut clients {
        client.expect_nothing().await;
    }
    assert_eq!(gateway.count_log(&["close_code=1011"]), 0, "{:#?}", gateway.log());
}
