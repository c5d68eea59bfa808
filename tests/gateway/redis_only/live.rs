//! Version 2 when Redis is lost: the client is told that messages may be missing, and never without reason.

use std::time::Duration;

use serde_json::json;

use crate::support::client::{TEXT, frame};
use crate::support::event_log::EventLog;
use crate::support::live::LiveClient;
use crate::support::redis::encode;
use crate::support::sessions::{log_in, session_key};
use crate::support::{Fault, Proxy, RedisServer, Side, TestGateway, eventually};

#[tokio::test]
async fn a_gap_is_sent_once_for_each_facility_after_redis_was_lost() {
    let redis = RedisServer::start();
    let gateway = TestGateway::builder().redis(&redis).start().await;
    let mut client = gateway.live("/ws/").await;
    for facility in ["a", "b"] {
        client.subscribe(facility, &["subscribe-broadcast", "subscribe-session"]).await;
    }
    client.subscribe("only-published", &["publish-broadcast"]).await;
    assert!(redis.kill_clients("pubsub") > 0);
    let mut lost = [client.next().await, client.next().await];
    lost.sort_by_key(|object| object["f"].to_string());
    assert_eq!(lost, [json!({"t": "gap", "f": "a"}), json!({"t": "gap", "f": "b"})]);
    // Sent when the channels are subscribed again: nothing that follows is missed.
    redis.publish(&gateway.channel("broadcast:a"), "after");
    client.expect(json!({"t": "msg", "f": "a", "a": "broadcast", "d": "after"})).await;
    client.expect_nothing().await;
}

#[tokio::test]
async fn without_a_loss_there_is_no_gap() {
    let redis = RedisServer::start();
    let gateway = TestGateway::builder().redis(&redis).start().await;
    let mut before = gateway.live("/ws/a?subscribe-broadcast").await;
    before.next().await;
    assert!(redis.kill_clients("pubsub") > 0);
    before.expect(json!({"t": "gap", "f": "a"})).await;
    let mut after = gateway.live("/ws/a?subscribe-broadcast").await;
    after.next().await;
    // Only the connection for commands is lost: no message is.
    assert!(redis.kill_clients("normal") > 0);
    redis.publish(&gateway.channel("broadcast:a"), "x");
    for client in [&mut before, &mut after] {
        client.expect(json!({"t": "msg", "f": "a", "a": "broadcast", "d": "x"})).await;
        client.expect_nothing().await;
    }
}

#[tokio::test]
async fn a_subscription_goes_on_until_the_last_one_in_its_place_has_joined() {
    let redis = RedisServer::start();
    let proxy = Proxy::to(&redis);
    let rules = "[[history]]\nfacility = [\"h-*\"]\nmessages = 10\n";
    let builder = TestGateway::builder().redis(&redis).set("redis.url", &proxy.url()).rules(rules);
    let gateway = builder.start().await;
    let mut client = gateway.live("/ws/h-1?subscribe-broadcast").await;
    client.next().await;
    // The history is read before the channels are joined.
    proxy.hold_replies(Side::Store);
    for number in 1..=3 {
        client.send(json!({"t": "sub", "f": "h-1", "flags": ["subscribe-broadcast"], "r": number})).await;
    }
    for number in 1..=2 {
        let answer = client.next().await;
        assert_eq!((&answer["r"], &answer["code"]), (&json!(number), &json!(409)), "{answer}");
    }
    redis.publish(&gateway.channel("broadcast:h-1"), "meanwhile");
    client.expect(json!({"t": "msg", "f": "h-1", "a": "broadcast", "d": "meanwhile"})).await;
    proxy.release();
    let answer = client.next().await;
    assert_eq!((&answer["t"], &answer["r"]), (&json!("sub"), &json!(3)), "{answer}");
    client.expect_nothing().await;
}

