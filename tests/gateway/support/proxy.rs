//! A TCP proxy between gateway and Redis that can hold and cut each direction of each connection.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use super::RedisServer;

/// Ports for proxies.
const PORTS: std::ops::Range<u16> = 17500..17700;

/// Occurs only in PINGs of the broker, which are the first commands on the subscription connection.
const FENCE: &[u8] = b"fence ";

/// What happens to a connection on which the gateway sends a matching command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Forwards the command, but no replies from then on.
    HoldReplies,
    /// Forwards nothing to Redis from this command on.
    HoldCommands,
    /// Forwards the command and cuts the connection at the first byte of a reply.
    CutReply,
}

/// Selects connections of the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The subscription connection.
    Subscriber,
    /// The connections that read and publish.
    Store,
}

/// A proxy in front of a Redis.
pub struct Proxy {
    port: u16,
    state: Arc<ProxyState>,
}

struct ProxyState {
    redis_port: u16,
    links: Mutex<Vec<Arc<ProxyLink>>>,
    rules: Mutex<Vec<FaultRule>>,
    refusing: AtomicBool,
    refused: AtomicUsize,
}

struct FaultRule {
    word: Vec<u8>,
    fault: Fault,
    hits: usize,
}

/// One proxied connection.
struct ProxyLink {
    gateway: TcpStream,
    redis: TcpStream,
    subscribes: AtomicBool,
    commands: Gate,
    replies: Gate,
    cuts_reply: AtomicBool,
}

#[derive(Default)]
struct Gate {
    closed: Mutex<bool>,
    changed: Condvar,
}

impl Gate {
    fn set(&self, closed: bool) {
        *self.closed.lock().unwrap() = closed;
        self.changed.notify_all();
    }

    fn pass(&self) {
        drop(self.changed.wait_while(self.closed.lock().unwrap(), |closed| *closed).unwrap());
    }
}

impl Proxy {
    /// Starts a proxy in front of this Redis.
    pub fn to(redis: &RedisServer) -> Self {
        Self::to_port(redis.port())
    }

    /// Starts a proxy in front of the Redis on this port.
    pub fn to_port(redis_port: u16) -> Self {
        static TURN: AtomicU16 = AtomicU16::new(0);
        let size = PORTS.end - PORTS.start;
        let first = u16::try_from(std::process::id() % u32::from(size)).unwrap();
        let free = (0..size).find_map(|_| {
            let turn = TURN.fetch_add(1, Ordering::Relaxed);
            TcpListener::bind(("127.0.0.1", PORTS.start + first.wrapping_add(turn) % size)).ok()
        });
        let listener = free.expect("a free port for a proxy");
        let port = listener.local_addr().unwrap().port();
        let (links, rules) = (Mutex::default(), Mutex::default());
        let state = Arc::new(ProxyState {
            redis_port,
            links,
            rules,
            refusing: AtomicBool::new(false),
            refused: AtomicUsize::new(0),
        });
        let accepting = state.clone();
        thread::spawn(move || {
            for gateway in listener.incoming() {
                accepting.open_link(gateway.unwrap());
            }
        });
        Self { port, state }
    }

    /// Returns the URL for the gateway.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Injects a fault on every connection on which a command contains `word`, until [`Self::release`].
    pub fn inject(&self, word: &str, fault: Fault) {
        let rule = FaultRule { word: word.into(), fault, hits: 0 };
        self.state.rules.lock().unwrap().push(rule);
    }

    /// Waits until a command has triggered the fault for `word`.
    #[track_caller]
    pub fn expect_hit(&self, word: &str) -> impl Future<Output = ()> {
        super::eventually("a command that triggers a fault", move || {
            let rules = self.state.rules.lock().unwrap();
            rules.iter().any(|rule| rule.word == word.as_bytes() && rule.hits > 0).then_some(())
        })
    }

    /// Holds the replies on these connections.
    pub fn hold_replies(&self, side: Side) {
        self.each(side, |link| link.replies.set(true));
    }

    /// Holds the commands on these connections.
    pub fn hold_commands(&self, side: Side) {
        self.each(side, |link| link.commands.set(true));
    }

