//! A Redis that refuses: ACL users, passwords, connection limits, a late start.

use crate::admin::{Admin, refused};
use crate::support::sessions::{connect, log_in, session_key};
use crate::support::{RedisServer, TestGateway, eventually, unique};

fn acl(redis: &RedisServer, rules: &[&str]) {
    let command = ["ACL", "SETUSER", "gate", "reset", "on", ">secret"];
    redis.command(&[&command[..], rules].concat());
}

async fn gateway_as_acl_user(redis: &RedisServer) -> TestGateway {
    let url = format!("redis://gate:secret@127.0.0.1:{}", redis.port());
    TestGateway::builder().redis(redis).set("redis.url", &url).start().await
}

#[tokio::test]
async fn a_refused_subscription_is_503_with_the_cure_in_the_log_and_others_are_not_affected() {
    let redis = RedisServer::start();
    acl(&redis, &["+@all", "~*", "&*:broadcast:open*"]);
    let gateway = gateway_as_acl_user(&redis).await;
    let mut open = gateway.connect("/ws/open?subscribe-broadcast&publish-broadcast&echo").await;
    for _ in 0..3 {
        let refused = gateway.request("/ws/closed?subscribe-broadcast").expect_status(503).await;
        assert!(refused.header("retry-after").is_some(), "{refused:?}");
        assert!(refused.body.contains("refuses"), "{refused:?}");
    }
    gateway.expect_log(&["ERROR", "refuses a channel", "ACL SETUSER", "closed"]).await;
    // Allowed and denied channels in one SUBSCRIBE.
    let together = (0..40).map(|number| {
        let closed = number % 4 == 0;
        let target = format!("/ws/{}-{number}?subscribe-broadcast", if closed { "closed" } else { "open" });
        let request = gateway.request(&target);
        tokio::spawn(async move { (closed, request.send().await) })
    });
    for sent in together.collect::<Vec<_>>() {
        let (closed, (response, _)) = sent.await.unwrap();
        assert_eq!(response.status, if closed { 503 } else { 101 }, "{response:?}");
    }
    open.send_text("still here").await;
    open.expect_text("still here").await;
    assert_eq!(gateway.count_log(&["redis lost"]), 0);
    // Works without a restart as soon as Redis allows the channel.
    acl(&redis, &["+@all", "~*", "&*"]);
    let mut client = gateway.connect("/ws/closed?subscribe-broadcast").await;
    client.expect_nothing().await;
}

#[tokio::test]
async fn all_clients_waiting_for_a_refused_channel_get_their_answer_at_once() {
    let redis = RedisServer::start();
    acl(&redis, &["+@all", "~*", "&*:broadcast:open*"]);
    let gateway = gateway_as_acl_user(&redis).await;
    let begun = tokio::time::Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..200 {
        let request = gateway.request("/ws/closed?subscribe-broadcast");
        tasks.spawn(async move {
            tokio::time::sleep(std::time::Duration::from_millis(number)).await;
            request.send().await.0
        });
    }
    while let Some(response) = tasks.join_next().await {
        let response = response.unwrap();
        assert!(response.status == 503 && response.body.contains("refuses"), "{response:?}");
    }
    assert!(begun.elapsed().as_secs() < 5, "a client waited for its timeout: {:?}", begun.elapsed());
}

#[tokio::test]
async fn a_channel_refused_after_a_reconnect_does_not_affect_the_others() {
    let redis = RedisServer::start();
    acl(&redis, &["+@all", "~*", "&*"]);
    let gateway = gateway_as_acl_user(&redis).await;
    let _closed = gateway.connect("/ws/closed?subscribe-broadcast").await;
    let mut open = gateway.connect("/ws/open?subscribe-broadcast").await;
    // Redis disconnects clients that are subscribed to a channel they lost permission for.
    acl(&redis, &["+@all", "~*", "&*:broadcast:open*"]);
    gateway.expect_log(&["ERROR", "refuses a channel", "closed"]).await;
    eventually("the gateway is back", || (gateway.count_log(&["redis connected"]) == 2).then_some(())).await;
    open.expect_nothing().await;
    let before = gateway.count_log(&["redis lost"]);
    open.expect_nothing().await;
    assert_eq!(gateway.count_log(&["redis lost"]), before);
}

