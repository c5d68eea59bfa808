//! The list of yunity-sockets: the route `/yunity`, and the listener of `socketio.yunity.admin_listen`.

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use serde_json::{Value, json};

use super::{address, get, json as body, refused, refused_start, thread_names};
use crate::support::client::TestClient;
use crate::support::gateway::GatewayBuilder;
use crate::support::sessions::{john, session_key};
use crate::support::socket_io::{POLL_V4, SocketIoGateway, V4, join, open, text};
use crate::support::{RedisServer, TestGateway, unique, within_deadline};

const V3_PATH: &str = "/socket/?EIO=3&transport=websocket";

/// A gateway for yunity-sockets with the listener of its list.
struct Yunity {
    gateway: TestGateway,
    list: SocketAddr,
    keys: String,
}

impl Yunity {
    async fn start(settings: &[(&str, &str)]) -> Self {
        let keys = unique("session-store");
        let builder = yunity(settings).set("socketio.yunity.session_keys", &format!("{keys}-{{session}}"));
        let gateway = builder.set("socketio.yunity.admin_listen", "127.0.0.1:0").start().await;
        let list = address(&gateway, "list of yunity-sockets").await;
        Self { gateway, list, keys }
    }

    async fn clients(&self) -> Vec<Value> {
        clients(self.list, "/").await
    }

