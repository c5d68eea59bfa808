//! The ways to reach Redis: unix socket, database, TLS, Sentinel, Cluster.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::support::{RedisServer, TestGateway, eventually, unique};

/// A directory that goes with the test.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        let path = std::env::temp_dir().join(unique("ws4redis-deployment"));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Runs a program to its end, which has to be a good one.
fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
}

/// Expects that messages go both ways, and are kept.
async fn expect_service(gateway: &TestGateway, redis: &RedisServer, facility: &str) {
    let mut client =
        gateway.connect(&format!("/ws/{facility}?subscribe-broadcast&publish-broadcast&echo")).await;
    redis.publish(&gateway.channel(&format!("broadcast:{facility}")), "to the client");
    client.expect_text("to the client").await;
    client.send_text("from the client").await;
    client.expect_text("from the client").await;
    let mut second = gateway.connect(&format!("/ws/{facility}?subscribe-broadcast")).await;
    second.expect_text("from the client").await;
}

#[tokio::test]
async fn redis_is_reached_through_a_unix_socket_and_in_a_database() {
    let redis = RedisServer::start();
    let path = redis.unix_path().display().to_string();
    let url = format!("unix:{path}?db=3");
    let gateway = TestGateway::builder().redis(&redis).set("redis.url", &url).start().await;
    expect_service(&gateway, &redis, "chat").await;
    let key = gateway.channel("broadcast:chat");
    assert_eq!(redis.get(&key), None, "it is in another database");
    let mut third = redis.connection();
    third.command(&["SELECT", "3"]);
    assert_eq!(third.command(&["GET", &key]).bulk().as_deref(), Some(&b"from the client"[..]));
    let url = format!("{}/3", redis.url());
    let other = TestGateway::builder().redis(&redis).namespace(gateway.namespace()).set("redis.url", &url);
    let other = other.start().await;
    other.connect("/ws/chat?subscribe-broadcast").await.expect_text("from the client").await;
}

/// As redis-py reads a URL, and the Django package by it: `tests/fixtures/redis_urls.json` has more.
#[tokio::test]
async fn database_user_and_password_of_redis_may_stand_in_the_query() {
    let redis = RedisServer::start_with(&["--user", "gate", "on", ">geheim", "~*", "&*", "+@all"]);
    let (address, path) = (format!("127.0.0.1:{}", redis.port()), redis.unix_path().display().to_string());
    for (url, database) in [
        (format!("redis://{address}?db=2"), "2"),
        (format!("redis://{address}/3?db=4"), "4"),
        (format!("redis://{address}/5/"), "5"),
        (format!("redis://{address}/?username=gate&password=geheim&db=6"), "6"),
        (format!("unix://gate:geheim@{path}?db=7"), "7"),
        (format!("unix:{path}?db=8&username=gate&password=geheim"), "8"),
    ] {
        let gateway = TestGateway::builder().redis(&redis).set("redis.url", &url).start().await;
        expect_service(&gateway, &redis, "chat").await;
        let mut connection = redis.connection();
        connection.command(&["SELECT", database]);
        let kept = connection.command(&["GET", &gateway.channel("broadcast:chat")]).bulk();
        assert_eq!(kept.as_deref(), Some(&b"from the client"[..]), "{url}");
        assert_eq!(gateway.count_log(&["geheim"]), 0, "{:#?}", gateway.log());
    }
}

#[tokio::test]
async fn redis_is_reached_by_an_ipv6_address() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        return;
    }
    let redis = RedisServer::start_with(&["--bind", "127.0.0.1", "::1"]);
    let url = format!("redis://[::1]:{}", redis.port());
    let gateway = TestGateway::builder().redis(&redis).set("redis.url", &url).start().await;
    expect_service(&gateway, &redis, "chat").await;
}

