//! Differential test of the embedded store: it and a real redis-server get the same bytes and must reply with the same
//! bytes.
//!
//! Every script ends with QUIT, which works in every state and closes the connection: EOF marks the end of the replies,
//! so no timeout has to guess it.
#![expect(clippy::unwrap_used, reason = "test helpers")]

use std::{
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixStream},
    sync::oneshot,
    time::{interval, timeout},
};
use ws4redis::embedded::{StoreLimits, serve};

const DEADLINE: Duration = Duration::from_secs(20);

trait ByteStream: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> ByteStream for T {}

/// A redis-server on a unix socket in a temporary directory.
struct ReferenceRedis {
    child: Child,
    directory: PathBuf,
}

impl ReferenceRedis {
    async fn start() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("embedded-differential-{}-{number}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&directory).unwrap();
        let child = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--notify-keyspace-events", "AKE", "--unixsocket"])
            .arg(directory.join("redis.sock"))
            .arg("--dir")
            .arg(&directory)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let redis = Self { child, directory };
        let ready = async {
            let mut turn = interval(Duration::from_millis(20));
            loop {
                turn.tick().await;
                if UnixStream::connect(redis.socket()).await.is_ok() {
                    break;
                }
            }
        };
        timeout(DEADLINE, ready).await.unwrap();
        redis
    }

    fn socket(&self) -> PathBuf {
        self.directory.join("redis.sock")
    }
}

impl Drop for ReferenceRedis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// An embedded store on its own thread, as in the server.
struct EmbeddedStore {
    address: std::net::SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl EmbeddedStore {
    fn start(limits: StoreLimits) -> Self {
        let (stop, stopped) = oneshot::channel();
        let (tell, address) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                tell.send(listener.local_addr().unwrap()).unwrap();
                let stop = async { drop(stopped.await) };
                serve(listener, limits, None, stop).await.unwrap();
            });
        });
        let address = address.recv_timeout(DEADLINE).unwrap();
        Self { address, stop: Some(stop), thread: Mutex::new(Some(thread)) }
    }

    async fn connect(&self) -> TcpStream {
        timeout(DEADLINE, TcpStream::connect(self.address)).await.unwrap().unwrap()
    }
}

impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.get_mut().unwrap().take() {
            let _ = thread.join();
        }
    }
}

/// The reference server and the embedded store.
struct StorePair {
    redis: ReferenceRedis,
    embedded: EmbeddedStore,
}

impl StorePair {
    async fn start() -> Self {
        Self { redis: ReferenceRedis::start().await, embedded: EmbeddedStore::start(StoreLimits::default()) }
    }

    async fn connect(&self) -> [Box<dyn ByteStream>; 2] {
        let redis = timeout(DEADLINE, UnixStream::connect(self.redis.socket())).await.unwrap().unwrap();
        [Box::new(redis), Box::new(self.embedded.connect().await)]
    }

    /// Sends the same bytes to both and returns the first difference of their replies as an error.
    async fn compare(&self, bytes: &[u8]) -> Result<(), String> {
        let mut output = Vec::new();
        for mut stream in self.connect().await {
            output.push(normalized(&exchange(&mut stream, bytes).await));
        }
        if output[0] == output[1] {
            return Ok(());
        }
        let common = output[0].bytes().zip(output[1].bytes()).take_while(|(one, other)| one == other).count();
        let start = common.saturating_sub(120);
        let [redis, embedded] =
            [0, 1].map(|side| output[side].chars().skip(start).take(400).collect::<String>());
        Err(format!("redis:    …{redis}\nembedded: …{embedded}"))
    }

    /// One client subscribes, another one sends a script. Returns what the subscriber and the sender
    /// receive: from Redis, then from the embedded store.
    async fn replies_and_messages(&self, join: &str, bytes: &[u8]) -> [String; 2] {
        let mut received = [String::new(), String::new()];
        let streams = self.connect().await.into_iter().zip(self.connect().await);
        for (received, (mut listener, mut actor)) in received.iter_mut().zip(streams) {
            listener.write_all(format!("{join}\r\nping fence\r\n").as_bytes()).await.unwrap();
            let mut output = until(&mut listener, b"fence\r\n").await;
            let replies = exchange(&mut actor, bytes).await;
            output.extend(exchange(&mut listener, b"").await);
            *received = normalized(&[output, replies].concat());
        }
        received
    }

    async fn check(&self, bytes: &[u8]) {
        if let Err(difference) = self.compare(bytes).await {
            panic!("{}\n{difference}", bytes[..bytes.len().min(200)].escape_ascii());
        }
    }