    /// Waits until this many clients are listed.
    async fn expect_clients(&self, count: usize) -> Vec<Value> {
        within_deadline(&format!("{count} clients are listed"), async {
            loop {
                let all = self.clients().await;
                if all.len() == count {
                    return all;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await
    }

    /// Connects a client of protocol 3. Returns the secret id of its session.
    async fn connect(&self, more: &str) -> (TestClient, String) {
        let (mut client, open) = open(self.gateway.request(&format!("{V3_PATH}{more}"))).await;
        client.expect_text("40").await;
        (client, open["sid"].as_str().unwrap().to_owned())
    }
}

fn yunity(settings: &[(&str, &str)]) -> GatewayBuilder {
    let builder = TestGateway::builder()
        .set("socketio.yunity.enabled", "true")
        .set("socketio.yunity.channel", &unique("notifications"));
    settings.iter().fold(builder, |builder, (key, value)| builder.set(key, value))
}

async fn clients(address: SocketAddr, target: &str) -> Vec<Value> {
    let response = get(address, target).expect_status(200).await;
    body(&response)["connections"].as_array().unwrap().clone()
}

#[tokio::test]
async fn each_client_is_listed_as_yunity_sockets_does_and_without_secrets() {
    let yunity = Yunity::start(&[
        ("socketio.yunity.path", "/socket/,/other/"),
        ("socketio.enabled", "true"),
        ("admin.listen", "127.0.0.1:0"),
        ("server.shards", "3"),
    ])
    .await;
    let gateway = &yunity.gateway;
    let (key, session) = (session_key(), unique("S3CRET"));
    RedisServer::shared().command(&["SET", &format!("{}-{session}", yunity.keys), "user1"]);
    let request = gateway.request(&format!("{V3_PATH}&page=1&page=2&access_token=S3CRET&sessionId=S3CRET"));
    let request = request.header("Cookie", john(&key)).header("Authorization", "Bearer S3CRET");
    let (mut named, opened) = open(request.header("User-Agent", "a \"browser\"")).await;
    named.expect_text("40").await;
    named.send_text(&format!("42{}", json!(["authenticate", {"sessionId": session}]))).await;

    // One that polls at the other mount, and those that are not listed.
    let server = gateway.stream("/other?EIO=3&transport=polling&t=Lx").without("Accept");
    let polling = server.header("Origin", "https://foreign.example").expect_status(200).await;
    let (mut main, _) = open(gateway.request(V4)).await;
    join(&mut main, "/").await;
    let (_unconnected, _) = open(gateway.request(&V3_PATH.replace("EIO=3", "EIO=4"))).await;

    let all = within_deadline("the user of the session is known", async {
        loop {
            let all = yunity.clients().await;
            if all.iter().any(|client| client["userId"] == "user1") {
                return all;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    assert_eq!(all.len(), 2, "{all:?}");
    let of = |path: &str| {
        let url = |client: &Value| client["handshake"]["url"].as_str().unwrap().to_owned();
        all.iter().find(|client| url(client).starts_with(path)).unwrap_or_else(|| panic!("{path}: {all:?}"))
    };
    let listed = of("/socket/");
    assert_eq!((&listed["sessionId"], &listed["userId"]), (&"***".into(), &"user1".into()), "{listed}");
    let handshake = &listed["handshake"];
    let members: Vec<_> = handshake.as_object().unwrap().keys().collect();
    assert_eq!(
        members,
        ["address", "headers", "issued", "query", "secure", "time", "url", "xdomain"],
        "{handshake}"
    );
    assert_eq!(
        handshake["url"],
        "/socket/?EIO=3&transport=websocket&page=1&page=2&access_token=***&sessionId=***"
    );
    assert_eq!(
        handshake["query"],
        json!({
            "EIO": "3", "transport": "websocket", "page": ["1", "2"], "access_token": "***", "sessionId": "***",
        })
    );
    assert_eq!(
        (&handshake["address"], &handshake["secure"], &handshake["xdomain"]),
        (&"127.0.0.1".into(), &false.into(), &false.into())
    );
    for (name, expected) in [
        ("cookie", "***"),
        ("authorization", "***"),
        ("user-agent", "a \"browser\""),
        ("upgrade", "websocket"),
    ] {
        assert_eq!(handshake["headers"][name], expected, "{name}: {handshake}");
    }
    let time = handshake["time"].as_str().unwrap();
    assert!(time.ends_with(" GMT+0000 (Coordinated Universal Time)"), "{time}");
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
    let age = now.as_millis() - u128::from(handshake["issued"].as_u64().unwrap());
    assert!(age < 60_000, "{age}");

    let listed = of("/other?");
    assert_eq!((&listed["sessionId"], &listed["userId"]), (&Value::Null, &Value::Null), "{listed}");
    assert!(!listed.as_object().unwrap().contains_key("sessionId"), "{listed}");
    assert_eq!(listed["handshake"]["xdomain"], true, "{listed}");

    let operator = address(gateway, "admin listener").await;
    let text = get(operator, "/yunity").expect_status(200).await.body;
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["connections"].as_array(), Some(&all));
    let polled = polling.body.split("\"sid\":\"").nth(1).unwrap().split('"').next().unwrap();
    for secret in ["S3CRET", &key, opened["sid"].as_str().unwrap(), polled] {
        assert!(!text.contains(secret), "{secret}: {text}");
        assert_eq!(gateway.count_log(&[secret]), 0);
    }
}

#[tokio::test]
async fn the_list_is_guarded_and_everything_else_is_404() {
    let yunity = Yunity::start(&[]).await;
    let list = || get(yunity.list, "/");
    for host in ["localhost", "127.0.0.1:5001", "[::1]"] {
        list().with("Host", host).expect_status(200).await;
    }
    for host in ["evil.example", "localhost.evil.example", "10.0.0.5", "0.0.0.0", ""] {
        refused(list().with("Host", host), 403, "does not name this machine").await;
    }
    refused(list().without("Host"), 403, "does not name this machine").await;
    refused(get(yunity.list, "http://evil.example/"), 403, "does not name this machine").await;
    let own = format!("http://{}", yunity.list);
    for origin in ["https://evil.example", "null", &own] {
        refused(list().header("Origin", origin), 403, "web pages").await;
    }
    for site in ["cross-site", "same-origin", "same-site"] {
        refused(list().header("Sec-Fetch-Site", site), 403, "web pages").await;
    }
    list().header("Sec-Fetch-Site", "none").expect_status(200).await;
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        refused(list().method(method), 404, "GET /").await;
    }
    for path in ["/connections", "/yunity", "/health/live", "/x", "//"] {
        refused(get(yunity.list, path), 404, "GET /").await;
    }
    let answer = list().expect_status(200).await;
    assert_eq!(answer.body, "{\"connections\":[]}\n");
    // The public listener has neither of them.
    yunity.gateway.stream("/yunity").without("Accept").expect_status(404).await;
}

#[tokio::test]
async fn nothing_is_kept_of_a_client_that_has_gone() {
    let yunity = Yunity::start(&[("server.shards", "1"), ("socketio.enabled", "true")]).await;
    let (first, _) = yunity.connect("&number=1").await;
    assert_eq!(yunity.expect_clients(1).await[0]["handshake"]["query"]["number"], "1");
    drop(first);
    yunity.expect_clients(0).await;
    // Clients that take its place in the table: one of another mount, and one of the same.
    let (mut main, _) = open(yunity.gateway.request(V4)).await;
    join(&mut main, "/").await;
    assert_eq!(yunity.clients().await, [] as [Value; 0]);
    drop(main);
    let (_second, _) = yunity.connect("&number=2").await;
    assert_eq!(yunity.expect_clients(1).await[0]["handshake"]["query"]["number"], "2");
}

#[tokio::test]
async fn a_long_list_has_every_client_once() {
    const CLIENTS: usize = 100;
    let yunity = Yunity::start(&[("server.shards", "3")]).await;
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        let request = yunity.gateway.request(&format!("{V3_PATH}&number={number}"));
        let (mut client, _) = open(request.header("X-Long", vec![b'x'; 7_000])).await;
        client.expect_text("40").await;
        clients.push(client);
    }
    let whole = get(yunity.list, "/").version("HTTP/1.0").expect_status(200).await;
    assert_eq!(whole.header("content-length"), None, "it is written in chunks");
    assert!(whole.body.len() > CLIENTS * 7_000, "{}", whole.body.len());
    let listed = body(&whole);
    let numbers = listed["connections"].as_array().unwrap().iter().map(|client| {
        assert_eq!(client["handshake"]["headers"]["x-long"].as_str().unwrap().len(), 7_000);
        client["handshake"]["query"]["number"].as_str().unwrap().parse::<usize>().unwrap()
    });
    let mut numbers: Vec<_> = numbers.collect();
    numbers.sort_unstable();
    assert!(numbers.into_iter().eq(0..CLIENTS));
}

#[tokio::test]
async fn an_upgraded_client_keeps_the_handshake_of_its_first_request() {
    let settings = [
        ("socketio.yunity.enabled", "true"),
        ("socketio.yunity.path", "/socket.io/"),
        ("socketio.yunity.admin_listen", "127.0.0.1:0"),
    ];
    let server = SocketIoGateway::start_with(&settings).await;
    let list = address(&server.gateway, "list of yunity-sockets").await;
    let (polling, _) = server.open_polling(POLL_V4).await;
    let mut socket = polling.upgrade(&server).connect().await;
    socket.send_text("2probe").await;
    socket.expect_text("3probe").await;
    socket.send_text("5").await;
    socket.send_text("40").await;
    let joined = text(&mut socket).await;
    let public: Value = serde_json::from_str(joined.strip_prefix("40").unwrap()).unwrap();
    let listed = clients(list, "/").await.remove(0);
    assert_eq!(listed["connectionId"], public["sid"], "{listed}");
    assert_eq!(listed["handshake"]["query"], json!({"EIO": "4", "transport": "polling"}), "{listed}");
    assert!(!listed.to_string().contains(&polling.sid), "{listed}");
}

#[tokio::test]
async fn without_its_setting_there_is_no_second_listener_and_no_handshake() {
    let settings = [("admin.listen", "127.0.0.1:0"), ("socketio.eio3_ids", "same")];
    let gateway = yunity(&settings).start().await;
    let operator = address(&gateway, "admin listener").await;
    assert_eq!(gateway.count_log(&["list of yunity-sockets"]), 0);
    assert_eq!(thread_names(&gateway).iter().filter(|name| name.trim() == "admin").count(), 1);
    let (mut client, _) = open(gateway.request(V3_PATH)).await;
    client.expect_text("40").await;
    // Where both ids are one, not even that is shown.
    assert_eq!(clients(operator, "/yunity").await, [json!({"connectionId": "***"})]);
    // Without the bridge the address is not used.
    let builder = TestGateway::builder().set("socketio.yunity.admin_listen", "127.0.0.1:0");
    let gateway = builder.start().await;
    assert!(!thread_names(&gateway).iter().any(|name| name.trim() == "admin"));
}

#[tokio::test]
async fn an_address_of_the_list_that_cannot_be_used_aborts_the_start() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for (listen, code, expected) in [
        (address.as_str(), 1, format!("{address} is in use")),
        ("0.0.0.0:5001", 64, "/yunity of admin.listen".to_owned()),
        ("gateway.internal:5001", 64, "/yunity of admin.listen".to_owned()),
        ("unix:/tmp/list.sock", 64, "127.0.0.1:5001".to_owned()),
        ("5001", 64, "127.0.0.1:5001".to_owned()),
    ] {
        let settings = ["socketio.yunity.enabled=true", &format!("socketio.yunity.admin_listen={listen}")];
        let (found, said) = refused_start(&settings.map(str::to_owned)).await;
        assert_eq!(found, code, "{listen}: {said}");
        assert!(said.contains("socketio.yunity.admin_listen: ") && said.contains(&expected), "{said}");
    }
}
