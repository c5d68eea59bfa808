//! The route `/connections`.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use super::{Admin, json};
use crate::support::client::TestClient;
use crate::support::events::SseClient;
use crate::support::sessions::{john, session_key};
use crate::support::socket_io::{self, SocketIoGateway};
use crate::support::{RedisServer, within_deadline};

#[tokio::test]
async fn a_connection_is_listed_with_what_is_public_about_it() {
    let admin = Admin::start(&[]).await;
    let gateway = &admin.gateway;
    let key = session_key();
    let mut socket =
        gateway.request("/ws/news?subscribe-broadcast").header("Cookie", john(&key)).connect().await;
    let stream = gateway.stream("/ws/stream?subscribe-broadcast");
    let mut stream = SseClient::open(stream).await;
    for text in ["one", "two"] {
        gateway.publish("broadcast:news", text);
        socket.expect_text(text).await;
    }
    gateway.publish("broadcast:stream", "three");
    stream.expect("three").await;

    let listed = admin.expect_connections("news", 1).await.remove(0);
    let peer = socket.stream.local_addr().unwrap().to_string();
    for (field, expected) in [
        ("dialect", Value::from("relay")),
        ("form", "websocket".into()),
        ("user", "john".into()),
        ("peer", peer.into()),
        ("delivered", 2.into()),
        ("dropped", 0.into()),
        ("waiting_bytes", 0.into()),
    ] {
        assert_eq!(listed[field], expected, "{field}: {listed}");
    }
    assert!(listed["age_seconds"].as_u64().unwrap() < 15, "{listed}");
    // The log names the connection by the same id.
    let id = listed["id"].as_str().unwrap();
    let (node, number) = id.split_once('-').unwrap();
    assert!(
        node.len() == 12 && u128::from_str_radix(node, 16).is_ok() && number.parse::<u64>().is_ok(),
        "{id}"
    );
    gateway.expect_log(&[&format!("connection{{id={id} "), "connection opened", "news"]).await;

    let listed = admin.expect_connections("stream", 1).await.remove(0);
    assert_eq!((&listed["form"], &listed["user"]), (&"event-stream".into(), &Value::Null), "{listed}");
    assert_eq!(listed["delivered"], 1, "{listed}");

    let text = admin.get("/connections").expect_status(200).await.body;
    assert!(!text.contains(&key) && !text.contains("sessionid"), "{text}");
    drop(socket);
    admin.expect_connections("news", 0).await;
    let strange = "/ws/a%22%0d%0a%3Cscript%3E%E2%82%AC?subscribe-broadcast";
    let status = gateway.request(strange).send().await.0.status;
    assert_eq!(status, 400, "control characters are refused");
    let client = gateway.connect("/ws/a%22%3Cscript%3E%E2%82%AC?subscribe-broadcast").await;
    admin.expect_connections("a\"<script>€", 1).await;
    drop(client);
    // A long name is cut, so that a page stays bounded.
    let client = gateway.connect(&format!("/ws/{}", "%E2%82%AC".repeat(400))).await;
    admin.expect_connections(&"€".repeat(341), 1).await;
    drop(client);
}

