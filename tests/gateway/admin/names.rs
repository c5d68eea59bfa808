//! The routes `/channels` and `/users`.

use serde_json::{Value, json};

use super::{Admin, refused};
use crate::support::sessions::{john, log_in, mary, session_key};
use crate::support::{RedisServer, within_deadline};

/// Returns the objects of all pages of a list.
async fn pages(admin: &Admin, name: &str, query: &str, limit: usize) -> Vec<Value> {
    let (mut all, mut after) = (Vec::new(), String::new());
    loop {
        let page = admin.json(&format!("/{name}?limit={limit}{after}{query}")).await;
        all.extend(page[name].as_array().unwrap().iter().cloned());
        let Some(next) = page["next"].as_str() else { return all };
        after = format!("&after={}", next.replace('&', "%26").replace('*', "%2A"));
    }
}

#[tokio::test]
async fn channels_of_all_shards_have_their_listeners_and_no_session_keys() {
    let admin = Admin::start(&[("server.shards", "3")]).await;
    let gateway = &admin.gateway;
    let keys = [session_key(), session_key()];
    let cookies = [john(&keys[0]), mary(&keys[1])];
    let mut clients = Vec::new();
    for number in 0..4 {
        clients.push(gateway.connect(&format!("/ws/news-{}?subscribe-broadcast", number % 2)).await);
    }
    for cookie in &cookies {
        let request = gateway.request("/ws/x?subscribe-session&subscribe-user&subscribe-broadcast");
        clients.push(request.header("Cookie", cookie).connect().await);
    }
    let mut live = gateway.live("/ws/").await;
    live.subscribe("news-1", &["subscribe-broadcast"]).await;
    let prefix = clients[0].channel().unwrap().split("broadcast:").next().unwrap().to_owned();
    let row = |name: &str, count: usize| json!({"channel": format!("{prefix}{name}"), "listeners": count});
    let mut expected = vec![
        row("broadcast:news-0", 2),
        row("broadcast:news-1", 3),
        row("broadcast:x", 2),
        row("session:***:x", 2),
        row("user:john:x", 1),
        row("user:mary:x", 1),
    ];
    for limit in [1, 2, 1000] {
        assert_eq!(pages(&admin, "channels", "", limit).await, expected, "limit {limit}");
    }
    let lines = admin.get("/channels").header("Accept", "application/x-ndjson");
    let lines = lines.version("HTTP/1.0").expect_status(200).await;
    let found: Vec<Value> = lines.body.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(found, expected);
    assert!(keys.iter().all(|key| !lines.body.contains(key)), "{}", lines.body);
    let found = pages(&admin, "channels", &format!("&prefix={prefix}user:"), 1).await;
    assert_eq!(found, expected[4..]);
    assert_eq!(pages(&admin, "channels", "&prefix=nothing", 1).await, [Value::Null; 0]);
    assert_eq!(pages(&admin, "channels", "&kind=group", 1).await, [Value::Null; 0]);
    refused(admin.get("/channels?kind=x"), 400, "channel or group").await;
    refused(admin.get("/channels?user=x"), 400, "kind, prefix").await;
    drop(clients);
    expected = vec![row("broadcast:news-1", 1)];
    within_deadline("channels that nobody listens to are not listed", async {
        while pages(&admin, "channels", "", 10).await != expected {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn users_are_listed_with_their_connections() {
    let settings =
        [("server.shards", "2"), ("socketio.enabled", "true"), ("socketio.redis_manager.enabled", "true")];
    let admin = Admin::start(&settings).await;
    let gateway = &admin.gateway;
    let (mut clients, redis) = (Vec::new(), RedisServer::shared());
    // Two sessions of one user, one with two pages, and a visitor who is not logged in.
    for (id, name, paths) in [
        ("7", "john", &["/ws/a", "/ws/b"][..]),
        ("7", "john", &["/ws/a"]),
        ("8", "mary", &["/ws/c"]),
        ("9", "", &["/socket.io/?EIO=4&transport=websocket"]),
    ] {
        let cookie = log_in(redis, &session_key(), id, name, &[]);
        for path in paths {
            clients.push(gateway.request(path).header("Cookie", &cookie).connect().await);
        }
    }
    clients.push(gateway.connect("/ws/a").await);
    let row = |name: &str, count: usize| json!({"user": name, "connections": count});
    // Without a name the primary key stands for the user.
    let mut expected = vec![row("9", 1), row("john", 3), row("mary", 1)];
    for limit in [1, 2, 3, 4] {
        assert_eq!(pages(&admin, "users", "", limit).await, expected, "limit {limit}");
    }
    assert_eq!(pages(&admin, "users", "&prefix=jo", 1).await, expected[1..2]);
    drop(clients.remove(0));
    expected[1] = row("john", 2);
    within_deadline("the closed connection is not counted", async {
        while pages(&admin, "users", "", 10).await != expected {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    })
    .await;
    refused(admin.get("/users?user=x"), 400, "prefix").await;
}
