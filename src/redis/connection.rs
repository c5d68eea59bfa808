//! A connection to a Redis. What goes over it costs a tenth of what it does by fred, of which only the types are used.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use fred::prelude::Config;
use fred::types::config::{Server, ServerConfig, TlsConnector};
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_util::io::poll_read_buf;

use super::discovery::Spot;
use super::error_reply::is_usable;
use super::reply_value::Answer;
use super::resp::{self, Malformed, Token};
use super::target::{Target, describe_text};

/// Replies do not belong to what was asked.
pub(crate) const OUT_OF_STEP: &str = "replies out of step";

/// Bytes of one read.
const READ_BYTES: usize = 64 * 1024;

/// Largest buffer that is kept while it is empty.
const MAX_KEPT: usize = 4 * READ_BYTES;

/// After this silence the kernel asks whether the other end is still there, and how often.
const KEEPALIVE: Duration = Duration::from_secs(10);
const PROBES: u32 = 3;

/// Said of a server to which nothing can be published.
pub(crate) const IS_REPLICA: &str = "it is a replica, not the master";

/// Longest name of a channel that is taken in, however short messages have to be. Clients choose names, but within the
/// head of a request.
const MAX_NAME: usize = 1 << 20;

trait Socket: AsyncRead + AsyncWrite + Unpin {}

impl<S: AsyncRead + AsyncWrite + Unpin> Socket for S {}

/// A connection, what has come on it and was not read yet, and what is to be written.
pub(crate) struct RedisConnection {
    socket: Box<dyn Socket>,
    spot: Spot,
    incoming: BytesMut,
    /// Bytes of a value that is too large, which are still to come and nobody wants.
    unwanted: usize,
    outgoing: BytesMut,
    max_bytes: usize,
}

impl RedisConnection {
    /// Connects to a server that takes everything. Values larger than `max_bytes` are not taken in.
    ///
    /// # Errors
    ///
    /// With a description; also where that server is a replica.
    pub(crate) async fn dial(target: &Target, spot: Spot, max_bytes: usize) -> Result<Self, String> {
        let (mut connection, is_replica) = Self::greet(target, spot, max_bytes).await?;
        // A replica counts a publication as done, and passes it on to nobody.
        if is_replica && !target.is_cluster() {
            return Err(IS_REPLICA.to_owned());
        }
        if let Some(database) = target.config().database.filter(|database| *database != 0) {
            connection.ask(&["SELECT", &database.to_string()]).await?;
        }
        connection.check().await?;
        Ok(connection)
    }

    /// Redis says only now that it loads its data, wants a password or has too many clients already.
    async fn check(&mut self) -> Result<(), String> {
        match self.ask(&["PING"]).await {
            Err(reason) if !is_usable(&reason) => Err(reason),
            _ => Ok(()),
        }
    }

    /// Connects to a node of a cluster, whatever it is there.
    ///
    /// # Errors
    ///
    /// With a description.
    pub(crate) async fn dial_node(target: &Target, node: Server, max_bytes: usize) -> Result<Self, String> {
        let spot = Spot { server: node, term: target.discovery().term() };
        let (mut connection, _) = Self::greet(target, spot, max_bytes).await?;
        connection.check().await?;
        Ok(connection)
    }

    /// Connects and logs in. Returns whether the server is a replica, too: no ACL forbids HELLO, which tells it.
    async fn greet(target: &Target, spot: Spot, max_bytes: usize) -> Result<(Self, bool), String> {
        let config = target.config();
        let (user, password) = (config.username.as_deref(), config.password.as_deref());
        let mut connection = Self::open_at(config, spot, user, password, max_bytes).await?;
        let greeting = connection.call(&["HELLO", "2"]).await?;
        match is_replica(&greeting) {
            Ok(is_replica) => Ok((connection, is_replica)),
            Err(reason) => Err(reason),
        }
    }

    /// Connects to any server that speaks RESP2, a sentinel too, and logs in there.
    ///
    /// # Errors
    ///
    /// With a description.
    pub(crate) async fn open(
        config: &Config,
        server: Server,
        user: Option<&str>,
        password: Option<&str>,
        max_bytes: usize,
    ) -> Result<Self, String> {
        Self::open_at(config, Spot { server, term: 0 }, user, password, max_bytes).await
    }

