//! One connection to a Redis server: dialing, login, and buffered reads and writes of RESP2.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_util::io::poll_read_buf;

use super::address::{ConnectOptions, ServerAddress};
use super::discovery::Endpoint;
use super::error_reply::{describe_text, is_usable};
use super::reply_value::ReplyValue;
use crate::codec::resp::{self, NotResp, RespToken};
use crate::settings::Servers;

/// Error: a reply arrived that no command is waiting for.
pub(crate) const OUT_OF_SYNC: &str = "replies out of step";

/// Bytes reserved for each read.
const READ_BYTES: usize = 64 * 1024;

/// A larger input buffer is freed when it is empty.
const MAX_KEPT: usize = 4 * READ_BYTES;

/// TCP keepalive: idle time before the first probe, interval between probes, and number of probes.
const KEEPALIVE: Duration = Duration::from_secs(10);
const PROBES: u32 = 3;

/// Error: publications to a replica reach no subscriber of the master.
pub(crate) const IS_REPLICA: &str = "it is a replica, not the master";

/// Longest channel name that is read, even if `max_bytes` is less. Clients choose names, but within the request
/// head's limit.
const MAX_NAME: usize = 1 << 20;

trait Socket: AsyncRead + AsyncWrite + Unpin {}

impl<S: AsyncRead + AsyncWrite + Unpin> Socket for S {}

/// A connection with its input and output buffers.
pub(crate) struct RedisConnection {
    socket: Box<dyn Socket>,
    endpoint: Endpoint,
    incoming: BytesMut,
    /// Remaining bytes of an oversized value, to be discarded as they arrive.
    to_discard: usize,
    outgoing: BytesMut,
    max_bytes: usize,
}

impl RedisConnection {
    /// Connects to the master. Values larger than `max_bytes` are discarded.
    ///
    /// # Errors
    ///
    /// With a description; also if that server is a replica.
    pub(crate) async fn dial(
        options: &ConnectOptions,
        endpoint: Endpoint,
        max_bytes: usize,
    ) -> Result<Self, String> {
        let (mut connection, is_replica) = Self::greet(options, endpoint, max_bytes).await?;
        // A replica accepts PUBLISH, but the message reaches no subscriber of the master.
        if is_replica && !options.is_cluster() {
            return Err(IS_REPLICA.to_owned());
        }
        // Without a SELECT of database 0, which the ACL may forbid.
        if options.url.database != 0 {
            connection.ask(&["SELECT", &options.url.database.to_string()]).await?;
        }
        connection.check().await?;
        Ok(connection)
    }

    /// Verifies that commands are accepted: while loading, without login, or at maxclients Redis refuses PING.
    async fn check(&mut self) -> Result<(), String> {
        match self.ask(&["PING"]).await {
            Err(reason) if !is_usable(&reason) => Err(reason),
            _ => Ok(()),
        }
    }

    /// Connects to a node of a cluster, master or replica.
    ///
    /// # Errors
    ///
    /// With a description.
    pub(crate) async fn dial_node(
        options: &ConnectOptions,
        endpoint: Endpoint,
        max_bytes: usize,
    ) -> Result<Self, String> {
        let (mut connection, _) = Self::greet(options, endpoint, max_bytes).await?;
        connection.check().await?;
        Ok(connection)
    }

    /// Connects and logs in. Returns whether the server is a replica: HELLO reports the role, and no ACL forbids it.
    async fn greet(
        options: &ConnectOptions,
        endpoint: Endpoint,
        max_bytes: usize,
    ) -> Result<(Self, bool), String> {
        let (user, password) = (options.url.username.as_deref(), options.url.password.as_deref());
        let mut connection = Self::open_at(options, endpoint, user, password, max_bytes).await?;
        let greeting = connection.call(&["HELLO", "2"]).await?;
        match is_replica(&greeting) {
            Ok(is_replica) => Ok((connection, is_replica)),
            Err(reason) => Err(reason),
        }
    }

    /// Connects to any server that speaks RESP2, including sentinels, and logs in.
    ///
    /// # Errors
    ///
    /// With a description.
    pub(crate) async fn open(
        options: &ConnectOptions,
        server: ServerAddress,
        user: Option<&str>,
        password: Option<&str>,
        max_bytes: usize,
    ) -> Result<Self, String> {
        Self::open_at(options, Endpoint { server, term: 0 }, user, password, max_bytes).await
    }

    async fn open_at(
        options: &ConnectOptions,
        endpoint: Endpoint,
        user: Option<&str>,
        password: Option<&str>,
        max_bytes: usize,
    ) -> Result<Self, String> {
        let socket = socket(options, &endpoint.server).await.map_err(|error| error.to_string())?;
        let (incoming, outgoing) = (BytesMut::new(), BytesMut::new());
        let mut connection = Self { socket, endpoint, incoming, to_discard: 0, outgoing, max_bytes };
        if let Some(password) = password {
            let words: Vec<_> = ["AUTH"].into_iter().chain(user).chain([password]).collect();
            connection.ask(&words).await?;
        }
        Ok(connection)
    }

    /// Sends a command whose reply must be a status.
    async fn ask(&mut self, words: &[&str]) -> Result<(), String> {
        match self.call(words).await? {
            ReplyValue::Text(_) => Ok(()),
            ReplyValue::Error(text) => Err(describe_text(&text)),
            _ => Err(OUT_OF_SYNC.to_owned()),
        }
    }