    /// Compares the lines of a script as inline commands and as arrays of bulk strings, each on empty databases.
    async fn compare_lines(&self, script: &str) -> Result<(), String> {
        let lines: Vec<&str> = script.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let typed = lines.iter().flat_map(|line| format!("{line}\r\n").into_bytes()).collect();
        let arrays = lines.iter().flat_map(|line| array(&line.split(' ').collect::<Vec<_>>())).collect();
        for bytes in [typed, arrays] {
            self.compare(&[b"FLUSHALL\r\n".to_vec(), bytes].concat()).await?;
        }
        Ok(())
    }
}

fn array(words: &[&str]) -> Vec<u8> {
    let bulks = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len()));
    format!("*{}\r\n{}", words.len(), bulks.collect::<Vec<_>>().concat()).into_bytes()
}

async fn exchange(stream: &mut Box<dyn ByteStream>, bytes: &[u8]) -> Vec<u8> {
    // A server that closes first may cause a broken pipe; only its earlier replies count.
    let _ = timeout(DEADLINE, stream.write_all(bytes)).await.unwrap();
    let _ = timeout(DEADLINE, stream.write_all(b"QUIT\r\n")).await.unwrap();
    read_to_end(stream).await
}

async fn read_to_end(stream: &mut Box<dyn ByteStream>) -> Vec<u8> {
    let mut output = Vec::new();
    let _ = timeout(DEADLINE, stream.read_to_end(&mut output)).await.unwrap();
    output
}

/// Removes the expected differences: version and client id in the reply to HELLO, and the time and the uptime with which the
/// reply of the script begins that reads a history.
fn normalized(output: &[u8]) -> String {
    const ID: &str = r"$2\r\nid\r\n:";
    let text = output.escape_ascii().to_string().replace(r"$6\r\n7.0.15", r"$5\r\n7.0.0");
    let text = without_times(&text);
    let mut parts = text.split(ID);
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| text + ID + part.trim_start_matches(|c: char| c.is_ascii_digit()))
}

fn without_times(text: &str) -> String {
    let line = |line: &str| {
        let (time, rest) = line.split_once(' ')?;
        let is_time = time.len() == 13 && time.bytes().all(|byte| byte.is_ascii_digit());
        let (uptime, rest) = rest.split_once(' ').filter(|_| is_time)?;
        Some(format!("TIME {} {rest}", if uptime == "-" { "-" } else { "UPTIME" }))
    };
    let lines = text.split(r"\r\n").map(|text| line(text).unwrap_or_else(|| text.to_owned()));
    lines.collect::<Vec<_>>().join(r"\r\n")
}

