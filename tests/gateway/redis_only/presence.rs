//! Who is online: what is written to Redis and what Django is told, over dialects, tabs, gateways and failures.

use std::collections::BTreeSet;
use std::time::SystemTime;

use serde_json::Value;

use super::cluster::TestCluster;
use crate::support::client::TestClient;
use crate::support::events::SseClient;
use crate::support::gateway::GatewayBuilder;
use crate::support::redis::RedisReply;
use crate::support::sessions::{hint, log_in, redis_key, session_key};
use crate::support::socket_io;
use crate::support::{RedisServer, TestGateway, eventually, unique};

/// A site on one Redis, with as many gateways as a test starts.
struct PresenceSite<'a> {
    redis: &'a RedisServer,
    namespace: String,
    stream: String,
}

impl<'a> PresenceSite<'a> {
    fn on(redis: &'a RedisServer) -> Self {
        Self { redis, namespace: unique("presence"), stream: unique("events") }
    }

    /// Configures a gateway whose entries are valid for 3 seconds, and refreshed each second.
    fn builder(&self) -> GatewayBuilder {
        TestGateway::builder()
            .redis(self.redis)
            .namespace(&self.namespace)
            .rules("[[presence]]\nfacility = [\"chat-*\", \"/chat\"]\nseconds = 3\n")
            .set("events.to", &format!("stream:{}", self.stream))
            .set("events.what", "online,offline")
            .set("socketio.enabled", "true")
            .set("socketio.namespaces", "/,/chat")
            .set("session.keyspace_events", "off")
    }

    /// Configures a gateway that counts only the users of the site: their entries are valid for 60 seconds.
    fn events_only(&self) -> GatewayBuilder {
        TestGateway::builder()
            .redis(self.redis)
            .namespace(&self.namespace)
            .set("events.to", &format!("stream:{}", self.stream))
            .set("events.what", "online,offline")
    }

    async fn gateway(&self) -> TestGateway {
        self.builder().start().await
    }

    /// Logs a user in, and returns the cookie.
    fn cookie(&self, user: &str) -> String {
        log_in(self.redis, &session_key(), user, user, &[])
    }

    async fn connect(&self, gateway: &TestGateway, facility: &str, user: &str) -> TestClient {
        let request = gateway.request(&format!("/ws/{facility}?subscribe-broadcast"));
        request.header("Cookie", self.cookie(user)).connect().await
    }

    fn key(&self, name: &str) -> String {
        format!("{}:ws4redis:{name}", self.namespace)
    }

    /// Returns the valid members of a key.
    fn valid(&self, name: &str) -> BTreeSet<String> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64();
        texts(self.redis.command(&["ZRANGEBYSCORE", &self.key(name), &now.to_string(), "+inf"]))
    }

    /// Returns all keys of the site that presence writes.
    fn keys(&self) -> BTreeSet<String> {
        texts(self.redis.command(&["KEYS", &self.key("*")]))
    }

    /// Returns what Django was told, in order.
    fn told(&self) -> Vec<String> {
        told_of(self.redis.command(&["XRANGE", &self.stream, "-", "+"]))
    }

    /// Waits until Django was told exactly this.
    #[track_caller]
    fn expect_told(&self, expected: &[&str]) -> impl Future<Output = ()> {
        let what = format!("Django is told {expected:?}");
        let place = std::panic::Location::caller();
        async move {
            eventually(&format!("{place}: {what}"), || (self.told().len() >= expected.len()).then_some(()))
                .await;
            assert_eq!(self.told(), expected, "{place}");
        }
    }

    /// Waits until the valid members of a key are these.
    #[track_caller]
    fn expect_valid(&self, name: &str, expected: &[&str]) -> impl Future<Output = ()> {
        let what = format!("{}: {name} has {expected:?}", std::panic::Location::caller());
        async move {
            let expected: BTreeSet<String> = expected.iter().map(|&member| member.to_owned()).collect();
            eventually(&what, || (self.valid(name) == expected).then_some(())).await;
        }
    }
}

