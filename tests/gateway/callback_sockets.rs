//! Revalidation of open sockets by the callback.

use std::time::Duration;

use tokio::time::Instant;

use crate::support::sessions::hint;
use crate::support::{RedisServer, SiteReply, TestGateway, TestSite, within_deadline};

const PATH: &str = "/ws/x?subscribe-user&subscribe-group&subscribe-session";

async fn gateway(site: &TestSite) -> TestGateway {
    TestGateway::builder()
        .set("auth.callback_url", &site.url())
        .set("auth.callback_cache_seconds", "1000")
        .set("server.shards", "1")
        .start()
        .await
}

#[tokio::test]
async fn the_callback_is_called_again_before_its_response_expires() {
    let site = TestSite::always_returning(r#"{"user": "john", "groups": ["old"], "expires_in": 2}"#).await;
    let gateway = gateway(&site).await;
    let mut client = gateway.request(PATH).header("Cookie", "a=1").connect().await;
    let begun = Instant::now();
    RedisServer::shared().persist(&gateway.channel("group:new:x"), "welcome");
    site.answer(|_| SiteReply::json(r#"{"user": "john", "groups": ["new"], "expires_in": 1000}"#));
    client.expect_text("welcome").await;
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    gateway.publish("group:old:x", "lost");
    gateway.publish("user:john:x", "to john");
    client.expect_text("to john").await;
    let asked = site.requests();
    assert_eq!(asked.len(), 2);
    assert_eq!((&asked[0].target, &asked[0].headers), (&asked[1].target, &asked[1].headers));
}

#[tokio::test]
async fn a_visitor_who_becomes_anonymous_or_is_refused_is_closed_with_4401() {
    let site = TestSite::always_returning(r#"{"user": "john", "expires_in": 1}"#).await;
    let gateway = gateway(&site).await;
    for (cookie, reply) in [("a=1", SiteReply::json("null")), ("a=2", SiteReply::new(403, &[], "no"))] {
        site.answer(|_| SiteReply::json(r#"{"user": "john", "expires_in": 1}"#));
        let mut client = gateway.request(PATH).header("Cookie", cookie).connect().await;
        site.answer(move |_| reply.clone());
        assert_eq!(client.expect_close(4401).await, "session ended");
    }
}

#[tokio::test]
async fn without_a_callback_response_the_socket_stays_until_the_last_one_expires() {
    let site = TestSite::always_returning(r#"{"user": "john", "expires_in": 4}"#).await;
    let gateway = gateway(&site).await;
    let begun = Instant::now();
    let mut client = gateway.request(PATH).header("Cookie", "a=1").connect().await;
    site.answer(|_| SiteReply::new(500, &[], "broken"));
    site.expect_requests(2).await;
    gateway.publish("user:john:x", "still here");
    client.expect_text("still here").await;
    client.expect_close(4401).await;
    assert!(begun.elapsed() >= Duration::from_secs(4), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn after_an_invalidation_no_cached_response_admits_a_visitor() {
    let site = TestSite::always_returning(r#"{"id": 7, "user": "john"}"#).await;
    let gateway = gateway(&site).await;
    let connect = async || drop(gateway.request(PATH).header("Cookie", "a=1").connect().await);
    connect().await;
    connect().await;
    assert_eq!(site.requests().len(), 1);
    hint(&gateway, "7", "user");
    let asked_again = async {
        while site.requests().len() == 1 {
            connect().await;
        }
    };
    within_deadline("another question", asked_again).await;
}

#[tokio::test]
async fn an_invalidation_clears_the_cache_and_calls_the_callback_at_once() {
    let site = TestSite::always_returning(r#"{"id": 7, "user": "john", "groups": ["old"]}"#).await;
    let gateway = gateway(&site).await;
    let mut client = gateway.request(PATH).header("Cookie", "a=1").connect().await;
    let _same = gateway.request(PATH).header("Cookie", "a=1").connect().await;
    assert_eq!(site.requests().len(), 1, "the second is answered by what is kept");
    RedisServer::shared().persist(&gateway.channel("group:new:x"), "welcome");
    site.answer(|_| SiteReply::json(r#"{"id": 7, "user": "john", "groups": ["new"]}"#));
    hint(&gateway, "7", "groups");
    client.expect_text("welcome").await;
    site.answer(|_| SiteReply::json("null"));
    hint(&gateway, "7", "logout");
    client.expect_close(4401).await;
    let mut after = gateway.request(PATH).header("Cookie", "a=1").connect().await;
    after.expect_nothing().await;
    assert_eq!(site.requests().len(), 4, "no cached response was used");
}

#[tokio::test]
async fn a_socket_stays_while_the_callback_response_is_unchanged() {
    let site = TestSite::always_returning(r#"{"user": "john", "expires_in": 1}"#).await;
    let gateway = gateway(&site).await;
    let mut client = gateway.request(PATH).header("Cookie", "a=1").connect().await;
    site.expect_requests(4).await;
    gateway.publish("user:john:x", "still here");
    client.expect_text("still here").await;
}

#[tokio::test]
async fn without_expires_in_the_callback_is_called_again_after_the_configured_time() {
    let site = TestSite::start(|asked| {
        SiteReply::json(if asked.all("cookie") == ["john"] { r#"{"user": "john"}"# } else { "null" })
    })
    .await;
    let builder = TestGateway::builder().set("auth.callback_url", &site.url()).set("server.shards", "1");
    let gateway = builder.set("auth.callback_recheck_seconds", "1").start().await;
    let mut john = gateway.request(PATH).header("Cookie", "john").connect().await;
    let mut anonymous = gateway.connect("/ws/x?subscribe-broadcast").await;
    let asked = site.expect_requests(6).await;
    for cookie in [vec!["john"], vec![]] {
        assert!(asked.iter().filter(|one| one.all("cookie") == cookie).count() > 1, "{cookie:?}");
    }
    john.expect_nothing().await;
    anonymous.expect_nothing().await;
}

#[tokio::test]
async fn flags_that_are_no_longer_allowed_are_removed_from_an_open_socket() {
    let site = TestSite::always_returning(r#"{"user": "john", "expires_in": 1}"#).await;
    let gateway = gateway(&site).await;
    let path = "/ws/x?subscribe-user&subscribe-broadcast";
    let mut client = gateway.request(path).header("Cookie", "a=1").connect().await;
    gateway.publish("user:john:x", "to john");
    client.expect_text("to john").await;
    site.answer(|_| {
        SiteReply::json(r#"{"user": "john", "allow": ["subscribe-broadcast"], "expires_in": 1}"#)
    });
    site.expect_requests(site.requests().len() + 2).await;
    RedisServer::shared().publish(&gateway.channel("user:john:x"), "for nobody");
    client.expect_nothing().await;
}

#[tokio::test]
async fn a_session_that_the_callback_no_longer_confirms_closes_its_sockets() {
    const SESSION: &str = r#"{"user": null, "session": "aonhk897c0q74kqva7rtv278kgdpr276", "expires_in": 1}"#;
    let site = TestSite::always_returning(SESSION).await;
    let gateway = gateway(&site).await;
    let mut client = gateway.request(PATH).header("Cookie", "a=1").connect().await;
    site.answer(|_| SiteReply::json("null"));
    client.expect_close(4401).await;
}

#[tokio::test]
async fn an_invalidation_during_a_callback_request_repeats_the_request() {
    let site = TestSite::always_returning(r#"{"id": 7, "user": "john"}"#).await;
    let gateway = gateway(&site).await;
    let mut other = gateway.connect("/ws/y?subscribe-broadcast").await;
    site.hold();
    let request = gateway.request(PATH).header("Cookie", "a=1");
    let opening = tokio::spawn(async move { request.connect().await });
    site.expect_requests(2).await;
    hint(&gateway, "7", "logout");
    // Messages arrive in order: when this one has arrived, so has the invalidation.
    gateway.publish("broadcast:y", "the hint has come");
    other.expect_text("the hint has come").await;
    site.answer_first(2);
    let mut client = opening.await.unwrap();
    site.answer(|_| SiteReply::json("null"));
    site.release();
    client.expect_close(4401).await;
}