#[tokio::test]
async fn without_permission_for_keys_messages_are_delivered_and_not_replayed() {
    let redis = RedisServer::start();
    acl(&redis, &["+@all", "&*"]);
    let gateway = gateway_as_acl_user(&redis).await;
    redis.persist(&gateway.channel("broadcast:chat"), "not replayed");
    let mut client = gateway.connect("/ws/chat?subscribe-broadcast&publish-broadcast&echo").await;
    client.expect_nothing().await;
    client.send_text("not kept").await;
    client.expect_text("not kept").await;
    gateway.expect_log(&["refused a persisted message", "NOPERM"]).await;
    gateway.expect_log(&["did not persist", "NOPERM"]).await;
}

#[tokio::test]
async fn a_publication_that_redis_refuses_closes_its_client_with_1011() {
    let redis = RedisServer::start();
    acl(&redis, &["+@all", "-publish", "~*", "&*"]);
    let gateway = gateway_as_acl_user(&redis).await;
    let mut client = gateway.connect("/ws/chat?publish-broadcast").await;
    client.send_text("refused").await;
    client.expect_close(1011).await;
    gateway.expect_log(&["refused a client's message", "NOPERM"]).await;
}

#[tokio::test]
async fn a_wrong_password_is_503_and_logged_until_it_is_corrected() {
    let redis = RedisServer::start();
    let url = format!("redis://gate:geheim@127.0.0.1:{}", redis.port());
    let gateway = TestGateway::builder().redis(&redis).set("redis.url", &url).without_redis().start().await;
    gateway.request("/ws/chat").expect_status(503).await;
    gateway.expect_log(&["WRONGPASS"]).await;
    let begun = gateway.processor_time();
    redis.command(&["ACL", "SETUSER", "gate", "reset", "on", ">geheim", "+@all", "~*", "&*"]);
    gateway.wait_for_redis().await;
    gateway.connect("/ws/chat?subscribe-broadcast").await.expect_nothing().await;
    assert!(gateway.processor_time() < begun + std::time::Duration::from_secs(1), "it tried in a hot loop");
    assert_eq!(gateway.count_log(&["geheim"]), 0);
}

#[tokio::test]
async fn without_redis_the_gateway_starts_and_answers_503_until_there_is_one() {
    let mut redis = RedisServer::start();
    redis.kill();
    let gateway = TestGateway::builder().redis(&redis).without_redis().start().await;
    let refused = gateway.request("/ws/chat?subscribe-broadcast").expect_status(503).await;
    assert!(refused.header("retry-after").is_some(), "{refused:?}");
    gateway.expect_log(&["redis", "refused"]).await;
    redis.restart();
    gateway.wait_for_redis().await;
    gateway.connect("/ws/chat?subscribe-broadcast").await.expect_nothing().await;
}

#[tokio::test]
async fn a_server_that_is_not_redis_is_503_and_causes_no_busy_loop() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("redis://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let _ =
                std::io::Write::write_all(&mut stream.unwrap(), b"SSH-2.0-OpenSSH_9.9\r\n$99999999999\r\n");
        }
    });
    let gateway = TestGateway::builder().set("redis.url", &url).without_redis().start().await;
    gateway.expect_log(&["redis cannot be reached"]).await;
    gateway.request("/ws/chat?subscribe-broadcast").expect_status(503).await;
    let tries = eventually("three attempts", || {
        let tries = gateway.count_log(&["redis cannot be reached"]);
        (tries >= 3).then_some(tries)
    })
    .await;
    assert!(tries < 10 && gateway.processor_time().as_secs_f32() < 1.0, "{tries} attempts");
    assert!(gateway.resident_bytes() < 100 << 20);
}