/// Makes a certificate authority, and a certificate for 127.0.0.1 and localhost.
fn make_certificates(dir: &Directory) {
    let (ca, ca_key) = (dir.file("ca.pem"), dir.file("ca.key"));
    let (request, key) = (dir.file("redis.csr"), dir.file("redis.key"));
    let curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    let subject = ["-subj", "/CN=Test CA", "-days", "2", "-keyout", &ca_key, "-out", &ca];
    run("openssl", &[&["req", "-x509"][..], &curve, &subject].concat());
    let subject = ["-subj", "/CN=localhost", "-keyout", &key, "-out", &request];
    run("openssl", &[&["req"][..], &curve, &subject].concat());
    std::fs::write(dir.file("names"), "subjectAltName=DNS:localhost,IP:127.0.0.1").unwrap();
    let (names, certificate) = (dir.file("names"), dir.file("redis.pem"));
    let signing = ["x509", "-req", "-in", &request, "-CA", &ca, "-CAkey", &ca_key, "-CAcreateserial"];
    run("openssl", &[&signing[..], &["-days", "2", "-extfile", &names, "-out", &certificate]].concat());
}

#[tokio::test]
async fn redis_is_reached_through_tls_with_a_certificate_authority_of_ones_own() {
    let dir = Directory::new();
    make_certificates(&dir);
    let port = free_port();
    let (certificate, key, ca) = (dir.file("redis.pem"), dir.file("redis.key"), dir.file("ca.pem"));
    let port = port.to_string();
    let redis = RedisServer::start_with(&[
        "--tls-port",
        &port,
        "--tls-cert-file",
        &certificate,
        "--tls-key-file",
        &key,
        "--tls-ca-cert-file",
        &ca,
        "--tls-auth-clients",
        "no",
    ]);
    let url = format!("rediss://localhost:{port}");
    let builder = || TestGateway::builder().redis(&redis).set("redis.url", &url);
    let gateway = builder().variable("SSL_CERT_FILE", &ca).start().await;
    expect_service(&gateway, &redis, "chat").await;
    redis.kill_clients("pubsub");
    gateway.expect_log(&["WARN", "redis lost"]).await;
    gateway.wait_for_redis().await;
    // Without that authority the certificate is refused, and the log says so.
    let stranger = builder().variable("SSL_CERT_FILE", "/dev/null").without_redis().start().await;
    stranger.request("/ws/chat").expect_status(503).await;
    stranger.expect_log(&["redis cannot be reached", "ertificate"]).await;
}