/// Returns the events of a stream, in order: `online john`.
fn told_of(reply: RedisReply) -> Vec<String> {
    let RedisReply::Array(entries) = reply else { panic!("no array: {reply:?}") };
    let told = entries.into_iter().map(|entry| {
        let RedisReply::Array(mut entry) = entry else { panic!("no entry") };
        let Some(RedisReply::Array(mut fields)) = entry.pop() else { panic!("no fields") };
        let event: Value = serde_json::from_slice(&fields.pop().unwrap().bulk().unwrap()).unwrap();
        format!("{} {}", event["type"].as_str().unwrap(), event["user"].as_str().unwrap())
    });
    told.collect()
}

fn texts(reply: RedisReply) -> BTreeSet<String> {
    let RedisReply::Array(members) = reply else { panic!("no array: {reply:?}") };
    members.into_iter().map(|member| String::from_utf8(member.bulk().unwrap()).unwrap()).collect()
}

#[tokio::test]
async fn a_user_on_all_dialects_tabs_and_gateways_is_online_once_and_leaves_nothing_behind() {
    let site = PresenceSite::on(RedisServer::shared());
    let (one, two) = (site.gateway().await, site.gateway().await);
    let cookie = site.cookie("john");
    let socket = site.connect(&one, "chat-1", "john").await;
    site.expect_told(&["online john"]).await;
    let stream = SseClient::open(two.stream("/ws/other?subscribe-broadcast").header("Cookie", &cookie)).await;
    let request = two.request(socket_io::V4).header("Cookie", &cookie);
    let (mut client, _) = socket_io::open(request).await;
    let sids = [socket_io::join(&mut client, "/").await, socket_io::join(&mut client, "/chat").await];
    eventually("four connections", || (site.valid("online:john").len() == 4).then_some(())).await;
    let ids = site.valid("online:john");
    assert!(sids.iter().all(|sid| ids.contains(sid)), "{ids:?}");
    // A random id of Socket.IO may have a hyphen at the same place.
    let is_plain = |id: &&String| {
        let parts = id.split_once('-');
        parts.is_some_and(|(gateway, number)| gateway.len() == 12 && number.parse::<u64>().is_ok())
    };
    let plain = ids.iter().filter(is_plain).count();
    assert_eq!(plain, 2, "{ids:?}");
    site.expect_valid("online", &["john"]).await;
    for facility in ["chat-1", "/chat"] {
        let members = site.valid(&format!("presence:{facility}"));
        assert!(members.len() == 1 && members.iter().all(|it| it[12..] == *"/john"), "{members:?}");
    }
    // Only what the settings name is kept.
    assert_eq!(site.keys().len(), 4, "{:?}", site.keys());
    for key in site.keys() {
        let longest = if key == site.key("online") { 24 * 60 * 60 } else { 6 };
        assert!((1..=longest).contains(&site.redis.command(&["TTL", &key]).integer()), "{key}");
    }
    drop((socket, client));
    eventually("one connection", || (site.valid("online:john").len() == 1).then_some(())).await;
    drop(stream);
    site.expect_told(&["online john", "offline john"]).await;
    eventually("no key is left", || site.keys().is_empty().then_some(())).await;
}

#[tokio::test]
async fn a_page_that_is_loaded_again_within_the_grace_is_not_announced() {
    let site = PresenceSite::on(RedisServer::shared());
    let gateway = site.gateway().await;
    let first = site.connect(&gateway, "chat-1", "john").await;
    site.expect_told(&["online john"]).await;
    let before = site.valid("online:john");
    drop(first);
    let again = site.connect(&gateway, "chat-1", "john").await;
    eventually("the new connection replaces the old", || {
        let ids = site.valid("online:john");
        (ids.len() == 1 && ids != before).then_some(())
    })
    .await;
    // Of two users, the one who left later shows that the other's grace is over.
    let mary = site.connect(&gateway, "chat-1", "mary").await;
    site.expect_told(&["online john", "online mary"]).await;
    drop(mary);
    site.expect_told(&["online john", "online mary", "offline mary"]).await;
    drop(again);
}