#[tokio::test]
async fn unsolicited_replies_are_not_delivered_to_any_request() {
    use std::io::{Read, Write, copy};
    use std::net::TcpStream;
    let redis = RedisServer::start();
    redis.persist("broadcast:chat", "chat's own");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (url, port) = (format!("redis://{}", listener.local_addr().unwrap()), redis.port());
    std::thread::spawn(move || {
        // The first two connections: the shard's, and the subscriber.
        let odd = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0));
        for gateway in listener.incoming() {
            let odd = odd.clone();
            let (mut gateway, mut redis) =
                (gateway.unwrap(), TcpStream::connect(("127.0.0.1", port)).unwrap());
            let (mut back, mut answers) = (gateway.try_clone().unwrap(), redis.try_clone().unwrap());
            std::thread::spawn(move || {
                let mut first = [0; 8192];
                let length = gateway.read(&mut first).unwrap();
                // They receive one unsolicited reply.
                if odd.fetch_add(1, std::sync::atomic::Ordering::Relaxed) < 2 {
                    let _ = gateway.write_all(b"$6\r\nsecret\r\n");
                }
                redis.write_all(&first[..length]).unwrap();
                copy(&mut gateway, &mut redis)
            });
            std::thread::spawn(move || copy(&mut answers, &mut back));
        }
    });
    let builder = TestGateway::builder().namespace("").set("redis.url", &url).set("server.shards", "1");
    let gateway = builder.start().await;
    gateway.expect_log(&["out of step"]).await;
    gateway.connect("/ws/chat?subscribe-broadcast").await.expect_text("chat's own").await;
}

#[tokio::test]
async fn a_redis_user_without_ping_permission_works_and_the_log_names_the_missing_right() {
    let redis = RedisServer::start();
    acl(&redis, &["+@all", "-ping", "~*", "&*"]);
    let gateway = gateway_as_acl_user(&redis).await;
    let mut client = gateway.connect("/ws/chat?subscribe-broadcast&publish-broadcast&echo").await;
    client.send_text("heard").await;
    client.expect_text("heard").await;
    gateway.expect_log(&["WARN", "refuses PING", "NOPERM", "docs/security.md"]).await;
    assert_eq!(gateway.count_log(&["refuses PING"]), 1);
    assert_eq!(gateway.count_log(&["redis lost"]), 0);
}

#[tokio::test]
async fn a_redis_user_without_client_id_permission_works() {
    let redis = RedisServer::start();
    acl(&redis, &["+@all", "-client", "~*", "&*"]);
    let gateway = gateway_as_acl_user(&redis).await;
    let mut client = gateway.connect("/ws/chat?subscribe-broadcast&publish-broadcast&echo").await;
    client.send_text("heard").await;
    client.expect_text("heard").await;
}

#[tokio::test]
async fn a_redis_at_its_connection_limit_is_retried_with_backoff_and_the_log_says_why() {
    let redis = RedisServer::start();
    let gateway = TestGateway::builder().redis(&redis).set("server.shards", "1").start().await;
    let mut control = redis.connection();
    control.command(&["CONFIG", "SET", "maxclients", "1"]);
    let refused = |control: &mut crate::support::redis::RedisClient| {
        let info = String::from_utf8(control.command(&["INFO", "stats"]).bulk().unwrap()).unwrap();
        let count = info.lines().find_map(|line| line.strip_prefix("rejected_connections:")).unwrap();
        count.trim().parse::<u32>().unwrap()
    };
    // The shard's connection: without subscriptions, and not this test's.
    let clients = String::from_utf8(control.command(&["CLIENT", "LIST"]).bulk().unwrap()).unwrap();
    let is_line = |line: &str| line.contains(" sub=0 ") && !line.contains("cmd=client");
    let line = clients.lines().find(|line| is_line(line)).unwrap();
    let id = line.split(' ').find_map(|field| field.strip_prefix("id=")).unwrap();
    let before = refused(&mut control);
    control.command(&["CLIENT", "KILL", "ID", id]);
    gateway.expect_log(&["WARN", "cannot open this shard's redis connection", "max number of clients"]).await;
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    let attempts = refused(&mut control) - before;
    assert!(attempts < 15, "{attempts} attempts");
    control.command(&["CONFIG", "SET", "maxclients", "100"]);
    gateway.wait_for_redis().await;
}