const SCRIPTS: &[(&str, &str)] = &[
    (
        "strings",
        "get a\nset a b\nget a\nGeT a\nset a c GET\nset n x GET\nget n\nset a d NX\nset z d NX\nset a e XX\nset q e XX\nset a f NX GET\nget a\nset q f XX GET\nstrlen a\nstrlen nope\ngetrange a 0 0\ngetrange a 0 -1\ngetrange a -3 -1\ngetrange a -1 -3\ngetrange a 5 9\ngetrange a 0 99\ngetrange a -99 -98\ngetrange nope 0 1\ngetrange a x 1\ngetrange a 0\ngetset a 1\ngetset m 1\nget a\ngetdel a\nget a\ngetdel a\nsetnx a 1\nsetnx a 2\nget a\nmset a 1 b 2\nmget a b c\nmset a\nmset a 1 b\nmset a 1 b 2 c\nsetex a 10 v\npsetex a 10000 v\nget a\ntype a\ntype nope\nappend_ a b",
    ),
    (
        "streams",
        "xlen s\nxadd s 1-1 d a\nxadd s 1-1 d b\nxadd s 1-0 d b\nxadd s 0-0 d b\nxadd s 1-* d b\nxadd s 0-* d b\nxadd s 3 d c e f\nxadd s 3\nxadd s 3 d\nxadd s x d b\nxadd s 1- d b\nxadd s -1 d b\nxadd s 5-0 d\nxlen s\ntype s\nttl s\nexpire s 100\nttl s\nxadd s 4-0 d g\nttl s\nxrange s - +\nxrevrange s + -\nxrange s 1 1\nxrange s 1-2 3\nxrange s (1-1 +\nxrange s (1 +\nxrange s - (3\nxrevrange s (4-0 -\nxrevrange s (4-0 - count 1\nxrange s - + count 2\nxrange s - + count 0\nxrange s - + count -1\nxrange s - + count x\nxrange s - + foo 1\nxrange s - + count\nxrange s x +\nxrange s - x\nxrange s (- +\nxrange s (18446744073709551615-18446744073709551615 +\nxrange s - (0-0\nxrange s + -\nxrange nope - +\nxrange nope - + count 0\nxadd s maxlen = 2 9-1 d h\nxlen s\nxadd s maxlen 1 9-2 d i\nxrange s - +\nxadd s maxlen = -1 9-3 d i\nxadd s maxlen = x 9-3 d i\nxadd s maxlen = 2 limit 3 9-3 d i\nxadd s maxlen ~ 100 limit 3 9-3 d i\nxadd s maxlen = 0 9-4 d j\nxlen s\nexists s\nxadd nope nomkstream 1-1 d x\nexists nope\nget s\nstrlen s\ngetex s\ngetdel s\ngetset s x\nincr s\nset s x get\nsetnx s x\nmget s s\ngetrange s 0 1\nscan 0 type stream\nscan 0 type string\nset t x\nxadd t 1-1 d x\nxlen t\nxrange t - +\nset s x\ntype s\ndel s\nxadd s 1-1 d x\ndel s\nexists s\nxadd\nxlen\nxrange s -\nxlen s t",
    ),
    (
        "options of set",
        "set a\nset a b EX\nset a b EX 0\nset a b EX -1\nset a b EX x\nset a b PX 0\nset a b EX 9223372036854775807\nset a b EX 9223372036854775\nset a b PX 9223372036854775807\nset a b EXAT 9223372036854775807\nset a b NX XX\nset a b XX NX\nset a b EX 10 PX 10\nset a b EX 10 KEEPTTL\nset a b KEEPTTL EX 10\nset a b KEEPTTL KEEPTTL\nset a b EX 10 EX 20\nset a b FOO\nset a b EX 10 NX\nttl a\nset a b KEEPTTL\nttl a\nset a b\nttl a\nset a b PXAT 1\nget a\nset a b EXAT 1 GET\nget a\nset a b ex 10\nttl a\nset a b EX 10 FOO\nset a b NX NX\nset a b GET GET\nset a b persist\nset a b PX 10 PX",
    ),
    (
        "getex",
        "getex a\ngetex a EX 0\nset a b\ngetex a EX 0\ngetex a EX x\ngetex a EX 100\nttl a\ngetex a PERSIST\nttl a\ngetex a EX 1 PERSIST\ngetex a FOO\ngetex a KEEPTTL\ngetex a NX\ngetex a EX\ngetex a EXAT 1\nget a\ngetex nope FOO\ngetex",
    ),
    (
        "setex",
        "setex a 0 b\nsetex a -1 b\nsetex a x b\nsetex a 9223372036854775807 b\npsetex a 0 b\nsetex a 1\npsetex a 9223372036854775807 b\nget a",
    ),
    (
        "expiry",
        "expire a 10\nset a b\nexpire a 10\nttl a\nexpire a x\nexpire a 9223372036854775807\nexpire a -9223372036854775807\npexpire a 9223372036854775807\npexpireat a 9223372036854775807\nttl a\nset a b\nexpire a 1 NX XX\nexpire a 1 GT LT\nexpire a 1 FOO\nexpire a x FOO\nexpire a 1 NX GT\nexpire a 100 XX\nexpire a 100 GT\nexpire a 100 NX\nexpire a 200 NX\nexpire a 50 GT\nexpire a 150 GT\nttl a\nexpire a 300 LT\nexpire a 20 LT\nttl a\nexpire a 1000 XX GT\nttl a\npersist a\npersist a\npersist nope\nttl a\npttl a\nttl nope\npttl nope\nexpire a 50 LT\nttl a\nexpire a -1\nget a\nset a b\npexpire a 0\nget a\nset a b\nexpireat a 1\nexists a\nset a b\npexpireat a 99999999999999\npersist a\nexpire a\nexpire\nttl",
    ),
    (
        "counters",
        "incr a\nincr a\nincrby a 10\ndecr a\ndecrby a 5\nincrby a x\nincrby a 1.5\nset b x\nincr b\nset c 9223372036854775807\nincr c\ndecr c\nset d -9223372036854775808\ndecr d\ndecrby a -9223372036854775808\nincrby c 9223372036854775807\nset e 01\nincr e\nset f -0\nincr f\nset g +1\nincr g\nsetex h 100 5\nincr h\nttl h\nincrby a 99999999999999999999\nincr\nincr a b",
    ),
    (
        "keys",
        "set a 1\nset b 2\ndel a b c a\nset a 1\nset b 2\nunlink a b c\nset a 1\nexists a a b\nkeys *\nkeys nope*\nkeys [a]\nscan 0\nscan 0 MATCH a\nscan 0 MATCH b\nscan 0 COUNT 100\nscan 0 TYPE string\nscan 0 TYPE list\nscan x\nscan 0 COUNT 0\nscan 0 COUNT x\nscan 0 COUNT -1\nscan 0 FOO\nscan 0 FOO BAR\nscan 0 MATCH\ndbsize\nselect 1\ndbsize\nget a\nset a other\nselect 0\nget a\nselect 15\nselect 16\nselect -1\nselect x\nselect 99999999999\nflushdb\ndbsize\nselect 0\ndbsize\nflushdb async\ndbsize\nselect 1\ndbsize\nflushall sync\ndbsize\nflushall foo\nflushdb sync foo\ndel\nexists\nkeys\nkeys a b\ndbsize a",
    ),
    (
        "transactions",
        "exec\ndiscard\nmulti\nset a 1\nincr a\nget a\nexec\nmulti\nmulti\nset a 5\nexec\nmulti\nset a 9\ndiscard\nget a\nmulti\nnope\nset a 1\nexec\nmulti\nget\nexec\nmulti\nexec\nmulti\nset x abc\nincr x\nget x\nexec\nwatch a\nmulti\nget a\nexec\nwatch a\nset a 2\nmulti\nget a\nexec\nwatch a\nset a 2\nunwatch\nmulti\nget a\nexec\nmulti\nwatch a\nget a\nexec\nmulti\nunwatch\nexec\nmulti\nselect 1\nset k v\nexec\nget k\nselect 0\nget k\nwatch nope\nset nope 1\ndel nope\nmulti\nexec\nwatch gone\nmulti\nping\nping hi\necho x\nexec\nwatch a\nflushall\nmulti\nexec\nwatch a\nflushall\nmulti\nping\nexec\nmulti a\nexec a\nwatch\nmulti\nclient foo\nexec\nmulti\nmset a\nexec\nmulti\nmset a 1 b\nexec",
    ),
    ("transaction in resp3", "hello 3\nwatch a\nset a 2\nmulti\nget a\nexec\nmulti\nget nope\nget a\nexec"),
    ("subscriptions in transaction", "multi\nsubscribe x\nping\nexec\nping\nunsubscribe\nping"),
    (
        "connection",
        "ping\nping hello\nping a b\necho hi\necho\nauth x\nauth default x\nauth a b\nauth a b c\nhello\nhello 2\nhello 3\nget nope\nhello 2\nhello 4\nhello 1\nhello x\nhello 3 foo\nhello 3 setname\nhello 3 AUTH a\nhello 3 AUTH a b\nget nope\nhello 3 AUTH default b SETNAME me\nclient getname\nhello 2 SETNAME you AUTH default b\nclient getname\nclient setname x\nclient getname\nclient setname\nclient getname x\nclient id x\nclient foo\nclient\nclient no-evict on\nclient no-evict x\nclient list type foo\nclient list foo\nreset\nclient getname\nreset x\nselect\nreset",
    ),
    (
        "unknown commands",
        "foo\nFOO a b\nfoo bar baz qux\nget\nget a b\nnope 1111111111111111111111111111111111111111111111111111111111111111111111111111111 2222222222222222222222222222222222222222222222222222222222222222222222222 3333\nconfig\nconfig foo\nconfig get\nconfig set foo bar\nconfig set foo\nconfig set foo bar baz\ncommand foo\npubsub\npubsub foo\nscript\nscript foo\nscript load\nscript exists abc def\nscript flush\nevalsha abc 0\nevalsha abc x\nevalsha abc\neval x\nscript exists\nclient setname a b\nget\tx",
    ),
    (
        "config",
        "config get databases\nconfig get nope\nconfig get maxmemory-policy\nconfig get notify-keyspace-events\nconfig get appendonly\nconfig get TIMEOUT\nhello 3\nconfig get databases\nconfig get save\nconfig get timeout\nconfig get notify-keyspace-events\nconfig get Notify-Keyspace-Events\nconfig get notify-*",
    ),
    (
        "listening in resp2",
        "subscribe x\nget a\nset\nnope\nping\nping hi\nping a b\nmulti\nhello 3\nclient id\nselect 1\npublish x y\nsubscribe\nsubscribe x y\npsubscribe p*\nunsubscribe nope\nunsubscribe x\nunsubscribe y\nget a\npunsubscribe\npunsubscribe\nunsubscribe\nget a\npubsub numpat\nsubscribe x\nreset\nget a\npubsub channels\npsubscribe a a\nquit",
    ),
    (
        "listening in resp3",
        "hello 3\nsubscribe x\nget a\nset a b\nping\nping hi\nmulti\nget a\nexec\nunsubscribe\nunsubscribe\npsubscribe a?c\npublish abc nothing\npubsub numpat\npubsub numsub x y\npubsub numsub\npubsub channels *\npubsub channels a b\npunsubscribe a?c\nget nope\nget a",
    ),
    ("info in resp3", "info nope\nhello 3\ninfo nope"),
    (
        "reset",
        "multi\nset a b\nreset\nexec\nhello 3\nselect 3\nsubscribe x\nreset\nping\nget nope\nclient getname",
    ),
];

