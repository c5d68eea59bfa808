//! The gateway binary as a child process.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};

use super::client::{Request, TestClient};
use super::{RedisServer, eventually, signal, unique};

/// The largest number of shards that any test starts.
const MAX_SHARDS: usize = 3;

/// A running gateway with its own channel prefix.
pub struct TestGateway {
    child: Child,
    address: SocketAddr,
    namespace: String,
    redis_port: u16,
    log: Arc<Mutex<Vec<String>>>,
}

/// Configuration of a gateway before its start.
pub struct GatewayBuilder {
    command: Command,
    namespace: String,
    redis_port: u16,
    wait_for_redis: bool,
    file_limit: Option<u32>,
    inherited: Vec<OwnedFd>,
    rules: Option<PathBuf>,
}

impl GatewayBuilder {
    /// Sets a setting, `section.key`.
    pub fn set(self, key: &str, value: &str) -> Self {
        let name = format!("WS4REDIS_{}", key.to_uppercase().replace('.', "__"));
        self.variable(&name, value)
    }

    /// Removes an environment variable.
    pub fn without_variable(mut self, name: &str) -> Self {
        self.command.env_remove(name);
        self
    }

    /// Sets an environment variable.
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    /// Adds an argument.
    pub fn argument(mut self, argument: &str) -> Self {
        self.command.arg(argument);
        self
    }

    /// Starts it in a directory.
    pub fn directory(mut self, directory: &Path) -> Self {
        self.command.current_dir(directory);
        self
    }

    /// Passes a settings file with these contents, for access rules.
    pub fn rules(mut self, text: &str) -> Self {
        let file = std::env::temp_dir().join(unique("ws4redis-rules"));
        std::fs::write(&file, text).unwrap();
        self.command.arg("--settings").arg(&file);
        self.rules = Some(file);
        self
    }

    /// Uses this Redis instead of the shared one.
    pub fn redis(mut self, redis: &RedisServer) -> Self {
        self.redis_port = redis.port();
        self.set("redis.url", &redis.url())
    }

    /// Sets the prefix of all channels.
    pub fn namespace(mut self, namespace: &str) -> Self {
        namespace.clone_into(&mut self.namespace);
        self.set("prefix", namespace)
    }

    /// Limits the number of open file descriptors.
    pub fn file_limit(mut self, files: u32) -> Self {
        self.file_limit = Some(files);
        self
    }

    /// Detaches the gateway from any terminal, as for a service.
    pub fn without_terminal(mut self) -> Self {
        self.command = in_shell(&self.command, "set -- setsid env --default-signal=HUP \"$@\"");
        self
    }

    /// Passes listening sockets, at most two, as systemd socket activation does.
    pub fn with_inherited_sockets(mut self, sockets: Vec<OwnedFd>) -> Self {
        self.inherited = sockets;
        self
    }

    /// Does not wait for Redis at the start; the gateway may answer with 503.
    pub fn without_redis(mut self) -> Self {
        self.wait_for_redis = false;
        self
    }

    /// Starts the gateway and waits until it is ready.
    pub async fn start(self) -> TestGateway {
        let mut command = self.command;
        if let Some(files) = self.file_limit {
            command = in_shell(&command, &format!("ulimit -n {files}"));
        }
        command.stdin(Stdio::null()).stdout(Stdio::null());
        if !self.inherited.is_empty() {
            command = with_inherited_sockets(&command, self.inherited);
        }
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let log = capture(&mut child);
        let address = eventually("the gateway listens", || {
            let log = log.lock().unwrap();
            let ended = child.try_wait().unwrap();
            assert!(ended.is_none(), "the gateway ended with {ended:?}: {log:#?}");
            log.iter().find_map(|line| address_in(line))
        })
        .await;
        // The gateway has read it before it listens.
        if let Some(rules) = self.rules {
            std::fs::remove_file(rules).unwrap();
        }
        let (namespace, redis_port) = (self.namespace, self.redis_port);
        let gateway = TestGateway { child, address, namespace, redis_port, log };
        if self.wait_for_redis {
            gateway.wait_for_redis().await;
        }
        gateway
    }
}

