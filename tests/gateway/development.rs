//! What `manage.py runserver` uses of the gateway: it ends with its parent, and its embedded store is anywhere and keeps
//! sessions.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::support::gateway::{address_in, binary};
use crate::support::redis::RedisClient;
use crate::support::{eventually, signal, unique};

/// A gateway with an embedded store at a port of its own.
struct ChildGateway {
    child: Child,
    log: PathBuf,
    store_port: u16,
}

impl ChildGateway {
    async fn start(store_port: u16, snapshot: Option<&Path>) -> Self {
        let log = std::env::temp_dir().join(unique("ws4redis-child"));
        let mut command: Command = binary();
        command.arg("--end-with-stdin").env("WS4REDIS_SERVER__LISTEN", "127.0.0.1:0");
        command.env("WS4REDIS_REDIS__URL", format!("redis://127.0.0.1:{store_port}/0"));
        command.env("WS4REDIS_EMBEDDED__ENABLED", "on").env("NO_COLOR", "1");
        if let Some(snapshot) = snapshot {
            command.env("WS4REDIS_EMBEDDED__SNAPSHOT_FILE", snapshot);
        }
        let stderr = std::fs::File::create(&log).unwrap();
        let child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(stderr).spawn().unwrap();
        let gateway = Self { child, log, store_port };
        eventually("the gateway listens", || gateway.log().lines().find_map(address_in)).await;
        gateway
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    fn store(&self) -> RedisClient {
        RedisClient::to(self.store_port)
    }

    /// Closes its standard input, as the kernel does when the parent is killed.
    async fn end(mut self) -> Option<i32> {
        drop(self.child.stdin.take());
        let status = eventually("the gateway ends", || self.child.try_wait().unwrap()).await;
        status.code()
    }
}

impl Drop for ChildGateway {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            signal(self.child.id(), "KILL");
            let _ = self.child.wait();
        }
        let _ = std::fs::remove_file(&self.log);
    }
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[tokio::test]
async fn the_gateway_ends_with_0_when_its_parent_closes_standard_input() {
    let gateway = ChildGateway::start(free_port(), None).await;
    let log = gateway.log();
    assert!(log.contains("started the embedded store there; it loses its content"), "{log}");
    assert_eq!(gateway.end().await, Some(0));
}

#[tokio::test]
async fn strings_of_the_embedded_store_survive_a_restart_with_their_times_to_live() {
    let snapshot = std::env::temp_dir().join(unique("ws4redis-snapshot"));
    let port = free_port();
    let gateway = ChildGateway::start(port, Some(&snapshot)).await;
    let log = gateway.log();
    assert!(log.contains("its strings, such as sessions, are kept in"), "{log}");
    let mut store = gateway.store();
    let info = String::from_utf8(store.command(&["INFO", "server"]).bulk().unwrap()).unwrap();
    let name = snapshot.file_name().unwrap().to_str().unwrap();
    assert!(info.contains(&format!("\r\nembedded_snapshot:{name}\r\n")), "{info}");
    store.command(&["SETEX", "session:a", "1000", "john"]);
    store.command(&["SETEX", "short", "1", "x"]);
    store.command(&["SET", "b", "c"]);
    drop(store);
    assert_eq!(gateway.end().await, Some(0));

    let gateway = ChildGateway::start(port, Some(&snapshot)).await;
    let mut store = gateway.store();
    assert_eq!(store.command(&["GET", "session:a"]).bulk().as_deref(), Some(&b"john"[..]));
    assert_eq!(store.command(&["GET", "b"]).bulk().as_deref(), Some(&b"c"[..]));
    let left = store.command(&["TTL", "session:a"]).integer();
    assert!((900..=1000).contains(&left), "{left}");
    assert_eq!(store.command(&["TTL", "b"]).integer(), -1);
    gateway.end().await;
    std::fs::remove_file(snapshot).unwrap();
}
