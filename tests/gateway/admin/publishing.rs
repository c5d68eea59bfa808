//! The route `POST /publish`.

use serde_json::{Value, json};

use super::{Admin, TOKEN, json as answer_of, refused};
use crate::support::RedisServer;
use crate::support::client::Request;
use crate::support::gateway::GatewayBuilder;
use crate::support::sessions::{john, session_key};

impl Admin {
    pub(crate) async fn publishing(builder: GatewayBuilder) -> Self {
        Self::of(builder.set("admin.listen", "127.0.0.1:0").set("admin.token", TOKEN)).await
    }

    /// Returns a request that publishes this body.
    pub(crate) fn post(&self, body: &str) -> Request {
        let request = self.get("/publish").method("POST").header("Authorization", format!("Bearer {TOKEN}"));
        let request = request.header("Content-Type", "application/json; charset=utf-8");
        request.header("Content-Length", body.len().to_string()).followed_by(body.as_bytes())
    }

    async fn publish(&self, body: &Value) -> Value {
        answer_of(&self.post(&body.to_string()).expect_status(200).await)
    }
}

#[tokio::test]
async fn the_operator_publishes_as_redis_publisher_does() {
    let history = "[[history]]\nfacility = [\"kept\"]\nmessages = 10\nseconds = 60\n";
    let admin = Admin::publishing(crate::support::TestGateway::builder().rules(history)).await;
    let (gateway, redis) = (&admin.gateway, RedisServer::shared());
    let key = session_key();
    let target = "/ws/news?subscribe-broadcast&subscribe-user&subscribe-group&subscribe-session";
    let mut client = gateway.request(target).header("Cookie", john(&key)).connect().await;
    let receivers = |name: &str, count: u64| json!({ "channel": gateway.channel(name), "receivers": count });

    let message = json!({"facility": "news", "message": "hé", "broadcast": true, "expire": 100});
    assert_eq!(admin.publish(&message).await, json!({"channels": [receivers("broadcast:news", 1)]}));
    client.expect_text("hé").await;
    let name = gateway.channel("broadcast:news");
    assert_eq!(redis.get(&name).as_deref(), Some("hé".as_bytes()));
    assert!((90..=100).contains(&redis.command(&["TTL", &name]).integer()));

    let message = json!({
        "facility": "news", "message": "all", "expire": -1,
        "users": ["john", "nobody"], "groups": ["staff"], "sessions": [key],
    });
    let expected = [
        receivers("group:staff:news", 1),
        receivers("user:john:news", 1),
        receivers("user:nobody:news", 0),
        receivers("session:***:news", 1),
    ];
    assert_eq!(admin.publish(&message).await, json!({ "channels": expected }));
    for _ in 0..3 {
        client.expect_text("all").await;
    }
    assert_eq!(redis.get(&gateway.channel("user:john:news")), None, "not persisted");

    let batch = json!({"messages": [
        {"facility": "news", "message": "1", "broadcast": true},
        {"facility": "kept", "message": "2", "broadcast": true},
    ]});
    let answer = admin.publish(&batch).await;
    assert_eq!(answer["messages"][0], json!({"channels": [receivers("broadcast:news", 1)]}));
    assert_eq!(answer["messages"][1]["channels"][0]["channel"], gateway.channel("broadcast:kept"));
    client.expect_text("1").await;
    let stream = gateway.channel("ws4redis:history:broadcast:kept");
    assert_eq!(redis.command(&["XLEN", &stream]).integer(), 1, "histories keep it");
    assert!((3500..=3600).contains(&redis.command(&["TTL", &name]).integer()), "as the setting says");
}

