//! A TCP proxy between clients and a gateway: it cuts connections at random bytes, and its gateway can be exchanged.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

use super::random::SeededRandom;

/// A proxy in front of a gateway.
pub struct ClientProxy {
    address: SocketAddr,
    state: Arc<ClientProxyState>,
}

struct ClientProxyState {
    gateway: Mutex<SocketAddr>,
    random: Mutex<SeededRandom>,
    /// Bytes after which a new connection is cut, at most; 0: it is not.
    cut_within: AtomicUsize,
    cuts: AtomicUsize,
    resets: AtomicBool,
}

impl ClientProxy {
    /// Starts a proxy that cuts nothing.
    pub async fn to(gateway: SocketAddr, random: SeededRandom) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(ClientProxyState {
            gateway: Mutex::new(gateway),
            random: Mutex::new(random),
            cut_within: AtomicUsize::new(0),
            cuts: AtomicUsize::new(0),
            resets: AtomicBool::new(false),
        });
        let accepting = state.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(accepting.clone().forward(client));
            }
        });
        Self { address, state }
    }

    /// Returns the address for clients.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Forwards new connections to another gateway.
    pub fn forward_to(&self, gateway: SocketAddr) {
        *self.state.gateway.lock().unwrap() = gateway;
    }

    /// Cuts each connection from now on after at most this number of bytes from the gateway; 0 cuts none.
    pub fn cut_within(&self, bytes: usize) {
        self.state.cut_within.store(bytes, Ordering::Relaxed);
    }

    /// Returns the number of connections that it has cut.
    pub fn cuts(&self) -> usize {
        self.state.cuts.load(Ordering::Relaxed)
    }
}

impl ClientProxyState {
    async fn forward(self: Arc<Self>, client: TcpStream) {
        let address = *self.gateway.lock().unwrap();
        let Ok(gateway) = TcpStream::connect(address).await else { return };
        client.set_nodelay(true).unwrap();
        gateway.set_nodelay(true).unwrap();
        let (from_client, to_client) = client.into_split();
        let (from_gateway, to_gateway) = gateway.into_split();
        let upward = tokio::spawn(forward_all(from_client, to_gateway));
        self.forward_until_cut(from_gateway, to_client).await;
        upward.abort();
    }

    /// Forwards to the client until one of them ends, or until the connection is cut, in the middle of a frame as a rule.
    async fn forward_until_cut(&self, mut gateway: OwnedReadHalf, mut client: OwnedWriteHalf) {
        let mut forwarded = 0;
        let mut limit: Option<usize> = None;
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(count @ 1..) = gateway.read(&mut buffer).await {
            let most = self.cut_within.load(Ordering::Relaxed);
            if most == 0 {
                limit = None;
            } else if limit.is_none() {
                limit = Some(forwarded + self.random.lock().unwrap().below(most));
            }
            let allowed = limit.map_or(count, |limit| count.min(limit.saturating_sub(forwarded)));
            if client.write_all(&buffer[..allowed]).await.is_err() {
                return;
            }
            forwarded += allowed;
            if allowed < count {
                self.cuts.fetch_add(1, Ordering::Relaxed);
                // One of two by a reset, which may discard what the client has not read.
                if self.resets.fetch_xor(true, Ordering::Relaxed) {
                    let _ = gateway.as_ref().set_zero_linger();
                    let _ = client.as_ref().set_zero_linger();
                }
                return;
            }
        }
    }
}

async fn forward_all(mut client: OwnedReadHalf, mut gateway: OwnedWriteHalf) {
    // An error is an end, too.
    let _ = copy(&mut client, &mut gateway).await;
    let _ = gateway.shutdown().await;
}
