//! Histories on a Redis of their own: refused scripts, lost scripts, a cluster, and reading.

use std::sync::Arc;

use ws4redis::metrics::Counters;
use ws4redis::redis::{HistoryPage, Store, Target};
use ws4redis::settings::Settings;
use ws4redis::wire::{Channel, EntryId};

use super::cluster::TestCluster;
use crate::history::{entries, next_message, subscriber};
use crate::support::gateway::binary;
use crate::support::redis::RedisReply;
use crate::support::{RedisServer, TestGateway, eventually, unique};

const RULES: &str = "[[history]]\nfacility = [\"chat-*\"]\nmessages = 50\n";

/// Adds a user without a right, and returns the URL.
fn user_without(redis: &RedisServer, right: &str) -> String {
    redis.command(&["ACL", "SETUSER", "limited", "reset", "on", ">p", "~*", "&*", "+@all", right]);
    format!("redis://limited:p@127.0.0.1:{}", redis.port())
}

#[tokio::test]
async fn a_redis_that_refuses_the_script_is_an_error_with_its_cure() {
    for right in ["-eval", "-xadd"] {
        let redis = RedisServer::start();
        let url = user_without(&redis, right);
        let builder = TestGateway::builder().redis(&redis).set("redis.url", &url).rules(RULES);
        let gateway = builder.start().await;
        gateway.expect_log(&["ERROR", "Redis refuses what [[history]] needs", "grant +eval"]).await;
        let mut other = gateway.connect("/ws/other?publish-broadcast&subscribe-broadcast&echo").await;
        let mut client = gateway.connect("/ws/chat-1?publish-broadcast").await;
        client.send_text("lost").await;
        client.expect_close(1011).await;
        gateway.expect_log(&["ERROR", "redis refuses the script of [[history]]", "grant +eval"]).await;
        other.send_text("kept").await;
        other.expect_text("kept").await;

        let file = std::env::temp_dir().join(unique("ws4redis-history"));
        std::fs::write(&file, RULES).unwrap();
        let url = format!("redis.url={url}");
        let mut command = binary();
        let output = command.arg("--settings").arg(&file).args(["--set", &url, "check"]).output().unwrap();
        std::fs::remove_file(file).unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(1), "{right}: {said}");
        assert!(
            said.contains("history: Redis refuses its scripts") && said.contains("grant +eval"),
            "{said}"
        );
    }
}

#[tokio::test]
async fn a_script_that_redis_has_forgotten_is_loaded_again() {
    let redis = RedisServer::start();
    let gateway = TestGateway::builder().redis(&redis).rules(RULES).start().await;
    let flags = "publish-broadcast&subscribe-broadcast&echo";
    let mut client = gateway.connect(&format!("/ws/chat-1?{flags}")).await;
    for number in 0..20 {
        redis.command(&["SCRIPT", "FLUSH"]);
        for text in 0..3 {
            client.send_text(&format!("{number} {text}")).await;
        }
        for text in 0..3 {
            client.expect_text(&format!("{number} {text}")).await;
        }
    }
    let stream = gateway.channel("ws4redis:history:broadcast:chat-1");
    assert_eq!(entries(&mut redis.connection(), &stream).len(), 60);
}

