//! The route `DELETE /connections`.

use serde_json::json;

use super::{Admin, TOKEN, get, json as answer_of, refused};
use crate::support::client::Request;
use crate::support::events::SseClient;
use crate::support::gateway::binary;
use crate::support::sessions::{john, mary, session_key};
use crate::support::socket_io::{self, POLL_V4, SocketIoGateway, V4, join};
use crate::support::{TestGateway, within_deadline};

impl Admin {
    async fn for_changes(settings: &[(&str, &str)]) -> Self {
        Self::start(&[&[("admin.token", TOKEN)], settings].concat()).await
    }

    fn delete(&self, target: &str) -> Request {
        self.get(target).method("DELETE").header("Authorization", format!("Bearer {TOKEN}"))
    }

    async fn closed(&self, target: &str) -> u64 {
        answer_of(&self.delete(target).expect_status(200).await)["closed"].as_u64().unwrap()
    }
}

async fn socket(gateway: &TestGateway, target: &str, cookie: &str) -> crate::support::client::TestClient {
    gateway.request(target).header("Cookie", cookie).connect().await
}

#[tokio::test]
async fn the_operator_closes_connections_of_all_plain_dialects_with_a_code_and_a_reason() {
    let admin = Admin::for_changes(&[]).await;
    let gateway = &admin.gateway;
    let (johns, marys) = (john(&session_key()), mary(&session_key()));
    let mut plain = socket(gateway, "/ws/a?subscribe-broadcast", &johns).await;
    let live = gateway.live_request("/ws/b?subscribe-broadcast").header("Cookie", &johns);
    let mut live = live.connect().await;
    let stream = gateway.stream("/ws/c?subscribe-broadcast").header("Cookie", &johns);
    let mut stream = SseClient::open(stream).await;
    let mut other = socket(gateway, "/ws/a?subscribe-broadcast", &marys).await;

    assert_eq!(admin.closed("/connections?user=nobody").await, 0);
    assert_eq!(admin.closed("/connections?user=john&facility=d").await, 0);
    let reason = "go%20%22away%22%20%E2%82%AC";
    assert_eq!(admin.closed(&format!("/connections?user=john&code=4001&reason={reason}")).await, 3);
    assert_eq!(plain.expect_close(4001).await, "go \"away\" €");
    // The greeting and the answer of the subscription come before.
    let live_reason = within_deadline("the end of version 2", async {
        loop {
            let frame = live.next_frame().await;
            if frame.opcode == 8 {
                return frame.payload;
            }
        }
    })
    .await;
    assert_eq!(live_reason, [&4001_u16.to_be_bytes(), "go \"away\" €".as_bytes()].concat());
    let (name, data) = stream.next().await;
    assert_eq!((name.as_str(), data.as_str()), ("close", r#"{"code":4001,"reason":"go \"away\" €"}"#));
    stream.client.expect_end().await;
    // The others stay.
    gateway.publish("broadcast:a", "still here");
    other.expect_text("still here").await;
    assert_eq!(admin.closed("/connections?facility=a").await, 1);
    assert_eq!(other.expect_close(1008).await, "closed by the operator");
    gateway.expect_log(&["the operator has closed connections", "closed=3", "code=4001", "john"]).await;
}

#[tokio::test]
async fn one_connection_is_closed_by_its_id() {
    let admin = Admin::for_changes(&[]).await;
    let mut clients = Vec::new();
    for facility in ["one", "two", "three"] {
        clients.push(admin.gateway.connect(&format!("/ws/{facility}?subscribe-broadcast")).await);
    }
    let listed = admin.expect_connections("two", 1).await.remove(0);
    let target = format!("/connections/{}?code=1012&reason=", listed["id"].as_str().unwrap());
    assert_eq!(admin.closed(&target).await, 1);
    assert_eq!(clients[1].expect_close(1012).await, "");
    drop(clients.remove(1));
    admin.expect_connections("two", 0).await;
    refused(admin.delete(&target), 404, "GET /connections").await;
    refused(admin.delete("/connections/nonsense"), 404, "GET /connections").await;
    refused(admin.delete("/connections/x?code=1"), 400, "close code").await;
    for client in &mut clients {
        client.expect_nothing().await;
    }
    let answer = admin.delete("/connections/x").method("GET").expect_status(405).await;
    assert_eq!(answer.header("allow"), Some("DELETE"));
}

#[tokio::test]
async fn groups_and_sessions_name_connections_to_close() {
    let admin = Admin::for_changes(&[]).await;
    let gateway = &admin.gateway;
    let (first, second) = (session_key(), session_key());
    let (johns, marys, again) = (john(&first), mary(&session_key()), john(&second));
    let mut at_desk = socket(gateway, "/ws/desk?subscribe-broadcast", &johns).await;
    let mut on_phone = socket(gateway, "/ws/phone?subscribe-broadcast", &again).await;
    let mut other = socket(gateway, "/ws/other?subscribe-broadcast", &marys).await;
    let listed = admin.expect_connections("desk", 1).await.remove(0);
    let session = listed["session"].as_str().unwrap();
    assert_eq!(admin.closed(&format!("/connections?session={session}")).await, 1);
    at_desk.expect_close(1008).await;
    assert_eq!(admin.closed(&format!("/connections?session={session}&facility=phone")).await, 0);
    assert_eq!(admin.closed("/connections?group=red%20team").await, 1);
    on_phone.expect_close(1008).await;
    assert_eq!(gateway.count_log(&[&first]) + gateway.count_log(&[&second]), 0);
    other.expect_nothing().await;
}

#[tokio::test]
async fn clients_of_socket_io_are_disconnected_from_their_namespaces() {
    let (builder, channel) = socket_io::builder();
    let builder = builder.set("admin.listen", "127.0.0.1:0").set("admin.token", TOKEN);
    let Admin { gateway, address } = Admin::of(builder).await;
    let server = SocketIoGateway { gateway, channel };
    let (johns, marys) = (john(&session_key()), mary(&session_key()));
    let (mut web, _) = socket_io::open(server.gateway.request(V4).header("Cookie", &johns)).await;
    let sid = join(&mut web, "/").await;
    join(&mut web, "/chat").await;
    let (mut other, _) = socket_io::open(server.gateway.request(V4).header("Cookie", &marys)).await;
    join(&mut other, "/").await;
    let polling = server.gateway.stream(POLL_V4).without("Accept").header("Cookie", &johns);
    let opened = polling.expect_status(200).await.body;
    let target = format!("{POLL_V4}&sid={}", opened.split('"').nth(3).unwrap());
    let polling = server.gateway.stream(&target).without("Accept").header("Cookie", &johns);
    let connect = polling.clone().method("POST").with("Content-Length", "2").followed_by(b"40");
    connect.expect_status(200).await;
    polling.clone().expect_status(200).await;

    let admin = Admin { gateway: server.gateway, address };
    assert_eq!(admin.closed("/connections?user=john&code=4003&reason=bye").await, 2);
    web.expect_text("41").await;
    web.expect_text("41/chat,").await;
    assert_eq!(web.expect_close(4003).await, "bye");
    // A client that polls learns no code: it gets the disconnect packet, and the end of its session.
    let answer = polling.clone().expect_status(200).await.body;
    assert!(answer.starts_with("41"), "{answer}");
    let ended = if answer.ends_with('1') && answer.len() > 2 { 400 } else { 200 };
    polling.expect_status(ended).await;
    other.expect_nothing().await;
    assert_eq!(admin.connections(100).await.0.len(), 1, "that of mary");
    refused(admin.delete(&format!("/connections/{sid}")), 404, "GET /connections").await;
    // By the id that Django knows, too.
    let (all, _) = admin.connections(100).await;
    let sid = all[0]["namespaces"][0]["sid"].as_str().unwrap();
    assert_eq!(admin.closed(&format!("/connections/{sid}")).await, 1);
    other.expect_text("41").await;
    other.expect_close(1008).await;
}

#[tokio::test]
async fn many_connections_are_closed_while_others_are_served() {
    const CLIENTS: usize = 600;
    let admin = Admin::for_changes(&[("server.shards", "2")]).await;
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(admin.gateway.connect("/ws/many?subscribe-broadcast").await);
    }
    let mut witness = admin.gateway.connect("/ws/witness?subscribe-broadcast").await;
    let delete = admin.delete("/connections?facility=many&code=1012");
    let closing = tokio::spawn(async move { answer_of(&delete.expect_status(200).await) });
    witness.expect_nothing().await;
    assert_eq!(closing.await.unwrap(), json!({ "closed": CLIENTS }));
    for client in &mut clients {
        client.expect_close(1012).await;
    }
    witness.expect_nothing().await;
}

#[tokio::test]
async fn a_request_to_close_is_authorized_and_complete() {
    let admin = Admin::for_changes(&[]).await;
    let mut client = admin.gateway.connect("/ws/x?subscribe-broadcast").await;
    refused(admin.get("/connections?facility=x").method("DELETE"), 401, "Bearer").await;
    for (query, part) in [
        ("", "?user=NAME"),
        ("?code=1000", "?user=NAME"),
        ("?facility=x&facilty=y", "user, group, session"),
        ("?facility=x&facility=y", "once"),
        ("?facility=x&code=1006", "close code"),
        ("?facility=x&reason=%00", "control characters"),
    ] {
        refused(admin.delete(&format!("/connections{query}")), 400, part).await;
    }
    client.expect_nothing().await;
    let open = Admin::start(&[]).await;
    refused(get(open.address, "/connections?facility=x").method("DELETE"), 403, "admin.token_file").await;
}

#[tokio::test]
async fn a_command_closes_connections_with_the_token_of_the_settings() {
    let admin = Admin::for_changes(&[]).await;
    let address = admin.address.to_string();
    let kick = async |token: &str, flags: &[&str]| {
        let mut command = binary();
        command.args(["--set", &format!("admin.listen={address}"), "--set", &format!("admin.token={token}")]);
        command.arg("kick").args(flags);
        let done = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let said = String::from_utf8([done.stdout, done.stderr].concat()).unwrap();
        (done.status.code().unwrap(), said)
    };
    let mut clients = Vec::new();
    for facility in ["one two", "three"] {
        let path = format!("/ws/{}?subscribe-broadcast", facility.replace(' ', "%20"));
        clients.push(admin.gateway.connect(&path).await);
    }
    let other = kick(&TOKEN.replace('0', "1"), &["--facility", "three"]).await;
    assert!(other.0 == 1 && other.1.contains("Authorization: Bearer"), "{other:?}");
    for (flags, code, part) in [
        (&[][..], 64, "--user"),
        (&["--code", "1000"], 64, "--user"),
        (&["x", "--user", "john"], 64, "cannot be used with"),
        (&["a/b?c"], 1, "not the id"),
        (&["a-1"], 1, "no open connection has this id"),
        (&["--user", "john", "--code", "1006"], 1, "close code"),
        (&["--user", "nobody"], 0, "closed 0 connections\n"),
        (&["--facility", "one two", "--code", "4002", "--reason", "a & b"], 0, "closed 1 connection\n"),
    ] {
        let (exit, said) = kick(TOKEN, flags).await;
        assert!(exit == code && said.contains(part), "{flags:?}: {exit} {said}");
    }
    assert_eq!(clients[0].expect_close(4002).await, "a & b");
    let listed = admin.expect_connections("three", 1).await.remove(0);
    let done = kick(TOKEN, &[listed["id"].as_str().unwrap(), "--json"]).await;
    assert_eq!(done, (0, "{\"closed\":1}\n".to_owned()));
    clients[1].expect_close(1008).await;
}