#[tokio::test]
async fn a_rolling_restart_announces_only_users_who_do_not_come_back() {
    let site = PresenceSite::on(RedisServer::shared());
    let (mut old, new) = (site.gateway().await, site.gateway().await);
    let mut john = site.connect(&old, "chat-1", "john").await;
    site.expect_told(&["online john"]).await;
    let mut mary = site.connect(&old, "chat-1", "mary").await;
    site.expect_told(&["online john", "online mary"]).await;
    old.signal("TERM");
    john.expect_close(1012).await;
    mary.expect_close(1012).await;
    let john = site.connect(&new, "chat-1", "john").await;
    assert_eq!(old.expect_exit().await.code(), Some(0));
    site.expect_told(&["online john", "online mary", "offline mary"]).await;
    site.expect_valid("online", &["john"]).await;
    assert_eq!(site.valid("online:john").len(), 1);
    drop(john);
    site.expect_told(&["online john", "online mary", "offline mary", "offline john"]).await;
    eventually("no key is left", || site.keys().is_empty().then_some(())).await;
}

#[tokio::test]
async fn the_users_of_a_killed_gateway_are_declared_offline_once_by_the_others() {
    let site = PresenceSite::on(RedisServer::shared());
    let (killed, two, three) = (site.gateway().await, site.gateway().await, site.gateway().await);
    let mary = site.connect(&killed, "chat-1", "mary").await;
    site.expect_told(&["online mary"]).await;
    let first = site.connect(&killed, "chat-1", "john").await;
    let second = site.connect(&two, "chat-1", "john").await;
    site.expect_told(&["online mary", "online john"]).await;
    eventually("both tabs", || (site.valid("online:john").len() == 2).then_some(())).await;
    killed.signal("KILL");
    site.expect_told(&["online mary", "online john", "offline mary"]).await;
    site.expect_valid("online", &["john"]).await;
    assert_eq!(site.valid("online:john").len(), 1, "of the killed gateway nothing is valid");
    // The third gateway looked for stale users, too.
    let visitor = site.connect(&three, "chat-1", "ann").await;
    site.expect_told(&["online mary", "online john", "offline mary", "online ann"]).await;
    let chat = site.valid("presence:chat-1");
    assert_eq!(chat.iter().map(|member| &member[13..]).collect::<Vec<_>>().len(), 2, "{chat:?}");
    drop((mary, first, second, visitor));
    eventually("no key is left", || site.keys().is_empty().then_some(())).await;
}

#[tokio::test]
async fn the_next_process_declares_the_users_of_a_gateway_offline_that_was_down_for_long() {
    let site = PresenceSite::on(RedisServer::shared());
    let killed = site.gateway().await;
    let john = site.connect(&killed, "chat-1", "john").await;
    site.expect_told(&["online john"]).await;
    killed.signal("KILL");
    let have_expired = || {
        let keys = site.keys();
        !keys.contains(&site.key("online:john")) && !keys.contains(&site.key("presence:chat-1"))
    };
    eventually("the keys of connections and visitors expire", || have_expired().then_some(())).await;
    let _next = site.gateway().await;
    site.expect_told(&["online john", "offline john"]).await;
    eventually("no key is left", || site.keys().is_empty().then_some(())).await;
    drop(john);
}

#[tokio::test]
async fn after_a_restart_of_redis_everything_is_written_again_and_only_changes_are_announced() {
    let mut redis = RedisServer::start();
    let (john, mary, gateway, namespace, stream);
    {
        let site = PresenceSite::on(&redis);
        gateway = site.gateway().await;
        john = site.connect(&gateway, "chat-1", "john").await;
        mary = site.connect(&gateway, "chat-1", "mary").await;
        eventually("both are told", || (site.told().len() == 2).then_some(())).await;
        eventually("both are kept", || (site.valid("presence:chat-1").len() == 2).then_some(())).await;
        PresenceSite { namespace, stream, .. } = site;
    }
    // Nothing is saved: it comes back empty.
    redis.kill();
    drop(mary);
    gateway.expect_log(&["redis lost"]).await;
    redis.restart();
    let site = PresenceSite { redis: &redis, namespace, stream };
    eventually("john is written again", || site.valid("online").contains("john").then_some(())).await;
    site.expect_told(&["offline mary"]).await;
    site.expect_valid("online", &["john"]).await;
    eventually("one visitor", || (site.valid("presence:chat-1").len() == 1).then_some(())).await;
    drop(john);
    site.expect_told(&["offline mary", "offline john"]).await;
}