#[tokio::test]
async fn replies_are_those_of_redis() {
    let pair = StorePair::start().await;
    let mut failed = Vec::new();
    for (name, script) in SCRIPTS {
        if let Err(difference) = pair.compare_lines(script).await {
            failed.push(format!("{name}\n{difference}"));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
}

/// Command templates of random scripts: `K` is a key, `V` a value, `T` a time, `C` a channel.
/// `z` has no subscribers: Redis 7.0 puts a message that a client publishes to itself in a transaction into the array of
/// replies.
const TEMPLATES: &str = "get K|set K V|set K V EX T|set K V PX T NX|set K V XX GET|set K V KEEPTTL|set K V GET EX T\n\
    setex K T V|psetex K T V|setnx K V|getset K V|getdel K|getrange K V V|getex K|getex K PERSIST|getex K EX T|mget K K K|mset K V K V\n\
    strlen K|incr K|incrby K V|decr K|decrby K V|del K K|unlink K|exists K K|type K|dbsize|expire K T|expire K T NX\n\
    expire K G GT|expire K G LT|pexpire K T XX|expireat K T|persist K|ttl K|ttl K|multi|exec|exec|discard|watch K|unwatch\n\
    select V|select 0|flushdb|ping|ping V|echo V|hello|subscribe C|unsubscribe C|psubscribe C|punsubscribe C\n\
    publish z V|pubsub numsub C C|pubsub numpat|reset|client setname V|client getname|nope K V|get|set K|client V";

/// Returns the same scripts in every run; a failure prints the script.
fn random_script(seed: u64) -> Vec<String> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut pick = |all: &[&str]| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let number = usize::try_from(state >> 33).unwrap();
        all[number % all.len()].to_owned()
    };
    let templates: Vec<&str> = TEMPLATES.split(['|', '\n']).map(str::trim).collect();
    let unlike = std::cell::Cell::new(200_500);
    let line = |template: String, pick: &mut dyn FnMut(&[&str]) -> String| {
        let word = |word| match word {
            "K" => pick(&["a", "b", "c"]),
            "V" => pick(&["1", "-7", "x", "9223372036854775807", "-9223372036854775808", "3", "007"]),
            "T" => pick(&["100000", "1000000", "0", "-1", "x", "9223372036854775807", "500000"]),
            // Redis compares with the remaining time in milliseconds: an equal time would match only by chance.
            "G" => match pick(&["0", "-1", "x", "", "", ""]) {
                other if !other.is_empty() => other,
                _ => {
                    unlike.set(unlike.get() + 1_000);
                    unlike.get().to_string()
                }
            },
            "C" => pick(&["x", "y"]),
            word => word.to_owned(),
        };
        template.split(' ').map(word).collect::<Vec<_>>().join(" ")
    };
    (0..40)
        .map(|_| {
            let template = pick(&templates);
            line(template, &mut pick)
        })
        .collect()
}

