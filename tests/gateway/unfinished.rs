//! Incomplete messages: limits on their total memory and their duration.

use crate::support::client::{TEXT, TestClient, head};
use crate::support::socket_io::{PollingClient, SocketIoGateway};
use crate::support::{TestGateway, eventually, within_deadline};

const MEBIBYTE: usize = 1 << 20;

/// Sends all but the end of a message of one mebibyte.
async fn send_incomplete_message(client: &mut TestClient) {
    let mut bytes = head(0x80 | TEXT, MEBIBYTE as u64, true);
    bytes.extend([0; 4]);
    bytes.resize(900_000, b'x');
    let _ = client.try_send_raw(&bytes).await;
}

#[tokio::test]
async fn total_memory_of_unfinished_messages_is_bounded_and_others_still_publish() {
    let gateway = TestGateway::start_with(&[("messages.unfinished_total_bytes", "4194304")]).await;
    let mut other = gateway.connect("/ws/x?subscribe-broadcast&publish-broadcast&echo").await;
    other.send_text("before").await;
    other.expect_text("before").await;
    let before = gateway.resident_bytes();
    let mut clients = Vec::new();
    for _ in 0..40 {
        let mut client = gateway.connect("/ws/x?publish-broadcast").await;
        send_incomplete_message(&mut client).await;
        clients.push(client);
    }
    eventually("most are closed", || (gateway.count_log(&["close_code=1013"]) >= 35).then_some(())).await;
    let taken = gateway.resident_bytes().saturating_sub(before);
    assert!(taken < 16 * MEBIBYTE, "{taken} bytes where 4 MiB are allowed");
    other.send_text("meanwhile").await;
    other.expect_text("meanwhile").await;
    drop(clients);
    let large = "y".repeat(MEBIBYTE);
    other.send_text(&large).await;
    other.expect_text(&large).await;
}

#[tokio::test]
async fn input_from_a_client_without_publish_rights_is_discarded() {
    let gateway = TestGateway::start_with(&[("messages.unfinished_total_bytes", "1048576")]).await;
    let mut clients = Vec::new();
    for _ in 0..100 {
        clients.push(gateway.connect("/ws/x?subscribe-broadcast").await);
    }
    let before = gateway.resident_bytes();
    for client in &mut clients {
        send_incomplete_message(client).await;
    }
    // The rest of a mebibyte message, and a ping whose answer proves that everything before it was read.
    for client in &mut clients {
        let rest = vec![b'x'; MEBIBYTE + 14 - 900_000];
        client.try_send_raw(&rest).await.unwrap();
        client.send_ping(b"read").await;
        client.expect_pong(b"read").await;
    }
    let taken = gateway.resident_bytes().saturating_sub(before);
    assert!(taken < 8 * MEBIBYTE, "{taken} bytes for 100 messages of a mebibyte that go nowhere");
    let no_text = vec![0xff; 70_000];
    // New ones, which are not due for a heartbeat of the gateway.
    let mut client = gateway.connect("/ws/x?subscribe-broadcast").await;
    client.send_raw(&[&head(0x80 | TEXT, 70_000, true)[..], &[0; 4], &no_text].concat()).await;
    client.expect_close(1007).await;
    let mut client = gateway.connect("/ws/x?subscribe-broadcast").await;
    client.send_raw(&[&head(0x80 | TEXT, 2 * MEBIBYTE as u64, true)[..], &[0; 4]].concat()).await;
    client.expect_close(1009).await;
}

#[tokio::test]
async fn a_message_that_is_not_completed_in_time_closes_its_client() {
    let gateway = TestGateway::start_with(&[("messages.message_seconds", "2")]).await;
    let mut slow = gateway.connect("/ws/x?publish-broadcast").await;
    send_incomplete_message(&mut slow).await;
    let mut mute = gateway.connect("/ws/x").await;
    send_incomplete_message(&mut mute).await;
    let mut idle = gateway.connect("/ws/x?publish-broadcast").await;
    idle.send_text("whole").await;
    assert_eq!(slow.expect_close(1008).await, "message took too long");
    assert_eq!(mute.expect_close(1008).await, "message took too long");
    idle.send_ping(b"still here").await;
    idle.expect_pong(b"still here").await;
}

