//! The listeners for the operator, by route: who is answered, health checks, lists of connections.

mod closing;
mod commands;
mod connections;
mod guard;
mod health;
mod limits;
mod listening;
mod lists;
mod metrics;
mod names;
pub(crate) mod publishing;
mod receivers;
mod yunity;

use std::io::Read;
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;

use crate::support::client::{Request, Response};
use crate::support::gateway::{GatewayBuilder, binary};
use crate::support::{RedisServer, TestGateway, eventually, within_deadline};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// A gateway with an admin listener.
pub(crate) struct Admin {
    pub(crate) gateway: TestGateway,
    address: SocketAddr,
}

impl Admin {
    async fn start(settings: &[(&str, &str)]) -> Self {
        let mut builder = TestGateway::builder().set("admin.listen", "127.0.0.1:0");
        for (key, value) in settings {
            builder = builder.set(key, value);
        }
        Self::of(builder).await
    }

    async fn of(builder: GatewayBuilder) -> Self {
        let gateway = builder.start().await;
        let address = address(&gateway, "admin listener").await;
        Self { gateway, address }
    }

    /// Returns a plain GET.
    fn get(&self, target: &str) -> Request {
        get(self.address, target)
    }

    async fn json(&self, target: &str) -> Value {
        json(&self.get(target).expect_status(200).await)
    }

    /// Returns the connections of all pages, and the number of pages.
    async fn connections(&self, limit: usize) -> (Vec<Value>, usize) {
        let (mut all, mut pages, mut after) = (Vec::new(), 0, String::new());
        loop {
            let page = self.json(&format!("/connections?limit={limit}{after}")).await;
            let found = page["connections"].as_array().unwrap();
            assert!(found.len() <= limit, "{}", found.len());
            all.extend(found.iter().cloned());
            pages += 1;
            match page["next"].as_str() {
                Some(next) => after = format!("&after={next}"),
                None => return (all, pages),
            }
        }
    }

    /// Waits until exactly this many connections to a facility are listed, and returns them.
    async fn expect_connections(&self, facility: &str, count: usize) -> Vec<Value> {
        within_deadline(&format!("{count} connections to {facility}"), async {
            loop {
                let (mut all, _) = self.connections(1000).await;
                all.retain(|it| it["facility"] == facility);
                if all.len() == count {
                    return all;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await
    }
}

/// Returns the address of a listener, by its name in the log.
async fn address(gateway: &TestGateway, name: &str) -> SocketAddr {
    let line = gateway.expect_log(&[&format!("{name}: http://")]).await;
    line.split("http://").nth(1).unwrap().trim_end().parse().unwrap()
}

/// Returns a plain GET.
fn get(address: SocketAddr, target: &str) -> Request {
    let request = Request::handshake(address, target, "", 0);
    ["Upgrade", "Connection", "Sec-WebSocket-Key", "Sec-WebSocket-Version"]
        .into_iter()
        .fold(request, Request::without)
}

fn json(response: &Response) -> Value {
    assert_eq!(response.header("content-type"), Some("application/json"), "{response:?}");
    assert_eq!(response.header("cache-control"), Some("no-store"), "{response:?}");
    serde_json::from_str(&response.body).unwrap()
}

/// Expects a refusal (RFC 9457) whose text contains `part`.
pub(crate) async fn refused(request: Request, status: u16, part: &str) {
    let response = request.expect_status(status).await;
    assert_eq!(response.header("content-type"), Some("application/problem+json"), "{response:?}");
    assert_eq!(response.header("cache-control"), Some("no-store"), "{response:?}");
    let body: Value = serde_json::from_str(&response.body).unwrap();
    assert_eq!((&body["type"], &body["status"]), (&"about:blank".into(), &status.into()), "{body}");
    let title = hyper::StatusCode::from_u16(status).unwrap().canonical_reason().unwrap();
    assert_eq!(body["title"], title, "{body}");
    let detail = body["detail"].as_str().unwrap();
    assert!(detail.contains(part), "{part} is not in {detail}");
}

fn thread_names(gateway: &TestGateway) -> Vec<String> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", gateway.pid())).unwrap();
    tasks.map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).unwrap()).collect()
}

/// Runs the gateway with these settings, which it must refuse, and returns its exit code and what it said.
async fn refused_start(settings: &[String]) -> (i32, String) {
    let mut command = binary();
    command.args(["--set", "server.listen=127.0.0.1:0"]);
    command.args(["--set", &format!("redis.url={}", RedisServer::shared().url())]);
    for setting in settings {
        command.args(["--set", setting]);
    }
    let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let status = eventually("the gateway refuses to start", || child.try_wait().unwrap()).await;
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    (status.code().unwrap(), said)
}
