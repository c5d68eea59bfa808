//! fred with the embedded store: commands, pipelines, transactions, pub/sub and reconnects, in RESP2 and RESP3.
#![expect(clippy::unwrap_used, reason = "test helpers")]

use std::{collections::HashMap, net::SocketAddr, time::Duration};

use fred::{prelude::*, types::RespVersion};
use tokio::{
    net::TcpListener,
    sync::oneshot,
    task::JoinHandle,
    time::{interval, timeout},
};
use ws4redis::embedded::{StoreLimits, serve};

const DEADLINE: Duration = Duration::from_secs(20);

struct StoreTask {
    stop: oneshot::Sender<()>,
    done: JoinHandle<()>,
}

impl StoreTask {
    /// Serves on an address. Retries to bind: closing connections of the previous store can still hold the port.
    async fn start(address: SocketAddr) -> (Self, SocketAddr) {
        let bind = async {
            let mut turn = interval(Duration::from_millis(20));
            loop {
                turn.tick().await;
                if let Ok(listener) = TcpListener::bind(address).await {
                    break listener;
                }
            }
        };
        let listener = timeout(DEADLINE, bind).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let listener = listener.into_std().unwrap();
        let done = tokio::task::spawn_blocking(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).unwrap();
                serve(listener, StoreLimits::default(), None, async { drop(stopped.await) }).await.unwrap();
            });
        });
        (Self { stop, done }, address)
    }

    async fn stop(self) {
        drop(self.stop);
        timeout(DEADLINE, self.done).await.unwrap().unwrap();
    }
}

fn client(address: SocketAddr, version: RespVersion) -> Client {
    let config = Config {
        version,
        server: ServerConfig::new_centralized(address.ip().to_string(), address.port()),
        ..Config::default()
    };
    let mut builder = Builder::from_config(config);
    builder.set_policy(ReconnectPolicy::new_constant(0, 50));
    builder.build().unwrap()
}

async fn commands(client: &Client) {
    let _: () = client.flushall(false).await.unwrap();
    let set: Option<String> =
        client.set("k", "v", Some(Expiration::EX(10)), Some(SetOptions::NX), false).await.unwrap();
    assert_eq!(set.as_deref(), Some("OK"));
    let again: Option<String> = client.set("k", "w", None, Some(SetOptions::NX), false).await.unwrap();
    assert_eq!(again, None);
    let got: Option<String> = client.get("k").await.unwrap();
    assert_eq!(got.as_deref(), Some("v"));
    let ttl: i64 = client.ttl("k").await.unwrap();
    assert!((9..=10).contains(&ttl));
    let count: i64 = client.incr_by("n", 5).await.unwrap();
    assert_eq!(count, 5);
    let many: Vec<Option<String>> = client.mget(vec!["k", "n", "none"]).await.unwrap();
    assert_eq!(many, [Some("v".into()), Some("5".into()), None]);
    let info: String = client.info(None).await.unwrap();
    assert!(info.contains("redis_version:7.0.0"));
    let pipeline = client.pipeline();
    let _: () = pipeline.set("p", "1", None, None, false).await.unwrap();
    let _: () = pipeline.incr("p").await.unwrap();
    assert_eq!(pipeline.all::<(String, i64)>().await.unwrap(), ("OK".to_owned(), 2));
    let transaction = client.multi();
    let _: () = transaction.set("t", "1", None, None, false).await.unwrap();
    let _: () = transaction.incr("t").await.unwrap();
    assert_eq!(transaction.exec::<(String, i64)>(true).await.unwrap(), ("OK".to_owned(), 2));
    let error = client.incr::<i64, _>("k").await.unwrap_err();
    assert_eq!(error.details(), "ERR value is not an integer or out of range");
}

async fn next_message(
    messages: &mut tokio::sync::broadcast::Receiver<fred::types::Message>,
) -> (String, String) {
    let message = timeout(DEADLINE, messages.recv()).await.unwrap().unwrap();
    (message.channel.to_string(), message.value.convert().unwrap())
}

async fn check(version: RespVersion) {
    let (store, address) = StoreTask::start("127.0.0.1:0".parse().unwrap()).await;
    let publisher = client(address, version.clone());
    let listener = client(address, version);
    timeout(DEADLINE, publisher.init()).await.unwrap().unwrap();
    timeout(DEADLINE, listener.init()).await.unwrap().unwrap();
    commands(&publisher).await;

    let mut messages = listener.message_rx();
    let mut events = listener.keyspace_event_rx();
    listener.subscribe("news").await.unwrap();
    listener.psubscribe(vec!["wild*", "__keyevent@0__:*"]).await.unwrap();
    let _: Value = listener.ping(Some("fence".to_owned())).await.unwrap();
    let count: i64 = publisher.publish("news", "one").await.unwrap();
    assert_eq!(count, 1);
    assert_eq!(next_message(&mut messages).await, ("news".into(), "one".into()));
    let _: () = publisher.publish("wilder", "two").await.unwrap();
    assert_eq!(next_message(&mut messages).await, ("wilder".into(), "two".into()));
    let _: () = publisher.set("k", "v", None, None, false).await.unwrap();
    let event = timeout(DEADLINE, events.recv()).await.unwrap().unwrap();
    assert_eq!((event.operation.as_str(), event.key.as_str()), ("set", Some("k")));
    listener.unsubscribe("news").await.unwrap();

    let mut again = listener.reconnect_rx();
    store.stop().await;
    let (store, _) = StoreTask::start(address).await;
    timeout(DEADLINE, again.recv()).await.unwrap().unwrap();
    listener.subscribe("later").await.unwrap();
    let _: Value = listener.ping(Some("fence".to_owned())).await.unwrap();
    let sums: HashMap<String, i64> = publisher.pubsub_numsub("later").await.unwrap();
    assert_eq!(sums["later"], 1);
    let _: () = publisher.publish("later", "three").await.unwrap();
    assert_eq!(next_message(&mut messages).await, ("later".into(), "three".into()));
    publisher.quit().await.unwrap();
    listener.quit().await.unwrap();
    store.stop().await;
}

#[tokio::test]
async fn fred_works_in_resp2() {
    check(RespVersion::RESP2).await;
}

#[tokio::test]
async fn fred_works_in_resp3() {
    check(RespVersion::RESP3).await;
}
