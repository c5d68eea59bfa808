//! The listener for the operator: who is answered, health checks, and the list of connections.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use crate::support::client::{Request, Response, TestClient};
use crate::support::events::SseClient;
use crate::support::gateway::{GatewayBuilder, binary};
use crate::support::sessions::{john, session_key};
use crate::support::socket_io::{self, SocketIoGateway};
use crate::support::{DEADLINE, RedisServer, TestGateway, eventually, signal, unique, within_deadline};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// A gateway with an admin listener.
struct Admin {
    gateway: TestGateway,
    address: SocketAddr,
}

impl Admin {
    async fn start(settings: &[(&str, &str)]) -> Self {
        let mut builder = TestGateway::builder().set("admin.listen", "127.0.0.1:0");
        for (key, value) in settings {
            builder = builder.set(key, value);
        }
        Self::of(builder).await
    }

    async fn of(builder: GatewayBuilder) -> Self {
        let gateway = builder.start().await;
        let line = gateway.expect_log(&["admin listener: http://"]).await;
        let address = line.split("http://").nth(1).unwrap().trim_end().parse().unwrap();
        Self { gateway, address }
    }

    /// Returns a plain GET.
    fn get(&self, target: &str) -> Request {
        let request = Request::handshake(self.address, target, "", 0);
        ["Upgrade", "Connection", "Sec-WebSocket-Key", "Sec-WebSocket-Version"]
            .into_iter()
            .fold(request, Request::without)
    }

    async fn json(&self, target: &str) -> Value {
        json(&self.get(target).expect_status(200).await)
    }

    /// Returns the connections of all pages, and the number of pages.
    async fn connections(&self, limit: usize) -> (Vec<Value>, usize) {
        let (mut all, mut pages, mut after) = (Vec::new(), 0, String::new());
        loop {
            let page = self.json(&format!("/connections?limit={limit}{after}")).await;
            let found = page["connections"].as_array().unwrap();
            assert!(found.len() <= limit, "{}", found.len());
            all.extend(found.iter().cloned());
            pages += 1;
            match page["next"].as_str() {
                Some(next) => after = format!("&after={next}"),
                None => return (all, pages),
            }
        }
    }