#[tokio::test]
async fn a_facility_that_waits_to_read_on_grants_no_more_than_its_visitor_has_now() {
    let redis = RedisServer::start();
    redis.command(&["ACL", "SETUSER", "limited", "reset", "on", ">p", "~*", "&*", "+@all"]);
    let url = format!("redis://limited:p@127.0.0.1:{}", redis.port());
    let rules = "[[history]]\nfacility = [\"h-*\"]\nmessages = 10\n";
    let gateway = TestGateway::builder().redis(&redis).set("redis.url", &url).rules(rules).start().await;
    let key = session_key();
    let cookie = log_in(&redis, &key, "7", "john", &["staff"]);
    let request = gateway.live_request("/ws/h-1?subscribe-broadcast&publish-group").header("Cookie", &cookie);
    let mut client = LiveClient::open(request).await;
    client.next().await;
    client.send(json!({"t": "pub", "f": "h-1", "d": "x", "r": 1})).await;
    client.expect(json!({"t": "ok", "r": 1})).await;
    // The connection is closed, and the channel with the ids is refused.
    let allowed = ["broadcast:*", "group:*", "ws4redis:control", "ws4redis:live:group:*"];
    let allowed = allowed.map(|name| format!("&{}", gateway.channel(name)));
    let words =
        ["ACL", "SETUSER", "limited", "resetchannels"].into_iter().chain(allowed.iter().map(|it| &**it));
    redis.command(&words.collect::<Vec<_>>());
    gateway.expect_log(&["ERROR", "redis refuses a channel", "live:broadcast:h-1"]).await;
    log_in(&redis, &key, "7", "john", &[]);
    let control = gateway.channel("ws4redis:control");
    let hint = r#"{"v":1,"user":"7","reason":"groups"}"#;
    eventually("the hint", || (redis.publish(&control, hint) > 0).then_some(())).await;
    client.expect(json!({"t": "user", "user": "john"})).await;
    client.send(json!({"t": "pub", "f": "h-1", "d": "x", "r": 2})).await;
    let answer = client.next().await;
    assert_eq!((&answer["r"], &answer["code"]), (&json!(2), &json!(403)), "{answer}");
}

#[tokio::test]
async fn while_redis_is_lost_a_subscription_is_refused_and_the_socket_stays_open() {
    let redis = RedisServer::start();
    let gateway = TestGateway::builder().redis(&redis).start().await;
    let mut client = gateway.live("/ws/").await;
    redis.stop();
    eventually("the loss", || (gateway.count_log(&["WARN", "redis lost"]) > 0).then_some(())).await;
    client.send(json!({"t": "sub", "f": "a", "flags": ["subscribe-broadcast"], "r": 1})).await;
    let why = "not available at the moment";
    client.expect(json!({"t": "err", "r": 1, "f": "a", "code": 503, "why": why})).await;
    client.expect_nothing().await;
}

/// Adds a message to a history, as the publishing script does.
fn add(gateway: &TestGateway, redis: &RedisServer, text: &str) {
    let stream = gateway.channel("ws4redis:history:broadcast:h");
    redis.command(&["XADD", &stream, "*", "d", text]);
}

#[tokio::test]
async fn with_a_history_the_gateway_reads_on_after_a_loss_and_sends_no_gap() {
    let redis = RedisServer::start();
    let rules = "[[history]]\nfacility = [\"h\"]\n";
    let gateway = TestGateway::builder().redis(&redis).rules(rules).start().await;
    add(&gateway, &redis, "before");
    let mut client = gateway.live("/ws/h?subscribe-broadcast").await;
    client.next().await;
    for round in ["one", "two"] {
        let stream = gateway.channel("ws4redis:history:broadcast:h");
        redis.pipeline(&[
            &[b"CLIENT", b"KILL", b"TYPE", b"pubsub"],
            &[b"XADD", stream.as_bytes(), b"*", b"d", round.as_bytes()],
        ]);
        let message = client.next().await;
        assert_eq!((&message["t"], &message["d"]), (&json!("msg"), &json!(round)), "{message}");
        assert!(message["id"].is_string());
    }
    gateway.post("/ws/h?publish-broadcast", "live").expect_status(204).await;
    assert_eq!(client.next().await["d"], "live");
    client.expect_nothing().await;
}

#[tokio::test]
async fn without_memory_for_a_history_the_gateway_reads_on_later() {
    let redis = RedisServer::start();
    let builder = TestGateway::builder().redis(&redis).rules("[[history]]\nfacility = [\"h\"]\n");
    let builder = builder.set("messages.outbox_total_bytes", "16777216");
    let gateway = builder.set("server.send_buffer_bytes", "4096").start().await;
    add(&gateway, &redis, "before");
    redis.persist(&gateway.channel("broadcast:v"), "value");
    let mut client = gateway.live("/ws/h?subscribe-broadcast").await;
    client.next().await;
    let mut slow = Vec::new();
    for number in 0..7 {
        let target = format!("/ws/slow{number}?subscribe-broadcast");
        slow.push(gateway.request(&target).receive_buffer(4096).connect().await);
    }
    // More than three quarters of the memory, after which no client is admitted that replays messages.
    for number in (0..7).chain(0..7) {
        redis.publish(&gateway.channel(&format!("broadcast:slow{number}")), vec![b'x'; 1 << 20]);
    }
    client.expect_nothing().await;
    let stream = gateway.channel("ws4redis:history:broadcast:h");
    gateway.request("/ws/v?subscribe-broadcast").expect_status(503).await;
    redis.pipeline(&[
        &[b"CLIENT", b"KILL", b"TYPE", b"pubsub"],
        &[b"XADD", stream.as_bytes(), b"*", b"d", b"behind"],
    ]);
    let message = client.next().await;
    assert_eq!((&message["t"], &message["d"]), (&json!("msg"), &json!("behind")), "{message}");
}