/// Returns a port of the tests' own on which nobody listens.
fn free_port() -> u16 {
    static TURN: std::sync::atomic::AtomicU16 = std::sync::atomic::AtomicU16::new(0);
    let first = u16::try_from(std::process::id() % 97).unwrap();
    (0..97)
        .map(|_| 17702 + (first + TURN.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) % 97)
        .find(|port| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("a free port")
}

/// Starts a sentinel that watches the Redis on `port` under the name `mymaster`.
fn start_sentinel(dir: &Directory, number: usize, port: u16) -> RedisServer {
    let path = dir.file(&format!("sentinel-{number}.conf"));
    let watch = format!("sentinel monitor mymaster 127.0.0.1 {port} 2\n");
    let rules = "sentinel down-after-milliseconds mymaster 700\nsentinel failover-timeout mymaster 5000\n";
    std::fs::write(&path, watch + rules).unwrap();
    RedisServer::start_sentinel(&path)
}

#[tokio::test]
async fn after_a_failover_of_sentinel_the_clients_hear_the_new_master() {
    let dir = Directory::new();
    let master = RedisServer::start();
    let replica = RedisServer::start_with(&["--replicaof", &format!("127.0.0.1 {}", master.port())]);
    eventually("the replica is in step", || (replica.info("master_link_status") == "up").then_some(())).await;
    let sentinels: Vec<_> = (0..3).map(|number| start_sentinel(&dir, number, master.port())).collect();
    eventually("the sentinels know each other and the replica", || {
        let status = sentinels.iter().map(|sentinel| sentinel.info("master0"));
        status.clone().all(|line| line.contains("slaves=1") && line.contains("sentinels=3")).then_some(())
    })
    .await;
    let nodes: Vec<_> = sentinels[1..].iter().map(|s| format!("node=127.0.0.1:{}", s.port())).collect();
    let url = format!(
        "redis-sentinel://127.0.0.1:{}/0?sentinelServiceName=mymaster&{}",
        sentinels[0].port(),
        nodes.join("&")
    );
    let gateway = TestGateway::builder().redis(&master).set("redis.url", &url).start().await;
    expect_service(&gateway, &master, "before").await;
    let mut client = gateway.connect("/ws/failover?subscribe-broadcast").await;
    client.expect_nothing().await;
    master.kill();
    gateway.expect_log(&["WARN", "redis lost"]).await;
    let channel = gateway.channel("broadcast:failover");
    eventually("the gateway is subscribed at the new master", || {
        (replica.try_info("role").as_deref() == Some("master") && !replica.channels(&channel).is_empty())
            .then_some(())
    })
    .await;
    replica.publish(&channel, "from the new master");
    client.expect_text("from the new master").await;
    gateway.wait_for_redis().await;
    expect_service(&gateway, &replica, "after").await;
}

/// Returns how many messages of a kind a node of a cluster has exchanged with the others; none is not told.
fn messages_of(node: &RedisServer, kind: &str) -> u64 {
    let info = String::from_utf8(node.command(&["CLUSTER", "INFO"]).bulk().unwrap()).unwrap();
    let name = format!("cluster_stats_messages_{kind}:");
    info.lines().find_map(|line| line.strip_prefix(&name)).map_or(0, |count| count.trim().parse().unwrap())
}

#[tokio::test]
async fn in_a_cluster_what_is_published_on_any_node_arrives_also_after_a_restart() {
    // Each keeps its view of the cluster in a directory that outlives its process.
    let dirs: Vec<_> = (0..3).map(|_| Directory::new()).collect();
    let options = ["--cluster-enabled", "yes", "--cluster-node-timeout", "2000", "--dir"];
    let start = |dir: &Directory| RedisServer::start_with(&[&options[..], &[&dir.file("")]].concat());
    let mut nodes: Vec<_> = dirs.iter().map(start).collect();
    let addresses: Vec<_> = nodes.iter().map(|node| format!("127.0.0.1:{}", node.port())).collect();
    let addresses: Vec<_> = addresses.iter().map(String::as_str).collect();
    run("redis-cli", &[&["--cluster", "create"][..], &addresses, &["--cluster-yes"]].concat());
    let cluster_is_ok = |nodes: &[RedisServer]| {
        let info = nodes.iter().map(|node| node.command(&["CLUSTER", "INFO"]).bulk().unwrap());
        info.map(|info| String::from_utf8(info).unwrap()).all(|info| info.contains("cluster_state:ok"))
    };
    eventually("the cluster", || cluster_is_ok(&nodes).then_some(())).await;
    let url = format!("redis-cluster://{}", addresses[0]);
    let gateway = TestGateway::builder().redis(&nodes[0]).set("redis.url", &url).start().await;
    let mut clients = Vec::new();
    // fred tells of each node to which it comes back; the subscription stays where it is.
    for node in nodes.iter().filter(|node| node.channels("").is_empty()) {
        node.kill_clients("normal");
    }
    for facility in ["a", "b", "c", "d"] {
        let target = format!("/ws/{facility}?subscribe-broadcast&publish-broadcast&echo");
        clients.push(gateway.connect(&target).await);
    }
    for round in ["before", "after"] {
        for (client, facility) in clients.iter_mut().zip(["a", "b", "c", "d"]) {
            for node in &nodes {
                let message = format!("{round} from {}", node.port());
                node.publish(&gateway.channel(&format!("broadcast:{facility}")), &message);
                client.expect_text(&message).await;
            }
            let message = format!("{round} to {facility}");
            client.send_text(&message).await;
            client.expect_text(&message).await;
            gateway.connect(&format!("/ws/{facility}?subscribe-broadcast")).await.expect_text(&message).await;
        }
        if round == "after" {
            break;
        }
        assert_eq!(gateway.count_log(&["WARN", "redis"]), 0);
        // A node that is behind would pass on once more what another one has, when the subscription moves to it.
        eventually("all nodes have what was published", || {
            let count = |what| nodes.iter().map(|node| messages_of(node, what)).sum::<u64>();
            (count("publish_sent") == count("publish_received") && count("publish_sent") > 0).then_some(())
        })
        .await;
        for index in 0..nodes.len() {
            nodes[index].stop();
            nodes[index].restart();
            eventually("the cluster", || cluster_is_ok(&nodes).then_some(())).await;
            gateway.wait_for_redis().await;
        }
        for facility in ["a", "b", "c", "d"] {
            let channel = gateway.channel(&format!("broadcast:{facility}"));
            eventually("the channel is subscribed", || {
                nodes.iter().any(|node| !node.channels(&channel).is_empty()).then_some(())
            })
            .await;
        }
    }
}