#[tokio::test]
async fn replies_to_random_scripts_are_those_of_redis() {
    let pair = StorePair::start().await;
    for seed in 0..1_000 {
        let lines = random_script(seed);
        let hello = 2 + seed % 2;
        let bytes = format!("FLUSHALL\r\nHELLO {hello}\r\n{}\r\n", lines.join("\r\n"));
        if let Err(difference) = pair.compare(bytes.as_bytes()).await {
            panic!("seed {seed}\n{}\n{difference}", lines.join("\n"));
        }
    }
}

#[tokio::test]
async fn broken_requests_end_as_in_redis() {
    let pair = StorePair::start().await;
    for bytes in [
        &b"*1\r\n$99999999999\r\n"[..],
        b"*1\r\n$-1\r\n",
        b"*1\r\n$x\r\n",
        b"*1\r\n$600000000\r\n",
        b"*x\r\n",
        b"*99999999999\r\n",
        b"*1\r\n:1\r\n",
        b"*2\r\n$3\r\nGET\r\n+a\r\n",
        b"*0\r\nPING\r\n",
        b"*-1\r\nPING\r\n",
        b"\r\n\r\nPING\r\n",
        b"PING\n",
        b"set a \"b c\"\r\nget a\r\n",
        b"set a \"\\x41\\n\"\r\nget a\r\n",
        b"set a \"b\r\n",
        b"set a 'b'c\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\nPING\r\n",
        b"*1\r\n$4\r\npost\r\n",
        b"*1\r\n$0\r\n\r\n",
        b"*2\r\n$3\r\nfoo\r\n$3\r\na\nb\r\n",
        b"*2\r\n$3\r\nfoo\r\n$3\r\na\0b\r\n",
        b"*3\r\n$3\r\nset\r\n$1\r\n\0\r\n$2\r\n\r\n\r\n*2\r\n$3\r\nget\r\n$1\r\n\0\r\n",
        b"PING\r\nPING\r\nQUIT\r\nPING\r\n",
    ] {
        pair.check(bytes).await;
    }
}

