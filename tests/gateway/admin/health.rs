//! The routes `/health/live` and `/health/ready`.

use std::process::Output;

use super::{Admin, TOKEN, refused};
use crate::support::TestGateway;
use crate::support::gateway::binary;

/// Runs `ws4redis health` with these settings.
async fn health(settings: &[(&str, &str)], flags: &[&str]) -> Output {
    let mut command = binary();
    command.arg("health").args(flags);
    for (key, value) in settings {
        command.arg("--set").arg(format!("{key}={value}"));
    }
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

/// Expects an exit code, and a text on standard output after success, else on standard error.
async fn expect_health(settings: &[(&str, &str)], flags: &[&str], code: i32, text: &str) {
    let done = health(settings, flags).await;
    let (out, error) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert_eq!(done.status.code(), Some(code), "{out}{error}");
    let (printed, silent) = if code == 0 { (&out, &error) } else { (&error, &out) };
    assert!(printed.contains(text) && silent.is_empty(), "{text:?}: {out}{error}");
}

#[tokio::test]
async fn a_command_tells_whether_the_gateway_is_ready() {
    let admin = Admin::start(&[]).await;
    let address = admin.address.to_string();
    let settings = [("admin.listen", address.as_str())];
    expect_health(&settings, &[], 0, "ready\n").await;
    expect_health(&settings, &["--live", "--json"], 0, "{\"status\":\"live\"}\n").await;
    drop(admin);
    expect_health(&settings, &[], 1, &address).await;
    expect_health(&[], &[], 64, "admin.listen is empty").await;
    let builder = TestGateway::builder().set("admin.listen", "127.0.0.1:0");
    let admin = Admin::of(builder.set("redis.url", "redis://127.0.0.1:1").without_redis()).await;
    let address = admin.address.to_string();
    let settings = [("admin.listen", address.as_str())];
    expect_health(&settings, &[], 1, "Redis is not connected").await;
    expect_health(&settings, &["--live"], 0, "live\n").await;
}

#[tokio::test]
async fn the_command_uses_the_token_and_the_unix_socket_of_the_settings() {
    let admin = Admin::start(&[("admin.listen", "0.0.0.0:0"), ("admin.token", TOKEN)]).await;
    let address = format!("0.0.0.0:{}", admin.address.port());
    let mut settings = [("admin.listen", address.as_str()), ("admin.token", TOKEN)];
    expect_health(&settings, &[], 0, "ready\n").await;
    settings[1].1 = "fedcba9876543210fedcba9876543210";
    expect_health(&settings, &[], 1, "token").await;
    let path = std::env::temp_dir().join(format!("ws4redis-health-{}.sock", std::process::id()));
    let listen = format!("unix:{}", path.display());
    let gateway = TestGateway::builder().set("admin.listen", &listen).start().await;
    expect_health(&[("admin.listen", &listen)], &[], 0, "ready\n").await;
    drop(gateway);
}

#[tokio::test]
async fn a_gateway_without_redis_is_live_and_not_ready() {
    let builder = TestGateway::builder().set("admin.listen", "127.0.0.1:0");
    let admin = Admin::of(builder.set("redis.url", "redis://127.0.0.1:1").without_redis()).await;
    assert_eq!(admin.json("/health/live").await["status"], "live");
    refused(admin.get("/health/ready"), 503, "Redis is not connected").await;
    let admin = Admin::start(&[]).await;
    assert_eq!(admin.json("/health/ready").await["status"], "ready");
    // The sessions' own Redis counts, too.
    let sessions = TestGateway::builder().set("session.redis_url", "redis://127.0.0.1:1");
    let admin = Admin::of(sessions.set("admin.listen", "127.0.0.1:0")).await;
    refused(admin.get("/health/ready"), 503, "session.redis_url").await;
}

#[tokio::test]
async fn a_draining_gateway_is_live_and_not_ready() {
    let settings = [("server.drain_seconds", "60"), ("server.shards", "3")];
    let mut admin = Admin::start(&settings).await;
    let mut clients = Vec::new();
    for _ in 0..60 {
        clients.push(admin.gateway.connect("/ws/drain?subscribe-broadcast").await);
    }
    admin.gateway.signal("TERM");
    admin.gateway.expect_log(&["stopping"]).await;
    refused(admin.get("/health/ready"), 503, "draining").await;
    assert_eq!(admin.json("/health/live").await["status"], "live");
    admin.get("/connections").expect_status(200).await;
    admin.gateway.signal("TERM");
    assert_eq!(admin.gateway.expect_exit().await.code(), Some(0));
}
