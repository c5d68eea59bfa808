//! A connection of our own to the Redis that fred has found: what goes over it costs a tenth of what it does by fred,
//! who finds the server, by Sentinel too, and waits for it.

use std::future::{pending, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use fred::prelude::*;
use fred::types::config::{ServerConfig, TlsConnector};
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::sleep;
use tokio_util::io::poll_read_buf;

use super::connect::{Target, describe_text};
use super::resp::{self, Malformed, Token};

/// Replies do not belong to what was asked.
pub(super) const OUT_OF_STEP: &str = "replies out of step";

/// Bytes of one read.
const READ_BYTES: usize = 64 * 1024;

/// Largest buffer that is kept while it is empty.
const MAX_KEPT: usize = 4 * READ_BYTES;

/// After this silence the kernel asks whether the other end is still there, and how often.
const KEEPALIVE: Duration = Duration::from_secs(10);
const PROBES: u32 = 3;

/// How often is looked whether fred is connected, where its own wait ends without.
const LOOK: Duration = Duration::from_millis(100);

/// Longest name of a channel that is taken in, however short messages have to be. Clients choose names, but within the
/// head of a request.
const MAX_NAME: usize = 1 << 20;

trait Socket: AsyncRead + AsyncWrite + Unpin {}

impl<S: AsyncRead + AsyncWrite + Unpin> Socket for S {}

/// A connection, what has come on it and was not read yet, and what is to be written.
pub(super) struct Line {
    socket: Box<dyn Socket>,
    server: Server,
    incoming: BytesMut,
    /// Bytes of a value that is too large, which are still to come and nobody wants.
    unwanted: usize,
    outgoing: BytesMut,
    max_bytes: usize,
}

impl Line {
    /// Connects to where `scout` is connected. Values larger than `max_bytes` are not taken in.
    ///
    /// # Errors
    ///
    /// With a description.
    pub(super) async fn dial(target: &Target, scout: &Client, max_bytes: usize) -> Result<Self, String> {
        let config = target.config();
        let server = server_of(config, scout).ok_or("connection closed")?;
        let socket = socket(config, &server).await.map_err(|error| error.to_string())?;
        let (incoming, outgoing) = (BytesMut::new(), BytesMut::new());
        let mut line = Self { socket, server, incoming, unwanted: 0, outgoing, max_bytes };
        if let Some(password) = &config.password {
            let user = config.username.iter().map(String::as_str);
            let words: Vec<_> = ["AUTH"].into_iter().chain(user).chain([password.as_str()]).collect();
            line.ask(&words).await?;
        }
        if let Some(database) = config.database.filter(|database| *database != 0) {
            line.ask(&["SELECT", &database.to_string()]).await?;
        }
        // Redis says only now that it loads its data, wants a password or has too many clients already.
        match line.ask(&["PING"]).await {
            Err(reason) if !reason.starts_with("NOPERM") => Err(reason),
            _ => Ok(line),
        }
    }

    /// Gives a command that is answered with a status.
    async fn ask(&mut self, words: &[&str]) -> Result<(), String> {
        let arguments: Vec<_> = words[1..].iter().map(|word| word.as_bytes()).collect();
        self.command(words[0], &arguments);
        poll_fn(|cx| self.poll_write(cx)).await?;
        loop {
            if let Some((token, used)) = self.token(0).map_err(|error| error.to_string())? {
                let answer = match token {
                    Token::Status(_) => Ok(()),
                    Token::Error(text) => Err(describe_text(&String::from_utf8_lossy(&self.incoming[text]))),
                    _ => Err(OUT_OF_STEP.to_owned()),
                };
                self.incoming.advance(used);
                // Whatever came too much would be taken for the answer to the next question, and of somebody else.
                return if self.incoming.is_empty() { answer } else { Err(OUT_OF_STEP.to_owned()) };
            }
            poll_fn(|cx| self.poll_read(cx)).await?;
        }
    }

    /// Where it leads to.
    pub(super) fn server(&self) -> &Server {
        &self.server
    }

    /// Puts a command behind those that are to be written.
    pub(super) fn command(&mut self, name: &str, arguments: &[&[u8]]) {
        resp::encode(&mut self.outgoing, name, arguments);
    }

    /// Puts commands behind those that are to be written.
    pub(super) fn commands(&mut self, encoded: BytesMut) {
        if self.outgoing.is_empty() {
            self.outgoing = encoded;
        } else {
            self.outgoing.extend_from_slice(&encoded);
        }
    }

    /// Reads the piece at `start` of what has come.
    pub(super) fn token(&self, start: usize) -> Result<Option<(Token, usize)>, Malformed> {
        self.token_up_to(start, self.max_bytes)
    }

    /// Reads the piece at `start` of what has come: a word, or a name, which is no shorter where messages are.
    pub(super) fn word(&self, start: usize) -> Result<Option<(Token, usize)>, Malformed> {
        self.token_up_to(start, self.max_bytes.max(MAX_NAME))
    }

    fn token_up_to(&self, start: usize, max_bytes: usize) -> Result<Option<(Token, usize)>, Malformed> {
        if self.unwanted > 0 { Ok(None) } else { resp::token(&self.incoming, start, max_bytes) }
    }

    /// What has come.
    pub(super) fn incoming(&mut self) -> &mut BytesMut {
        &mut self.incoming
    }

    /// Lets go of a value that is too large, whose bytes follow.
    pub(super) fn pass_over(&mut self, length: usize) {
        self.unwanted = length + 2;
        self.drop_unwanted();
    }

    fn drop_unwanted(&mut self) {
        let dropped = self.unwanted.min(self.incoming.len());
        self.incoming.advance(dropped);
        self.unwanted -= dropped;
    }

    /// Writes as much as the other end takes. Ready when all is written.
    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), String>> {
        if self.outgoing.is_empty() {
            return Poll::Ready(Ok(()));
        }
        while !self.outgoing.is_empty() {
            match ready!(Pin::new(&mut self.socket).poll_write(cx, &self.outgoing)) {
                Ok(0) => return Poll::Ready(Err("connection closed".to_owned())),
                Ok(written) => self.outgoing.advance(written),
                Err(error) => return Poll::Ready(Err(error.to_string())),
            }
        }
        // TLS may hold something back.
        Pin::new(&mut self.socket).poll_flush(cx).map_err(|error| error.to_string())
    }

    /// Reads once. Ready when something has come.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), String>> {
        // What a large value took is given back.
        if self.incoming.is_empty() && self.incoming.capacity() > MAX_KEPT {
            self.incoming = BytesMut::new();
        }
        // Grows with what comes, not with what is announced.
        self.incoming.reserve(READ_BYTES);
        match ready!(poll_read_buf(Pin::new(&mut self.socket), cx, &mut self.incoming)) {
            Ok(0) => Poll::Ready(Err("connection closed".to_owned())),
            Ok(_) => {
                self.drop_unwanted();
                Poll::Ready(Ok(()))
            }
            Err(error) => Poll::Ready(Err(error.to_string())),
        }
    }
}