#[tokio::test]
async fn a_connection_whose_user_changes_counts_as_the_new_one() {
    let site = PresenceSite::on(RedisServer::shared());
    let gateway = site.gateway().await;
    let key = session_key();
    let cookie = log_in(site.redis, &key, "7", "john", &[]);
    let request = gateway.request("/ws/chat-1?subscribe-broadcast").header("Cookie", &cookie);
    let mut client = request.connect().await;
    site.expect_told(&["online john"]).await;
    let id = site.valid("online:john");
    log_in(site.redis, &key, "7", "johnny", &[]);
    hint(&gateway, "7", "change");
    site.expect_told(&["online john", "online johnny", "offline john"]).await;
    assert_eq!(site.valid("online:johnny"), id, "the same connection");
    site.expect_valid("online", &["johnny"]).await;
    assert!(site.valid("presence:chat-1").iter().all(|member| member.ends_with("/johnny")));
    // A logout ends it.
    site.redis.command(&["DEL", &redis_key(&key)]);
    hint(&gateway, "7", "logout");
    client.expect_close(4401).await;
    site.expect_told(&["online john", "online johnny", "offline john", "offline johnny"]).await;
    eventually("no key is left", || site.keys().is_empty().then_some(())).await;
}

#[tokio::test]
async fn two_hundred_users_and_anonymous_visitors_of_a_facility_are_counted_and_leave_nothing_behind() {
    const USERS: usize = 200;
    let site = PresenceSite::on(RedisServer::shared());
    let (one, two) = (site.gateway().await, site.gateway().await);
    let mut clients = Vec::new();
    for number in 0..USERS {
        let gateway = if number % 2 == 0 { &one } else { &two };
        clients.push(site.connect(gateway, "chat-1", &format!("user-{number}")).await);
    }
    for number in 0..30 {
        let gateway = if number % 3 == 0 { &one } else { &two };
        clients.push(gateway.connect("/ws/chat-1?subscribe-broadcast").await);
    }
    let anonymous = || {
        let members = site.valid("presence:chat-1");
        let counts = members.iter().filter_map(|member| member[12..].strip_prefix('#'));
        counts.map(|count| count.parse::<usize>().unwrap()).sum::<usize>()
    };
    eventually("all are counted", || {
        let users = site.valid("presence:chat-1").len();
        (users == USERS + 2 && anonymous() == 30 && site.valid("online").len() == USERS).then_some(())
    })
    .await;
    clients.truncate(USERS + 7);
    eventually("seven are left", || (anonymous() == 7).then_some(())).await;
    assert_eq!(site.told().len(), USERS);
    drop(clients);
    eventually("all have left", || (site.told().len() == 2 * USERS).then_some(())).await;
    let told: BTreeSet<_> = site.told().into_iter().collect();
    assert_eq!(told.len(), 2 * USERS, "each once");
    eventually("no key is left", || site.keys().is_empty().then_some(())).await;
}

#[tokio::test]
async fn without_settings_nothing_is_written() {
    let redis = RedisServer::start();
    let site = PresenceSite::on(&redis);
    let gateway = TestGateway::builder().redis(&redis).namespace(&site.namespace).start().await;
    let mut monitor = redis.monitor();
    let mut client = site.connect(&gateway, "chat-1", "john").await;
    client.expect_nothing().await;
    drop(client);
    // Events about other things are no reason either.
    let events = TestGateway::builder().redis(&redis).namespace(&site.namespace);
    let events = events.set("events.to", &format!("stream:{}", site.stream)).set("events.what", "connect");
    let gateway = events.start().await;
    let mut client = site.connect(&gateway, "chat-1", "john").await;
    client.expect_nothing().await;
    let commands = monitor.commands(&site.namespace);
    assert!(!commands.iter().any(|command| command.contains("ws4redis:online")), "{commands:?}");
    assert!(site.keys().is_empty(), "{:?}", site.keys());
}

