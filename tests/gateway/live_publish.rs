//! Version 2: publications and their answers, and changes of the visitor.

use serde_json::json;

use crate::support::live::LiveClient;
use crate::support::sessions::{hint, log_in, session_key};
use crate::support::tokens::{key_file, path, token};
use crate::support::{RedisServer, TestGateway, eventually};

#[tokio::test]
async fn a_publication_is_answered_once_redis_has_it_and_reaches_the_audiences_that_are_named() {
    let gateway = TestGateway::start().await;
    let cookie = log_in(RedisServer::shared(), &session_key(), "7", "john", &[]);
    let mut client = LiveClient::open(gateway.live_request("/ws/").header("Cookie", &cookie)).await;
    client.subscribe("x", &["publish-broadcast", "publish-user"]).await;
    let mut everybody = gateway.connect("/ws/x?subscribe-broadcast").await;
    let mut john = gateway.request("/ws/x?subscribe-user").header("Cookie", &cookie).connect().await;
    client.send(json!({"t": "pub", "f": "x", "a": ["broadcast"], "d": "one", "r": 7})).await;
    client.expect(json!({"t": "ok", "r": 7})).await;
    everybody.expect_text("one").await;
    client.send(json!({"t": "pub", "f": "x", "b": "/wA=", "r": 8})).await;
    client.expect(json!({"t": "ok", "r": 8})).await;
    everybody.expect_binary(b"\xff\x00").await;
    john.expect_binary(b"\xff\x00").await;
    for (object, code) in [
        (json!({"t": "pub", "f": "x", "a": ["group"], "d": "no", "r": 1}), 403),
        (json!({"t": "pub", "f": "x", "a": [], "d": "no", "r": 1}), 403),
        (json!({"t": "pub", "f": "y", "d": "no", "r": 1}), 404),
        (json!({"t": "pub", "f": "x", "d": "", "r": 1}), 400),
    ] {
        client.send(object).await;
        let answer = client.next().await;
        assert_eq!((&answer["code"], &answer["r"]), (&json!(code), &json!(1)), "{answer}");
    }
    everybody.expect_nothing().await;
}

#[tokio::test]
async fn a_group_whose_name_begins_like_another_does_not_get_its_messages() {
    let gateway = TestGateway::start().await;
    let cookie = log_in(RedisServer::shared(), &session_key(), "7", "john", &["a", "a:b"]);
    let request = gateway.live_request("/ws/x?subscribe-group&publish-group&echo");
    let mut client = LiveClient::open(request.header("Cookie", &cookie)).await;
    client.next().await;
    client.send(json!({"t": "pub", "f": "x", "a": ["group:a"], "d": "to a"})).await;
    client.expect(json!({"t": "msg", "f": "x", "a": "group:a", "d": "to a"})).await;
    client.send(json!({"t": "pub", "f": "x", "a": ["group:a:b"], "d": "to a:b"})).await;
    client.expect(json!({"t": "msg", "f": "x", "a": "group:a:b", "d": "to a:b"})).await;
}

