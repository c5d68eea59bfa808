//! Events about clients when Redis does not take them, when too many wait, and next to clients that flood.

use std::collections::BTreeSet;

use serde_json::json;

use crate::support::event_log::EventLog;
use crate::support::socket_io::{SocketIoGateway, join, text};
use crate::support::{RedisServer, TestGateway, eventually};

const FACILITY: &str = "/ws/x?subscribe-broadcast&publish-broadcast";

/// Starts a gateway with one shard, whose queue is as small as settings permit.
async fn start(redis: &RedisServer, log: &EventLog, settings: &[(&str, &str)]) -> SocketIoGateway {
    let to = log.setting();
    let common = [
        ("events.to", to.as_str()),
        ("events.facility", "x"),
        ("server.shards", "1"),
        ("redis.max_pending_bytes", "1048576"),
        ("redis.publish_wait_seconds", "60"),
        ("socketio.client_events", "*"),
        ("socketio.auth_fields", "*"),
    ];
    SocketIoGateway::start_on(redis, &[&common[..], settings].concat()).await
}

/// Makes Redis refuse writes as if its memory were full, or take them again.
fn set_full(redis: &RedisServer, is_full: bool) {
    redis.command(&["CONFIG", "SET", "maxmemory", if is_full { "1" } else { "0" }]);
}

fn sids(log: &EventLog, kind: &str) -> BTreeSet<String> {
    log.of(kind).iter().map(|event| event["sid"].to_string()).collect()
}