fn capture(child: &mut Child) -> Arc<Mutex<Vec<String>>> {
    let log = Arc::new(Mutex::new(Vec::new()));
    let (lines, kept) = (BufReader::new(child.stderr.take().unwrap()), log.clone());
    std::thread::spawn(move || {
        for line in lines.split(b'\n') {
            let Ok(line) = line else { return };
            kept.lock().unwrap().push(String::from_utf8_lossy(&line).into_owned());
        }
    });
    log
}

/// Returns a command for the binary without environment variables that are settings, in a directory without a
/// settings.toml.
pub fn binary() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ws4redis"));
    let others = [
        "WEBSOCKET_URL",
        "RUST_LOG",
        "NOTIFY_SOCKET",
        "WATCHDOG_USEC",
        "WATCHDOG_PID",
        "LISTEN_FDS",
        "LISTEN_PID",
    ];
    let settings = |name: &str| name.starts_with("WS4REDIS_") || others.contains(&name);
    for (name, _) in std::env::vars().filter(|(name, _)| settings(name)) {
        command.env_remove(name);
    }
    command.current_dir(std::env::temp_dir());
    command
}

/// Wraps a command in a shell that runs `preparation` first.
fn in_shell(command: &Command, preparation: &str) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("{preparation}; exec \"$@\""), "sh"]).arg(command.get_program());
    shell.args(command.get_args()).current_dir(command.get_current_dir().unwrap());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell
}

/// Wraps a command so that it inherits these sockets, at most two, from descriptor 3 on, as systemd passes them.
pub fn with_inherited_sockets(command: &Command, sockets: Vec<OwnedFd>) -> Command {
    let preparation =
        format!("exec 3<&0 4>&1 0</dev/null 1>/dev/null; export LISTEN_FDS={} LISTEN_PID=$$", sockets.len());
    let mut shell = in_shell(command, &preparation);
    let mut sockets = sockets.into_iter();
    shell.stdin(sockets.next().unwrap());
    shell.stdout(sockets.next().map_or_else(Stdio::null, Stdio::from));
    shell
}

/// Returns the address in the log line about listening.
pub fn address_in(line: &str) -> Option<SocketAddr> {
    if !line.contains("listening") {
        return None;
    }
    let after = line.split_once("http://").or_else(|| line.split_once("listening on "))?.1;
    let end = after.find(|c: char| !(c.is_ascii_hexdigit() || ".:[]".contains(c))).unwrap_or(after.len());
    after[..end].parse().ok()
}

impl TestGateway {
    /// Starts a gateway with its own channel prefix on the shared Redis.
    pub async fn start() -> Self {
        Self::builder().start().await
    }

    /// Starts a gateway with these settings.
    pub async fn start_with(settings: &[(&str, &str)]) -> Self {
        let mut builder = Self::builder();
        for (key, value) in settings {
            builder = builder.set(key, value);
        }
        builder.start().await
    }

    /// Configures a gateway with its own channel prefix on the shared Redis.
    pub fn builder() -> GatewayBuilder {
        let mut command = binary();
        command.env("RUST_LOG", "ws4redis=debug").env("NO_COLOR", "1").stdout(Stdio::null());
        let redis = RedisServer::shared();
        let redis_port = redis.port();
        let namespace = String::new();
        GatewayBuilder {
            command,
            namespace,
            redis_port,
            wait_for_redis: true,
            file_limit: None,
            inherited: Vec::new(),
            rules: None,
        }
        .namespace(&unique("t"))
        .set("redis.url", &redis.url())
        .set("server.listen", "127.0.0.1:0")
        .set("server.shards", "2")
        .set("server.drain_seconds", "1")
    }

    /// Waits until all shards answer handshakes with 101. Connections are distributed round-robin, so as many successes in
    /// a row as there are shards prove it.
    pub async fn wait_for_redis(&self) {
        let what = "the gateway reaches Redis";
        super::within_deadline(what, async {
            let mut answered = 0;
            while answered < MAX_SHARDS {
                let connected = self.request("/ws/").send().await.0.status == 101;
                answered = if connected { answered + 1 } else { 0 };
                if !connected {
                    tokio::time::sleep(std::time::Duration::from_millis(10)).await;
                }
            }
        })
        .await;
    }

