//! Sessions that take long to decode: bounded memory, threads and time for many visitors.

use std::time::Duration;

use tokio::task::JoinSet;
use zlib_rs::{DeflateConfig, compress_slice};

use crate::support::client::Request;
use crate::support::redis::RedisClient;
use crate::support::sessions::{connect, log_in, redis_key, session_key};
use crate::support::{RedisServer, TestGateway};

/// Returns john's session with this much incompressible data.
fn session(bytes: usize) -> String {
    let mut state = 1_u64;
    let rest = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(b'a' + u8::try_from(state >> 33 & 15).unwrap())
    });
    let rest: String = rest.take(bytes).collect();
    format!(r#"{{"_auth_user_id": "7", "ws4redis:username": "john", "cart": "{rest}"}}"#)
}

/// Returns a session of 4 KiB that decompresses to almost 4 MiB.
fn compressed_session() -> Vec<u8> {
    let cart = "x".repeat(4_000_000);
    let text = format!(r#"{{"_auth_user_id": "7", "ws4redis:username": "john", "cart": "{cart}"}}"#);
    let mut packed = vec![0; 1 << 20];
    let (packed, _) = compress_slice(&mut packed, text.as_bytes(), DeflateConfig::default());
    assert!(packed.len() < 16 << 10, "{}", packed.len());
    packed.to_vec()
}

fn store_session(redis: &mut RedisClient, content: &[u8]) -> String {
    let key = session_key();
    redis.command(&[b"SET", redis_key(&key).as_bytes(), content, b"EX", b"1000"]);
    format!("sessionid={key}")
}

fn handshake(gateway: &TestGateway, cookie: &str) -> Request {
    gateway.request("/ws/x?subscribe-user").header("Cookie", cookie)
}

/// Returns a number from /proc/<pid>/status.
fn status(gateway: &TestGateway, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// Returns the CPU time of the process in hundredths of a second.
fn cpu_ticks(gateway: &TestGateway) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", gateway.pid())).unwrap();
    let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

/// Sends all handshakes concurrently and returns how many got 101 and 503.
async fn send_all(gateway: &TestGateway, cookies: &[String]) -> (usize, usize) {
    let mut sending: JoinSet<_> = cookies
        .iter()
        .map(|cookie| {
            let request = handshake(gateway, cookie);
            async move {
                let (response, _client) = request.send().await;
                assert!(response.status == 101 || response.header("retry-after").is_some());
                response.status
            }
        })
        .collect();
    let (mut opened, mut refused) = (0, 0);
    while let Some(status) = sending.join_next().await {
        match status.unwrap() {
            101 => opened += 1,
            503 => refused += 1,
            status => panic!("{status}"),
        }
    }
    (opened, refused)
}

#[tokio::test]
async fn concurrent_handshakes_of_one_large_session_share_its_decoding() {
    let redis = RedisServer::start();
    let gateway = TestGateway::builder().redis(&redis).set("server.shards", "1").start().await;
    let cookie = store_session(&mut redis.connection(), &compressed_session());
    let before = cpu_ticks(&gateway);
    for _ in 0..3 {
        let _client = handshake(&gateway, &cookie).connect().await;
    }
    let one = (cpu_ticks(&gateway) - before).div_ceil(3).max(1);
    let before = cpu_ticks(&gateway);
    assert_eq!(send_all(&gateway, &vec![cookie; 100]).await, (100, 0));
    let all = cpu_ticks(&gateway) - before;
    assert!(all < 30 * one, "one takes {one}0 ms, a hundred at a time take {all}0 ms");
}

#[tokio::test]
async fn large_sessions_waiting_for_decoding_use_no_memory() {
    let redis = RedisServer::start();
    let gateway = TestGateway::builder().redis(&redis).set("server.shards", "1").start().await;
    let (content, mut writing) = (session(2_900_000), redis.connection());
    let cookies: Vec<_> = (0..40).map(|_| store_session(&mut writing, content.as_bytes())).collect();
    let _client = handshake(&gateway, &cookies[0]).connect().await;
    let before = status(&gateway, "VmHWM");
    let (opened, refused) = send_all(&gateway, &cookies).await;
    let grown = status(&gateway, "VmHWM") - before;
    assert!(grown < 40_000, "{grown} KiB for {opened} sessions, {refused} refused");
    assert!(opened > 0);
}

#[tokio::test]
async fn above_the_decoding_queue_limit_large_sessions_get_503_and_small_ones_do_not() {
    let redis = RedisServer::start();
    let gateway = TestGateway::builder().redis(&redis).set("server.shards", "1").start().await;
    let (content, mut writing) = (compressed_session(), redis.connection());
    let cookies: Vec<_> = (0..300).map(|_| store_session(&mut writing, &content)).collect();
    let small = log_in(&redis, &session_key(), "8", "mary", &[]);
    let crowd = send_all(&gateway, &cookies);
    let others = async {
        gateway.expect_log(&["WARN", "too many large sessions"]).await;
        let _client = connect(&gateway, "/ws/y?subscribe-user", &small).await;
    };
    let ((opened, refused), ()) = tokio::join!(crowd, others);
    assert!(opened > 0 && refused > 100, "{opened} opened, {refused} refused");
    // Afterwards handshakes succeed again.
    let _client = handshake(&gateway, &cookies[0]).connect().await;
}

#[tokio::test]
async fn visitors_who_disconnect_during_decoding_leave_no_threads_behind() {
    let redis = RedisServer::start();
    let gateway = TestGateway::builder().redis(&redis).set("server.shards", "1").start().await;
    let (content, mut writing) = (compressed_session(), redis.connection());
    let _client = handshake(&gateway, &store_session(&mut writing, &content)).connect().await;
    let (mut threads, mut leaving) = (status(&gateway, "Threads"), JoinSet::new());
    let before = threads;
    // One after the other, so that each disconnect would start the next decoding.
    let mut turns = tokio::time::interval(Duration::from_millis(10));
    for _ in 0..60 {
        turns.tick().await;
        let request = handshake(&gateway, &store_session(&mut writing, &content));
        leaving.spawn(async move {
            let mut client = request.open().await;
            client.send_raw(&request.bytes()).await;
            // Too early for a response.
            let _ = tokio::time::timeout(Duration::from_millis(25), client.read_response()).await;
        });
        threads = threads.max(status(&gateway, "Threads"));
    }
    let small = log_in(&redis, &session_key(), "8", "mary", &[]);
    while let Some(left) = leaving.join_next().await {
        left.unwrap();
        threads = threads.max(status(&gateway, "Threads"));
    }
    let _client = connect(&gateway, "/ws/y?subscribe-user", &small).await;
    threads = threads.max(status(&gateway, "Threads"));
    // A thread that has just finished may not yet count as idle when the next job starts.
    assert!(threads <= before + 4, "{before} threads became {threads}");
}