#[tokio::test]
async fn a_redis_user_without_unsubscribe_permission_works() {
    let redis = RedisServer::start();
    acl(&redis, &["+@all", "-unsubscribe", "~*", "&*"]);
    let url = format!("redis://gate:secret@127.0.0.1:{}", redis.port());
    let builder = TestGateway::builder().redis(&redis).set("redis.url", &url);
    let gateway = builder.set("redis.unsubscribe_linger_seconds", "0").start().await;
    let mut other = gateway.connect("/ws/other?subscribe-broadcast").await;
    drop(gateway.connect("/ws/chat?subscribe-broadcast").await);
    gateway.expect_log(&["refuses to unsubscribe", "NOPERM"]).await;
    let mut again = gateway.connect("/ws/chat?subscribe-broadcast").await;
    redis.publish(&gateway.channel("broadcast:chat"), "heard");
    again.expect_text("heard").await;
    other.expect_nothing().await;
    assert_eq!(gateway.count_log(&["redis lost"]), 0);
}

#[tokio::test]
async fn a_missing_unix_socket_is_logged_once() {
    let gateway = TestGateway::builder().set("redis.url", "unix:/nowhere/redis.sock").without_redis();
    let gateway = gateway.start().await;
    gateway.expect_log(&["WARN", "redis cannot be reached", "No such file"]).await;
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    assert_eq!(gateway.count_log(&["WARN", "redis cannot be reached"]), 1);
}

#[tokio::test]
async fn while_redis_loads_its_data_handshakes_get_503_and_afterwards_values_are_read() {
    let dir = std::env::temp_dir().join(unique("ws4redis-loading"));
    std::fs::create_dir_all(&dir).unwrap();
    let kept = dir.display().to_string();
    // Loading each key takes a millisecond; Redis answers commands in between.
    let slowly = ["--key-load-delay", "1000", "--loading-process-events-interval-bytes", "1024"];
    let options = [&["--dir", &kept, "--appendonly", "yes"], &slowly[..]].concat();
    let mut redis = RedisServer::start_with(&options);
    let gateway = TestGateway::builder().redis(&redis).start().await;
    let mut client = gateway.connect("/ws/chat?subscribe-broadcast").await;
    let filler: Vec<_> = (0..3000).map(|number| format!("filler {number}")).collect();
    let commands: Vec<_> = filler.iter().map(|key| [&b"SET"[..], key.as_bytes(), b"x"]).collect();
    redis.pipeline(&commands.iter().map(|command| &command[..]).collect::<Vec<_>>());
    redis.persist(&gateway.channel("broadcast:chat"), "nobody has heard of it");
    redis.command(&["BGREWRITEAOF"]);
    eventually("the file is written", || (redis.info("aof_rewrite_in_progress") == "0").then_some(())).await;
    redis.kill();
    gateway.expect_log(&["WARN", "redis lost"]).await;
    let starting = tokio::task::spawn_blocking(move || {
        redis.restart();
        redis
    });
    let mut refused = 0;
    while !starting.is_finished() {
        refused += usize::from(gateway.request("/ws/chat?subscribe-broadcast").send().await.0.status == 503);
    }
    assert!(refused > 0, "it did not load long enough to test anything");
    let redis = starting.await.unwrap();
    client.expect_text("nobody has heard of it").await;
    gateway.wait_for_redis().await;
    gateway.connect("/ws/chat?subscribe-broadcast").await.expect_text("nobody has heard of it").await;
    client.expect_nothing().await;
    drop(redis);
    std::fs::remove_dir_all(dir).unwrap();
}