    /// Returns the address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns the prefix of all channels.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Returns the full name of a channel: `broadcast:chat` with this gateway's prefix.
    pub fn channel(&self, name: &str) -> String {
        if self.namespace.is_empty() { name.to_owned() } else { format!("{}:{name}", self.namespace) }
    }

    /// Publishes through the shared Redis on a channel with this gateway's prefix.
    #[track_caller]
    pub fn publish(&self, name: &str, payload: impl AsRef<[u8]>) {
        let count = RedisServer::shared().publish(&self.channel(name), payload);
        assert!(count > 0, "no subscriber for {name}");
    }

    /// Returns a valid handshake.
    pub fn request(&self, target: &str) -> Request {
        Request::handshake(self.address, target, &self.namespace, self.redis_port)
    }

    /// Connects a client.
    #[track_caller]
    pub fn connect(&self, target: &str) -> impl Future<Output = TestClient> {
        self.request(target).connect()
    }

    /// Returns the log so far.
    pub fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    /// Waits for a log line that contains all `parts`, and returns it.
    pub async fn expect_log(&self, parts: &[&str]) -> String {
        let look = || self.log().into_iter().find(|line| parts.iter().all(|part| line.contains(part)));
        eventually(&format!("a log line with {parts:?}"), look).await
    }

    /// Returns how many log lines contain all `parts`.
    pub fn count_log(&self, parts: &[&str]) -> usize {
        self.log().iter().filter(|line| parts.iter().all(|part| line.contains(part))).count()
    }

    /// Sends a signal to the process.
    pub fn signal(&self, name: &str) {
        signal(self.pid(), name);
    }

    /// Waits for the process to end.
    pub async fn expect_exit(&mut self) -> ExitStatus {
        eventually("the gateway ends", || self.child.try_wait().unwrap()).await
    }

    /// Returns whether the process is running.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Returns the resident memory in bytes.
    pub fn resident_bytes(&self) -> usize {
        let status = std::fs::read_to_string(self.proc().join("status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
    }

    /// Returns the number of open file descriptors.
    pub fn open_files(&self) -> usize {
        std::fs::read_dir(self.proc().join("fd")).unwrap().count()
    }

    /// Returns how many descriptors each epoll instance of the process watches, by descriptor of the instance. Each shard
    /// has one instance, which may have two descriptors.
    pub fn epoll_registrations(&self) -> BTreeMap<u32, usize> {
        let files = std::fs::read_dir(self.proc().join("fd")).unwrap().map(|file| file.unwrap());
        let pollers = files.filter(|file| {
            std::fs::read_link(file.path()).is_ok_and(|what| what == Path::new("anon_inode:[eventpoll]"))
        });
        let watched = pollers.map(|file| {
            let info = std::fs::read_to_string(self.proc().join("fdinfo").join(file.file_name())).unwrap();
            let number = file.file_name().to_str().unwrap().parse().unwrap();
            (number, info.lines().filter(|line| line.starts_with("tfd:")).count())
        });
        watched.collect()
    }

    /// Returns the CPU time used by the process.
    pub fn processor_time(&self) -> std::time::Duration {
        let stat = std::fs::read_to_string(self.proc().join("stat")).unwrap();
        let fields: Vec<_> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
        // The kernel reports in USER_HZ, 100 per second, whatever its own tick rate.
        let ticks = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        std::time::Duration::from_millis(ticks * 10)
    }

    fn proc(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}", self.pid()))
    }
}

impl Drop for TestGateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = self.log();
            let tail = &log[log.len().saturating_sub(40)..];
            #[expect(clippy::print_stderr, reason = "a failed test shows the server's log")]
            {
                eprintln!("log of the gateway:\n{}", tail.join("\n"));
            }
        }
    }
}