#[tokio::test]
async fn with_events_alone_the_users_of_the_site_are_kept() {
    let site = PresenceSite::on(RedisServer::shared());
    let builder = TestGateway::builder().namespace(&site.namespace);
    let gateway = builder.set("events.to", &format!("stream:{}", site.stream));
    let gateway = gateway.set("events.what", "offline").start().await;
    let client = site.connect(&gateway, "chat-1", "john").await;
    site.expect_valid("online", &["john"]).await;
    assert_eq!(site.keys().len(), 2, "{:?}", site.keys());
    drop(client);
    site.expect_told(&["offline john"]).await;
}

#[tokio::test]
async fn where_redis_refuses_eval_single_commands_do_the_same() {
    let redis = RedisServer::start();
    redis.command(&["ACL", "SETUSER", "default", "-eval"]);
    let site = PresenceSite::on(&redis);
    let (one, two) = (site.gateway().await, site.gateway().await);
    let first = site.connect(&one, "chat-1", "john").await;
    let second = site.connect(&two, "chat-1", "john").await;
    eventually("both tabs", || (site.valid("online:john").len() == 2).then_some(())).await;
    drop(first);
    eventually("one tab", || (site.valid("online:john").len() == 1).then_some(())).await;
    one.expect_log(&["Redis refuses EVAL", "NOPERM"]).await;
    drop(second);
    site.expect_told(&["online john", "offline john"]).await;
    eventually("no key is left", || site.keys().is_empty().then_some(())).await;
}

#[tokio::test]
async fn a_user_whose_entry_redis_refused_for_a_time_is_announced_afterwards() {
    let redis = RedisServer::start();
    let site = PresenceSite::on(&redis);
    let gateway = site.gateway().await;
    let mary = site.connect(&gateway, "chat-1", "mary").await;
    site.expect_told(&["online mary"]).await;
    let cookie = site.cookie("john");
    redis.command(&["CONFIG", "SET", "maxmemory", "1"]);
    let request = gateway.request("/ws/chat-1?subscribe-broadcast").header("Cookie", cookie);
    let john = request.connect().await;
    gateway.expect_log(&["Redis refuses a command of presence", "OOM"]).await;
    redis.command(&["CONFIG", "SET", "maxmemory", "0"]);
    site.expect_told(&["online mary", "online john"]).await;
    site.expect_valid("online", &["john", "mary"]).await;
    drop((john, mary));
}

#[tokio::test]
async fn a_user_whose_departure_redis_refused_for_a_time_is_declared_offline_afterwards() {
    let redis = RedisServer::start();
    let site = PresenceSite::on(&redis);
    let gateway = site.events_only().start().await;
    let john = site.connect(&gateway, "chat-1", "john").await;
    site.expect_told(&["online john"]).await;
    // Too few replicas, so writes are refused, those of scripts as well.
    redis.command(&["CONFIG", "SET", "min-replicas-to-write", "1"]);
    drop(john);
    gateway.expect_log(&["Redis refuses a command of presence", "NOREPLICAS"]).await;
    redis.command(&["CONFIG", "SET", "min-replicas-to-write", "0"]);
    site.expect_told(&["online john", "offline john"]).await;
    eventually("no key is left", || site.keys().is_empty().then_some(())).await;
}

#[tokio::test]
async fn a_user_with_hundreds_of_connections_is_declared_offline_after_the_last() {
    const CONNECTIONS: usize = 1_010;
    let redis = RedisServer::start();
    let site = PresenceSite::on(&redis);
    // Entries of 60 seconds, so that none goes stale meanwhile.
    let gateway = site.events_only().start().await;
    let cookie = site.cookie("john");
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        let request = gateway.request("/ws/chat-1?subscribe-broadcast").header("Cookie", &cookie);
        clients.push(request.connect().await);
    }
    eventually("all are kept", || (site.valid("online:john").len() == CONNECTIONS).then_some(())).await;
    // Writes wait, so that all connections end before the second write.
    redis.command(&["CLIENT", "PAUSE", "10000", "WRITE"]);
    drop(clients);
    let ended = || gateway.count_log(&["connection ended"]);
    eventually("all have ended", || (ended() >= CONNECTIONS).then_some(())).await;
    redis.command(&["CLIENT", "UNPAUSE"]);
    site.expect_told(&["online john", "offline john"]).await;
    eventually("no key is left", || site.keys().is_empty().then_some(())).await;
}

