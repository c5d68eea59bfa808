//! Limits of requests, and clients that are slow.

use std::time::Duration;

use tokio::time::Instant;

use super::{Admin, TOKEN, refused};
use crate::support::{eventually, within_deadline};

#[tokio::test]
async fn heads_and_bodies_are_bounded() {
    let admin = Admin::start(&[("admin.token", TOKEN)]).await;
    admin.get("/health/live").header("X-Long", vec![b'x'; 20_000]).expect_status(431).await;
    let many = (0..100)
        .fold(admin.get("/health/live"), |request, number| request.header(&format!("X-{number}"), "x"));
    many.expect_status(431).await;
    let post = admin.get("/connections").method("POST").header("Authorization", format!("Bearer {TOKEN}"));
    refused(post.clone().header("Content-Length", "100000000"), 413, "65536").await;
    // The answer arrives although the body is not read.
    let body = vec![b'x'; 60_000];
    refused(post.clone().header("Content-Length", "60000").followed_by(&body), 405, "GET").await;
    for smuggled in [
        post.clone().header("Content-Length", "5").header("Transfer-Encoding", "chunked"),
        post.clone().header("Content-Length", "5").header("Content-Length", "6"),
        post.header("Content-Length", "-1"),
    ] {
        let (answer, mut client) = smuggled.send().await;
        assert!((400..500).contains(&answer.status), "{answer:?}");
        client.expect_disconnect().await;
    }
    admin.get("/health/live").expect_status(200).await;
}

#[tokio::test]
async fn slow_clients_of_the_admin_listener_are_cut_and_hinder_nobody() {
    let settings = [
        ("admin.request_seconds", "1"),
        ("admin.max_connections", "8"),
        ("server.max_connections", "100"),
        ("server.shards", "1"),
    ];
    let admin = Admin::start(&settings).await;
    let mut client = admin.gateway.connect("/ws/x?subscribe-broadcast").await;
    client.expect_nothing().await;
    let files = admin.gateway.open_files();
    let begun = Instant::now();
    let mut slow = Vec::new();
    for number in 0..8 {
        let mut one = admin.get("/health/live").open().await;
        // Silent, or with half a request.
        if number % 2 == 0 {
            one.send_raw(b"GET /health/live HTTP/1.1\r\nHost: local").await;
        }
        slow.push(one);
    }
    // Further connections are closed, and the log says so.
    let mut crowd = Vec::new();
    for _ in 0..200 {
        crowd.push(admin.get("/health/live").open().await);
    }
    admin
        .gateway
        .expect_log(&["WARN", "too many connections to the admin listener", "admin.max_connections"])
        .await;
    // Clients of the gateway have their own limit, and are served.
    let mut clients = Vec::new();
    for _ in 0..80 {
        clients.push(admin.gateway.connect("/ws/x?subscribe-broadcast").await);
    }
    client.expect_nothing().await;
    for one in &mut slow {
        one.expect_disconnect().await;
    }
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    drop((slow, crowd));
    within_deadline("the admin listener answers again", async {
        while !matches!(admin.get("/health/live").try_send().await, Some(200)) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    drop(clients);
    eventually("the sockets are closed", || (admin.gateway.open_files() <= files).then_some(())).await;
}

#[tokio::test]
async fn a_client_that_does_not_read_its_page_is_cut() {
    let admin = Admin::start(&[("admin.request_seconds", "1"), ("admin.max_connections", "2")]).await;
    let mut clients = Vec::new();
    // A page of more than all buffers between the two.
    for number in 0..300 {
        let target = format!("/ws/{number}{}?subscribe-broadcast", "%22".repeat(1000));
        clients.push(admin.gateway.connect(&target).await);
    }
    let files = admin.gateway.open_files();
    let mut unread = Vec::new();
    for _ in 0..2 {
        let request = admin.get("/connections?limit=1000").receive_buffer(2048);
        let mut client = request.open().await;
        client.send_raw(&request.bytes()).await;
        unread.push(client);
    }
    let cut = || (admin.gateway.count_log(&["admin request took too long"]) == 2).then_some(());
    eventually("both are cut", cut).await;
    eventually("the sockets are closed", || (admin.gateway.open_files() <= files).then_some(())).await;
    // One that reads gets all of it.
    let page = admin.json("/connections?limit=1000").await;
    assert_eq!(page["connections"].as_array().unwrap().len(), 300);
}