#[tokio::test]
async fn sessions_of_socket_io_are_listed_with_their_public_ids_only() {
    let (builder, channel) = socket_io::builder();
    let builder = builder.set("admin.listen", "127.0.0.1:0").set("server.shards", "1");
    let Admin { gateway, address } = Admin::of(builder).await;
    let server = SocketIoGateway { gateway, channel };
    let key = session_key();
    let request = server.gateway.request(socket_io::V4).header("Cookie", john(&key));
    let (mut socket, open) = socket_io::open(request).await;
    let sids = [socket_io::join(&mut socket, "/").await, socket_io::join(&mut socket, "/chat").await];
    let (polling, polling_sid) = server.connect_polling().await;
    let unconnected = server.open().await;
    server.emit("/", "null", "1");
    socket.expect_text(r#"42["e",1]"#).await;

    let admin = Admin { gateway: server.gateway, address };
    let plain = admin.gateway.connect("/ws/plain?subscribe-broadcast").await;
    // One on a page, so that the listing goes on from the sockets of the relay to the sessions.
    let (all, pages) = admin.connections(1).await;
    assert_eq!((all.len(), pages), (4, 4), "{all:?}");
    drop(plain);
    let text = admin.get("/connections").expect_status(200).await.body;
    for secret in [open["sid"].as_str().unwrap(), &polling.sid, &key] {
        assert!(!text.contains(secret), "{text}");
    }
    let find = |id: Value| all.iter().find(|it| it["id"] == id).unwrap_or_else(|| panic!("{id}: {all:?}"));
    let listed = find(sids[0].as_str().into());
    let peer = socket.stream.local_addr().unwrap().to_string();
    for (field, expected) in [
        ("dialect", Value::from("socket_io")),
        ("form", "websocket".into()),
        ("user", "john".into()),
        ("peer", peer.into()),
        ("delivered", 1.into()),
        ("facility", Value::Null),
        (
            "namespaces",
            serde_json::json!([
                {"name": "/", "sid": sids[0], "user": "john"},
                {"name": "/chat", "sid": sids[1], "user": "john"},
            ]),
        ),
    ] {
        assert_eq!(listed[field], expected, "{field}: {listed}");
    }
    assert!(listed["age_seconds"].as_u64().unwrap() < 15, "{listed}");
    let listed = find(polling_sid.as_str().into());
    assert_eq!((&listed["form"], &listed["peer"]), (&"polling".into(), &Value::Null), "{listed}");
    assert_eq!(listed["waiting_bytes"].as_u64().unwrap(), 11, "{listed}");
    assert_eq!(find(Value::Null)["namespaces"], serde_json::json!([]));
    drop((socket, unconnected));
    within_deadline("closed sessions are not listed", async {
        while admin.connections(1000).await.0.len() != 1 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_socket_of_version_2_is_listed_once_with_its_facilities() {
    let admin = Admin::start(&[]).await;
    let mut client = admin.gateway.live("/ws/").await;
    for facility in ["live-a", "live-b"] {
        client.subscribe(facility, &["subscribe-broadcast"]).await;
    }
    client.subscribe("live-c", &["publish-broadcast"]).await;
    let text = admin.get("/connections").expect_status(200).await.body;
    let listed: Value = serde_json::from_str(&text).unwrap();
    let connections = listed["connections"].as_array().unwrap();
    let own: Vec<_> = connections.iter().filter(|connection| connection["dialect"] == "live").collect();
    assert_eq!(own.len(), 1, "{text}");
    assert_eq!((&own[0]["id"], &own[0]["form"]), (&client.hello["c"], &"websocket".into()), "{text}");
    assert_eq!(own[0]["facilities"], serde_json::json!(["live-a", "live-b", "live-c"]), "{text}");
}

#[tokio::test]
async fn a_listed_user_is_that_of_now() {
    let admin = Admin::start(&[]).await;
    let key = session_key();
    let request = admin.gateway.request("/ws/who?subscribe-broadcast").header("Cookie", john(&key));
    let _client = request.connect().await;
    assert_eq!(admin.expect_connections("who", 1).await[0]["user"], "john");
    // Without a name in the session, the primary key stands for the user.
    crate::support::sessions::write_session(
        RedisServer::shared(),
        &key,
        r#"{"_auth_user_id": "7", "_auth_user_hash": "h"}"#,
    );
    crate::support::sessions::hint(&admin.gateway, "7", "change");
    within_deadline("the user is known by its primary key", async {
        while admin.expect_connections("who", 1).await[0]["user"] != "7" {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_thousand_connections_are_listed_once_each_while_others_come_and_go() {
    const CLIENTS: usize = 1000;
    let admin = Admin::start(&[("server.shards", "3")]).await;
    let mut clients = Vec::new();
    let mut others: Vec<TestClient> = Vec::new();
    for number in 0..CLIENTS {
        clients.push(admin.gateway.connect(&format!("/ws/stay-{number}?subscribe-broadcast")).await);
        if number % 10 == 0 {
            others.push(admin.gateway.connect("/ws/leave?subscribe-broadcast").await);
        }
    }
    for limit in [1000, 100, 97] {
        let (mut all, mut after) = (Vec::new(), String::new());
        loop {
            let page = admin.json(&format!("/connections?limit={limit}{after}")).await;
            all.extend(page["connections"].as_array().unwrap().iter().cloned());
            let Some(next) = page["next"].as_str() else { break };
            after = format!("&after={next}");
            // Positions become free and are taken again between two pages.
            for _ in 0..5 {
                drop(others.remove(0));
                others.push(admin.gateway.connect("/ws/leave?subscribe-broadcast").await);
            }
        }
        let names: Vec<_> = all.iter().map(|it| it["facility"].as_str().unwrap()).collect();
        let stayed: Vec<_> = names.iter().filter(|name| name.starts_with("stay-")).collect();
        assert_eq!(stayed.len(), CLIENTS, "limit {limit}");
        assert_eq!(stayed.iter().collect::<BTreeSet<_>>().len(), CLIENTS, "limit {limit}");
        let ids: BTreeSet<_> = all.iter().map(|it| it["id"].as_str().unwrap()).collect();
        assert_eq!(ids.len(), all.len(), "limit {limit}");
    }
    // Without a limit a page has 100.
    let page = admin.json("/connections").await;
    assert_eq!(page["connections"].as_array().unwrap().len(), 100);
    // Clients get their messages meanwhile.
    admin.gateway.publish("broadcast:stay-999", "still here");
    clients[999].expect_text("still here").await;
    drop((clients, others));
    let (left, _) = within_deadline("all connections are gone", async {
        loop {
            let listed = admin.connections(1000).await;
            if listed.0.is_empty() {
                return listed;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert!(left.is_empty());
}

#[tokio::test]
async fn a_slow_client_shows_what_waits_for_it_and_what_was_dropped() {
    let settings = [
        ("messages.when_slow", "drop-oldest"),
        ("messages.outbox_bytes", "65536"),
        ("messages.outbox_seconds", "0"),
    ];
    let admin = Admin::start(&settings).await;
    let gateway = &admin.gateway;
    let request = gateway.request("/ws/slow?subscribe-broadcast").receive_buffer(4096);
    let mut client = request.open().await;
    client.send_raw(&request.bytes()).await;
    assert_eq!(client.read_head().await.status, 101);
    let payload = vec![b'x'; 32 * 1024];
    within_deadline("messages are dropped", async {
        loop {
            gateway.publish("broadcast:slow", &payload);
            let listed = admin.expect_connections("slow", 1).await.remove(0);
            if listed["dropped"].as_u64().unwrap() > 0 {
                assert!(listed["waiting_bytes"].as_u64().unwrap() > 32 * 1024, "{listed}");
                assert!(listed["delivered"].as_u64().unwrap() > 0, "{listed}");
                return;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn listings_do_not_delay_deliveries() {
    let admin = Admin::start(&[("server.shards", "1"), ("admin.max_connections", "8")]).await;
    let mut clients = Vec::new();
    for number in 0..500 {
        clients.push(admin.gateway.connect(&format!("/ws/{number}?subscribe-broadcast")).await);
    }
    let mut witness = admin.gateway.connect("/ws/witness?subscribe-broadcast").await;
    let mut listings = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let request = admin.get("/connections?limit=1000");
        listings.spawn(async move {
            for _ in 0..10 {
                let answer = request.clone().expect_status(200).await;
                assert_eq!(json(&answer)["connections"].as_array().unwrap().len(), 501);
            }
        });
    }
    let mut slowest = Duration::ZERO;
    while !listings.is_empty() {
        let begun = Instant::now();
        witness.expect_nothing().await;
        slowest = slowest.max(begun.elapsed());
        while listings.try_join_next().is_some_and(|ended| ended.map(|()| true).unwrap()) {}
    }
    // Generous, for a loaded machine; a listing that held its shard would take as long as all of them.
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
}
