//! Version 2: who is in a facility, over dialects and gateways.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::support::events::SseClient;
use crate::support::gateway::GatewayBuilder;
use crate::support::live::LiveClient;
use crate::support::sessions::{log_in, session_key};
use crate::support::{Proxy, RedisServer, TestGateway, eventually, socket_io, unique};

/// Configures a gateway whose entries are valid for some seconds.
fn builder(redis: &RedisServer, namespace: &str, seconds: u32) -> GatewayBuilder {
    let rules = format!(
        "[[presence]]\nfacility = [\"chat-*\", \"/chat\"]\nseconds = {seconds}\n\
        [[access]]\nfacility = [\"chat-*\", \"/chat\", \"\", \"other\"]\n\
        anonymous = [\"*\"]\nusers = [\"*\", \"presence\"]\n"
    );
    TestGateway::builder().redis(redis).namespace(namespace).rules(&rules)
}

async fn start(redis: &RedisServer, namespace: &str) -> TestGateway {
    builder(redis, namespace, 3).start().await
}

/// Writes entries of another gateway, valid for as many seconds as `valid` returns for each.
fn write_entries(
    redis: &RedisServer,
    namespace: &str,
    users: impl Iterator<Item = String>,
    valid: impl Fn(u64) -> u64,
) {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let mut command = vec!["ZADD".to_owned(), format!("{namespace}:ws4redis:presence:chat-1")];
    for (index, user) in (0..).zip(users) {
        command.extend([(now + valid(index)).to_string(), format!("ffffffffffff/{user}")]);
    }
    redis.command(&command);
    redis.publish(&format!("{namespace}:ws4redis:visitors:chat-1"), "changed");
}

/// Returns how often a Redis has read a range of scores.
fn count_reads(redis: &RedisServer) -> u64 {
    let stats = redis.command(&["INFO", "commandstats"]).bulk().unwrap();
    let stats = String::from_utf8(stats).unwrap();
    let calls = stats.split("cmdstat_zrangebyscore:calls=").nth(1).and_then(|rest| rest.split(',').next());
    calls.map_or(0, |calls| calls.parse().unwrap())
}

/// Applies an object to the users whom a client knows, as a page does.
fn apply(users: &mut BTreeSet<String>, object: &Value) {
    let name = || object["u"].as_str().unwrap().to_owned();
    match object["t"].as_str().unwrap() {
        "here" => {
            if let Some(all) = object["users"].as_array() {
                *users = all.iter().map(|user| user.as_str().unwrap().to_owned()).collect();
            }
        }
        "join" => assert!(users.insert(name()), "{object}"),
        "leave" => assert!(users.remove(&name()), "{object}"),
        _ => {}
    }
}

async fn open(gateway: &TestGateway, redis: &RedisServer, user: &str) -> LiveClient {
    let cookie = log_in(redis, &session_key(), user, user, &[]);
    LiveClient::open(gateway.live_request("/ws/").header("Cookie", &cookie)).await
}

/// Returns the next object about presence that is not about this user.
async fn next_about_others(client: &mut LiveClient, own: &str) -> Value {
    loop {
        let object = client.next().await;
        if object["u"] != own {
            return object;
        }
    }
}

#[tokio::test]
async fn clients_are_told_who_is_here_and_who_comes_and_goes_over_dialects_and_gateways() {
    let redis = RedisServer::start();
    let namespace = unique("presence");
    let (gateway, other) = (start(&redis, &namespace).await, start(&redis, &namespace).await);
    let mut john = open(&gateway, &redis, "john").await;
    let answer = john.subscribe("chat-1", &["subscribe-broadcast", "presence"]).await;
    assert_eq!(answer["ok"], json!(["broadcast", "presence"]));
    let here = john.next().await;
    assert_eq!((&here["t"], &here["f"]), (&json!("here"), &json!("chat-1")), "{here}");
    // Over a plain socket of another gateway.
    let cookie = log_in(&redis, &session_key(), "mary", "mary", &[]);
    let plain = other.request("/ws/chat-1?subscribe-broadcast").header("Cookie", &cookie).connect().await;
    assert_eq!(next_about_others(&mut john, "john").await, json!({"t": "join", "f": "chat-1", "u": "mary"}));
    // A second tab is no news, and an anonymous visitor is a number.
    let mut tab = open(&other, &redis, "mary").await;
    tab.subscribe("chat-1", &["presence"]).await;
    let here = tab.next().await;
    assert_eq!((&here["t"], &here["users"]), (&json!("here"), &json!(["john", "mary"])), "{here}");
    let anonymous = other.connect("/ws/chat-1?subscribe-broadcast").await;
    // The names are not told again.
    let here = |anonymous| json!({"t": "here", "f": "chat-1", "anonymous": anonymous});
    assert_eq!(next_about_others(&mut john, "john").await, here(1));
    drop(anonymous);
    assert_eq!(next_about_others(&mut john, "john").await, here(0));
    drop(plain);
    tab.send(json!({"t": "unsub", "f": "chat-1", "r": 1})).await;
    assert_eq!(next_about_others(&mut john, "john").await, json!({"t": "leave", "f": "chat-1", "u": "mary"}));
}

