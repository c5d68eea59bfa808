//! Identification: Django sessions, identity keys of users, and access rules.

use crate::support::client::{TEXT, frame};
use crate::support::sessions::{connect, john, mary, session_key, write_session, write_user};
use crate::support::{RedisServer, TestGateway, eventually, unique, within_deadline};

const ALL: &str = "subscribe-broadcast&subscribe-group&subscribe-user&subscribe-session";

fn channels(gateway: &TestGateway) -> Vec<String> {
    let prefix = gateway.channel("");
    let mut channels = RedisServer::shared().channels(&prefix);
    channels.sort();
    channels.into_iter().map(|name| name[prefix.len()..].to_owned()).collect()
}

#[tokio::test]
async fn a_logged_in_user_receives_all_their_channels_and_their_replays_in_order() {
    let gateway = TestGateway::start().await;
    let key = session_key();
    let cookie = john(&key);
    let session = format!("session:{key}:x");
    let names = ["broadcast:x", "group:staff:x", "group:red team:x", "user:john:x", &session];
    for name in names {
        RedisServer::shared().persist(&gateway.channel(name), format!("kept {name}"));
    }
    let mut client = connect(&gateway, &format!("/ws/x?{ALL}"), &cookie).await;
    for name in names {
        client.expect_text(&format!("kept {name}")).await;
    }
    for name in names {
        gateway.publish(name, name);
        client.expect_text(name).await;
    }
    assert_eq!(gateway.count_log(&[&key]), 0, "a session key is a secret");
}

#[tokio::test]
async fn two_users_and_their_groups_never_receive_each_others_messages() {
    let gateway = TestGateway::start().await;
    let (john, mary) = (john(&session_key()), mary(&session_key()));
    let path = format!("/ws/x?{ALL}&publish-user&publish-group");
    let mut johns = connect(&gateway, &path, &john).await;
    let mut marys = connect(&gateway, &path, &mary).await;
    let mut nobodys = gateway.connect(&path).await;
    johns.send_text("from john").await;
    marys.send_text("from mary").await;
    let mut other = connect(&gateway, "/ws/x?subscribe-user", &john).await;
    other.expect_text("from john").await;
    gateway.publish("group:blue:x", "to blue");
    marys.expect_text("to blue").await;
    gateway.publish("user:john:x", "to john");
    johns.expect_text("to john").await;
    nobodys.expect_nothing().await;
    johns.expect_nothing().await;
    marys.expect_nothing().await;
}