#[tokio::test]
async fn half_of_an_emoji_is_published_as_a_replacement_character() {
    let gateway = TestGateway::start().await;
    let mut client = gateway.live("/ws/x?publish-broadcast").await;
    client.next().await;
    let mut reader = gateway.connect("/ws/x?subscribe-broadcast").await;
    client.client.send_text(r#"{"t":"pub","f":"x","d":"cut \ud83d","r":1}"#).await;
    client.expect(json!({"t": "ok", "r": 1})).await;
    reader.expect_text("cut \u{fffd}").await;
}

#[tokio::test]
async fn own_messages_come_back_only_with_echo() {
    let gateway = TestGateway::start().await;
    let mut client = gateway.live("/ws/").await;
    client.subscribe("a", &["subscribe-broadcast", "publish-broadcast"]).await;
    client.subscribe("b", &["subscribe-broadcast", "publish-broadcast", "echo"]).await;
    for facility in ["a", "b"] {
        client.send(json!({"t": "pub", "f": facility, "d": "mine"})).await;
    }
    client.expect(json!({"t": "msg", "f": "b", "a": "broadcast", "d": "mine"})).await;
    gateway.publish("broadcast:a", "mine");
    client.expect(json!({"t": "msg", "f": "a", "a": "broadcast", "d": "mine"})).await;
    client.expect_nothing().await;
}

#[tokio::test]
async fn publications_above_the_rate_are_refused_and_the_socket_stays_open() {
    let rules = "[[access]]\nfacility = [\"*\"]\nanonymous = [\"*\"]\npublish_messages_per_second = 1\npublish_burst_seconds = 1\n";
    let gateway = TestGateway::builder().rules(rules).start().await;
    let mut client = gateway.live("/ws/").await;
    client.subscribe("x", &["publish-broadcast"]).await;
    let mut reader = gateway.connect("/ws/x?subscribe-broadcast").await;
    let mut refused = 0;
    for number in 0..4 {
        client.send(json!({"t": "pub", "f": "x", "d": number.to_string(), "r": number})).await;
        let answer = client.next().await;
        if answer["code"] == 429 {
            refused += 1;
        } else {
            assert_eq!(answer, json!({"t": "ok", "r": number}));
            reader.expect_text(&number.to_string()).await;
        }
    }
    assert!(refused > 0);
    reader.expect_nothing().await;
    client.send(json!({"t": "hb"})).await;
    client.expect(json!({"t": "hb"})).await;
}

#[tokio::test]
async fn changed_groups_change_every_subscription_and_the_client_is_told() {
    let gateway = TestGateway::start().await;
    let key = session_key();
    let cookie = log_in(RedisServer::shared(), &key, "7", "john", &["staff"]);
    let mut client = LiveClient::open(gateway.live_request("/ws/").header("Cookie", &cookie)).await;
    for facility in ["a", "b"] {
        assert_eq!(client.subscribe(facility, &["subscribe-group"]).await["ok"], json!(["group"]));
    }
    log_in(RedisServer::shared(), &key, "7", "john", &["other"]);
    hint(&gateway, "7", "change");
    client.expect(json!({"t": "user", "user": "john"})).await;
    let redis = RedisServer::shared();
    let subscribed = gateway.channel("group:other:b");
    eventually("the new channels", || {
        redis.channels(gateway.namespace()).contains(&subscribed).then_some(())
    })
    .await;
    for facility in ["a", "b"] {
        gateway.publish(&format!("group:staff:{facility}"), "old");
        gateway.publish(&format!("group:other:{facility}"), "new");
        client.expect(json!({"t": "msg", "f": facility, "a": "group:other", "d": "new"})).await;
    }
}

#[tokio::test]
async fn a_token_changes_the_visitor_of_an_open_socket_and_a_bad_one_changes_nothing() {
    let key = path(&key_file("HS256"));
    let settings = [("auth.jwt.algorithm", "HS256"), ("auth.jwt.key_file", key.to_str().unwrap())];
    let gateway = TestGateway::start_with(&settings).await;
    let mut client = gateway.live("/ws/").await;
    let flags = ["subscribe-broadcast", "subscribe-user"];
    assert_eq!(client.subscribe("x", &flags).await["no"], json!(["user"]));
    client.send(json!({"t": "auth", "token": "no.token", "r": 1})).await;
    client.expect(json!({"t": "err", "r": 1, "code": 401, "why": "the token is not valid"})).await;
    let token = token("HS256", r#"{"sub":"john"}"#);
    client.send(json!({"t": "auth", "token": token, "r": 2})).await;
    client.expect(json!({"t": "user", "user": "john"})).await;
    client.expect(json!({"t": "ok", "r": 2})).await;
    // Told when the channel is joined: what is published from then on arrives.
    client.expect(json!({"t": "sub", "f": "x", "ok": ["broadcast", "user"], "no": []})).await;
    gateway.publish("user:john:x", "to john");
    client.expect(json!({"t": "msg", "f": "x", "a": "user", "d": "to john"})).await;
    client.send(json!({"t": "auth", "token": "no.token"})).await;
    assert_eq!(client.next().await["code"], 401);
    gateway.publish("user:john:x", "still john");
    client.expect(json!({"t": "msg", "f": "x", "a": "user", "d": "still john"})).await;
}