#[tokio::test]
async fn visitors_of_a_gateway_that_is_killed_leave_by_themselves() {
    const SECONDS: u32 = 6;
    let redis = RedisServer::start();
    let namespace = unique("presence");
    let start = || builder(&redis, &namespace, SECONDS).start();
    let (gateway, other) = (start().await, start().await);
    let mut john = open(&gateway, &redis, "john").await;
    john.subscribe("chat-1", &["presence"]).await;
    john.next().await;
    let mut mary = open(&other, &redis, "mary").await;
    mary.subscribe("chat-1", &["subscribe-broadcast"]).await;
    assert_eq!(next_about_others(&mut john, "john").await, json!({"t": "join", "f": "chat-1", "u": "mary"}));
    let killed = Instant::now();
    other.signal("KILL");
    assert_eq!(next_about_others(&mut john, "john").await, json!({"t": "leave", "f": "chat-1", "u": "mary"}));
    // Written again every third of the time, found by a reading of every third; a second and a half for the machine.
    let (least, most) = (
        Duration::from_secs(1) * SECONDS * 2 / 3,
        Duration::from_secs(1) * SECONDS * 4 / 3 + Duration::from_millis(1500),
    );
    let passed = killed.elapsed() + Duration::from_millis(500);
    assert!(least <= passed && passed <= most, "{passed:?}, not {least:?} to {most:?}");
}

#[tokio::test]
async fn a_watcher_sees_each_user_once_whatever_the_dialect_gateway_or_tab() {
    let redis = RedisServer::start();
    let namespace = unique("presence");
    let start = || {
        let builder = builder(&redis, &namespace, 30).set("socketio.enabled", "true");
        builder.set("socketio.namespaces", "/,/chat").start()
    };
    let (one, two) = (start().await, start().await);
    let mut chat = open(&one, &redis, "john").await;
    chat.subscribe("chat-1", &["presence"]).await;
    let mut namespace = open(&one, &redis, "john").await;
    namespace.subscribe("/chat", &["presence"]).await;
    for watcher in [&mut chat, &mut namespace] {
        assert_eq!(watcher.next().await["t"], "here");
    }
    let cookie = |user| log_in(&redis, &session_key(), user, user, &[]);
    let joined = |facility, user| json!({"t": "join", "f": facility, "u": user});
    let left = |facility, user| json!({"t": "leave", "f": facility, "u": user});
    // Each has a tab at each gateway. The last of a user is told with the next user.
    let (mut plain, mut streams, mut live, mut packets) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let [ann, bob, dan] = ["ann", "bob", "dan"].map(cookie);
    for gateway in [&one, &two] {
        plain.push(gateway.request("/ws/chat-1?subscribe-broadcast").header("Cookie", &ann).connect().await);
    }
    assert_eq!(next_about_others(&mut chat, "john").await, joined("chat-1", "ann"));
    for gateway in [&one, &two] {
        let request = gateway.stream("/ws/chat-1?subscribe-broadcast").header("Cookie", &bob);
        streams.push(SseClient::open(request).await);
    }
    assert_eq!(next_about_others(&mut chat, "john").await, joined("chat-1", "bob"));
    for gateway in [&one, &two] {
        let mut tab = open(gateway, &redis, "cid").await;
        tab.subscribe("chat-1", &["subscribe-broadcast"]).await;
        live.push(tab);
    }
    assert_eq!(next_about_others(&mut chat, "john").await, joined("chat-1", "cid"));
    for gateway in [&one, &two] {
        let (mut client, _) = socket_io::open(gateway.request(socket_io::V4).header("Cookie", &dan)).await;
        socket_io::join(&mut client, "/chat").await;
        packets.push(client);
    }
    assert_eq!(next_about_others(&mut namespace, "john").await, joined("/chat", "dan"));
    // One tab of each is closed, then the others: only these are told, after the grace.
    drop((plain.pop(), streams.pop(), packets.pop()));
    live[0].send(json!({"t": "unsub", "f": "chat-1"})).await;
    let closed = Instant::now();
    let key = |facility: &str| format!("{}:ws4redis:presence:{facility}", one.namespace());
    eventually("the entries of the first tabs end", || {
        let count = |facility| redis.command(&["ZCARD", &key(facility)]).integer();
        ((count("chat-1"), count("/chat")) == (4, 2)).then_some(())
    })
    .await;
    assert!(closed.elapsed() > Duration::from_secs(4), "a reload has no grace");
    chat.expect_nothing().await;
    namespace.expect_nothing().await;
    drop((plain, streams, live, packets));
    let mut gone = Vec::new();
    for _ in 0..3 {
        gone.push(next_about_others(&mut chat, "john").await);
    }
    gone.sort_by_key(|object| object["u"].to_string());
    assert_eq!(gone, ["ann", "bob", "cid"].map(|user| left("chat-1", user)));
    assert_eq!(next_about_others(&mut namespace, "john").await, left("/chat", "dan"));
}