    async fn open_at(
        config: &Config,
        spot: Spot,
        user: Option<&str>,
        password: Option<&str>,
        max_bytes: usize,
    ) -> Result<Self, String> {
        let socket = socket(config, &spot.server).await.map_err(|error| error.to_string())?;
        let (incoming, outgoing) = (BytesMut::new(), BytesMut::new());
        let mut connection = Self { socket, spot, incoming, unwanted: 0, outgoing, max_bytes };
        if let Some(password) = password {
            let words: Vec<_> = ["AUTH"].into_iter().chain(user).chain([password]).collect();
            connection.ask(&words).await?;
        }
        Ok(connection)
    }

    /// Gives a command that is answered with a status.
    async fn ask(&mut self, words: &[&str]) -> Result<(), String> {
        match self.call(words).await? {
            Answer::Text(_) => Ok(()),
            Answer::Error(text) => Err(describe_text(&text)),
            _ => Err(OUT_OF_STEP.to_owned()),
        }
    }

    /// Gives a command and returns the reply, on a connection on which nothing else is said meanwhile.
    ///
    /// # Errors
    ///
    /// When the connection is lost. An error of Redis' is a reply.
    pub(crate) async fn call(&mut self, words: &[&str]) -> Result<Answer, String> {
        let arguments: Vec<_> = words[1..].iter().map(|word| word.as_bytes()).collect();
        self.command(words[0], &arguments);
        poll_fn(|cx| self.poll_write(cx)).await?;
        loop {
            let answer = Answer::read(&self.incoming, 0).map_err(|error| error.to_string())?;
            if let Some((answer, used)) = answer {
                self.incoming.advance(used);
                // Whatever came too much would be taken for the answer to the next question, and of somebody else.
                return if self.incoming.is_empty() { Ok(answer) } else { Err(OUT_OF_STEP.to_owned()) };
            }
            poll_fn(|cx| self.poll_read(cx)).await?;
        }
    }

    /// Where it leads to.
    pub(crate) fn server(&self) -> &Server {
        &self.spot.server
    }

    /// Where it leads to, and since which term.
    pub(crate) fn spot(&self) -> &Spot {
        &self.spot
    }

    /// Puts a command behind those that are to be written.
    pub(crate) fn command(&mut self, name: &str, arguments: &[&[u8]]) {
        resp::encode(&mut self.outgoing, name, arguments);
    }

    /// Puts commands behind those that are to be written.
    pub(crate) fn commands(&mut self, encoded: BytesMut) {
        if self.outgoing.is_empty() {
            self.outgoing = encoded;
        } else {
            self.outgoing.extend_from_slice(&encoded);
        }
    }

    /// Reads the piece at `start` of what has come.
    pub(crate) fn token(&self, start: usize) -> Result<Option<(Token, usize)>, Malformed> {
        self.token_up_to(start, self.max_bytes)
    }

    /// Reads the piece at `start` of what has come: a word, or a name, which is no shorter where messages are.
    pub(crate) fn word(&self, start: usize) -> Result<Option<(Token, usize)>, Malformed> {
        self.token_up_to(start, self.max_bytes.max(MAX_NAME))
    }

    fn token_up_to(&self, start: usize, max_bytes: usize) -> Result<Option<(Token, usize)>, Malformed> {
        if self.unwanted > 0 { Ok(None) } else { resp::token(&self.incoming, start, max_bytes) }
    }

    /// What has come.
    pub(crate) fn incoming(&mut self) -> &mut BytesMut {
        &mut self.incoming
    }

    /// Lets go of a value that is too large, whose bytes follow.
    pub(crate) fn pass_over(&mut self, length: usize) {
        self.unwanted = length + 2;
        self.drop_unwanted();
    }

    fn drop_unwanted(&mut self) {
        let dropped = self.unwanted.min(self.incoming.len());
        self.incoming.advance(dropped);
        self.unwanted -= dropped;
    }

    /// Writes as much as the other end takes. Ready when all is written.
    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), String>> {
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
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), String>> {
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

/// Tells by the reply to HELLO whether a server is a replica.
///
/// # Errors
///
/// With the text of an error reply, or when it is the reply to something else.
pub(crate) fn is_replica(greeting: &Answer) -> Result<bool, String> {
    match greeting {
        Answer::Error(text) => Err(describe_text(text)),
        Answer::List(_) => {
            let role = greeting.field("role").and_then(Answer::text);
            Ok(matches!(role, Some("replica" | "slave")))
        }
        _ => Err(OUT_OF_STEP.to_owned()),
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