    /// Waits until exactly this many connections to a facility are listed, and returns them.
    async fn expect_connections(&self, facility: &str, count: usize) -> Vec<Value> {
        within_deadline(&format!("{count} connections to {facility}"), async {
            loop {
                let (mut all, _) = self.connections(1000).await;
                all.retain(|it| it["facility"] == facility);
                if all.len() == count {
                    return all;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await
    }
}

fn json(response: &Response) -> Value {
    assert_eq!(response.header("content-type"), Some("application/json"), "{response:?}");
    assert_eq!(response.header("cache-control"), Some("no-store"), "{response:?}");
    serde_json::from_str(&response.body).unwrap()
}

/// Expects a refusal whose text contains `part`.
async fn refused(request: Request, status: u16, part: &str) {
    let response = request.expect_status(status).await;
    let body = json(&response);
    let error = body["error"].as_str().unwrap();
    assert!(error.contains(part), "{part} is not in {error}");
}

fn thread_names(gateway: &TestGateway) -> Vec<String> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", gateway.pid())).unwrap();
    tasks.map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).unwrap()).collect()
}

#[tokio::test]
async fn without_its_setting_there_is_no_admin_listener() {
    let gateway = TestGateway::start().await;
    assert_eq!(gateway.count_log(&["admin listener"]), 0);
    assert!(!thread_names(&gateway).iter().any(|name| name.trim() == "admin"));
    for path in ["/connections", "/health/live", "/health/ready"] {
        gateway.stream(path).without("Accept").expect_status(404).await;
    }
    // Nor does the public listener serve it when it is on.
    let admin = Admin::start(&[]).await;
    for path in ["/connections", "/health/live", "/health/ready"] {
        admin.gateway.stream(path).without("Accept").expect_status(404).await;
    }
    assert!(thread_names(&admin.gateway).iter().any(|name| name.trim() == "admin"));
}

#[tokio::test]
async fn only_loopback_and_listed_hosts_are_answered() {
    let admin = Admin::start(&[("admin.hosts", "gateway.internal, 10.0.0.5:9000")]).await;
    for host in ["localhost", "LOCALHOST:1", "127.0.0.1:80", "127.3.4.5", "[::1]:9000", "gateway.internal:7"]
    {
        admin.get("/health/live").with("Host", host).expect_status(200).await;
    }
    // A page of evil.example whose name was pointed at 127.0.0.1 after it had been loaded sends these.
    for host in [
        "evil.example",
        "evil.example:9000",
        "localhost.evil.example",
        "127.0.0.1.nip.io",
        "10.0.0.5:9001",
        "0.0.0.0",
        "127.0.0.1@evil.example",
        "",
        "loc\u{e4}lhost",
    ] {
        refused(admin.get("/health/live").with("Host", host), 403, "admin.hosts").await;
        refused(admin.get("/nowhere").with("Host", host), 403, "admin.hosts").await;
    }
    refused(admin.get("/health/live").without("Host"), 403, "admin.hosts").await;
    refused(admin.get("/health/live").header("Host", "localhost"), 403, "admin.hosts").await;
    refused(admin.get("http://evil.example/health/live"), 403, "admin.hosts").await;
    admin.get("http://localhost/health/live").expect_status(200).await;
}

#[tokio::test]
async fn requests_of_web_pages_are_refused() {
    let admin = Admin::start(&[]).await;
    admin.get("/health/live").header("Sec-Fetch-Site", "none").expect_status(200).await;
    for site in ["cross-site", "same-site", "same-origin", "", "None"] {
        refused(admin.get("/connections").header("Sec-Fetch-Site", site), 403, "web pages").await;
    }
    let twice = admin.get("/connections").header("Sec-Fetch-Site", "none");
    refused(twice.header("Sec-Fetch-Site", "cross-site"), 403, "web pages").await;
    let own = format!("http://{}", admin.address);
    for origin in ["https://evil.example", "null", "http://localhost", own.as_str(), ""] {
        refused(admin.get("/connections").header("Origin", origin), 403, "web pages").await;
    }
    // A preflight gets no permission either.
    let preflight = admin.get("/connections").method("OPTIONS").header("Origin", "https://evil.example");
    let answer = preflight.header("Access-Control-Request-Method", "GET").expect_status(403).await;
    assert!(answer.headers.iter().all(|(name, _)| !name.to_lowercase().starts_with("access-control")));
}

#[tokio::test]
async fn without_a_token_only_reading_is_answered() {
    let admin = Admin::start(&[]).await;
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"] {
        refused(admin.get("/connections").method(method), 403, "admin.token_file").await;
    }
    let head = admin.get("/health/live").method("HEAD");
    let mut client = head.open().await;
    client.send_raw(&head.bytes()).await;
    let answer = client.read_head().await;
    assert_eq!((answer.status, answer.header("content-length")), (200, Some("18")), "{answer:?}");
    client.expect_end().await;
}