    /// Removes all faults and forwards the held bytes.
    pub fn release(&self) {
        self.state.rules.lock().unwrap().clear();
        for link in self.state.links.lock().unwrap().iter() {
            link.commands.set(false);
            link.replies.set(false);
        }
    }

    /// Forwards the held bytes of one side only; the faults stay.
    pub fn release_side(&self, side: Side) {
        self.each(side, |link| {
            link.commands.set(false);
            link.replies.set(false);
        });
    }

    /// Cuts these connections; held bytes are lost.
    pub fn cut(&self, side: Side) {
        self.each(side, ProxyLink::cut);
    }

    /// Cuts all connections and refuses new ones until [`Self::accept`]. Returns after the gateway has tried to reconnect.
    pub async fn refuse(&self) {
        self.state.refusing.store(true, Ordering::Relaxed);
        for side in [Side::Store, Side::Subscriber] {
            let links = self.state.links.lock().unwrap().len();
            let before = self.state.refused.load(Ordering::Relaxed);
            self.cut(side);
            super::eventually("a reconnect attempt", || {
                (links == 0 || self.state.refused.load(Ordering::Relaxed) > before).then_some(())
            })
            .await;
        }
    }

    /// Accepts connections again.
    pub fn accept(&self) {
        self.state.refusing.store(false, Ordering::Relaxed);
    }

    fn each(&self, side: Side, action: impl Fn(&ProxyLink)) {
        let links = self.state.links.lock().unwrap();
        let of_side =
            |link: &&Arc<ProxyLink>| link.subscribes.load(Ordering::Relaxed) == (side == Side::Subscriber);
        links.iter().filter(of_side).for_each(|link| action(link));
    }
}

impl ProxyState {
    fn open_link(self: &Arc<Self>, gateway: TcpStream) {
        if self.refusing.load(Ordering::Relaxed) {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let Ok(redis) = TcpStream::connect(("127.0.0.1", self.redis_port)) else { return };
        gateway.set_nodelay(true).unwrap();
        redis.set_nodelay(true).unwrap();
        let link = Arc::new(ProxyLink {
            gateway,
            redis,
            subscribes: AtomicBool::new(false),
            commands: Gate::default(),
            replies: Gate::default(),
            cuts_reply: AtomicBool::new(false),
        });
        self.links.lock().unwrap().push(link.clone());
        let (state, upward) = (self.clone(), link.clone());
        thread::spawn(move || {
            upward.pump(&upward.gateway, &upward.redis, |bytes| {
                state.apply_rules(&upward, bytes);
                upward.commands.pass();
            });
        });
        thread::spawn(move || {
            link.pump(&link.redis, &link.gateway, |_| {
                if link.cuts_reply.load(Ordering::Relaxed) {
                    link.cut();
                }
                link.replies.pass();
            });
        });
    }

    fn apply_rules(&self, link: &ProxyLink, bytes: &[u8]) {
        let holds = |word: &[u8]| bytes.windows(word.len()).any(|part| part == word);
        if holds(FENCE) {
            link.subscribes.store(true, Ordering::Relaxed);
        }
        for rule in self.rules.lock().unwrap().iter_mut().filter(|rule| holds(&rule.word)) {
            match rule.fault {
                Fault::HoldReplies => link.replies.set(true),
                Fault::HoldCommands => link.commands.set(true),
                Fault::CutReply => link.cuts_reply.store(true, Ordering::Relaxed),
            }
            rule.hits += 1;
        }
    }
}

impl ProxyLink {
    fn pump(&self, mut from: &TcpStream, mut to: &TcpStream, before: impl Fn(&[u8])) {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            before(&buffer[..count]);
            if to.write_all(&buffer[..count]).is_err() {
                break;
            }
        }
        self.cut();
    }

    fn cut(&self) {
        // An error means that this end has closed already.
        let _ = self.gateway.shutdown(Shutdown::Both);
        let _ = self.redis.shutdown(Shutdown::Both);
        self.commands.set(false);
        self.replies.set(false);
    }
}