#[tokio::test]
async fn requests_to_publish_that_cannot_be_used_are_explained() {
    let admin = Admin::publishing(crate::support::TestGateway::builder()).await;
    let mut client = admin.gateway.connect("/ws/x?subscribe-broadcast").await;
    let many = json!({"messages": vec![json!({"facility": "x", "message": "m", "broadcast": true}); 101]});
    for (body, part) in [
        ("", "not valid JSON"),
        ("[]", "has to be an object"),
        (r#"{"message": "m", "broadcast": true}"#, "facility is missing"),
        (r#"{"facility": "x", "broadcast": true}"#, "message is missing"),
        (r#"{"facility": "x", "message": "", "broadcast": true}"#, "empty"),
        (r#"{"facility": "x", "message": {}, "broadcast": true}"#, "message has to be a text"),
        (r#"{"facility": "x", "message": "m"}"#, "no audience given"),
        (r#"{"facility": "x", "message": "m", "broadcast": false}"#, "no audience given"),
        (r#"{"facility": "x", "message": "m", "users": "john"}"#, "a list of texts"),
        (r#"{"facility": "x", "message": "m", "users": [""]}"#, "empty"),
        (r#"{"facility": "x", "message": "m", "users": ["a\nb"]}"#, "control characters"),
        (r#"{"facility": "x", "message": "m", "broadcast": true, "expires": 1}"#, "\"expires\" is unknown"),
        (r#"{"facility": "x", "message": "m", "broadcast": true, "expire": "1"}"#, "number of seconds"),
        (r#"{"messages": []}"#, "1 to 100"),
        (r#"{"messages": [], "expire": 1}"#, "a batch has only messages"),
        (&many.to_string(), "1 to 100"),
        // One wrong message: none is published.
        (
            r#"{"messages": [{"facility": "x", "message": "m", "broadcast": true}, {"facility": "x"}]}"#,
            "message 1 of the batch: message is missing",
        ),
    ] {
        refused(admin.post(body), 400, part).await;
    }
    let body = r#"{"facility": "x", "message": "m", "broadcast": true}"#;
    refused(admin.post(body).with("Content-Type", "text/plain"), 415, "application/json").await;
    refused(admin.post(body).without("Content-Type"), 415, "application/json").await;
    refused(admin.post(body).without("Authorization"), 401, "Bearer").await;
    refused(admin.post(body).method("PUT"), 405, "POST").await;
    // A length that is not announced is bounded, too.
    let chunk = [b"10001\r\n".as_slice(), &vec![b' '; 65537], b"\r\n0\r\n\r\n"].concat();
    let chunked = admin.post("").without("Content-Length").header("Transfer-Encoding", "chunked");
    refused(chunked.followed_by(&chunk), 413, "65536").await;
    client.expect_nothing().await;
}

#[tokio::test]
async fn a_request_with_an_idempotency_key_is_carried_out_once() {
    let admin = Admin::publishing(crate::support::TestGateway::builder()).await;
    let mut client = admin.gateway.connect("/ws/once?subscribe-broadcast").await;
    let body = json!({"facility": "once", "message": "m", "broadcast": true}).to_string();
    let mut answers = Vec::new();
    let requests: Vec<_> =
        (0..3).map(|_| admin.post(&body).header("Idempotency-Key", "\"one\"").expect_status(200)).collect();
    for request in requests {
        answers.push(request.await.body);
    }
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    client.expect_text("m").await;
    client.expect_nothing().await;
    let other = body.replace("\"m\"", "\"n\"");
    refused(admin.post(&other).header("Idempotency-Key", "\"one\""), 422, "new key").await;
    for key in [String::new(), "x".repeat(256), "ä".to_owned()] {
        refused(admin.post(&body).header("Idempotency-Key", key), 400, "Idempotency-Key").await;
    }
    admin.post(&other).header("Idempotency-Key", "\"two\"").expect_status(200).await;
    client.expect_text("n").await;
    admin.post(&other).expect_status(200).await;
    client.expect_text("n").await;
}

#[tokio::test]
async fn without_redis_nothing_is_published_and_the_same_key_works_later() {
    let builder = crate::support::TestGateway::builder();
    let admin = Admin::publishing(builder.set("redis.url", "redis://127.0.0.1:1").without_redis()).await;
    let body = json!({"facility": "x", "message": "m", "broadcast": true}).to_string();
    for _ in 0..2 {
        let request = admin.post(&body).header("Idempotency-Key", "k");
        refused(request, 503, "nothing was published").await;
    }
}