#[tokio::test]
async fn the_token_is_required_for_changes_and_has_to_be_right() {
    let file = std::env::temp_dir().join(unique("ws4redis-token"));
    std::fs::write(&file, format!("{TOKEN}\n")).unwrap();
    for (key, value) in [("admin.token", TOKEN), ("admin.token_file", file.to_str().unwrap())] {
        let admin = Admin::start(&[(key, value)]).await;
        let post = || admin.get("/connections").method("POST");
        admin.get("/connections").expect_status(200).await;
        refused(post(), 401, "Authorization: Bearer").await;
        for sent in [
            format!("Bearer {TOKEN}x"),
            format!("Bearer {}", &TOKEN[1..]),
            format!("Basic {TOKEN}"),
            TOKEN.to_owned(),
            "Bearer ".to_owned(),
            "Bearer".to_owned(),
            String::new(),
        ] {
            let answer = post().header("Authorization", &sent).expect_status(401).await;
            assert_eq!(answer.header("www-authenticate"), Some("Bearer"), "{sent}");
            // A wrong token is no anonymous request.
            admin.get("/connections").header("Authorization", &sent).expect_status(401).await;
        }
        let right = |request: Request| request.header("Authorization", format!("bearer {TOKEN}"));
        right(admin.get("/connections")).expect_status(200).await;
        let answer = right(post()).expect_status(405).await;
        assert_eq!(answer.header("allow"), Some("GET, HEAD"));
        right(right(post())).expect_status(401).await;
        assert_eq!(admin.gateway.count_log(&[TOKEN]), 0);
    }
    std::fs::remove_file(file).unwrap();
}

#[tokio::test]
async fn an_address_that_is_not_loopback_needs_the_token_for_everything() {
    let builder = TestGateway::builder().set("admin.listen", "0.0.0.0:0").set("admin.token", TOKEN);
    let mut admin = Admin::of(builder.set("admin.hosts", "gateway.internal")).await;
    admin.address.set_ip([127, 0, 0, 1].into());
    for path in ["/health/live", "/health/ready", "/connections", "/nowhere"] {
        refused(admin.get(path), 401, "Authorization: Bearer").await;
    }
    let authorized = admin.get("/health/ready").header("Authorization", format!("Bearer {TOKEN}"));
    authorized.clone().expect_status(200).await;
    authorized.clone().with("Host", "gateway.internal").expect_status(200).await;
    refused(authorized.with("Host", "evil.example"), 403, "admin.hosts").await;
}

/// Runs the gateway with these settings, which it must refuse, and returns its exit code and what it said.
async fn refused_start(settings: &[String]) -> (i32, String) {
    let mut command = binary();
    command.args(["--set", "server.listen=127.0.0.1:0"]);
    command.args(["--set", &format!("redis.url={}", RedisServer::shared().url())]);
    for setting in settings {
        command.args(["--set", setting]);
    }
    let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let status = eventually("the gateway refuses to start", || child.try_wait().unwrap()).await;
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    (status.code().unwrap(), said)
}

#[tokio::test]
async fn a_public_address_without_a_token_exits_with_64_and_names_the_cure() {
    for listen in ["0.0.0.0:9000", "[::]:9000", "192.0.2.1:9000", "gateway.internal:9000"] {
        let (code, said) = refused_start(&[format!("admin.listen={listen}")]).await;
        assert_eq!(code, 64, "{said}");
        for part in ["admin.listen: ", "admin.token_file", "127.0.0.1", "unix:/path"] {
            assert!(said.contains(part), "{said}");
        }
    }
}

#[tokio::test]
async fn a_port_in_use_aborts_the_start_and_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let (code, said) = refused_start(&[format!("admin.listen={address}")]).await;
    assert_eq!(code, 1, "{said}");
    assert!(said.contains(&format!("admin.listen: {address} is in use")), "{said}");
}