#[tokio::test]
async fn a_session_without_a_login_has_its_session_channel_only() {
    let gateway = TestGateway::start().await;
    let key = session_key();
    write_session(RedisServer::shared(), &key, r#"{"cart": [1, 2]}"#);
    let _client = connect(&gateway, &format!("/ws/x?{ALL}"), &format!("sessionid={key}")).await;
    assert_eq!(channels(&gateway), ["broadcast:x", &format!("session:{key}:x")]);
}

#[tokio::test]
async fn cookies_without_a_session_are_anonymous() {
    let gateway = TestGateway::start().await;
    let key = session_key();
    john(&key);
    let upper = key.to_uppercase();
    for value in
        ["", "x", "user:john:foobar", &"*".repeat(32), &upper, &format!("{key}0"), &key[1..], &session_key()]
    {
        let _client = connect(&gateway, &format!("/ws/x?{ALL}"), &format!("sessionid={value}")).await;
        assert_eq!(channels(&gateway), ["broadcast:x"], "{value}");
    }
    // The last of several cookies wins, as in Django.
    let two = format!("sessionid={key}; sessionid=other");
    let _client = connect(&gateway, &format!("/ws/x?{ALL}"), &two).await;
    assert_eq!(channels(&gateway), ["broadcast:x"]);
}

#[tokio::test]
async fn the_identity_key_of_a_user_overrides_the_session() {
    let gateway = TestGateway::start().await;
    let cookie = john(&session_key());
    let known = gateway.channel("ws4redis:identity:7");
    for (value, expected) in [
        (r#"{"v":1,"active":false}"#, vec![]),
        ("damaged", vec![]),
        (r#"{"v":1,"active":true,"username":"john","groups":[],"auth_hashes":["other"]}"#, vec![]),
        (
            r#"{"v":1,"active":true,"username":"jo","groups":["new"],"auth_hashes":["other","h"]}"#,
            vec!["group:new:y", "user:jo:y"],
        ),
        (r#"{"v":1,"active":true,"username":"jim","groups":[],"auth_hashes":null}"#, vec!["user:jim:z"]),
    ] {
        RedisServer::shared().command(&["SET", &known, value]);
        let facility = expected.last().and_then(|name| name.rsplit(':').next()).unwrap_or("x");
        let client =
            connect(&gateway, &format!("/ws/{facility}?subscribe-user&subscribe-group"), &cookie).await;
        let subscribed: Vec<_> =
            channels(&gateway).into_iter().filter(|name| name.ends_with(facility)).collect();
        assert_eq!(subscribed, expected, "{value}");
        drop(client);
    }
}

#[tokio::test]
async fn users_may_be_addressed_by_primary_key() {
    let gateway = TestGateway::start_with(&[("session.user", "pk")]).await;
    let _client = connect(&gateway, "/ws/x?subscribe-user", &john(&session_key())).await;
    assert_eq!(channels(&gateway), ["user:7:x"]);
}

#[tokio::test]
async fn a_user_without_a_name_has_no_user_channel_and_the_log_names_the_cure_once() {
    let gateway = TestGateway::start_with(&[("server.shards", "1")]).await;
    let key = session_key();
    write_session(RedisServer::shared(), &key, r#"{"_auth_user_id": "7"}"#);
    for _ in 0..3 {
        let _client = connect(&gateway, "/ws/x?subscribe-user", &format!("sessionid={key}")).await;
        assert_eq!(channels(&gateway), Vec::<String>::new());
    }
    gateway.expect_log(&["holds no name", "session.user"]).await;
    assert_eq!(gateway.count_log(&["holds no name"]), 1);
}

#[tokio::test]
async fn an_empty_name_grants_no_user_channel() {
    let gateway = TestGateway::start().await;
    let key = session_key();
    write_session(RedisServer::shared(), &key, r#"{"_auth_user_id": "7", "ws4redis:username": ""}"#);
    let cookie = format!("sessionid={key}");
    let first = connect(&gateway, "/ws/x?subscribe-user&publish-user", &cookie).await;
    assert_eq!(channels(&gateway), Vec::<String>::new());
    gateway.expect_log(&["INFO", "holds no name", "no user channel"]).await;
    drop(first);
    write_user(&gateway, "7", r#"{"v":1,"active":true,"username":"","groups":["staff"],"auth_hashes":null}"#);
    let _client = connect(&gateway, "/ws/y?subscribe-user&subscribe-group", &cookie).await;
    assert_eq!(channels(&gateway), ["group:staff:y"]);
}

#[tokio::test]
async fn an_identity_key_with_another_password_hash_makes_the_visitor_anonymous_and_is_logged() {
    let gateway = TestGateway::start().await;
    // Two sites with the same prefix overwrite each other's keys: equal primary keys belong to different users.
    write_user(
        &gateway,
        "7",
        r#"{"v":1,"active":true,"username":"eve","groups":[],"auth_hashes":["other"]}"#,
    );
    let cookie = john(&session_key());
    for _ in 0..20 {
        let _client = connect(&gateway, &format!("/ws/x?{ALL}"), &cookie).await;
        assert!(!channels(&gateway).iter().any(|name| name.starts_with("user:")));
    }
    gateway.expect_log(&["INFO", "password hash", "two sites with the same prefix"]).await;
    assert!(gateway.count_log(&["password hash"]) < 20, "the hint is throttled");
    // A deactivated user is not logged with a cure.
    let gateway = TestGateway::start().await;
    write_user(&gateway, "7", r#"{"v":1,"active":false}"#);
    let _client = connect(&gateway, &format!("/ws/x?{ALL}"), &cookie).await;
    assert_eq!(gateway.count_log(&["identity key"]), 0);
}

#[tokio::test]
async fn users_with_an_empty_name_share_no_channel_and_keep_their_groups() {
    let gateway = TestGateway::start_with(&[("server.shards", "1")]).await;
    let known = gateway.channel("ws4redis:identity:7");
    let groups = "subscribe-user&subscribe-group&publish-user";
    for (name, record) in [
        (r#""""#, None),
        ("null", None),
        (r#""john""#, Some(r#"{"v":1,"active":true,"username":"","groups":["a"],"auth_hashes":null}"#)),
        (r#""john""#, Some(r#"{"v":1,"active":true,"username":null,"groups":["a"],"auth_hashes":null}"#)),
    ] {
        let key = session_key();
        let content =
            format!(r#"{{"_auth_user_id": "7", "ws4redis:username": {name}, "ws4redis:memberof": ["a"]}}"#);
        write_session(RedisServer::shared(), &key, &content);
        match record {
            Some(record) => RedisServer::shared().command(&["SET", &known, record]),
            None => RedisServer::shared().command(&["DEL", &known]),
        };
        let facility = unique("n");
        let path = format!("/ws/{facility}?{groups}");
        let mut client = connect(&gateway, &path, &format!("sessionid={key}")).await;
        assert_eq!(channels(&gateway), [format!("group:a:{facility}")], "{name} {record:?}");
        client.send_text("to nobody").await;
        client.expect_nothing().await;
        drop(client);
        eventually("the channel is left", || channels(&gateway).is_empty().then_some(())).await;
    }
    gateway.expect_log(&["holds no name", "no user channel"]).await;
    assert_eq!(gateway.count_log(&["holds no name"]), 1);
}

#[tokio::test]
async fn a_session_without_a_primary_key_is_anonymous() {
    let gateway = TestGateway::start().await;
    let key = session_key();
    write_session(
        RedisServer::shared(),
        &key,
        r#"{"_auth_user_id": "", "ws4redis:username": "john", "ws4redis:memberof": ["a"]}"#,
    );
    let _client = connect(&gateway, &format!("/ws/x?{ALL}"), &format!("sessionid={key}")).await;
    assert_eq!(channels(&gateway), ["broadcast:x", &format!("session:{key}:x")]);
}

#[tokio::test]
async fn users_of_two_tenants_with_equal_primary_keys_have_separate_identity_keys() {
    let gateway = TestGateway::start().await;
    let redis = RedisServer::shared();
    let log_in = |tenant: &str, name: &str| {
        let key = session_key();
        let content = format!(
            r#"{{"_auth_user_id": "1", "_auth_user_hash": "h", "ws4redis:username": "{name}", "ws4redis:namespace": {tenant}}}"#
        );
        write_session(redis, &key, &content);
        format!("sessionid={key}")
    };
    let (anna, bert, carl) = (log_in(r#""a""#, "anna"), log_in(r#""b""#, "bert"), log_in("null", "carl"));
    let write = |key: &str, value: &str| {
        redis.command(&["SET", &gateway.channel(&format!("ws4redis:identity:{key}")), value]);
    };
    write("a:1", r#"{"v":1,"active":true,"username":"anna2","groups":[],"auth_hashes":null}"#);
    write("b:1", r#"{"v":1,"active":true,"username":"bert2","groups":[],"auth_hashes":null}"#);
    let mut clients = Vec::new();
    for (cookie, name) in [(&anna, "anna2"), (&bert, "bert2"), (&carl, "carl")] {
        let mut client = connect(&gateway, "/ws/x?subscribe-user", cookie).await;
        gateway.publish(&format!("user:{name}:x"), name);
        client.expect_text(name).await;
        clients.push(client);
    }
    // An invalidation names the tenant, too, and closes no socket of another tenant.
    write("a:1", r#"{"v":1,"active":false}"#);
    gateway.publish("ws4redis:control", r#"{"v":1,"user":"a:1","reason":"user"}"#);
    clients[0].expect_close(4401).await;
    for client in &mut clients[1..] {
        client.expect_nothing().await;
    }
}

#[tokio::test]
async fn anonymous_visitors_without_permission_publish_neither_by_socket_nor_by_post() {
    let gateway = TestGateway::start_with(&[("anonymous_publish", "false")]).await;
    let john = john(&session_key());
    let guest = session_key();
    write_session(RedisServer::shared(), &guest, r#"{"cart": 1}"#);
    let mut listener = gateway.connect("/ws/x?subscribe-broadcast").await;
    let flags = "publish-broadcast&publish-session&publish-user&publish-group";
    let mut anonymous = gateway.connect(&format!("/ws/x?{flags}")).await;
    anonymous.send_text("from nobody").await;
    let mut with_session = connect(&gateway, &format!("/ws/x?{flags}"), &format!("sessionid={guest}")).await;
    with_session.send_text("from a guest").await;
    let refused = gateway.post("/ws/x?publish-broadcast", "posted").expect_status(403).await;
    assert!(refused.body.contains("anonymous_publish"), "{refused:?}");
    let own = format!("http://{}", gateway.address());
    let posted = |cookie: &str| {
        gateway
            .post("/ws/x?publish-broadcast", "posted by john")
            .header("Cookie", cookie)
            .header("Origin", &own)
    };
    posted(&format!("sessionid={guest}")).expect_status(403).await;
    listener.expect_nothing().await;
    assert_eq!(RedisServer::shared().get(&gateway.channel("broadcast:x")), None);
    posted(&john).expect_status(204).await;
    listener.expect_text("posted by john").await;
    connect(&gateway, "/ws/x?publish-broadcast", &john).await.send_text("from john").await;
    listener.expect_text("from john").await;
}

#[tokio::test]
async fn the_log_warns_at_start_while_anonymous_visitors_may_publish_outside_the_demo() {
    let rules = "[[access]]\nfacility = [\"*\"]\nanonymous = [\"*-broadcast\"]\n";
    for (settings, rules, warned) in [
        (vec![], None, 1),
        (vec![("anonymous_publish", "true")], None, 1),
        (vec![("anonymous_publish", "false")], None, 0),
        (vec![("demo.enabled", "on")], None, 0),
        (vec![], Some(rules), 0),
    ] {
        let mut gateway = TestGateway::builder();
        for (key, value) in &settings {
            gateway = gateway.set(key, value);
        }
        if let Some(rules) = rules {
            gateway = gateway.rules(rules);
        }
        let gateway = gateway.start().await;
        let count =
            gateway.count_log(&["WARN", "anonymous visitors may publish", "anonymous_publish = false"]);
        assert_eq!(count, warned, "{settings:?} {rules:?}: {:#?}", gateway.log());
    }
}

#[tokio::test]
async fn access_rules_decide_by_facility_and_user() {
    let text = r#"
        [[access]]
        facility = "news"
        anonymous = ["subscribe-broadcast"]
        users = ["subscribe-*"]
        groups.staff = ["publish-broadcast"]

        [[access]]
        facility = "chat-*"
        users = ["subscribe-*", "publish-user"]
        refused = "403"
        publish_messages_per_second = 1
        publish_burst_seconds = 3

        # Where the test looks whether the gateway is ready.
        [[access]]
        facility = [""]
    "#;
    let gateway = TestGateway::builder().rules(text).start().await;
    let john = john(&session_key());
    let mut visitor = gateway.connect("/ws/news?subscribe-broadcast&publish-broadcast").await;
    visitor.send_text("dropped").await;
    let mut staff = connect(&gateway, "/ws/news?subscribe-broadcast&publish-broadcast&echo", &john).await;
    staff.send_text("from staff").await;
    staff.expect_text("from staff").await;
    visitor.expect_text("from staff").await;
    gateway.request("/ws/chat-1?subscribe-broadcast").expect_status(403).await;
    gateway.request("/ws/other?subscribe-broadcast").expect_status(403).await;
    let mut fast = connect(&gateway, "/ws/chat-1?publish-user", &john).await;
    // In one write: the bucket must not refill between two messages.
    fast.send_raw(&["1", "2", "3", "4", "5"].map(|text| frame(0x80 | TEXT, text.as_bytes())).concat()).await;
    fast.expect_close(1008).await;
    eventually("the burst is published", || {
        (RedisServer::shared().get(&gateway.channel("user:john:chat-1")).as_deref() == Some(b"3"))
            .then_some(())
    })
    .await;
}

mod redis_only {
    use super::*;

    #[tokio::test]
    async fn a_cookie_reaches_no_key_but_those_of_sessions() {
        let redis = RedisServer::start();
        let gateway = TestGateway::builder().redis(&redis).start().await;
        let mut monitor = redis.monitor();
        for value in
            ["*", "user:john:foobar", "a\tb", &"x".repeat(8000), "d_db00000000000000000000000000000000"]
        {
            let cookie = format!("sessionid={value}");
            let _ = gateway.request(&format!("/ws/x?{ALL}")).header("Cookie", &cookie).send().await;
        }
        for (value, statuses) in [
            ("a\r\nCookie: sessionid=x\r\n\r\nGET /y".to_owned(), [101, 400]),
            ("a\r\n\r\n*1\r\n$8\r\nFLUSHALL\r\n".to_owned(), [101, 400]),
            ("x".repeat(1 << 20), [431, 431]),
        ] {
            let cookie = format!("sessionid={value}");
            let request = gateway.request(&format!("/ws/x?{ALL}")).header("Cookie", &cookie);
            let mut client = request.open().await;
            // The server may refuse the request before all of it is written; the reset can then discard the response.
            let _ = client.try_send_raw(&request.bytes()).await;
            if let Ok(response) = within_deadline("an answer or an end", client.read_response()).await {
                assert!(statuses.contains(&response.status), "{response:?}");
            }
        }
        let key = session_key();
        let _client = connect(&gateway, "/ws/x?subscribe-user", &format!("sessionid={key}")).await;
        let asked: Vec<_> =
            monitor.commands("GET").into_iter().filter(|line| !line.contains("broadcast:")).collect();
        assert!(!asked.is_empty() && asked.iter().all(|line| line.contains(&key)), "{asked:?}");
    }

    #[tokio::test]
    async fn concurrent_handshakes_of_one_session_share_their_reads() {
        let redis = RedisServer::start();
        let gateway = TestGateway::builder().redis(&redis).set("server.shards", "1").start().await;
        let key = session_key();
        write_session(&redis, &key, r#"{"cart": 1}"#);
        let before = redis.info("total_commands_processed").parse::<u64>().unwrap();
        let cookie = format!("sessionid={key}");
        let clients: Vec<_> = (0..200)
            .map(|_| gateway.request("/ws/x?subscribe-broadcast").header("Cookie", &cookie).send())
            .collect();
        let mut opened = Vec::new();
        for client in clients.into_iter().map(tokio::spawn).collect::<Vec<_>>() {
            opened.push(client.await.unwrap());
        }
        let after = redis.info("total_commands_processed").parse::<u64>().unwrap();
        assert!(opened.iter().all(|(response, _)| response.status == 101));
        // Without sharing, each handshake needs two commands for each of four templates, and one GET.
        assert!(after - before < 200 * 9 / 2, "{} commands", after - before);
    }
}