#[tokio::test]
async fn a_connect_that_finds_no_space_has_no_disconnect_and_each_other_one_has() {
    let redis = RedisServer::start();
    let log = EventLog::on(&redis);
    let server = start(&redis, &log, &[]).await;
    log.expect("node", 1).await;
    set_full(&redis, true);
    let padding = "x".repeat(3_900);
    let (mut clients, mut early) = (Vec::new(), BTreeSet::new());
    // More than the queue holds, even while one pipeline of a megabyte is in flight.
    for round in 0..36 {
        let mut client = server.open().await;
        for number in 0..16 {
            client.send_text(&format!(r#"40/room-{number},{{"x":"{padding}"}}"#)).await;
            let answer = text(&mut client).await;
            if round < 18 {
                let start = answer.find('{').unwrap();
                let answer: serde_json::Value = serde_json::from_str(&answer[start..]).unwrap();
                early.insert(answer["sid"].to_string());
            }
        }
        clients.push(client);
    }
    for client in clients.drain(..18) {
        drop(client);
    }
    eventually("the first half has left", || {
        (server.gateway.count_log(&["connection ended"]) >= 18).then_some(())
    })
    .await;
    set_full(&redis, false);
    eventually("all events that waited are written", || {
        let (connects, disconnects) = (sids(&log, "connect"), sids(&log, "disconnect"));
        (!disconnects.is_empty() && connects.intersection(&early).all(|sid| disconnects.contains(sid)))
            .then_some(())
    })
    .await;
    drop(clients);
    let (mut last, last_sid) = server.connect("/").await;
    last.send_close(1000, "").await;
    let last_sid = json!(last_sid).to_string();
    eventually("the last client", || sids(&log, "disconnect").contains(&last_sid).then_some(())).await;
    let (connects, disconnects) = (sids(&log, "connect"), sids(&log, "disconnect"));
    assert!((200..36 * 16).contains(&connects.len()), "{} were announced", connects.len());
    let unknown = disconnects.difference(&connects).count();
    let unpaired = connects.difference(&disconnects).count();
    assert_eq!((unknown, unpaired), (0, 0), "of {}", connects.len());
    server.gateway.expect_log(&["WARN", "Django misses some"]).await;
}

#[tokio::test]
async fn a_client_whose_event_finds_no_space_is_closed_with_a_reason_of_its_own() {
    let redis = RedisServer::start();
    let log = EventLog::on(&redis);
    let limits = [("socketio.events_per_second", "0"), ("socketio.event_bytes_per_second", "0")];
    let server = start(&redis, &log, &limits).await;
    let (mut client, _) = server.connect("/").await;
    log.expect("connect", 1).await;
    set_full(&redis, true);
    let argument = "x".repeat(100_000);
    for _ in 0..30 {
        client.send_text(&format!(r#"42["e","{argument}"]"#)).await;
    }
    assert_eq!(client.expect_close(1013).await, "too many events wait");
    set_full(&redis, false);
    log.expect("disconnect", 1).await;
    assert!(log.of("event").len() >= 5, "those that had found space are written");
}

#[tokio::test]
async fn leaving_a_namespace_does_not_reset_the_limit_of_events() {
    let redis = RedisServer::shared();
    let log = EventLog::on(redis);
    let server = start(redis, &log, &[("socketio.events_per_second", "5")]).await;
    let mut client = server.open().await;
    for round in 0..3 {
        join(&mut client, "/").await;
        for number in 0..2 {
            client.send_text(&format!(r#"42["e",{round},{number}]"#)).await;
        }
        client.send_text("41").await;
    }
    client.expect_close(1008).await;
    log.expect("disconnect", 3).await;
    assert_eq!(log.of("event").len(), 5);
}

#[tokio::test]
async fn clients_that_flood_are_closed_and_no_event_of_others_is_lost() {
    let redis = RedisServer::shared();
    let log = EventLog::on(redis);
    let server = start(redis, &log, &[]).await;
    let (mut good, sid) = server.connect("/").await;
    let mut floods = Vec::new();
    for _ in 0..10 {
        let mut client = server.open().await;
        floods.push(async move {
            let cycle = r#"40{"a":"b"}|42["e",1]|41"#.split('|').collect::<Vec<_>>();
            // It writes until the gateway closes, without reading.
            for packet in cycle.iter().cycle().take(3_000) {
                let frame = crate::support::client::frame(0x81, packet.as_bytes());
                if client.try_send_raw(&frame).await.is_err() {
                    break;
                }
            }
            loop {
                let frame = client.next_message().await;
                if frame.opcode == 8 {
                    break u16::from_be_bytes([frame.payload[0], frame.payload[1]]);
                }
            }
        });
    }
    let floods = floods.into_iter().map(tokio::spawn).collect::<Vec<_>>();
    for number in 0..10 {
        good.send_text(&format!(r#"42["good",{number}]"#)).await;
    }
    for flood in floods {
        assert_eq!(flood.await.unwrap(), 1008);
    }
    for number in 10..15 {
        good.send_text(&format!(r#"42["good",{number}]"#)).await;
    }
    let heard = eventually("the events of the good client", || {
        let mut events = log.of("event");
        events.retain(|event| event["sid"] == json!(sid));
        (events.len() == 15).then_some(events)
    })
    .await;
    for (number, event) in heard.iter().enumerate() {
        assert_eq!(event["args"], json!([number]));
    }
    // The good client is still there.
    eventually("every pair is complete", || {
        let (mut connects, disconnects) = (sids(&log, "connect"), sids(&log, "disconnect"));
        connects.remove(&json!(sid).to_string()).then_some(())?;
        (connects.len() >= 10 * 16 && connects == disconnects).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_message_that_redis_refuses_is_not_announced() {
    let redis = RedisServer::start();
    let log = EventLog::on(&redis);
    let builder = TestGateway::builder().redis(&redis).set("events.to", &log.setting());
    let gateway = builder.set("events.facility", "x").set("server.shards", "1").start().await;
    redis.command(&["ACL", "SETUSER", "default", "-publish"]);
    let mut client = gateway.connect(FACILITY).await;
    client.send_text("refused").await;
    client.expect_close(1011).await;
    log.expect("disconnect", 1).await;
    redis.command(&["ACL", "SETUSER", "default", "+publish"]);
    let mut client = gateway.connect(FACILITY).await;
    client.send_text("taken").await;
    let messages =
        eventually("a message", || Some(log.of("message")).filter(|found| !found.is_empty())).await;
    let data: Vec<_> = messages.iter().map(|message| &message["data"]).collect();
    assert_eq!(data, ["taken"]);
}

#[tokio::test]
async fn a_message_of_a_client_that_leaves_at_once_comes_before_its_disconnect() {
    let redis = RedisServer::shared();
    let log = EventLog::on(redis);
    let server = start(redis, &log, &[]).await;
    for round in 1..=10 {
        let mut client = server.gateway.connect(FACILITY).await;
        client.send_text("last words").await;
        if round % 2 == 0 {
            client.send_close(1000, "").await;
        }
        drop(client);
        log.expect("disconnect", round).await;
        let kinds: Vec<_> =
            log.all().iter().map(|event| event["type"].as_str().unwrap().to_owned()).collect();
        assert_eq!(kinds[kinds.len() - 3..], ["connect", "message", "disconnect"], "{round}");
    }
}

#[tokio::test]
async fn events_wait_while_redis_is_a_replica() {
    let (redis, master) = (RedisServer::start(), RedisServer::start());
    let log = EventLog::on(&redis);
    let server = start(&redis, &log, &[]).await;
    let (mut client, sid) = server.connect("/").await;
    log.expect("connect", 1).await;
    let port = master.port().to_string();
    redis.command(&["REPLICAOF", "127.0.0.1", &port]);
    client.send_text(r#"42["during",1]"#).await;
    client.send_text(r#"42["during",2]"#).await;
    server.gateway.expect_log(&["READONLY"]).await;
    redis.command(&["REPLICAOF", "NO", "ONE"]);
    client.send_text(r#"42["after",3]"#).await;
    let events = log.expect("event", 3).await;
    for (number, event) in (1..).zip(&events) {
        assert_eq!((&event["args"], &event["sid"]), (&json!([number]), &json!(sid)));
    }
    assert_eq!(log.of("disconnect").len(), 0);
}