/// Key changes by every command that can make one, also on expired keys, and commands that change nothing.
const CHANGES: &str = "set a 1|set a 2 ex 100|set a 3 px 100000|set a 4 exat 99999999999|set a 5 pxat 99999999999999\n\
    set a 6 keepttl|set a 7 get|set a 8 nx|set a 9 xx ex 100 get|set nope 1 xx|set a b ex 0|setex a 10 b|psetex a 10000 b\n\
    setex a x b|getset a 5|setnx c 1|setnx c 1|mset a 1 b 2 a 3|incr n|incrby n 5|decr n|decrby n 2|set x y|incr x\n\
    expire a 50|expire a 500 nx|expire a 500 xx|expire a 5 gt|expire a 5 lt|pexpire a 50000|expireat a 99999999999\n\
    pexpireat a 99999999999999|expire nope 5|expire a x|persist a|persist a|persist nope|getex a|getex a ex 10\n\
    getex a px 10000|getex a exat 99999999999|getex a pxat 99999999999999|getex a persist|getex a persist|getex nope ex 10\n\
    del a b nope a|unlink c nope|getdel n|getdel n|set a 1|expire a -1|set a 1|pexpire a 0|set a 1|expireat a 1\n\
    set a 1|pexpireat a 1|set a 1|getex a exat 1|set a 1 pxat 1|get a|set a 1 pxat 1|set a 2|set a 1 pxat 1|del a\n\
    set a 1 pxat 1|unlink a|set a 1 pxat 1|incr a|set a 1 pxat 1|setnx a 2|set a 1 pxat 1|getset a 2|set a 1 pxat 1\n\
    getdel a|set a 1 pxat 1|mset a 2|set a 1 pxat 1|expire a 10|set a 1 pxat 1|persist a|set a 1 pxat 1|ttl a\n\
    set a 1 pxat 1|set a 2 keepttl|set a 1 pxat 1|getex a ex 10|set a 1 pxat 1|exists a|set a 1 pxat 1|watch a|get a|unwatch\n\
    publish news hello|multi|set m 1|incr m|expire m 9|getex m persist|del m|set m 1|expire m 0|incr x|exec|multi|set d 1\n\
    discard|watch w|set w 1|multi|set w 2|exec|select 5|set f 1|expire f 0|set a 1 ex 9|flushdb|select 0|set a 1|flushall";

/// The scripts of redis-py's lock and of django-redis' `incr`.
const LUA: [(&str, &[&str]); 5] = [
    (
        "local exists = redis.call('EXISTS', KEYS[1]) if (exists == 1) then return redis.call('INCRBY', KEYS[1], ARGV[1]) \
         else return false end",
        &["1"],
    ),
    ("return redis.call('INCRBY', KEYS[1], ARGV[1])", &["1"]),
    (
        "local token = redis.call('get', KEYS[1]) if not token or token ~= ARGV[1] then return 0 end local expiration = \
         redis.call('pttl', KEYS[1]) if not expiration then expiration = 0 end if expiration < 0 then return 0 end local \
         newttl = ARGV[2] if ARGV[3] == \"0\" then newttl = ARGV[2] + expiration end redis.call('pexpire', KEYS[1], newttl) \
         return 1",
        &["7", "100000", "0"],
    ),
    (
        "local token = redis.call('get', KEYS[1]) if not token or token ~= ARGV[1] then return 0 end \
         redis.call('pexpire', KEYS[1], ARGV[2]) return 1",
        &["7", "100000"],
    ),
    (
        "local token = redis.call('get', KEYS[1]) if not token or token ~= ARGV[1] then return 0 end \
         redis.call('del', KEYS[1]) return 1",
        &["7"],
    ),
];

fn changes() -> Vec<u8> {
    let mut bytes: Vec<u8> =
        CHANGES.split(['|', '\n']).flat_map(|line| format!("{}\r\n", line.trim()).into_bytes()).collect();
    for (script, arguments) in LUA {
        for before in [&["del", "l"][..], &["set", "l", "7", "ex", "100"]] {
            bytes.extend(array(before));
            bytes.extend(array(&[&["eval", script, "1", "l"], arguments].concat()));
        }
    }
    bytes
}

