//! Version 2 with the callback, which answers for one facility at a time.

use serde_json::json;

use crate::support::live::LiveClient;
use crate::support::sessions::hint;
use crate::support::{SiteReply, SiteRequest, TestGateway, TestSite};

const BROADCAST: &[&str] = &["subscribe-broadcast"];

fn john(_: &SiteRequest) -> SiteReply {
    SiteReply::json(r#"{"id": 7, "user": "john"}"#)
}

fn john_except_in_chat(asked: &SiteRequest) -> SiteReply {
    if asked.target.contains("chat") { SiteReply::new(403, &[], "no") } else { john(asked) }
}

async fn gateway(site: &TestSite) -> TestGateway {
    let builder = TestGateway::builder().set("auth.callback_url", &site.url());
    builder.set("auth.callback_cache_seconds", "1000").start().await
}

#[tokio::test]
async fn a_facility_that_the_callback_refuses_later_ends_alone() {
    let site = TestSite::start(john).await;
    let gateway = gateway(&site).await;
    for target in ["/ws/", "/ws/chat?subscribe-broadcast"] {
        site.answer(john);
        let mut client = LiveClient::open(gateway.live_request(target).header("Cookie", "a=1")).await;
        if target == "/ws/" {
            client.subscribe("chat", BROADCAST).await;
        } else {
            client.next().await;
        }
        assert_eq!(client.subscribe("news", &["subscribe-user"]).await["ok"], json!(["user"]));
        site.answer(john_except_in_chat);
        hint(&gateway, "7", "groups");
        let why = "the site's access rules do not allow this";
        client.expect(json!({"t": "err", "f": "chat", "code": 403, "why": why})).await;
        gateway.publish("broadcast:chat", "not any more");
        gateway.publish("user:john:news", "still here");
        client.expect(json!({"t": "msg", "f": "news", "a": "user", "d": "still here"})).await;
    }
}

#[tokio::test]
async fn a_socket_whose_only_facility_the_callback_refuses_later_is_closed_with_4401() {
    let site = TestSite::start(john).await;
    let gateway = gateway(&site).await;
    let request = gateway.live_request("/ws/chat?subscribe-broadcast").header("Cookie", "a=1");
    let mut client = LiveClient::open(request).await;
    client.next().await;
    site.answer(john_except_in_chat);
    hint(&gateway, "7", "groups");
    assert_eq!(client.next().await["code"], 403);
    assert_eq!(client.client.expect_close(4401).await, "session ended");
}

#[tokio::test]
async fn a_visitor_who_becomes_anonymous_in_a_facility_is_asked_about_again() {
    let site = TestSite::start(john).await;
    let gateway = gateway(&site).await;
    let mut client = LiveClient::open(gateway.live_request("/ws/").header("Cookie", "a=1")).await;
    let flags = ["subscribe-broadcast", "subscribe-user"];
    assert_eq!(client.subscribe("chat", &flags).await["ok"], json!(["broadcast", "user"]));
    site.answer(|_| SiteReply::json("null"));
    hint(&gateway, "7", "logout");
    let mut objects = vec![client.next().await];
    while objects.last().is_some_and(|object| object["t"] != "gap") {
        objects.push(client.next().await);
    }
    let answer = objects.iter().rfind(|object| object["t"] == "sub");
    assert_eq!(answer, Some(&json!({"t": "sub", "f": "chat", "ok": ["broadcast"], "no": ["user"]})));
    gateway.publish("user:john:chat", "not to john");
    gateway.publish("broadcast:chat", "to all");
    client.expect(json!({"t": "msg", "f": "chat", "a": "broadcast", "d": "to all"})).await;
}

#[tokio::test]
async fn no_message_is_lost_while_a_subscription_is_replaced() {
    let site = TestSite::start(john).await;
    let builder = TestGateway::builder().set("auth.callback_url", &site.url());
    let gateway = builder.set("auth.callback_cache_seconds", "0").start().await;
    let mut client = LiveClient::open(gateway.live_request("/ws/").header("Cookie", "a=1")).await;
    client.subscribe("chat", BROADCAST).await;
    site.hold();
    let asked = site.requests().len();
    client.send(json!({"t": "sub", "f": "chat", "flags": ["subscribe-broadcast", "echo"]})).await;
    site.expect_requests(asked + 1).await;
    gateway.publish("broadcast:chat", "meanwhile");
    client.expect(json!({"t": "msg", "f": "chat", "a": "broadcast", "d": "meanwhile"})).await;
    site.release();
    client.expect(json!({"t": "sub", "f": "chat", "ok": ["broadcast"], "no": []})).await;
    gateway.publish("broadcast:chat", "afterwards");
    client.expect(json!({"t": "msg", "f": "chat", "a": "broadcast", "d": "afterwards"})).await;
}