#[tokio::test]
async fn a_subscription_asks_for_the_positions_of_all_its_channels_at_once() {
    let redis = RedisServer::start();
    let proxy = Proxy::to(&redis);
    let rules = "[[history]]\nfacility = [\"h-*\"]\nmessages = 10\n";
    let builder = TestGateway::builder().redis(&redis).set("redis.url", &proxy.url());
    let gateway = builder.rules(rules).start().await;
    let groups = ["a", "b", "c", "d"];
    let cookie = log_in(&redis, &session_key(), "5", "john", &groups);
    let mut client = LiveClient::open(gateway.live_request("/ws/").header("Cookie", &cookie)).await;
    let channels = groups.map(|group| format!("group:{group}:h-1"));
    for channel in &channels {
        proxy.inject(channel, Fault::HoldReplies);
    }
    let answer = client.subscribe("h-1", &["subscribe-group"]);
    let asked = async {
        for channel in &channels {
            proxy.expect_hit(channel).await;
        }
        proxy.release();
    };
    assert_eq!(tokio::join!(answer, asked).0["ok"], json!(["group"]));
}

#[tokio::test]
async fn a_history_that_does_not_reach_back_to_a_loss_leaves_a_gap() {
    let redis = RedisServer::start();
    let rules = "[[history]]\nfacility = [\"h\"]\n";
    let gateway = TestGateway::builder().redis(&redis).rules(rules).start().await;
    add(&gateway, &redis, "before");
    let mut client = gateway.live("/ws/h?subscribe-broadcast").await;
    client.next().await;
    let stream = gateway.channel("ws4redis:history:broadcast:h");
    redis.pipeline(&[
        &[b"CLIENT", b"KILL", b"TYPE", b"pubsub"],
        &[b"XADD", stream.as_bytes(), b"*", b"d", b"lost"],
        &[b"XADD", stream.as_bytes(), b"*", b"d", b"kept"],
        &[b"XTRIM", stream.as_bytes(), b"MAXLEN", b"1"],
    ]);
    let moved = client.next().await;
    assert_eq!((&moved["t"], &moved["recovered"]), (&json!("sub"), &json!(false)), "{moved}");
    client.expect(json!({"t": "gap", "f": "h"})).await;
    assert_eq!(client.next().await["d"], "kept");
    client.expect_nothing().await;
    // Whoever is cut off before the messages that are left gets them, and is not told of the same gap again.
    let request = json!({"t": "sub", "f": "h", "flags": ["subscribe-broadcast"], "since": moved["ids"]});
    let mut resumed = gateway.live("/ws/").await;
    resumed.send(request).await;
    assert_eq!(resumed.next().await["recovered"], true);
    assert_eq!(resumed.next().await["d"], "kept");
    resumed.expect_nothing().await;
}

#[tokio::test]
async fn a_position_that_a_loss_has_removed_is_replaced_and_leaves_one_gap() {
    let redis = RedisServer::start();
    let rules = "[[history]]\nfacility = [\"h\"]\n";
    let gateway = TestGateway::builder().redis(&redis).rules(rules).start().await;
    add(&gateway, &redis, "before");
    let mut client = gateway.live("/ws/h?subscribe-broadcast&last=1").await;
    client.next().await;
    assert_eq!(client.next().await["d"], "before");
    let stream = gateway.channel("ws4redis:history:broadcast:h");
    redis.pipeline(&[&[b"CLIENT", b"KILL", b"TYPE", b"pubsub"], &[b"DEL", stream.as_bytes()]]);
    let moved = client.next().await;
    assert_eq!((&moved["t"], &moved["recovered"]), (&json!("sub"), &json!(false)), "{moved}");
    client.expect(json!({"t": "gap", "f": "h"})).await;
    let request = json!({"t": "sub", "f": "h", "flags": ["subscribe-broadcast"], "since": moved["ids"]});
    let mut resumed = gateway.live("/ws/").await;
    resumed.send(request).await;
    assert_eq!(resumed.next().await["recovered"], true);
    resumed.expect_nothing().await;
}