/// Requests with the scripts of histories, whose words hold blanks.
fn history_requests() -> Vec<u8> {
    let read = include_str!("../src/redis/history_read.lua");
    let publish = include_str!("../src/redis/history.lua");
    let mut requests = array(&["xadd", "h", "1-0", "e", "f", "d", "first"]);
    for number in 2..=25 {
        requests.extend(array(&["xadd", "h", &format!("{number}-0"), "d", &"x".repeat(number)]));
    }
    for (after, count, bytes, largest) in [
        ("", "3", "5000", "100"),
        ("", "100", "5000", "100"),
        ("", "100", "250", "24"),
        ("", "25", "5000", "100"),
        ("4-0", "100", "5000", "10"),
        ("4-0", "11", "5000", "100"),
        ("4-0", "100", "3", "100"),
        ("4-5", "100", "150", "100"),
        ("25-0", "100", "150", "100"),
        ("99-0", "100", "150", "100"),
        ("0-0", "1", "150", "100"),
        ("", "0", "150", "100"),
        ("3-18446744073709551615", "2", "150", "100"),
    ] {
        for compares in ["0", "1"] {
            requests.extend(array(&["eval", read, "1", "h", after, count, bytes, largest, compares]));
            requests.extend(array(&["eval", read, "1", "nope", after, count, bytes, largest, compares]));
        }
    }
    requests.extend(array(&["xadd", "h", "maxlen", "=", "3", "26-0", "d", "trimmed"]));
    requests.extend(array(&["eval", read, "1", "h", "4-0", "100", "1000", "100", "1"]));
    for (most, seconds, expire) in [("100", "50", "0"), ("100", "60", "20"), ("1000", "9", "20")] {
        let call = ["2", "s", "plain", most, seconds, expire, "Hello World", "live"];
        requests.extend(array(&[&["eval", publish][..], &call].concat()));
        for request in [&["xlen", "s"][..], &["ttl", "s"], &["get", "plain"], &["ttl", "plain"]] {
            requests.extend(array(request));
        }
    }
    requests
}

#[tokio::test]
async fn the_scripts_of_histories_do_what_redis_does() {
    let pair = StorePair::start().await;
    pair.check(&history_requests()).await;
    pair.check(b"FLUSHALL\r\n").await;
    for join in ["subscribe plain", "psubscribe __key*"] {
        let [redis, embedded] = pair.replies_and_messages(join, &history_requests()).await;
        assert!(redis.contains("Hello World") && redis.contains("xadd") == join.contains("key"), "{redis}");
        assert_eq!(embedded, redis, "left: embedded, right: redis");
        pair.check(b"FLUSHALL\r\n").await;
    }
}

#[tokio::test]
async fn messages_and_keyspace_events_are_those_of_redis() {
    let pair = StorePair::start().await;
    let by_name = "subscribe __keyspace@0__:a __keyevent@0__:del __keyspace@5__:a";
    for join in ["psubscribe __key*", by_name, "subscribe __keyspace@0__:m", "psubscribe *:a"] {
        for hello in ["", "hello 3\r\n"] {
            let [redis, embedded] =
                pair.replies_and_messages(&format!("{hello}{join}\r\nsubscribe news"), &changes()).await;
            assert!(redis.contains("expire") && redis.contains("hello"), "{redis}");
            assert_eq!(embedded, redis, "left: embedded, right: redis");
        }
    }
}

#[tokio::test]
async fn events_of_random_scripts_are_those_of_redis() {
    let pair = StorePair::start().await;
    for seed in 0..500 {
        let lines = random_script(seed);
        let bytes = format!("FLUSHALL\r\n{}\r\n", lines.join("\r\n"));
        let [redis, embedded] = pair.replies_and_messages("psubscribe __key*", bytes.as_bytes()).await;
        assert_eq!(embedded, redis, "left: embedded, right: redis; seed {seed}\n{}", lines.join("\n"));
    }
}

#[tokio::test]
async fn an_expired_key_that_is_not_read_is_published_exactly_once() {
    let pair = StorePair::start().await;
    let mut received = Vec::new();
    for (mut listener, mut actor) in pair.connect().await.into_iter().zip(pair.connect().await) {
        listener.write_all(b"subscribe __keyspace@0__:a\r\n").await.unwrap();
        let mut output = until(&mut listener, b":1\r\n").await;
        actor.write_all(b"psetex a 50 v\r\n").await.unwrap();
        output.extend(until(&mut listener, b"expired\r\n").await);
        output.extend(exchange(&mut actor, b"get a\r\n").await);
        output.extend(exchange(&mut listener, b"").await);
        received.push(normalized(&output));
    }
    assert_eq!(received[1], received[0], "left: embedded, right: redis");
}

#[tokio::test]
async fn a_key_expires_within_a_second_without_being_read() {
    let embedded = EmbeddedStore::start(StoreLimits::default());
    let mut stream: Box<dyn ByteStream> = Box::new(embedded.connect().await);
    stream.write_all(b"hello 3\r\nsubscribe __keyevent@0__:expired\r\npsetex k 50 v\r\n").await.unwrap();
    let received = timeout(Duration::from_millis(1_500), until(&mut stream, b"expired\r\n$1\r\nk\r\n"));
    received.await.unwrap();
}