#[tokio::test]
async fn a_process_that_ends_announces_users_whose_connections_redis_does_not_have() {
    let site = PresenceSite::on(RedisServer::shared());
    // Entries of 60 seconds, so that none is refreshed meanwhile.
    let mut gateway = site.events_only().start().await;
    let mut john = site.connect(&gateway, "chat-1", "john").await;
    site.expect_told(&["online john"]).await;
    site.redis.command(&["DEL", &site.key("online:john")]);
    gateway.signal("TERM");
    john.expect_close(1012).await;
    assert_eq!(gateway.expect_exit().await.code(), Some(0));
    site.expect_told(&["online john", "offline john"]).await;
    assert!(site.keys().is_empty(), "{:?}", site.keys());
}

#[tokio::test]
async fn where_redis_refuses_the_commands_a_warning_names_them_and_clients_are_served() {
    let redis = RedisServer::start();
    redis.command(&["ACL", "SETUSER", "default", "-zadd"]);
    let site = PresenceSite::on(&redis);
    let gateway = site.gateway().await;
    let mut client = site.connect(&gateway, "chat-1", "john").await;
    gateway.expect_log(&["WARN", "Redis refuses a command of presence", "zadd", "docs/security.md"]).await;
    client.expect_nothing().await;
    assert!(site.told().is_empty());
    assert_eq!(gateway.count_log(&["Redis refuses a command of presence"]), 1, "once per minute");
}

#[tokio::test]
async fn in_a_cluster_users_come_and_go_once() {
    let cluster = TestCluster::start(3).await;
    let site = PresenceSite::on(&cluster.nodes[0]);
    let start = async || site.builder().set("redis.url", &cluster.url()).start().await;
    let (one, two) = (start().await, start().await);
    let users: Vec<_> = (0..6).map(|number| format!("user-{number}")).collect();
    let mut clients = Vec::new();
    for user in &users {
        let key = session_key();
        let content = format!(
            r#"{{"_auth_user_id": "{user}", "_auth_user_hash": "h", "ws4redis:username": "{user}"}}"#
        );
        on_any_node(&cluster, &["SET", &redis_key(&key), &content]);
        for gateway in [&one, &two] {
            let request = gateway.request("/ws/chat-1?subscribe-broadcast");
            clients.push(request.header("Cookie", format!("sessionid={key}")).connect().await);
        }
    }
    let members = |name: &str| on_any_node(&cluster, &["ZCARD", &site.key(name)]).integer();
    eventually("all are online", || {
        let has_both = |user: &String| members(&format!("online:{user}")) == 2;
        (members("online") == 6 && members("presence:chat-1") == 12 && users.iter().all(has_both))
            .then_some(())
    })
    .await;
    let stream = || on_any_node(&cluster, &["XRANGE", &site.stream, "-", "+"]);
    drop(clients);
    eventually("all have left", || {
        let is_gone = |user: &String| members(&format!("online:{user}")) == 0;
        (members("online") == 0 && members("presence:chat-1") == 0 && users.iter().all(is_gone)).then_some(())
    })
    .await;
    eventually("all are told", || (told_of(stream()).len() == 2 * users.len()).then_some(())).await;
    let told: BTreeSet<_> = told_of(stream()).into_iter().collect();
    assert_eq!(told.len(), 2 * users.len(), "{told:?}");
    for (user, kind) in users.iter().flat_map(|user| ["online", "offline"].map(|kind| (user, kind))) {
        assert!(told.contains(&format!("{kind} {user}")), "{kind} {user}: {told:?}");
    }
}

/// Returns the index of the node with the slot of a key.
fn node_of(cluster: &TestCluster, key: &str) -> usize {
    let holds = |node: &RedisServer| {
        !matches!(node.connection().try_command(&["TYPE", key]).unwrap(), RedisReply::Error(_))
    };
    cluster.nodes.iter().position(holds).unwrap()
}