#[tokio::test]
async fn incomplete_posts_count_as_unfinished_messages() {
    let gateway = TestGateway::start_with(&[("messages.unfinished_total_bytes", "4194304")]).await;
    let before = gateway.resident_bytes();
    let mut clients = Vec::new();
    for _ in 0..40 {
        let post = gateway.post("/ws/x?publish-broadcast", vec![b'x'; 900_000]);
        let post = post.with("Content-Length", MEBIBYTE.to_string());
        let mut client = post.open().await;
        let _ = client.try_send_raw(&post.bytes()).await;
        clients.push(client);
    }
    eventually("most are refused", || (gateway.count_log(&["status=503", "unfinished"]) >= 35).then_some(()))
        .await;
    let taken = gateway.resident_bytes().saturating_sub(before);
    assert!(taken < 16 * MEBIBYTE, "{taken} bytes where 4 MiB are allowed");
    drop(clients);
    let large = "y".repeat(MEBIBYTE);
    within_deadline("a message that is posted whole", async {
        while gateway.post("/ws/x?publish-broadcast", &large).send().await.0.status != 204 {}
    })
    .await;
}

#[tokio::test]
async fn clients_without_publish_rights_do_not_use_up_the_memory_for_unfinished_messages() {
    let gateway = TestGateway::start_with(&[("messages.unfinished_total_bytes", "4194304")]).await;
    let mut listeners = Vec::new();
    for _ in 0..10 {
        let mut listener = gateway.connect("/ws/x").await;
        send_incomplete_message(&mut listener).await;
        listeners.push(listener);
    }
    let mut speaker = gateway.connect("/ws/x?subscribe-broadcast&publish-broadcast&echo").await;
    send_incomplete_message(&mut speaker).await;
    speaker
        .send_raw(&vec![b'x'; MEBIBYTE + head(0x80 | TEXT, MEBIBYTE as u64, true).len() + 4 - 900_000])
        .await;
    speaker.expect_text(&"x".repeat(MEBIBYTE)).await;
    assert_eq!(gateway.count_log(&["close_code=1013"]), 0);
}

/// A message of a client that polls, longer than what arrives in one read.
fn long_event() -> String {
    format!(r#"42["x","{}"]"#, "x".repeat(900_000))
}

/// Begins a POST that takes most of a mebibyte of the memory of unfinished messages.
async fn hold_by_post(client: &PollingClient) -> TestClient {
    let request = client.post("").with("Content-Length", "950000").followed_by(long_event().as_bytes());
    let mut connection = request.open().await;
    connection.send_raw(&request.bytes()).await;
    connection
}

#[tokio::test]
async fn a_post_without_memory_is_503_and_its_session_goes_on() {
    let settings = [("messages.unfinished_total_bytes", "1048576"), ("server.shards", "4")];
    let server = SocketIoGateway::start_with(&settings).await;
    let mut held = hold_by_post(&server.connect_polling().await.0).await;
    for _ in 0..4 {
        let (client, sid) = server.connect_polling().await;
        let refused = within_deadline("a refusal", async {
            loop {
                let answer = client.post(long_event()).send().await.0;
                if answer.status != 200 {
                    break answer;
                }
                // It may have been the one that was refused, or its time is over.
                held = hold_by_post(&server.connect_polling().await.0).await;
            }
        })
        .await;
        assert_eq!(refused.status, 503, "{refused:?}");
        assert!(
            refused.header("retry-after").is_some() && refused.body.contains("unfinished"),
            "{refused:?}"
        );
        client.post("3").expect_status(200).await;
        server.emit("/", &format!("{sid:?}"), "1");
        assert_eq!(client.poll().await, r#"42["e",1]"#);
    }
    let (client, _) = server.connect_polling().await;
    drop(held);
    within_deadline("room", async { while client.post(long_event()).send().await.0.status != 200 {} }).await;
}

#[tokio::test]
async fn scarce_memory_is_held_for_seconds_only() {
    // Each of these messages takes more than half of it.
    let settings = [("messages.unfinished_total_bytes", "1572864")];
    let server = SocketIoGateway::start_with(&settings).await;
    let (mut small, _) = server.connect("/").await;
    small.send_text(r#"451-["x",{"_placeholder":true,"num":0}]"#).await;
    let (mut socket, _) = server.connect("/").await;
    socket.send_text(r#"452-["x"]"#).await;
    socket.send_binary(&vec![0; 900_000]).await;
    assert_eq!(socket.expect_close(1008).await, "message took too long");
    let mut publisher = server.gateway.connect("/ws/x?publish-broadcast").await;
    send_incomplete_message(&mut publisher).await;
    assert_eq!(publisher.expect_close(1008).await, "message took too long");
    let (client, _) = server.connect_polling().await;
    client.post(long_event()).expect_status(200).await;
    // It holds nothing that others need.
    small.send_binary(b"x").await;
    small.send_ping(b"alive").await;
    small.expect_pong(b"alive").await;
}