#[tokio::test]
async fn in_a_cluster_a_history_is_in_the_slot_of_its_channel() {
    let cluster = TestCluster::start(3).await;
    let url = cluster.url();
    let builder = TestGateway::builder().redis(&cluster.nodes[0]).set("redis.url", &url).rules(RULES);
    let gateway = builder.start().await;
    let flags = "publish-broadcast&subscribe-broadcast&echo";
    for facility in ["chat-a", "chat-b", "chat-c", "chat-{d}"] {
        let plain = gateway.channel(&format!("broadcast:{facility}"));
        let name = |kind: &str| match facility {
            "chat-{d}" => gateway.channel(&format!("ws4redis:{kind}:broadcast:{facility}")),
            _ => gateway.channel(&format!("ws4redis:{kind}:{{{plain}}}")),
        };
        let mut reader = subscriber(&cluster.nodes[1], &[&plain, &name("live")]);
        let path = facility.replace('{', "%7B").replace('}', "%7D");
        let mut client = gateway.connect(&format!("/ws/{path}?{flags}")).await;
        for text in ["one", "two"] {
            client.send_text(text).await;
            client.expect_text(text).await;
        }
        let holder = cluster.nodes.iter().find(|node| {
            matches!(node.connection().try_command(&["EXISTS", &plain]), Ok(RedisReply::Integer(1)))
        });
        let kept = entries(&mut holder.unwrap().connection(), &name("history"));
        assert_eq!(kept.iter().map(|(_, text)| text.as_str()).collect::<Vec<_>>(), ["one", "two"]);
        for (id, text) in &kept {
            assert_eq!(next_message(&mut reader), (name("live"), format!("{id} {text}")));
            assert_eq!(next_message(&mut reader), (plain.clone(), text.clone()));
        }
    }
    // No key in the slot of this channel can be named after it: its messages are published, and not kept.
    let mut client = gateway.connect(&format!("/ws/chat-%7D?{flags}")).await;
    client.send_text("plain").await;
    client.expect_text("plain").await;
}

/// Reads histories as version 2 does.
struct Reader {
    store: Store,
    channel: Channel,
}

impl Reader {
    async fn start(redis: &RedisServer, max_delivery_bytes: &str) -> Self {
        let sets = [
            format!("redis.url={}", redis.url()),
            format!("messages.max_delivery_bytes={max_delivery_bytes}"),
        ];
        let settings = Settings::load(None, std::iter::empty(), &sets).unwrap().0;
        let target = Target::new(&settings.redis).unwrap();
        let store = Store::new(&target, &settings, &Arc::<Counters>::default());
        assert!(store.wait_briefly_until_up().await);
        Self { store, channel: Channel::from_redis("broadcast:chat-1") }
    }

    async fn after(&self, id: &str, limit: usize) -> HistoryPage {
        let id = EntryId::parse(id).unwrap();
        self.store.history_after(&self.channel, id, limit, Some(b"text 29")).await.unwrap().unwrap()
    }

    async fn last(&self, count: usize) -> HistoryPage {
        self.store.history_last(&self.channel, count).await.unwrap().unwrap()
    }

    async fn is_refused(&self) -> bool {
        self.store.history_last(&self.channel, 1).await.unwrap().is_none()
    }
}

/// Returns the ids of a page in milliseconds.
fn ids(page: &HistoryPage) -> Vec<u64> {
    page.entries.iter().map(|entry| entry.id.ms).collect()
}

fn in_local_set(test: impl Future<Output = ()>) -> impl Future<Output = ()> {
    let test = Box::pin(test);
    async move { tokio::task::LocalSet::new().run_until(test).await }
}

#[tokio::test]
async fn a_page_has_the_messages_behind_an_entry_or_the_last_ones() {
    in_local_set(async {
        let redis = RedisServer::start();
        let reader = Reader::start(&redis, "10000").await;
        let empty = reader.last(5).await;
        assert_eq!((empty.length, empty.entries.len(), empty.first, empty.last), (0, 0, None, None));
        assert!(empty.now_ms > Some(1_700_000_000_000));
        for number in 1..=30 {
            let (id, text) = (format!("{number}-0"), format!("text {number}"));
            redis.command(&["XADD", "ws4redis:history:broadcast:chat-1", &id, "d", &text]);
        }
        let page = reader.after("27-0", 10).await;
        assert_eq!((ids(&page), page.has_more), (vec![28, 29, 30], false));
        assert_eq!((page.added, page.uptime_seconds), (None, None), "it has older ones");
        assert_eq!(page.entries[0].payload.as_deref(), Some(&b"text 28"[..]));
        assert_eq!((page.length, page.first.unwrap().ms, page.last.unwrap().ms), (30, 1, 30));
        let page = reader.after("3-0", 12).await;
        assert_eq!((ids(&page), page.has_more), ((4..=15).collect(), true));
        let page = reader.after("30-0", 12).await;
        assert_eq!((ids(&page), page.has_more, page.is_value_before), (vec![], false, false));
        let page = reader.after("29-1", 12).await;
        assert_eq!((ids(&page), page.is_value_before), (vec![30], true));
        let page = reader.after("0-18446744073709551615", 1).await;
        assert_eq!((ids(&page), page.added), (vec![1], Some(30)));
        assert!(page.uptime_seconds.is_some());
        let page = reader.after("18446744073709551615-18446744073709551615", 12).await;
        assert_eq!((ids(&page), page.has_more), (vec![], false));
        let page = reader.last(2).await;
        assert_eq!((ids(&page), page.has_more), (vec![29, 30], true));
        let page = reader.last(30).await;
        assert_eq!((ids(&page), page.has_more), ((1..=30).collect(), false));
        // The script is loaded again, and a key of another type cannot be read.
        redis.command(&["SCRIPT", "FLUSH"]);
        assert_eq!(ids(&reader.last(1).await), [30]);
        redis.command(&["SET", "ws4redis:history:broadcast:chat-1", "text"]);
        assert!(reader.is_refused().await);
    })
    .await;
}