    /// Sends a command and returns its reply. Nothing else may be in flight on this connection.
    ///
    /// # Errors
    ///
    /// When the connection is lost. An error reply is returned as a reply.
    pub(crate) async fn call(&mut self, words: &[&str]) -> Result<ReplyValue, String> {
        let arguments: Vec<_> = words[1..].iter().map(|word| word.as_bytes()).collect();
        self.command(words[0], &arguments);
        poll_fn(|cx| self.poll_write(cx)).await?;
        loop {
            let answer = ReplyValue::read(&self.incoming, 0).map_err(|error| error.to_string())?;
            if let Some((answer, used)) = answer {
                self.incoming.advance(used);
                // Surplus bytes would be taken as the reply to the next command.
                return if self.incoming.is_empty() { Ok(answer) } else { Err(OUT_OF_SYNC.to_owned()) };
            }
            poll_fn(|cx| self.poll_read(cx)).await?;
        }
    }

    /// Returns the address of the server.
    pub(crate) fn server(&self) -> &ServerAddress {
        &self.endpoint.server
    }

    /// Returns the address of the server, and the term in which it was discovered.
    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Appends a command to the output buffer.
    pub(crate) fn command(&mut self, name: &str, arguments: &[&[u8]]) {
        resp::encode(&mut self.outgoing, name, arguments);
    }

    /// Appends encoded commands to the output buffer.
    pub(crate) fn commands(&mut self, encoded: BytesMut) {
        if self.outgoing.is_empty() {
            self.outgoing = encoded;
        } else {
            self.outgoing.extend_from_slice(&encoded);
        }
    }

    /// Parses the token at `start` of the input. Bulk strings over `max_bytes` are reported as oversized.
    pub(crate) fn token(&self, start: usize) -> Result<Option<(RespToken, usize)>, NotResp> {
        self.token_up_to(start, self.max_bytes)
    }

    /// Parses the token at `start` of the input: a word or a channel name, which may be longer than messages.
    pub(crate) fn word(&self, start: usize) -> Result<Option<(RespToken, usize)>, NotResp> {
        self.token_up_to(start, self.max_bytes.max(MAX_NAME))
    }

    fn token_up_to(&self, start: usize, max_bytes: usize) -> Result<Option<(RespToken, usize)>, NotResp> {
        if self.to_discard > 0 { Ok(None) } else { resp::token(&self.incoming, start, max_bytes) }
    }

    /// Returns the unparsed input.
    pub(crate) fn incoming(&mut self) -> &mut BytesMut {
        &mut self.incoming
    }

    /// Returns the unparsed input, to read it only.
    pub(crate) fn received(&self) -> &[u8] {
        &self.incoming
    }

    /// Discards an oversized value of `length` bytes and its line end, as they arrive.
    pub(crate) fn discard(&mut self, length: usize) {
        self.to_discard = length + 2;
        self.drop_discarded();
    }

    fn drop_discarded(&mut self) {
        let dropped = self.to_discard.min(self.incoming.len());
        self.incoming.advance(dropped);
        self.to_discard -= dropped;
    }

    /// Writes the output buffer. Ready when it is empty and flushed.
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
        // TLS buffers written data.
        Pin::new(&mut self.socket).poll_flush(cx).map_err(|error| error.to_string())
    }

    /// Reads once. Ready when bytes have arrived.
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), String>> {
        // A large value grew the buffer; return the memory.
        if self.incoming.is_empty() && self.incoming.capacity() > MAX_KEPT {
            self.incoming = BytesMut::new();
        }
        // The buffer grows with the bytes received, never with a length that the server announces.
        self.incoming.reserve(READ_BYTES);
        match ready!(poll_read_buf(Pin::new(&mut self.socket), cx, &mut self.incoming)) {
            Ok(0) => Poll::Ready(Err("connection closed".to_owned())),
            Ok(_) => {
                self.drop_discarded();
                Poll::Ready(Ok(()))
            }
            Err(error) => Poll::Ready(Err(error.to_string())),
        }
    }
}

/// Returns whether the reply to HELLO is a replica's.
///
/// # Errors
///
/// With the text of an error reply, or `OUT_OF_SYNC` if the reply belongs to another command.
pub(crate) fn is_replica(greeting: &ReplyValue) -> Result<bool, String> {
    match greeting {
        ReplyValue::Error(text) => Err(describe_text(text)),
        ReplyValue::List(_) => {
            let role = greeting.field("role").and_then(ReplyValue::text);
            Ok(matches!(role, Some("replica" | "slave")))
        }
        _ => Err(OUT_OF_SYNC.to_owned()),
    }
}

async fn socket(options: &ConnectOptions, server: &ServerAddress) -> io::Result<Box<dyn Socket>> {
    if let Servers::Unix(path) = &options.url.servers {
        return Ok(Box::new(UnixStream::connect(path).await?));
    }
    let tcp = TcpStream::connect((&*server.host, server.port)).await?;
    tcp.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE).with_retries(PROBES);
    SockRef::from(&tcp).set_tcp_keepalive(&keepalive)?;
    let Some(tls) = &options.tls else { return Ok(Box::new(tcp)) };
    let name = ServerName::try_from(server.host.to_string()).map_err(io::Error::other)?;
    Ok(Box::new(TlsConnector::from(tls.clone()).connect(name, tcp).await?))
}
