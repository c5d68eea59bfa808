//! Redis servers: one shared by most tests, and separate ones that a test may break.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::{DEADLINE, signal, unique};

/// Ports for Redis servers. Below the ephemeral range: otherwise an outgoing connection could take the port of a Redis
/// while it restarts.
const PORTS: std::ops::Range<u16> = 17300..17500;

/// Port of the embedded store.
const EMBEDDED_PORT: u16 = 6379;

/// Enables keyspace events. Generic, expired and evicted events suffice for sessions: every write of one sets a TTL.
pub const KEYSPACE_EVENTS: [&str; 2] = ["--notify-keyspace-events", "Kgxe"];

/// The same, with the events of plain writes: what yunity-sockets sets by itself.
pub const ALL_EVENTS: [&str; 2] = ["--notify-keyspace-events", "KA"];

/// Runs a server until EOF on standard input. The pipe closes however the test process ends, so no server outlives it.
const UNTIL_EOF: &str = r#"dir=$1; shift; "$@" </dev/null & echo $! >"$dir/pid.new"; mv "$dir/pid.new" "$dir/pid"
cat >/dev/null; kill -9 "$(cat "$dir/pid")" 2>/dev/null; rm -rf "$dir""#;

/// Returns whether the tests run against the embedded store.
pub fn store_is_embedded() -> bool {
    std::env::var("WS4REDIS_TEST_STORE").is_ok_and(|store| store == "embedded")
}

/// A Redis on a loopback port and on a unix socket.
pub struct RedisServer {
    port: u16,
    dir: PathBuf,
    options: Vec<String>,
    /// The configuration file, if this is a sentinel.
    sentinel: Option<String>,
    supervisor: Option<Child>,
}

impl RedisServer {
    /// Starts a separate Redis.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts a separate Redis with further command-line options.
    pub fn start_with(options: &[&str]) -> Self {
        Self::start_as(None, options)
    }

    /// Starts a sentinel with this configuration file.
    pub fn start_sentinel(file: &str) -> Self {
        Self::start_as(Some(file), &[])
    }

    fn start_as(sentinel: Option<&str>, options: &[&str]) -> Self {
        static TURN: AtomicU16 = AtomicU16::new(0);
        let size = PORTS.end - PORTS.start;
        let first = u16::try_from(std::process::id() % u32::from(size)).unwrap();
        for _ in 0..size {
            let turn = TURN.fetch_add(1, Ordering::Relaxed);
            let port = PORTS.start + first.wrapping_add(turn.wrapping_mul(7)) % size;
            if TcpListener::bind(("127.0.0.1", port)).is_err() {
                continue;
            }
            let options = options.iter().map(|&option| option.to_owned()).collect();
            let dir = temporary_directory();
            let mut server =
                Self { port, dir, options, sentinel: sentinel.map(str::to_owned), supervisor: None };
            server.spawn();
            // Another process may have bound the port since the check above.
            if server.wait_until_up() && server.info("process_id") == server.pid().to_string() {
                return server;
            }
        }
        panic!("no Redis could be started");
    }