#[tokio::test]
async fn a_page_is_bounded_in_bytes_and_leaves_out_messages_that_are_too_large() {
    in_local_set(async {
        let redis = RedisServer::start();
        let reader = Reader::start(&redis, "1000").await;
        for (number, bytes) in [(1, 600), (2, 272), (3, 10), (4, 1001), (5, 5)] {
            let (id, text) = (format!("{number}-0"), "x".repeat(bytes));
            redis.command(&["XADD", "ws4redis:history:broadcast:chat-1", &id, "d", &text]);
        }
        let page = reader.after("0-0", 100).await;
        assert_eq!((ids(&page), page.has_more), (vec![1, 2], true));
        let page = reader.after("2-0", 100).await;
        assert_eq!((ids(&page), page.has_more), (vec![3, 4, 5], false));
        assert_eq!(page.entries[1].payload, None);
        assert_eq!(
            (ids(&reader.last(4).await), ids(&reader.last(9).await)),
            (vec![2, 3, 4, 5], vec![2, 3, 4, 5])
        );
    })
    .await;
}

/// A script that reads a million of them would block Redis for seconds.
#[tokio::test]
async fn a_page_of_tiny_messages_is_bounded_too() {
    in_local_set(async {
        let redis = RedisServer::start();
        let reader = Reader::start(&redis, "1000").await;
        for number in 1..=40 {
            redis.command(&["XADD", "ws4redis:history:broadcast:chat-1", &format!("{number}-0"), "d", "x"]);
        }
        let page = reader.after("0-0", 1_000).await;
        assert_eq!((ids(&page), page.has_more), ((1..=15).collect(), true));
        let page = reader.after("15-0", 1_000).await;
        assert_eq!((ids(&page), page.has_more), ((16..=30).collect(), true));
        let page = reader.last(1_000).await;
        assert_eq!((ids(&page), page.has_more), ((26..=40).collect(), true));
    })
    .await;
}

#[tokio::test]
async fn a_read_that_is_refused_is_no_empty_history_and_a_lost_redis_is_an_error() {
    in_local_set(async {
        let mut redis = RedisServer::start();
        redis.command(&["XADD", "ws4redis:history:broadcast:chat-1", "1-0", "d", "x"]);
        let reader = Reader::start(&redis, "1000").await;
        redis.command(&["ACL", "SETUSER", "default", "-xrange"]);
        assert!(reader.is_refused().await);
        redis.command(&["ACL", "SETUSER", "default", "+xrange"]);
        assert_eq!(ids(&reader.last(1).await), [1]);
        redis.kill();
        assert!(reader.store.history_last(&reader.channel, 1).await.is_err());
        redis.restart();
        eventually("redis", || reader.store.is_connected().then_some(())).await;
        assert_eq!(reader.last(1).await.length, 0);
    })
    .await;
}