#[tokio::test]
async fn a_user_who_leaves_a_facility_and_stays_on_the_site_delays_nobody() {
    let redis = RedisServer::start();
    let namespace = unique("presence");
    let gateway = builder(&redis, &namespace, 30).set("server.shards", "1").start().await;
    let mut john = open(&gateway, &redis, "john").await;
    john.subscribe("chat-1", &["presence"]).await;
    john.next().await;
    let mut mary = open(&gateway, &redis, "mary").await;
    mary.subscribe("chat-1", &["subscribe-broadcast"]).await;
    assert_eq!(next_about_others(&mut john, "john").await, json!({"t": "join", "f": "chat-1", "u": "mary"}));
    mary.send(json!({"t": "unsub", "f": "chat-1"})).await;
    assert_eq!(next_about_others(&mut john, "john").await, json!({"t": "leave", "f": "chat-1", "u": "mary"}));
    // Its session is read over the connection that has ended the entry.
    let asked = Instant::now();
    open(&gateway, &redis, "ann").await;
    assert!(asked.elapsed() < Duration::from_secs(4), "{:?}", asked.elapsed());
    assert_eq!(gateway.count_log(&["no answer within"]), 0);
}

#[tokio::test]
async fn a_redis_that_loses_its_data_makes_no_user_leave_who_is_there() {
    let redis = RedisServer::start();
    let namespace = unique("presence");
    // The rooms are not read by themselves meanwhile.
    let gateway = builder(&redis, &namespace, 300).start().await;
    let proxy = Proxy::to(&redis);
    let other = builder(&redis, &namespace, 300).set("redis.url", &proxy.url()).start().await;
    let mut john = open(&gateway, &redis, "john").await;
    john.subscribe("chat-1", &["presence"]).await;
    john.next().await;
    let mut mary = open(&other, &redis, "mary").await;
    mary.subscribe("chat-1", &["subscribe-broadcast"]).await;
    assert_eq!(next_about_others(&mut john, "john").await, json!({"t": "join", "f": "chat-1", "u": "mary"}));
    // The other gateway comes back later than the one that tells.
    proxy.refuse().await;
    let key = format!("{namespace}:ws4redis:presence:chat-1");
    redis.pipeline(&[
        &[b"DEL", key.as_bytes()],
        &[b"CLIENT", b"KILL", b"TYPE", b"pubsub"],
        &[b"CLIENT", b"KILL", b"TYPE", b"normal"],
    ]);
    let has = |count| redis.command(&["ZCARD", &key]).integer() == count;
    eventually("the first gateway writes its users again", || has(1).then_some(())).await;
    let (channel, reads) = (format!("{namespace}:ws4redis:visitors:chat-1"), count_reads(&redis));
    eventually("the room hears of it", || (redis.publish(&channel, "changed") == 1).then_some(())).await;
    eventually("the room is read", || (count_reads(&redis) > reads).then_some(())).await;
    proxy.accept();
    eventually("the other gateway writes its users again", || has(2).then_some(())).await;
    mary.send(json!({"t": "unsub", "f": "chat-1"})).await;
    let mut ann = open(&gateway, &redis, "ann").await;
    ann.subscribe("chat-1", &["subscribe-broadcast"]).await;
    let told = |object: &Value| object["t"] == "join" || object["t"] == "leave";
    let mut objects = Vec::new();
    while objects.len() < 2 {
        objects.push(next_about_others(&mut john, "john").await);
        objects.retain(told);
    }
    // Who leaves later is told of.
    let expected = [("join", "ann"), ("leave", "mary")];
    assert_eq!(objects, expected.map(|(kind, user)| json!({"t": kind, "f": "chat-1", "u": user})));
}