    /// Returns the shared store; tests separate their channels by prefix.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<RedisServer> = OnceLock::new();
        SHARED.get_or_init(|| if store_is_embedded() { Self::start_embedded() } else { Self::start() })
    }

    /// Returns a shared store with keyspace events enabled.
    pub fn with_keyspace_events() -> &'static Self {
        static NOTIFYING: OnceLock<RedisServer> = OnceLock::new();
        if store_is_embedded() {
            Self::shared()
        } else {
            NOTIFYING.get_or_init(|| Self::start_with(&KEYSPACE_EVENTS))
        }
    }

    /// Returns a shared store with all keyspace events, those of plain writes included.
    pub fn with_all_events() -> &'static Self {
        static NOTIFYING: OnceLock<RedisServer> = OnceLock::new();
        if store_is_embedded() {
            Self::shared()
        } else {
            NOTIFYING.get_or_init(|| Self::start_with(&ALL_EVENTS))
        }
    }

    /// Starts a gateway only for its embedded store.
    fn start_embedded() -> Self {
        let address = ("127.0.0.1", EMBEDDED_PORT);
        assert!(TcpListener::bind(address).is_ok(), "something listens on 127.0.0.1:6379 already");
        let dir = temporary_directory();
        let mut server =
            Self { port: EMBEDDED_PORT, dir, options: Vec::new(), sentinel: None, supervisor: None };
        server.supervise(
            &[env!("CARGO_BIN_EXE_ws4redis").to_owned()],
            &[
                ("WS4REDIS_SERVER__LISTEN", "127.0.0.1:0"),
                ("WS4REDIS_REDIS__URL", ""),
                // All tests share it, and some store many large values.
                ("WS4REDIS_EMBEDDED__MAX_MEMORY_BYTES", "536870912"),
            ],
        );
        assert!(server.wait_until_up(), "the embedded store did not start");
        server
    }

    fn spawn(&mut self) {
        let mut command: Vec<String> = vec!["redis-server".to_owned()];
        let socket = self.unix_path().display().to_string();
        if let Some(sentinel) = &self.sentinel {
            command.extend([sentinel.clone(), "--sentinel".to_owned()]);
        }
        for option in ["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--unixsocket", &socket] {
            command.push(option.to_owned());
        }
        if self.sentinel.is_none() {
            command.extend(["--save", "", "--appendonly", "no"].map(str::to_owned));
        }
        command.extend(["--daemonize", "no", "--dir"].map(str::to_owned));
        command.push(self.dir.display().to_string());
        command.extend(self.options.iter().cloned());
        self.supervise(&command, &[]);
    }

    fn supervise(&mut self, command: &[String], variables: &[(&str, &str)]) {
        let _ = std::fs::remove_file(self.dir.join("pid"));
        std::fs::create_dir_all(&self.dir).unwrap();
        let log = std::fs::File::create(self.dir.join("log")).unwrap();
        let mut supervisor = Command::new("sh");
        supervisor.args(["-c", UNTIL_EOF, "sh"]).arg(&self.dir).args(command).envs(variables.iter().copied());
        supervisor.stdin(Stdio::piped()).stdout(log.try_clone().unwrap()).stderr(log);
        self.supervisor = Some(supervisor.spawn().unwrap());
        let deadline = Instant::now() + DEADLINE;
        while !self.dir.join("pid").exists() {
            assert!(Instant::now() < deadline, "{command:?} was not started");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits until the server answers. Returns false if its process has exited.
    fn wait_until_up(&self) -> bool {
        let deadline = Instant::now() + DEADLINE;
        while Instant::now() < deadline {
            if let Ok(mut connection) = RedisClient::open(self.port)
                && matches!(connection.try_command(&["PING"]), Ok(RedisReply::Status(pong)) if pong == "PONG")
            {
                return true;
            }
            if !Path::new(&format!("/proc/{}", self.pid())).exists() {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        false
    }

    /// Returns the process id.
    pub fn pid(&self) -> u32 {
        std::fs::read_to_string(self.dir.join("pid")).unwrap().trim().parse().unwrap()
    }

    /// Returns the port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns the URL of the loopback port.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Returns the path of the unix socket.
    pub fn unix_path(&self) -> PathBuf {
        self.dir.join("redis.sock")
    }

    /// Opens a connection.
    pub fn connection(&self) -> RedisClient {
        RedisClient::open(self.port).unwrap()
    }

    /// Sends one command on a new connection. Panics on an error reply.
    #[track_caller]
    pub fn command<A: AsRef<[u8]>>(&self, arguments: &[A]) -> RedisReply {
        self.connection().command(arguments)
    }

    /// Publishes a message, and returns the number of receivers.
    #[track_caller]
    pub fn publish(&self, channel: &str, payload: impl AsRef<[u8]>) -> i64 {
        self.command(&[b"PUBLISH", channel.as_bytes(), payload.as_ref()]).integer()
    }

    /// Publishes messages in one write.
    #[track_caller]
    pub fn publish_pipelined<P: AsRef<[u8]>>(&self, channel: &str, payloads: impl IntoIterator<Item = P>) {
        let mut count = 0;
        let mut batch = Vec::new();
        for payload in payloads {
            encode(&mut batch, &[b"PUBLISH", channel.as_bytes(), payload.as_ref()]);
            count += 1;
        }
        let mut connection = self.connection();
        connection.send(&batch);
        for _ in 0..count {
            connection.reply().integer();
        }
    }

    /// Sends several commands in one write and returns their replies.
    #[track_caller]
    pub fn pipeline(&self, commands: &[&[&[u8]]]) -> Vec<RedisReply> {
        let mut batch = Vec::new();
        for command in commands {
            encode(&mut batch, command);
        }
        let mut connection = self.connection();
        connection.send(&batch);
        commands.iter().map(|_| connection.reply()).collect()
    }

    /// Stores a persisted message.
    #[track_caller]
    pub fn persist(&self, key: &str, payload: impl AsRef<[u8]>) {
        self.command(&[b"SETEX", key.as_bytes(), b"300", payload.as_ref()]);
    }

    /// Returns a key's value.
    #[track_caller]
    pub fn get(&self, key: &str) -> Option<Vec<u8>> {
        self.command(&["GET", key]).bulk()
    }

    /// Returns the subscribed channels with a prefix, sorted, without the control channels: every gateway is permanently
    /// subscribed to its own.
    pub fn channels(&self, prefix: &str) -> Vec<String> {
        let RedisReply::Array(channels) = self.command(&["PUBSUB", "CHANNELS"]) else { panic!("no array") };
        let mut channels: Vec<_> =
            channels.into_iter().map(|name| String::from_utf8(name.bulk().unwrap()).unwrap()).collect();
        channels.retain(|channel| channel.starts_with(prefix) && !channel.ends_with("ws4redis:control"));
        channels.sort();
        channels
    }

    /// Returns a field of INFO.
    pub fn info(&self, field: &str) -> String {
        self.try_info(field).unwrap()
    }

    /// Returns a field of INFO; `None` if Redis closes the connection, as during a promotion to master.
    pub fn try_info(&self, field: &str) -> Option<String> {
        let RedisReply::Bulk(Some(text)) = RedisClient::open(self.port).ok()?.try_command(&["INFO"]).ok()?
        else {
            return None;
        };
        let text = String::from_utf8(text).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        Some(line.unwrap_or_default().to_owned())
    }

    /// Kills the connections of a type (`pubsub`, `normal`) except this one. Returns their number.
    pub fn kill_clients(&self, kind: &str) -> i64 {
        self.command(&["CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes"]).integer()
    }

    /// Starts MONITOR.
    pub fn monitor(&self) -> Monitor {
        let mut connection = self.connection();
        assert_eq!(connection.command(&["MONITOR"]), RedisReply::Status("OK".to_owned()));
        Monitor { connection, port: self.port }
    }

    /// Kills the process with SIGKILL.
    pub fn kill(&self) {
        signal(self.pid(), "KILL");
        self.wait_until_gone();
    }

    /// Stops the process with SHUTDOWN NOSAVE.
    pub fn stop(&self) {
        let mut connection = self.connection();
        let mut command = Vec::new();
        encode(&mut command, &["SHUTDOWN", "NOSAVE"]);
        connection.send(&command);
        self.wait_until_gone();
    }

    fn wait_until_gone(&self) {
        let deadline = Instant::now() + DEADLINE;
        while TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
            assert!(Instant::now() < deadline, "Redis does not end");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Starts the server again on the same addresses.
    pub fn restart(&mut self) {
        self.supervisor = self.supervisor.take().and_then(|supervisor| {
            terminate(supervisor);
            None
        });
        self.spawn();
        assert!(self.wait_until_up(), "Redis did not start again on port {}", self.port);
    }

    /// Pauses the process with SIGSTOP: its sockets stay open and it does not answer.
    pub fn pause(&self) {
        signal(self.pid(), "STOP");
    }

    /// Resumes a paused process.
    pub fn resume(&self) {
        signal(self.pid(), "CONT");
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        if let Some(supervisor) = self.supervisor.take() {
            terminate(supervisor);
        }
    }
}

/// Terminates a server by closing the standard input of its supervisor.
fn terminate(mut supervisor: Child) {
    drop(supervisor.stdin.take());
    let _ = supervisor.wait();
}

fn temporary_directory() -> PathBuf {
    let dir = std::env::temp_dir().join(unique("ws4redis-test"));
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

/// Appends a command in RESP.
pub fn encode<A: AsRef<[u8]>>(buffer: &mut Vec<u8>, arguments: &[A]) {
    write!(buffer, "*{}\r\n", arguments.len()).unwrap();
    for argument in arguments {
        let argument = argument.as_ref();
        write!(buffer, "${}\r\n", argument.len()).unwrap();
        buffer.extend_from_slice(argument);
        buffer.extend_from_slice(b"\r\n");
    }
}

/// A reply from Redis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RedisReply {
    Status(String),
    Error(String),
    Integer(i64),
    Bulk(Option<Vec<u8>>),
    Array(Vec<RedisReply>),
}

impl RedisReply {
    /// Returns the number of an integer reply.
    #[track_caller]
    pub fn integer(&self) -> i64 {
        let Self::Integer(number) = self else { panic!("no integer: {self:?}") };
        *number
    }

    /// Returns the value of a bulk reply.
    #[track_caller]
    pub fn bulk(self) -> Option<Vec<u8>> {
        let Self::Bulk(value) = self else { panic!("no bulk string: {self:?}") };
        value
    }
}

/// A blocking connection to Redis.
pub struct RedisClient {
    stream: BufReader<TcpStream>,
}

impl RedisClient {
    pub fn open(port: u16) -> std::io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.set_write_timeout(Some(DEADLINE))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Connects to a Redis by its port.
    pub fn to(port: u16) -> Self {
        Self::open(port).unwrap()
    }

    /// Writes raw bytes.
    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.get_mut().write_all(bytes).unwrap();
    }

    /// Sends a command and returns its reply. Panics on an error reply.
    #[track_caller]
    pub fn command<A: AsRef<[u8]>>(&mut self, arguments: &[A]) -> RedisReply {
        match self.try_command(arguments) {
            Ok(RedisReply::Error(error)) => panic!("redis: {error}"),
            Ok(reply) => reply,
            Err(error) => panic!("redis: {error}"),
        }
    }

    /// Sends a command and returns its reply, which may be an error.
    ///
    /// # Errors
    ///
    /// If the connection is lost.
    pub fn try_command<A: AsRef<[u8]>>(&mut self, arguments: &[A]) -> std::io::Result<RedisReply> {
        let mut command = Vec::new();
        encode(&mut command, arguments);
        self.stream.get_mut().write_all(&command)?;
        self.read()
    }

    /// Sends encoded commands in one write, and returns this number of replies, which may be errors.
    ///
    /// # Errors
    ///
    /// If the connection is lost.
    pub fn try_pipeline(&mut self, commands: &[u8], count: usize) -> std::io::Result<Vec<RedisReply>> {
        self.stream.get_mut().write_all(commands)?;
        (0..count).map(|_| self.read()).collect()
    }

    /// Reads the next reply.
    #[track_caller]
    pub fn reply(&mut self) -> RedisReply {
        self.read().unwrap()
    }

    fn read(&mut self) -> std::io::Result<RedisReply> {
        let line = self.line()?;
        let (kind, rest) = line.split_at(1);
        let number = || rest.parse::<i64>().map_err(std::io::Error::other);
        Ok(match kind {
            "+" => RedisReply::Status(rest.to_owned()),
            "-" => RedisReply::Error(rest.to_owned()),
            ":" => RedisReply::Integer(number()?),
            "$" => match usize::try_from(number()?) {
                Ok(length) => {
                    let mut value = vec![0; length + 2];
                    self.stream.read_exact(&mut value)?;
                    value.truncate(length);
                    RedisReply::Bulk(Some(value))
                }
                Err(_) => RedisReply::Bulk(None),
            },
            "*" => RedisReply::Array((0..number()?).map(|_| self.read()).collect::<Result<_, _>>()?),
            _ => return Err(std::io::Error::other(format!("no RESP: {line:?}"))),
        })
    }

    fn line(&mut self) -> std::io::Result<String> {
        let mut line = Vec::new();
        self.stream.read_until(b'\n', &mut line)?;
        if !line.ends_with(b"\r\n") || line.len() < 3 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        Ok(String::from_utf8_lossy(&line[..line.len() - 2]).into_owned())
    }
}

/// A MONITOR connection: it shows every command that Redis executes.
pub struct Monitor {
    connection: RedisClient,
    port: u16,
}

impl Monitor {
    /// Returns the new commands that contain `word` (usually a channel prefix), without time and address:
    /// `"PUBLISH" "ns:broadcast:x" "hello"`.
    pub fn commands(&mut self, word: &str) -> Vec<String> {
        let fence = unique("fence");
        RedisClient::open(self.port).unwrap().command(&["ECHO", &fence]);
        let mut commands = Vec::new();
        loop {
            let line = self.connection.line().unwrap();
            let command = line.split_once("] ").map(|(_, command)| command.to_owned()).unwrap_or_default();
            if command.contains(&fence) {
                return commands;
            }
            if command.contains(word) {
                commands.push(command);
            }
        }
    }
}