/// Publishes numbers faster than the gateway takes them. Returns what a client was told until all was over: each number, and
/// none for a gap.
async fn overflow(rules: &str, publication: impl Fn(&TestGateway, &str) -> Vec<String>) -> Vec<Option<u32>> {
    const MESSAGES: u32 = 10_000;
    let redis = RedisServer::start();
    let builder = TestGateway::builder().redis(&redis).rules(rules).set("redis.receiver_messages", "64");
    let gateway = builder.start().await;
    let mut client = gateway.live("/ws/h?subscribe-broadcast").await;
    client.next().await;
    let mut commands = Vec::new();
    for number in 1..=MESSAGES {
        encode(&mut commands, &publication(&gateway, &number.to_string()));
    }
    let mut publisher = redis.connection();
    let publishing =
        std::thread::spawn(move || publisher.try_pipeline(&commands, MESSAGES as usize).unwrap());
    let mut told = Vec::new();
    // A gap is sent when the gateway has caught up.
    while told.iter().flatten().last() != Some(&MESSAGES) || (rules.is_empty() && !told.contains(&None)) {
        let object = client.next().await;
        assert!(object["t"] == "msg" || object["t"] == "gap", "{object}");
        told.push(object["d"].as_str().map(|number| number.parse().unwrap()));
    }
    publishing.join().unwrap();
    client.expect_nothing().await;
    gateway.expect_log(&["WARN", "receive buffer overflow"]).await;
    told
}

#[tokio::test]
async fn messages_that_come_too_fast_for_the_gateway_leave_a_gap() {
    let publication = |gateway: &TestGateway, text: &str| {
        ["PUBLISH", &gateway.channel("broadcast:h"), text].map(str::to_owned).to_vec()
    };
    let told = overflow("", publication).await;
    let numbers: Vec<_> = told.iter().flatten().collect();
    let holes = numbers.windows(2).filter(|pair| *pair[1] != pair[0] + 1).count();
    let gaps = told.iter().filter(|number| number.is_none()).count();
    assert!(holes > 0, "nothing was lost, so nothing was tested");
    assert!(gaps <= holes, "{gaps} gaps, {holes} holes");
    // Nothing is missing behind the last gap.
    let last = told.rsplit(Option::is_none).next().unwrap();
    let is_whole = last.windows(2).all(|pair| pair[1].zip(pair[0]).is_some_and(|(b, a)| b == a + 1));
    assert!(is_whole, "{last:?}");
}

#[tokio::test]
async fn with_a_history_the_gateway_reads_what_came_too_fast() {
    let publication = |gateway: &TestGateway, text: &str| {
        let [stream, live] =
            ["history", "live"].map(|kind| gateway.channel(&format!("ws4redis:{kind}:broadcast:h")));
        let script = include_str!("../../../src/redis/history.lua");
        let channel = gateway.channel("broadcast:h");
        ["EVAL", script, "2", &stream, &channel, "100000", "60", "0", text, &live].map(str::to_owned).to_vec()
    };
    let told = overflow("[[history]]\nfacility = [\"h\"]\nmessages = 100000\n", publication).await;
    let expected: Vec<_> = (1..=10_000).map(Some).collect();
    assert_eq!(told, expected);
}

#[tokio::test]
async fn a_client_that_waits_for_redis_to_acknowledge_its_publications_costs_no_processor_time() {
    let redis = RedisServer::start();
    let builder = TestGateway::builder().redis(&redis).set("messages.publish_bytes", "4096");
    let gateway = builder.start().await;
    let mut client = gateway.live("/ws/x?publish-broadcast").await;
    client.next().await;
    redis.command(&["CLIENT", "PAUSE", "2000", "WRITE"]);
    let before = gateway.processor_time();
    client.send(json!({"t": "pub", "f": "x", "d": "x".repeat(6_000), "r": 1})).await;
    client.expect(json!({"t": "ok", "r": 1})).await;
    let used = gateway.processor_time().saturating_sub(before);
    assert!(used < Duration::from_millis(100), "{used:?}");
}

#[tokio::test]
async fn django_is_told_of_a_message_whose_facility_is_left_at_once() {
    let log = EventLog::new();
    let settings = [("events.to", &*log.setting()), ("events.facility", "x")];
    let gateway = TestGateway::start_with(&settings).await;
    let mut client = gateway.live("/ws/").await;
    client.subscribe("x", &["publish-broadcast"]).await;
    let requests = [json!({"t": "pub", "f": "x", "d": "bye"}), json!({"t": "unsub", "f": "x"})];
    let requests = requests.map(|request| frame(0x80 | TEXT, request.to_string().as_bytes()));
    client.client.send_raw(&requests.concat()).await;
    let left = log.expect("disconnect", 1).await;
    assert_eq!(left[0]["reason"], "client namespace disconnect");
    let kinds: Vec<_> = log.all().into_iter().map(|event| event["type"].clone()).collect();
    assert_eq!(kinds, ["node", "connect", "message", "disconnect"]);
}