/// Waits until fred is connected with another server than that. Not for clusters: fred tells of each of their nodes.
pub(super) async fn moved(moves: &mut Receiver<Server>, from: &Server) {
    loop {
        match moves.recv().await {
            Ok(server) if server != *from => return,
            Ok(_) | Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => pending().await,
        }
    }
}

/// Tells whether fred has left this node of a cluster, which may go on without it. As far as fred knows its nodes.
pub(super) fn has_left(scout: &Client, node: &Server) -> bool {
    let connected = scout.active_connections();
    !connected.is_empty() && !connected.contains(node)
}

/// Waits until the scout is connected. An attempt of fred's that fails ends fred's own wait.
pub(super) async fn until_connected(scout: &Client) {
    while scout.wait_for_connect().await.is_err() {
        sleep(LOOK).await;
    }
}

/// Returns where the scout is connected; in a cluster to any of its nodes, for each passes all messages on.
///
/// fred's list of connections has only those of which it knows a `CLIENT ID`, which Redis may refuse to tell.
fn server_of(config: &Config, scout: &Client) -> Option<Server> {
    match &config.server {
        ServerConfig::Sentinel { .. } => scout.sentinel_primary(),
        ServerConfig::Clustered { hosts, .. } => {
            let connected = scout.active_connections();
            let nodes = if connected.is_empty() { hosts } else { &connected };
            // By chance: one that is dead may be among them for a while.
            nodes.get(rand::random_range(0..nodes.len().max(1))).cloned()
        }
        here => here.hosts().into_iter().next(),
    }
}

/// Returns the host as a name or an address: URLs, and fred, have IPv6 addresses in brackets.
fn bare(host: &str) -> &str {
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

async fn socket(config: &Config, server: &Server) -> io::Result<Box<dyn Socket>> {
    if let ServerConfig::Unix { path } = &config.server {
        return Ok(Box::new(UnixStream::connect(path).await?));
    }
    let tcp = TcpStream::connect((bare(&server.host), server.port)).await?;
    tcp.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE).with_retries(PROBES);
    SockRef::from(&tcp).set_tcp_keepalive(&keepalive)?;
    let Some(TlsConnector::Rustls(connector)) = config.tls.as_ref().map(|tls| &tls.connector) else {
        return Ok(Box::new(tcp));
    };
    let name = server.tls_server_name.as_ref().unwrap_or(&server.host).to_string();
    let name = ServerName::try_from(bare(&name).to_owned()).map_err(io::Error::other)?;
    Ok(Box::new(connector.connect(name, tcp).await?))
}
