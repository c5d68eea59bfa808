//! A scriptable HTTP server that plays the Django site: it answers the callback, correctly or not.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use super::eventually;

/// A received callback request.
#[derive(Debug, Clone)]
pub struct SiteRequest {
    /// Path and query.
    pub target: String,
    pub headers: Vec<(String, String)>,
    /// Number of its connection, and how many requests that connection had carried before.
    pub connection: usize,
    pub earlier: usize,
}

impl SiteRequest {
    /// Returns all values of a header, in order.
    pub fn all(&self, name: &str) -> Vec<&str> {
        let lines = self.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name));
        lines.map(|(_, value)| value.as_str()).collect()
    }
}

/// What the site sends in response.
#[derive(Debug, Clone)]
pub enum SiteReply {
    /// These bytes; the connection stays open.
    Bytes(Vec<u8>),
    /// These bytes, then the site closes the connection.
    LastBytes(Vec<u8>),
    /// The first bytes, then the second ones endlessly.
    Endless(Vec<u8>, Vec<u8>),
    /// Nothing; the connection stays open.
    Silence,
}

impl SiteReply {
    /// Returns a complete response.
    pub fn new(status: u16, headers: &[(&str, &str)], body: impl AsRef<[u8]>) -> Self {
        let body = body.as_ref();
        let mut head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n", body.len());
        for (name, value) in headers {
            head.extend([name, ": ", value, "\r\n"]);
        }
        head.push_str("\r\n");
        Self::Bytes([head.as_bytes(), body].concat())
    }

    /// Returns a 200 response with this JSON body.
    pub fn json(body: impl AsRef<[u8]>) -> Self {
        Self::new(200, &[("Content-Type", "application/json")], body)
    }

    /// Makes the site close the connection after this response.
    pub fn last(self) -> Self {
        match self {
            Self::Bytes(bytes) => Self::LastBytes(bytes),
            other => other,
        }
    }
}

type Responder = Arc<dyn Fn(&SiteRequest) -> SiteReply + Send + Sync>;

/// A running site.
pub struct TestSite {
    address: SocketAddr,
    state: Arc<Mutex<SiteState>>,
    /// Requests up to this number are answered; later ones wait.
    answered: watch::Sender<usize>,
    serving: AbortHandle,
}

struct SiteState {
    responder: Responder,
    requests: Vec<SiteRequest>,
    connections: usize,
    concurrent: usize,
    max_concurrent: usize,
}

impl TestSite {
    /// Starts a site that answers each request with `script`.
    pub async fn start(responder: impl Fn(&SiteRequest) -> SiteReply + Send + Sync + 'static) -> Self {
        Self::start_on("127.0.0.1:0", responder).await
    }

    /// Starts a site on this address.
    pub async fn start_on(
        address: &str,
        responder: impl Fn(&SiteRequest) -> SiteReply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = SiteState {
            responder: Arc::new(responder),
            requests: Vec::new(),
            connections: 0,
            concurrent: 0,
            max_concurrent: 0,
        };
        let state = Arc::new(Mutex::new(state));
        let (answered, may) = watch::channel(usize::MAX);
        let serving = tokio::spawn(accept(listener, state.clone(), may)).abort_handle();
        Self { address, state, answered, serving }
    }

    /// Starts a site that answers every request with this JSON.
    pub async fn always_returning(json: &'static str) -> Self {
        Self::start(move |_| SiteReply::json(json)).await
    }