#[tokio::test]
async fn a_room_with_more_entries_than_are_read_is_read_seldom_and_tells_of_no_leaves() {
    let redis = RedisServer::start();
    let namespace = unique("presence");
    let gateway = builder(&redis, &namespace, 300).set("server.shards", "1").start().await;
    let user = |number: usize| format!("user-{number}");
    write_entries(&redis, &namespace, (0..10_050).map(user), |index| 1000 + index);
    let mut john = open(&gateway, &redis, "john").await;
    john.subscribe("chat-1", &["presence"]).await;
    let here = john.next().await;
    assert!(here["users"].as_array().unwrap().len() > 9_990, "{:.200}", here.to_string());
    // Other entries are the first ones now. Each of many changes asks for a reading.
    let (started, reads) = (Instant::now(), count_reads(&redis));
    let mut round = 0;
    eventually("two and a half seconds have passed", || {
        write_entries(&redis, &namespace, (0..100).map(user), |_| 20_000 + round);
        round += 1;
        (started.elapsed() > Duration::from_millis(2500)).then_some(())
    })
    .await;
    let reads = count_reads(&redis) - reads;
    assert!((1..=4).contains(&reads), "{reads} readings");
    john.expect_nothing().await;
    assert_eq!(gateway.count_log(&["more visitors than presence can tell"]), 1);
    // Below the limit it is told again, of those as well of whom it has not been told.
    let removed: Vec<_> = (50..150).map(|number| format!("ffffffffffff/{}", user(number))).collect();
    let key = format!("{namespace}:ws4redis:presence:chat-1");
    redis.command(&["ZREM".to_owned(), key].into_iter().chain(removed).collect::<Vec<_>>());
    redis.publish(&format!("{namespace}:ws4redis:visitors:chat-1"), "changed");
    while next_about_others(&mut john, "john").await["t"] != "leave" {}
}

#[tokio::test]
async fn a_client_that_loses_joins_because_it_reads_too_slowly_is_told_again_who_is_there() {
    let redis = RedisServer::start();
    let namespace = unique("presence");
    let gateway = builder(&redis, &namespace, 300)
        .set("messages.when_slow", "drop-oldest")
        .set("messages.outbox_bytes", "65536")
        .set("messages.outbox_seconds", "0")
        .set("server.send_buffer_bytes", "4096")
        .set("server.shards", "1")
        .start()
        .await;
    let cookie = log_in(&redis, &session_key(), "slow", "slow", &[]);
    let request = gateway.live_request("/ws/").header("Cookie", &cookie).receive_buffer(4096);
    let mut slow = LiveClient::open(request).await;
    slow.subscribe("chat-1", &["presence"]).await;
    let mut known = BTreeSet::new();
    apply(&mut known, &slow.next().await);
    let mut john = open(&gateway, &redis, "john").await;
    john.subscribe("chat-1", &["presence"]).await;
    let mut expected = BTreeSet::new();
    apply(&mut expected, &john.next().await);
    for batch in 0..6 {
        let user = |number: usize| format!("{batch}-{number}-{}", "x".repeat(500));
        write_entries(&redis, &namespace, (0..100).map(user), |_| 1000);
        while !expected.contains(&user(99)) || !expected.contains("john") {
            apply(&mut expected, &john.next().await);
        }
    }
    assert_eq!(expected.len(), 602);
    while known != expected {
        let object = slow.next().await;
        if object["t"] != "join" || !known.contains(object["u"].as_str().unwrap()) {
            apply(&mut known, &object);
        }
    }
}

#[tokio::test]
async fn presence_needs_a_rule_that_names_it_and_a_facility_that_is_counted() {
    let redis = RedisServer::start();
    let gateway = start(&redis, &unique("presence")).await;
    let flags = ["subscribe-broadcast", "presence"];
    let mut anonymous = gateway.live("/ws/").await;
    assert_eq!(anonymous.subscribe("chat-1", &flags).await["no"], json!(["presence"]));
    anonymous.expect_nothing().await;
    let mut john = open(&gateway, &redis, "john").await;
    assert_eq!(john.subscribe("other", &flags).await["no"], json!(["presence"]));
    john.expect_nothing().await;
    let rules = "[[presence]]\nfacility = [\"*\"]\n";
    let without_access = TestGateway::builder().redis(&redis).rules(rules).start().await;
    let mut john = open(&without_access, &redis, "john").await;
    assert_eq!(john.subscribe("chat-1", &flags).await["no"], json!(["presence"]));
}
