//! Signal handling, with and without a terminal.

use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Stdio};

use crate::support::client::Request;
use crate::support::gateway::{address_in, binary};
use crate::support::{RedisServer, TestGateway, eventually, signal, unique, within_deadline};

/// A gateway in a separate terminal, which `script` opens and closes.
struct TerminalGateway {
    terminal: Child,
    address: SocketAddr,
    namespace: String,
    pid: u32,
    log: PathBuf,
}

impl TerminalGateway {
    /// Starts it from a shell, with `start` before the program's path.
    async fn start(start: &str) -> Self {
        let (log, namespace) = (std::env::temp_dir().join(unique("ws4redis-terminal")), unique("t"));
        let gateway = binary();
        let program = std::path::Path::new(gateway.get_program());
        let start = format!("{start} '{}' 2>'{}'", program.display(), log.display());
        let mut terminal = std::process::Command::new("script");
        terminal.args(["-qec", &start, "/dev/null"]).stdin(Stdio::piped()).stdout(Stdio::null());
        for (name, value) in gateway.get_envs() {
            match value {
                Some(value) => terminal.env(name, value),
                None => terminal.env_remove(name),
            };
        }
        terminal.env("WS4REDIS_REDIS__URL", RedisServer::shared().url()).env("WS4REDIS_PREFIX", &namespace);
        terminal.env("WS4REDIS_SERVER__LISTEN", "127.0.0.1:0").env("WS4REDIS_SERVER__DRAIN_SECONDS", "2");
        let terminal =
            terminal.current_dir(std::env::temp_dir()).env("NO_COLOR", "1").env("SHELL", "/bin/sh");
        let terminal = terminal.spawn().unwrap();
        let address = eventually("the gateway listens", || {
            std::fs::read_to_string(&log).ok()?.lines().find_map(address_in)
        })
        .await;
        let children = format!("/proc/{0}/task/{0}/children", terminal.id());
        let pid = std::fs::read_to_string(children).unwrap().trim().parse().unwrap();
        let gateway = Self { terminal, address, namespace, pid, log };
        within_deadline("Redis is reached", async {
            while gateway.request().send().await.0.status != 101 {}
        })
        .await;
        gateway
    }

    fn request(&self) -> Request {
        let target = "/ws/x?subscribe-broadcast";
        Request::handshake(self.address, target, &self.namespace, RedisServer::shared().port())
    }

    /// Closes the terminal; the kernel sends SIGHUP to the gateway.
    fn close(&mut self) {
        self.terminal.kill().unwrap();
        self.terminal.wait().unwrap();
    }

    async fn expect_end(&self) -> String {
        eventually("the gateway stops listening", || TcpStream::connect(self.address).err()).await;
        let process = PathBuf::from(format!("/proc/{}", self.pid));
        eventually("the gateway ends", || (!process.exists()).then_some(())).await;
        std::fs::read_to_string(&self.log).unwrap()
    }
}

impl Drop for TerminalGateway {
    fn drop(&mut self) {
        let _ = self.terminal.kill();
        let _ = self.terminal.wait();
        if PathBuf::from(format!("/proc/{}", self.pid)).exists() {
            signal(self.pid, "KILL");
        }
        let _ = std::fs::remove_file(&self.log);
    }
}

#[tokio::test]
async fn closing_the_terminal_stops_the_server_like_sigterm() {
    let mut gateway = TerminalGateway::start("exec env --default-signal=HUP").await;
    let mut clients = Vec::new();
    for _ in 0..40 {
        clients.push(gateway.request().connect().await);
    }
    gateway.close();
    // The shell sends a SIGHUP as well; it must not count as the second signal that stops at once.
    signal(gateway.pid, "HUP");
    for client in &mut clients {
        client.expect_close(1012).await;
        client.expect_end().await;
    }
    drop(clients);
    let log = gateway.expect_end().await;
    assert!(log.contains("stopping") && !log.contains("stopped at once"), "{log}");
}

#[tokio::test]
async fn a_server_started_with_sighup_ignored_survives_its_terminal() {
    // nohup ignores SIGHUP in the same way.
    let mut gateway = TerminalGateway::start("trap '' HUP; exec").await;
    let mut client = gateway.request().connect().await;
    gateway.close();
    signal(gateway.pid, "HUP");
    for _ in 0..10 {
        client.expect_nothing().await;
    }
    signal(gateway.pid, "TERM");
    client.expect_close(1012).await;
    drop(client);
    gateway.expect_end().await;
}

#[tokio::test]
async fn without_a_terminal_sighup_reloads_and_stops_nothing() {
    let mut gateway = TestGateway::builder().without_terminal().start().await;
    let mut client = gateway.connect("/ws/x?subscribe-broadcast").await;
    gateway.signal("HUP");
    gateway.expect_log(&["INFO", "settings reloaded"]).await;
    gateway.signal("HUP");
    client.expect_nothing().await;
    assert!(gateway.is_running());
    gateway.connect("/ws/x?subscribe-broadcast").await.expect_nothing().await;
}

#[tokio::test]
async fn log_rotation_signals_do_not_stop_the_server() {
    let mut gateway = TestGateway::start().await;
    let mut client = gateway.connect("/ws/x?subscribe-broadcast").await;
    for name in ["USR1", "USR2"] {
        gateway.signal(name);
        gateway.expect_log(&["INFO", &format!("SIG{name} ignored")]).await;
    }
    for name in ["PIPE", "WINCH", "CHLD", "URG", "CONT"] {
        gateway.signal(name);
    }
    client.expect_nothing().await;
    assert!(gateway.is_running());
}

#[tokio::test]
async fn sigquit_stops_the_server_like_sigterm_and_a_second_one_at_once() {
    let mut gateway = TestGateway::start().await;
    let mut client = gateway.connect("/ws/x?subscribe-broadcast").await;
    gateway.signal("QUIT");
    client.expect_close(1012).await;
    drop(client);
    assert_eq!(gateway.expect_exit().await.code(), Some(0));

    let settings = [("server.drain_seconds", "60"), ("server.shards", "1")];
    let mut gateway = TestGateway::start_with(&settings).await;
    let mut clients = Vec::new();
    for _ in 0..100 {
        clients.push(gateway.connect("/ws/x").await);
    }
    gateway.signal("TERM");
    gateway.expect_log(&["stopping"]).await;
    gateway.signal("USR1");
    gateway.signal("HUP");
    gateway.expect_log(&["SIGUSR1 ignored"]).await;
    assert!(gateway.is_running(), "these end nothing at once");
    gateway.signal("QUIT");
    gateway.expect_log(&["stopped at once"]).await;
    gateway.expect_exit().await;
}
