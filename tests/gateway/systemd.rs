//! What systemd is told.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::PathBuf;

use crate::support::{DEADLINE, TestGateway, unique};

/// The socket of `NOTIFY_SOCKET`.
pub struct Systemd {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Systemd {
    pub fn start() -> Self {
        let path = std::env::temp_dir().join(unique("ws4redis-notify"));
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        Self { socket, path }
    }

    pub fn name(&self) -> &str {
        self.path.to_str().unwrap()
    }

    /// Returns the next notification.
    pub fn notification(&self) -> String {
        received(&self.socket)
    }
}

impl Drop for Systemd {
    fn drop(&mut self) {
        std::fs::remove_file(&self.path).unwrap();
    }
}

fn received(socket: &UnixDatagram) -> String {
    let mut text = [0; 500];
    let length = socket.recv(&mut text).unwrap();
    String::from_utf8_lossy(&text[..length]).into_owned()
}

#[tokio::test]
async fn systemd_is_notified_when_the_server_is_ready_and_when_it_stops() {
    let systemd = Systemd::start();
    let mut gateway = TestGateway::builder().variable("NOTIFY_SOCKET", systemd.name()).start().await;
    assert_eq!(systemd.notification(), "READY=1\n");
    gateway.signal("TERM");
    assert_eq!(systemd.notification(), "STOPPING=1\n");
    assert_eq!(gateway.expect_exit().await.code(), Some(0));
}

#[tokio::test]
async fn systemd_is_notified_at_an_abstract_socket() {
    let name = unique("ws4redis-notify");
    let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    let _gateway = TestGateway::builder().variable("NOTIFY_SOCKET", &format!("@{name}")).start().await;
    assert_eq!(received(&socket), "READY=1\n");
}

#[tokio::test]
async fn the_watchdog_of_systemd_is_fed_also_during_the_drain() {
    let systemd = Systemd::start();
    let builder = TestGateway::builder().variable("NOTIFY_SOCKET", systemd.name());
    let builder = builder.variable("WATCHDOG_USEC", "100000").set("server.drain_seconds", "60");
    let mut gateway = builder.start().await;
    assert_eq!(systemd.notification(), "READY=1\n");
    for _ in 0..5 {
        assert_eq!(systemd.notification(), "WATCHDOG=1\n");
    }
    let mut clients = Vec::new();
    for _ in 0..100 {
        clients.push(gateway.connect("/ws/x").await);
    }
    gateway.signal("TERM");
    while systemd.notification() != "STOPPING=1\n" {}
    assert_eq!(systemd.notification(), "WATCHDOG=1\n");
    gateway.signal("TERM");
    gateway.expect_exit().await;
}

#[tokio::test]
async fn a_watchdog_of_another_process_is_not_fed() {
    let systemd = Systemd::start();
    let builder = TestGateway::builder().variable("NOTIFY_SOCKET", systemd.name());
    let builder = builder.variable("WATCHDOG_USEC", "1000").variable("WATCHDOG_PID", "1");
    let gateway = builder.start().await;
    assert_eq!(systemd.notification(), "READY=1\n");
    gateway.connect("/ws/x").await;
    gateway.signal("TERM");
    assert_eq!(systemd.notification(), "STOPPING=1\n");
}