#[tokio::test]
async fn a_refused_channel_does_not_block_others_that_a_socket_gains_with_it() {
    let redis = RedisServer::start();
    acl(&redis, &["+@all", "~*", "&*:group:stay:*", "&*:group:good:*", "&*:ws4redis:control"]);
    let url = format!("redis://gate:secret@127.0.0.1:{}", redis.port());
    let gateway = TestGateway::builder()
        .redis(&redis)
        .set("redis.url", &url)
        .set("session.keyspace_events", "off")
        .set("session.recheck_seconds", "1")
        .start()
        .await;
    let key = session_key();
    let cookie = log_in(&redis, &key, "7", "john", &["stay"]);
    let mut client = connect(&gateway, "/ws/x?subscribe-group", &cookie).await;
    redis.persist(&gateway.channel("group:good:x"), "welcome");
    log_in(&redis, &key, "7", "john", &["stay", "bad", "good"]);
    client.expect_text("welcome").await;
    redis.publish(&gateway.channel("group:stay:x"), "still here");
    client.expect_text("still here").await;
    gateway.expect_log(&["ERROR", "refuses a channel", "group:bad"]).await;
}

#[tokio::test]
async fn channels_refused_after_a_reconnect_are_retried_until_redis_allows_them() {
    let redis = RedisServer::start();
    let gateway = TestGateway::builder().redis(&redis).set("server.shards", "3").start().await;
    let mut clients = Vec::new();
    for number in 0..6 {
        clients.push(gateway.connect(&format!("/ws/chat-{}?subscribe-broadcast", number % 4)).await);
    }
    redis.command(&["ACL", "SETUSER", "default", "-subscribe"]);
    redis.kill_clients("pubsub");
    gateway.expect_log(&["ERROR", "refuses a channel", "NOPERM", "back-off"]).await;
    gateway.expect_log(&["WARN", "refuses the control channel"]).await;
    // Open clients missed a value that is stored meanwhile.
    redis.persist(&gateway.channel("broadcast:chat-0"), "missed 0");
    redis.command(&["ACL", "SETUSER", "default", "+subscribe"]);
    let subscribed = || (redis.channels(&gateway.channel("broadcast:")).len() == 4).then_some(());
    eventually("all channels are subscribed again", subscribed).await;
    gateway.expect_log(&["INFO", "allows the control channel again"]).await;
    for number in [0, 4] {
        clients[number].expect_text("missed 0").await;
    }
    for (number, client) in clients.iter_mut().enumerate().filter(|(number, _)| number % 4 != 0) {
        let facility = number % 4;
        if number < 4 {
            redis.publish(&gateway.channel(&format!("broadcast:chat-{facility}")), "live");
        }
        client.expect_text("live").await;
    }
    assert_eq!(gateway.count_log(&["refuses the control channel"]), 1);
}

#[tokio::test]
async fn a_single_refused_channel_is_retried_while_the_others_are_delivered() {
    let redis = RedisServer::start();
    acl(&redis, &["+@all", "~*", "&*"]);
    let gateway = gateway_as_acl_user(&redis).await;
    let mut closed = gateway.connect("/ws/closed?subscribe-broadcast").await;
    let mut open = gateway.connect("/ws/open?subscribe-broadcast").await;
    acl(&redis, &["+@all", "~*", "&*:broadcast:open*"]);
    gateway.expect_log(&["ERROR", "refuses a channel", "closed"]).await;
    gateway.request("/ws/closed?subscribe-broadcast").expect_status(503).await;
    // The gateway gets no notification of the change.
    redis.persist(&gateway.channel("broadcast:closed"), "missed");
    redis.command(&["ACL", "SETUSER", "gate", "allchannels"]);
    closed.expect_text("missed").await;
    redis.publish(&gateway.channel("broadcast:closed"), "live");
    closed.expect_text("live").await;
    open.expect_nothing().await;
    closed.expect_nothing().await;
}

