//! Publishing from clients to Redis.

use crate::support::client::frame;
use crate::support::{RedisServer, TestGateway, eventually};

#[tokio::test]
async fn text_and_binary_are_published_and_stored_byte_for_byte() {
    let gateway = TestGateway::start().await;
    let key = gateway.channel("broadcast:p");
    let mut witness = gateway.connect("/ws/p?subscribe-broadcast").await;
    let mut client = gateway.connect("/ws/p?publish-broadcast").await;
    client.send_text("häl\0lo").await;
    witness.expect_text("häl\0lo").await;
    assert_eq!(RedisServer::shared().get(&key).as_deref(), Some("häl\0lo".as_bytes()));
    client.send_binary(b"\x00\x12\xaa").await;
    witness.expect_binary(b"\x00\x12\xaa").await;
    assert_eq!(RedisServer::shared().get(&key).as_deref(), Some(&b"\x00\x12\xaa"[..]));
    client.send_binary(b"valid text").await;
    witness.expect_text("valid text").await;
}

#[tokio::test]
async fn a_message_is_stored_for_expire_seconds() {
    for (expire, least, most) in [("100", 90, 100), ("3600", 3590, 3600), ("1", 0, 1)] {
        let gateway = TestGateway::start_with(&[("expire", expire)]).await;
        let mut client = gateway.connect("/ws/p?publish-broadcast&subscribe-broadcast&echo").await;
        client.send_text("kept").await;
        client.expect_text("kept").await;
        let ttl = RedisServer::shared().command(&["TTL", &gateway.channel("broadcast:p")]).integer();
        assert!((least..=most).contains(&ttl), "{ttl} with expire {expire}");
    }
}

#[tokio::test]
async fn with_expire_zero_or_negative_nothing_is_stored_or_removed() {
    for expire in ["0", "-1"] {
        let gateway = TestGateway::start_with(&[("expire", expire)]).await;
        let old = gateway.channel("broadcast:old");
        RedisServer::shared().persist(&old, "older");
        for (facility, replayed) in [("p", false), ("old", true)] {
            let target = format!("/ws/{facility}?publish-broadcast&subscribe-broadcast&echo");
            let mut client = gateway.connect(&target).await;
            if replayed {
                client.expect_text("older").await;
            }
            client.send_text("fleeting").await;
            client.expect_text("fleeting").await;
        }
        assert_eq!(RedisServer::shared().get(&gateway.channel("broadcast:p")), None);
        assert_eq!(RedisServer::shared().get(&old).as_deref(), Some(&b"older"[..]));
    }
}

#[tokio::test]
async fn a_clients_messages_arrive_in_its_order() {
    let gateway = TestGateway::start().await;
    let mut witness = gateway.connect("/ws/p?subscribe-broadcast").await;
    let mut client = gateway.connect("/ws/p?publish-broadcast").await;
    let texts: Vec<_> = (0..5000).map(|number| format!("number {number}")).collect();
    let stream: Vec<u8> = texts.iter().flat_map(|text| frame(0x81, text.as_bytes())).collect();
    let sending = async { client.send_raw(&stream).await };
    let reading = async {
        for text in &texts {
            witness.expect_text(text).await;
        }
        witness.expect_nothing().await;
    };
    tokio::join!(sending, reading);
    let kept = RedisServer::shared().get(&gateway.channel("broadcast:p"));
    assert_eq!(kept.as_deref(), Some(&b"number 4999"[..]), "what is kept is the last message");
}

#[tokio::test]
async fn a_message_of_a_mebibyte_is_published() {
    let gateway = TestGateway::start().await;
    let mut witness = gateway.connect("/ws/p?subscribe-broadcast").await;
    let mut client = gateway.connect("/ws/p?publish-broadcast").await;
    let text = "0123456789abcdef".repeat(1 << 16);
    assert_eq!(text.len(), 1 << 20);
    client.send_text(&text).await;
    witness.expect_text(&text).await;
    client.send_binary(&vec![0xff; 1 << 20]).await;
    witness.expect_binary(&vec![0xff; 1 << 20]).await;
}

#[tokio::test]
async fn messages_without_a_publish_flag_are_ignored_and_counted() {
    let gateway = TestGateway::start().await;
    let mut witness = gateway.connect("/ws/p?subscribe-broadcast").await;
    for query in ["subscribe-broadcast&echo", "", "publish-user&publish-group&publish-session", "echo"] {
        let mut client = gateway.connect(&format!("/ws/p?{query}")).await;
        client.send_text("ignored").await;
        client.send_binary(b"ignored").await;
        // The close is answered after all earlier messages have been published.
        client.send_close(1000, "").await;
        client.expect_close(1000).await;
    }
    witness.expect_nothing().await;
    assert_eq!(RedisServer::shared().get(&gateway.channel("broadcast:p")), None);
    gateway.signal("TERM");
    gateway.expect_log(&["counts", "ignored_publications=8"]).await;
}

#[tokio::test]
async fn empty_messages_are_not_published() {
    let gateway = TestGateway::start().await;
    let mut witness = gateway.connect("/ws/p?subscribe-broadcast").await;
    let mut client = gateway.connect("/ws/p?publish-broadcast").await;
    client.send_text("").await;
    client.send_binary(b"").await;
    client.send_text("next").await;
    witness.expect_text("next").await;
    witness.expect_nothing().await;
}