#[tokio::test]
async fn in_a_cluster_a_lost_node_does_not_delay_the_departure_of_the_users_of_others() {
    let cluster = TestCluster::start(3).await;
    let mut site = PresenceSite::on(&cluster.nodes[0]);
    let users_node = node_of(&cluster, &site.key("online"));
    while node_of(&cluster, &site.stream) != users_node {
        site.stream = unique("events");
    }
    let builder = site.events_only().set("redis.url", &cluster.url()).set("server.shards", "1");
    let gateway = builder.set("redis.command_timeout_seconds", "1").start().await;
    let subscribed = cluster.subscribed_node(&gateway).await;
    let lost_node = (0..3).find(|node| *node != users_node && *node != subscribed).unwrap();
    let user_on = |node: usize| {
        let is_there = |user: &String| node_of(&cluster, &site.key(&format!("online:{user}"))) == node;
        (0..1_000).map(|number| format!("user-{number}")).find(is_there).unwrap()
    };
    let connect = async |user: &str| {
        let key = session_key();
        let content = format!(
            r#"{{"_auth_user_id": "{user}", "_auth_user_hash": "h", "ws4redis:username": "{user}"}}"#
        );
        on_any_node(&cluster, &["SET", &redis_key(&key), &content]);
        let request = gateway.request("/ws/chat-1?subscribe-broadcast");
        request.header("Cookie", format!("sessionid={key}")).connect().await
    };
    let (lost_user, other_user) = (user_on(lost_node), user_on(users_node));
    let tabs = (connect(&lost_user).await, connect(&lost_user).await);
    let other = connect(&other_user).await;
    let stream = || told_of(cluster.nodes[users_node].command(&["XRANGE", &site.stream, "-", "+"]));
    eventually("both are online", || (stream().len() == 2).then_some(())).await;
    cluster.nodes[lost_node].pause();
    // A change that cannot be written.
    drop(tabs.0);
    drop(other);
    let offline = format!("offline {other_user}");
    eventually("the other user is offline", || stream().contains(&offline).then_some(())).await;
    cluster.nodes[lost_node].resume();
    drop(tabs.1);
    let offline = format!("offline {lost_user}");
    eventually("the user of the lost node is offline", || stream().contains(&offline).then_some(())).await;
    assert_eq!(stream().len(), 4, "{:?}", stream());
}

#[tokio::test]
async fn a_user_who_changes_at_two_gateways_at_once_is_announced_once() {
    let site = PresenceSite::on(RedisServer::shared());
    let (one, two) = (site.gateway().await, site.gateway().await);
    for round in 0..3 {
        let (before, after) = (format!("john-{round}"), format!("johnny-{round}"));
        let key = session_key();
        let cookie = log_in(site.redis, &key, "7", &before, &[]);
        let connect = |gateway: &TestGateway| {
            gateway.request("/ws/chat-1?subscribe-broadcast").header("Cookie", &cookie).connect()
        };
        let clients = (connect(&one).await, connect(&two).await);
        eventually("both are counted", || (site.valid(&format!("online:{before}")).len() == 2).then_some(()))
            .await;
        let ids = site.valid(&format!("online:{before}"));
        log_in(site.redis, &key, "7", &after, &[]);
        hint(&one, "7", "change");
        let told = [format!("online {before}"), format!("online {after}"), format!("offline {before}")];
        let told: Vec<_> = told.iter().map(String::as_str).collect();
        eventually("the change is told", || (site.told().len() >= 4 * round + 3).then_some(())).await;
        assert_eq!(site.told()[4 * round..], told);
        assert_eq!(site.valid(&format!("online:{after}")), ids, "the same connections");
        drop(clients);
        eventually("the end is told", || (site.told().len() >= 4 * round + 4).then_some(())).await;
    }
    assert_eq!(site.told().len(), 12, "{:?}", site.told());
    eventually("no key is left", || site.keys().is_empty().then_some(())).await;
}

/// Sends a command to the node of its key.
fn on_any_node(cluster: &TestCluster, command: &[&str]) -> RedisReply {
    let replies = cluster.nodes.iter().map(|node| node.connection().try_command(command).unwrap());
    replies.into_iter().find(|reply| !matches!(reply, RedisReply::Error(_))).unwrap()
}