#[tokio::test]
async fn a_full_store_refuses_writes_and_still_reads_and_deletes() {
    let embedded = EmbeddedStore::start(StoreLimits { max_memory_bytes: 10_000, ..StoreLimits::default() });
    let mut stream: Box<dyn ByteStream> = Box::new(embedded.connect().await);
    let big = "x".repeat(6_000);
    let output = format!("set a {big}\r\nset b {big}\r\nstrlen a\r\ndel a\r\nset b {big}\r\n");
    let output = exchange(&mut stream, output.as_bytes()).await;
    let expected =
        "+OK\r\n-OOM command not allowed when used memory > 'maxmemory'.\r\n:6000\r\n:1\r\n+OK\r\n+OK\r\n";
    assert_eq!(String::from_utf8_lossy(&output), expected);
}

#[tokio::test]
async fn a_slow_subscriber_is_disconnected_and_others_receive_everything() {
    let embedded = EmbeddedStore::start(StoreLimits { max_output_bytes: 1 << 20, ..StoreLimits::default() });
    let mut slow: Box<dyn ByteStream> = Box::new(embedded.connect().await);
    let mut fast: Box<dyn ByteStream> = Box::new(embedded.connect().await);
    for stream in [&mut slow, &mut fast] {
        stream.write_all(b"subscribe news\r\n").await.unwrap();
        until(stream, b":1\r\n").await;
    }
    let mut publisher: Box<dyn ByteStream> = Box::new(embedded.connect().await);
    let message = array(&["publish", "news", &"m".repeat(100_000)]);
    let mut received = 0;
    for _ in 0..300 {
        publisher.write_all(&message).await.unwrap();
        until(&mut publisher, b"\r\n").await;
        until(&mut fast, b"m\r\n").await;
        received += 1;
    }
    assert_eq!(received, 300);
    publisher.write_all(b"pubsub numsub news\r\n").await.unwrap();
    until(&mut publisher, b"news\r\n:1\r\n").await;
    assert!(
        read_to_end(&mut slow).await.len() < 20_000_000,
        "it receives what the socket buffers hold, then the end"
    );
}

#[tokio::test]
async fn a_reply_above_the_limit_disconnects_only_its_client() {
    let embedded = EmbeddedStore::start(StoreLimits { max_output_bytes: 1 << 20, ..StoreLimits::default() });
    let mut greedy: Box<dyn ByteStream> = Box::new(embedded.connect().await);
    greedy.write_all(&array(&["set", "big", &"x".repeat(100_000)])).await.unwrap();
    until(&mut greedy, b"+OK\r\n").await;
    let many: Vec<&str> = ["mget"].into_iter().chain(std::iter::repeat_n("big", 1_000)).collect();
    assert_eq!(exchange(&mut greedy, &array(&many)).await, b"");
    let mut other: Box<dyn ByteStream> = Box::new(embedded.connect().await);
    assert_eq!(exchange(&mut other, b"ping\r\n").await, b"+PONG\r\n+OK\r\n");
}

#[tokio::test]
async fn a_long_pipeline_is_answered_completely_even_if_read_late() {
    let embedded = EmbeddedStore::start(StoreLimits::default());
    let mut stream: Box<dyn ByteStream> = Box::new(embedded.connect().await);
    let value = "v".repeat(10_000);
    let request = [array(&["set", "k", &value]), array(&["get", "k"]).repeat(2_000)].concat();
    let output = exchange(&mut stream, &request).await;
    assert_eq!(output.len(), 5 + 2_000 * (8 + 10_002) + 5);
}

#[tokio::test]
async fn more_clients_than_allowed_are_refused_with_a_reason() {
    let embedded = EmbeddedStore::start(StoreLimits { max_clients: 1, ..StoreLimits::default() });
    let mut first: Box<dyn ByteStream> = Box::new(embedded.connect().await);
    first.write_all(b"ping\r\n").await.unwrap();
    until(&mut first, b"+PONG\r\n").await;
    let mut second: Box<dyn ByteStream> = Box::new(embedded.connect().await);
    assert_eq!(read_to_end(&mut second).await, b"-ERR max number of clients reached\r\n");
}

#[tokio::test]
async fn other_addresses_than_loopback_are_refused() {
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let error = serve(listener, StoreLimits::default(), None, std::future::pending()).await.unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("the embedded store listens on loopback addresses only, not on 0.0.0.0:")
    );
}

async fn until(stream: &mut Box<dyn ByteStream>, end: &[u8]) -> Vec<u8> {
    let mut output = Vec::new();
    let read = async {
        let mut chunk = vec![0; 65_536];
        while !output.ends_with(end) {
            let bytes = stream.read(&mut chunk).await.unwrap();
            assert!(bytes > 0, "the stream ended after {}", output.escape_ascii());
            output.extend_from_slice(&chunk[..bytes]);
        }
    };
    timeout(DEADLINE, read).await.unwrap();
    output
}