#[tokio::test]
async fn refused_keyspace_events_are_subscribed_to_when_they_become_allowed() {
    let redis = RedisServer::start_with(&crate::support::redis::KEYSPACE_EVENTS);
    acl(&redis, &["+@all", "~*", "resetchannels", "&*:broadcast:*", "&*:user:*", "&*ws4redis:control"]);
    let url = format!("redis://gate:secret@127.0.0.1:{}", redis.port());
    let builder = TestGateway::builder().redis(&redis).set("redis.url", &url);
    let gateway = builder.set("session.recheck_seconds", "600").start().await;
    let (first, second) = (session_key(), session_key());
    let cookies =
        [(&first, "john"), (&second, "mary")].map(|(key, name)| log_in(&redis, key, name, name, &[]));
    let mut john = connect(&gateway, "/ws/chat?subscribe-user", &cookies[0]).await;
    let _mary = connect(&gateway, "/ws/chat?subscribe-user", &cookies[1]).await;
    gateway.expect_log(&["WARN", "&__keyspace@*"]).await;
    redis.command(&["ACL", "SETUSER", "gate", "allchannels"]);
    gateway.expect_log(&["INFO", "allows keyspace events again"]).await;
    eventually("both sessions are watched", || (redis.channels("__keyspace@").len() == 2).then_some(()))
        .await;
    redis.command(&["DEL", &crate::support::sessions::redis_key(&first)]);
    john.expect_close(4401).await;
}

#[tokio::test]
async fn endlessly_nested_replies_are_rejected_and_the_process_survives() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("redis://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let nested = b"*1\r\n".repeat(200_000);
            std::thread::spawn(move || std::io::Write::write_all(&mut stream.unwrap(), &nested));
        }
    });
    for command in [&["check"][..], &["publish", "--broadcast", "chat", "text"]] {
        let mut binary = crate::support::gateway::binary();
        let output = binary.env("WS4REDIS_REDIS__URL", &url).args(command).output().unwrap();
        assert_eq!(output.status.code(), Some(69), "{command:?}: {output:?}");
    }
    for url in [
        url.clone(),
        url.replace("redis:", "redis-cluster:"),
        format!("{}?sentinelServiceName=m", url.replace("redis:", "redis-sentinel:")),
    ] {
        let mut gateway = TestGateway::builder().set("redis.url", &url).without_redis().start().await;
        gateway.expect_log(&["WARN", "redis cannot be reached"]).await;
        gateway.request("/ws/chat?subscribe-broadcast").expect_status(503).await;
        assert!(gateway.is_running());
    }
    let redis = RedisServer::start();
    let builder = TestGateway::builder().redis(&redis).set("session.redis_url", &url);
    let mut gateway = builder.start().await;
    let cookie = format!("sessionid={}", session_key());
    gateway.request("/ws/chat?subscribe-user").header("Cookie", cookie).expect_status(503).await;
    assert!(gateway.is_running());
}

#[tokio::test]
async fn users_without_an_identity_key_are_identified_although_redis_refuses_pttl() {
    let redis = RedisServer::start();
    acl(&redis, &["+@all", "-pttl", "~*", "&*"]);
    let gateway = gateway_as_acl_user(&redis).await;
    let cookie = log_in(&redis, &session_key(), "7", "john", &[]);
    let mut client = connect(&gateway, "/ws/chat?subscribe-user", &cookie).await;
    redis.publish(&gateway.channel("user:john:chat"), "heard");
    client.expect_text("heard").await;
}

#[tokio::test]
async fn a_batch_of_the_operator_that_redis_refuses_names_the_message_and_is_not_repeated() {
    let redis = RedisServer::start();
    acl(&redis, &["+@all", "~*", "&*"]);
    let url = format!("redis://gate:secret@127.0.0.1:{}", redis.port());
    let admin = Admin::publishing(TestGateway::builder().redis(&redis).set("redis.url", &url)).await;
    let mut client = admin.gateway.connect("/ws/open?subscribe-broadcast").await;
    acl(&redis, &["+@all", "%R~*", &format!("%W~{}", admin.gateway.channel("broadcast:open")), "&*"]);
    let message = |facility| format!(r#"{{"facility": "{facility}", "message": "m", "broadcast": true}}"#);
    let body = format!(r#"{{"messages": [{}, {}]}}"#, message("open"), message("closed"));
    for _ in 0..2 {
        let request = admin.post(&body).header("Idempotency-Key", "k");
        refused(request, 502, "has not confirmed message 1 (").await;
    }
    client.expect_text("m").await;
    client.expect_nothing().await;
}