    /// Returns the callback URL.
    pub fn url(&self) -> String {
        format!("http://{}/identity/", self.address)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Replaces the responder.
    pub fn answer(&self, responder: impl Fn(&SiteRequest) -> SiteReply + Send + Sync + 'static) {
        self.state.lock().unwrap().responder = Arc::new(responder);
    }

    /// Withholds the responses to all further requests.
    pub fn hold(&self) {
        self.answer_first(self.requests().len());
    }

    /// Answers only the first `count` requests, counted from the start.
    pub fn answer_first(&self, count: usize) {
        self.answered.send_replace(count);
    }

    /// Answers all requests again.
    pub fn release(&self) {
        self.answered.send_replace(usize::MAX);
    }

    /// Returns the requests so far, without those of the readiness probe (empty facility).
    pub fn requests(&self) -> Vec<SiteRequest> {
        self.state.lock().unwrap().requests.clone()
    }

    /// Waits for at least `count` requests and returns all so far.
    #[track_caller]
    pub fn expect_requests(&self, count: usize) -> impl Future<Output = Vec<SiteRequest>> {
        let what = format!("{count} callback requests");
        async move {
            let look = || Some(self.requests()).filter(|requests| requests.len() >= count);
            eventually(&what, look).await
        }
    }

    /// Returns the largest number of requests that were in flight at the same time.
    pub fn max_concurrent(&self) -> usize {
        self.state.lock().unwrap().max_concurrent
    }
}

impl Drop for TestSite {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn accept(listener: TcpListener, state: Arc<Mutex<SiteState>>, may: watch::Receiver<usize>) {
    // A JoinSet, so that all connections end with the site.
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { return };
        let number = {
            let mut state = state.lock().unwrap();
            state.connections += 1;
            state.connections
        };
        connections.spawn(serve(stream, number, state.clone(), may.clone()));
    }
}

/// Serves one connection until either side closes it.
async fn serve(
    mut stream: TcpStream,
    connection: usize,
    state: Arc<Mutex<SiteState>>,
    mut may: watch::Receiver<usize>,
) {
    let mut buffer = Vec::new();
    for earlier in 0.. {
        let end = loop {
            if let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
            if !matches!(stream.read_buf(&mut buffer).await, Ok(count) if count > 0) {
                return;
            }
        };
        let head: Vec<u8> = buffer.drain(..end).collect();
        let request = parse(&String::from_utf8_lossy(&head), connection, earlier);
        let reply = if request.target.contains("facility=&") || request.target.ends_with("facility=") {
            SiteReply::json("null")
        } else {
            let (responder, number) = {
                let mut state = state.lock().unwrap();
                state.requests.push(request.clone());
                state.concurrent += 1;
                state.max_concurrent = state.max_concurrent.max(state.concurrent);
                (state.responder.clone(), state.requests.len())
            };
            // The gateway may close the connection while its request is withheld.
            let answered = tokio::select! {
                answered = may.wait_for(|answered| number <= *answered) => answered.is_ok(),
                _ = stream.read_u8() => false,
            };
            state.lock().unwrap().concurrent -= 1;
            if !answered {
                return;
            }
            responder(&request)
        };
        if !send(&mut stream, reply).await {
            return;
        }
    }
}

/// Sends a reply. Returns whether the connection stays open.
async fn send(stream: &mut TcpStream, reply: SiteReply) -> bool {
    match reply {
        SiteReply::Bytes(bytes) => stream.write_all(&bytes).await.is_ok(),
        SiteReply::LastBytes(bytes) => {
            let _ = stream.write_all(&bytes).await;
            false
        }
        SiteReply::Endless(first, again) => {
            let _ = stream.write_all(&first).await;
            while stream.write_all(&again).await.is_ok() {}
            false
        }
        SiteReply::Silence => {
            while stream.read_u8().await.is_ok() {}
            false
        }
    }
}

fn parse(head: &str, connection: usize, earlier: usize) -> SiteRequest {
    let mut lines = head.lines();
    let first = lines.next().unwrap();
    let target = first.strip_prefix("GET ").and_then(|rest| rest.strip_suffix(" HTTP/1.1"));
    let target = target.unwrap_or_else(|| panic!("{first:?} is no GET of HTTP/1.1")).to_owned();
    let headers = lines.filter_map(|line| line.split_once(": "));
    let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    SiteRequest { target, headers, connection, earlier }
}