/// Sends a GET over a unix socket, with these header lines, and returns the response.
fn get_over_unix(path: &str, target: &str, lines: &str) -> String {
    let mut stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(format!("GET {target} HTTP/1.1\r\n{lines}\r\n").as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn the_unix_socket_is_for_its_owner_replaces_a_stale_one_and_is_removed_on_exit() {
    let path = std::env::temp_dir().join(unique("ws4redis-admin"));
    let path = path.to_str().unwrap();
    let start = || -> Child {
        let mut command = binary();
        command.args(["--set", &format!("admin.listen=unix:{path}"), "--set", "server.listen=127.0.0.1:0"]);
        // The permissions of the public socket do not apply.
        command.args(["--set", "server.unix_mode=0666"]);
        command.args(["--set", &format!("redis.url={}", RedisServer::shared().url())]);
        command.stderr(Stdio::null()).spawn().unwrap()
    };
    let is_up = || UnixStream::connect(path).is_ok().then_some(());
    let mut first = start();
    eventually("the admin socket", is_up).await;
    assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
    for lines in ["", "Host:\r\n", "Host: localhost\r\n", "Host: 127.0.0.1:9\r\n"] {
        let answer = get_over_unix(path, "/health/live", lines);
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{lines:?}: {answer}");
    }
    for lines in ["Host: evil.example\r\n", "Host: localhost\r\nOrigin: null\r\n"] {
        assert!(get_over_unix(path, "/health/live", lines).starts_with("HTTP/1.1 403"), "{lines:?}");
    }
    let mut second = start();
    let status = eventually("the second one refuses", || second.try_wait().unwrap()).await;
    assert_eq!(status.code(), Some(1), "another process listens there");
    first.kill().unwrap();
    first.wait().unwrap();
    assert!(std::fs::exists(path).unwrap(), "killed, it left its socket behind");
    let mut third = start();
    eventually("a socket that replaced the stale one", is_up).await;
    signal(third.id(), "TERM");
    assert_eq!(eventually("it stops", || third.try_wait().unwrap()).await.code(), Some(0));
    assert!(!std::fs::exists(path).unwrap(), "stopped, it removed its socket");
}

#[tokio::test]
async fn a_gateway_without_redis_is_live_and_not_ready() {
    let builder = TestGateway::builder().set("admin.listen", "127.0.0.1:0");
    let admin = Admin::of(builder.set("redis.url", "redis://127.0.0.1:1").without_redis()).await;
    assert_eq!(admin.json("/health/live").await["status"], "live");
    refused(admin.get("/health/ready"), 503, "Redis is not connected").await;
    let admin = Admin::start(&[]).await;
    assert_eq!(admin.json("/health/ready").await["status"], "ready");
    // The sessions' own Redis counts, too.
    let sessions = TestGateway::builder().set("session.redis_url", "redis://127.0.0.1:1");
    let admin = Admin::of(sessions.set("admin.listen", "127.0.0.1:0")).await;
    refused(admin.get("/health/ready"), 503, "session.redis_url").await;
}

#[tokio::test]
async fn a_draining_gateway_is_live_and_not_ready() {
    let settings = [("server.drain_seconds", "60"), ("server.shards", "3")];
    let mut admin = Admin::start(&settings).await;
    let mut clients = Vec::new();
    for _ in 0..60 {
        clients.push(admin.gateway.connect("/ws/drain?subscribe-broadcast").await);
    }
    admin.gateway.signal("TERM");
    admin.gateway.expect_log(&["stopping"]).await;
    refused(admin.get("/health/ready"), 503, "draining").await;
    assert_eq!(admin.json("/health/live").await["status"], "live");
    admin.get("/connections").expect_status(200).await;
    admin.gateway.signal("TERM");
    assert_eq!(admin.gateway.expect_exit().await.code(), Some(0));
}

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
async fn wrong_parameters_paths_and_methods_are_explained() {
    let admin = Admin::start(&[("admin.token", TOKEN)]).await;
    for query in ["limit=0", "limit=1001", "limit=x"] {
        refused(admin.get(&format!("/connections?{query}")), 400, "1 to 1000").await;
    }
    refused(admin.get("/connections?after=x"), 400, "value of next").await;
    // A cursor behind the end gives an empty page.
    for after in ["0.99999999", "99.0", "18446744073709551615.18446744073709551615"] {
        let page = admin.json(&format!("/connections?after={after}")).await;
        assert_eq!(page["next"], Value::Null, "{after}: {page}");
    }
    for path in ["/", "/health", "/health/", "/connections/", "/metrics", "/health/live/../ready"] {
        refused(admin.get(path), 404, "/connections").await;
    }
}

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