#[tokio::test]
async fn a_close_is_answered_after_all_earlier_messages_reached_redis() {
    let gateway = TestGateway::start().await;
    for round in 0..20 {
        let facility = format!("close{round}");
        let mut client = gateway.connect(&format!("/ws/{facility}?publish-broadcast")).await;
        let mut bytes: Vec<u8> = (0..100_u32).flat_map(|n| frame(0x81, format!("{n}").as_bytes())).collect();
        bytes.extend(frame(0x88, &1000_u16.to_be_bytes()));
        client.send_raw(&bytes).await;
        client.expect_close(1000).await;
        let kept = RedisServer::shared().get(&gateway.channel(&format!("broadcast:{facility}")));
        assert_eq!(kept.as_deref(), Some(&b"99"[..]), "round {round}");
    }
}

#[tokio::test]
async fn many_clients_publish_concurrently_without_loss() {
    let gateway = TestGateway::start().await;
    let mut witness = gateway.connect("/ws/p?subscribe-broadcast").await;
    let mut clients = Vec::new();
    for _ in 0..10 {
        clients.push(gateway.connect("/ws/p?publish-broadcast").await);
    }
    for (number, client) in clients.iter_mut().enumerate() {
        let bytes: Vec<u8> =
            (0..200).flat_map(|turn| frame(0x81, format!("{number} {turn}").as_bytes())).collect();
        client.send_raw(&bytes).await;
    }
    let mut next = [0; 10];
    for _ in 0..2000 {
        let message = String::from_utf8(witness.next_message().await.payload).unwrap();
        let (client, turn) = message.split_once(' ').unwrap();
        let (client, turn) = (client.parse::<usize>().unwrap(), turn.parse::<u32>().unwrap());
        assert_eq!(turn, next[client], "client {client}");
        next[client] += 1;
    }
    witness.expect_nothing().await;
}

#[tokio::test]
async fn a_client_that_publishes_endlessly_is_slowed_to_the_speed_of_redis() {
    let gateway = TestGateway::start_with(&[("messages.publish_bytes", "65536")]).await;
    let memory = gateway.resident_bytes();
    let mut client = gateway.connect("/ws/p?publish-broadcast").await;
    let bytes = frame(0x82, &[b'x'; 10_000]).repeat(100);
    for _ in 0..30 {
        client.send_raw(&bytes).await;
    }
    let grown = gateway.resident_bytes().saturating_sub(memory);
    assert!(grown < 16 << 20, "grown by {grown} bytes");
    client.send_close(1000, "").await;
    client.expect_close(1000).await;
    let received = gateway.expect_log(&["connection ended", "received=3000"]).await;
    assert!(received.contains("ignored=0"), "{received}");
}

mod redis_only {
    use super::*;

    #[tokio::test]
    async fn a_message_is_stored_before_it_is_published() {
        let mut monitor = RedisServer::shared().monitor();
        let gateway = TestGateway::start_with(&[("expire", "77")]).await;
        let channel = gateway.channel("broadcast:p");
        let mut client = gateway.connect("/ws/p?publish-broadcast&subscribe-broadcast&echo").await;
        for text in ["one", "two"] {
            client.send_text(text).await;
            client.expect_text(text).await;
        }
        let commands = monitor.commands(&channel);
        let of_clients: Vec<_> =
            commands.iter().filter(|c| !c.contains("GET\"") && !c.contains("SUBSCRIBE")).collect();
        let expected = ["one", "two"].into_iter().flat_map(|text| {
            [
                format!("\"SETEX\" \"{channel}\" \"77\" \"{text}\""),
                format!("\"PUBLISH\" \"{channel}\" \"{text}\""),
            ]
        });
        assert_eq!(of_clients, expected.collect::<Vec<_>>().iter().collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn without_expire_there_is_no_setex() {
        let mut monitor = RedisServer::shared().monitor();
        let gateway = TestGateway::start_with(&[("expire", "0")]).await;
        let channel = gateway.channel("broadcast:p");
        let mut client = gateway.connect("/ws/p?publish-broadcast&subscribe-broadcast&echo").await;
        client.send_text("x").await;
        client.expect_text("x").await;
        let commands = monitor.commands(&channel);
        let of_clients: Vec<_> =
            commands.iter().filter(|c| !c.contains("GET\"") && !c.contains("SUBSCRIBE")).collect();
        assert_eq!(of_clients, [&format!("\"PUBLISH\" \"{channel}\" \"x\"")]);
    }

    #[tokio::test]
    async fn a_message_that_redis_cannot_store_is_still_published() {
        let redis = RedisServer::start();
        let gateway = TestGateway::builder().redis(&redis).start().await;
        let mut witness = gateway.connect("/ws/p?subscribe-broadcast").await;
        let mut client = gateway.connect("/ws/p?publish-broadcast").await;
        redis.command(&["CONFIG", "SET", "maxmemory", "1"]);
        client.send_text("not kept").await;
        witness.expect_text("not kept").await;
        gateway.expect_log(&["WARN", "did not persist"]).await;
        assert_eq!(redis.get(&gateway.channel("broadcast:p")), None);
        assert!(eventually("Redis answers", || Some(redis.info("used_memory"))).await.parse::<u64>().is_ok());
    }

    /// Redis quotes the arguments of an unknown command in its error; they must not reach the log.
    #[tokio::test]
    async fn a_message_that_redis_quotes_in_an_error_is_not_logged() {
        let redis = RedisServer::start_with(&["--rename-command", "SETEX", ""]);
        let gateway = TestGateway::builder().redis(&redis).start().await;
        let mut witness = gateway.connect("/ws/p?subscribe-broadcast").await;
        let mut client = gateway.connect("/ws/p?publish-broadcast").await;
        client.send_text("geheim").await;
        witness.expect_text("geheim").await;
        gateway.expect_log(&["WARN", "did not persist", "unknown command"]).await;
        assert_eq!(gateway.count_log(&["geheim"]), 0);
    }
}
