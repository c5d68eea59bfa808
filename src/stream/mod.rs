//! A client's socket, TCP or unix.

mod traffic;

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{self, IoSlice, Read};
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::Socket;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::timeout;

pub use self::traffic::Traffic;

/// An accepted client. Its socket is not registered with a runtime yet, so any shard can serve it.
#[derive(Debug)]
pub struct Accepted {
    /// The socket, in non-blocking mode.
    pub socket: OwnedFd,
    /// The client's address; none for a unix socket.
    pub address: Option<IpAddr>,
}

/// Counts one connection of the process, from accept on. The count is decremented on drop, unless another guard took over.
#[derive(Debug)]
pub struct Permit(Option<Arc<AtomicUsize>>);

impl Permit {
    /// Counts one more connection, if there are fewer than `max`.
    pub fn take(live: &Arc<AtomicUsize>, max: usize) -> Option<Self> {
        let before = live.fetch_add(1, Ordering::Relaxed);
        // Above the limit it is dropped, which decrements the count again.
        let permit = Self(Some(live.clone()));
        (before < max).then_some(permit)
    }

    /// Leaves it to another guard to decrement the count.
    pub fn disarm(mut self) {
        self.0.take();
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(live) = &self.0 {
            live.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// A client's socket.
///
/// Writes go directly to the socket, through a shared reference and without a check of the runtime's readiness: in a
/// fan-out to many sockets, each check would be a cache miss.
#[derive(Debug)]
pub struct Stream(AsyncFd<Socket>);

/// Registers a socket with the runtime.
///
/// # Errors
///
/// When the system refuses.
///
/// # Panics
///
/// Outside a runtime.
#[expect(
    deprecated,
    reason = "sound for sockets that own their descriptor; the successor is unsafe because others do not"
)]
pub fn register<S: AsRawFd + Into<OwnedFd>>(socket: S) -> io::Result<AsyncFd<S>> {
    AsyncFd::new(socket)
}

/// Bytes of a request that are read at once: the unused part of the buffer has to be zeroed for each read.
const REQUEST_BYTES: usize = 2048;

/// Bytes after which [`Stream::discard`] stops.
const MAX_DISCARDED_BYTES: usize = 16 << 20;

/// Time limits of [`Stream::discard`].
#[derive(Debug, Clone, Copy)]
pub struct DiscardLimits {
    /// For all reads together.
    pub total: Duration,
    /// Between two reads.
    pub idle: Duration,
}

impl DiscardLimits {
    /// Returns limits for all reads together, with no shorter one between two reads.
    pub fn total(total: Duration) -> Self {
        Self { total, idle: total }
    }
}

impl Stream {
    /// Registers a non-blocking socket with the runtime.
    ///
    /// # Errors
    ///
    /// When the system refuses.
    ///
    /// # Panics
    ///
    /// Outside a runtime.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        register(socket.into()).map(Self)
    }

    /// Takes the socket from the runtime, so that another thread can serve it.
    pub fn into_socket(self) -> OwnedFd {
        self.0.into_inner().into()
    }

    /// Returns the address of the other end; none for a unix socket, or after the end of the connection.
    pub fn peer(&self) -> Option<SocketAddr> {
        self.0.get_ref().peer_addr().ok()?.as_socket()
    }

    /// Returns the bytes that it has carried; none for a unix socket.
    pub fn traffic(&self) -> Option<Traffic> {
        traffic::traffic(self.0.get_ref())
    }

    /// Reads the bytes that have arrived. Ready with 0 at the end.
    pub fn poll_recv(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.0.poll_read_ready(cx))?;
            let Ok(read) = guard.try_io(|socket| socket.get_ref().read(buffer)) else { continue };
            // After a short read nothing is left; clearing the readiness saves the read that would return `WouldBlock`.
            if read.as_ref().is_ok_and(|count| (1..buffer.len()).contains(count)) {
                guard.clear_ready();
            }
            return Poll::Ready(read);
        }
    }

    /// Writes as much as the kernel accepts at once.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when the kernel accepts nothing, else the socket's own.
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.0.get_ref().send(bytes)
    }

    /// Writes as much of all slices as the kernel accepts at once.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when the kernel accepts nothing, else the socket's own.
    pub fn try_send(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.get_ref().send_vectored(slices)
    }

    /// Writes as much of all slices as the kernel accepts. Ready as soon as it accepts something.
    pub fn poll_send(&self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.0.poll_write_ready(cx))?;
            let written = guard.try_io(|socket| match slices {
                // `send` costs less than `sendmsg`, and one slice is the common case.
                [slice] => socket.get_ref().send(slice),
                slices => socket.get_ref().send_vectored(slices),
            });
            if let Ok(written) = written {
                return Poll::Ready(written);
            }
        }
    }

    /// Reads and discards what the client still sends, until it closes or a limit is reached. `is_end` is called with the
    /// bytes of each read, and stops by returning true.
    ///
    /// A close with unread data would reset the connection, and the client would lose what it has not read yet (RFC 9112,
    /// section 9.6).
    pub async fn discard(
        &self,
        buffer: &RefCell<Box<[u8]>>,
        limits: DiscardLimits,
        is_end: impl FnMut(&[u8]) -> bool,
    ) {
        discard(|cx, buffer| self.poll_recv(cx, buffer), buffer, limits, is_end).await;
    }

    /// Closes the direction to the client.
    pub fn shutdown(&self) {
        // An error means that the client has closed already.
        let _ = self.0.get_ref().shutdown(Shutdown::Write);
    }
}

/// Like [`Stream::discard`], with another reader. Borrows nothing from the reader between two calls.
pub async fn discard(
    mut poll_recv: impl FnMut(&mut Context<'_>, &mut [u8]) -> Poll<io::Result<usize>>,
    buffer: &RefCell<Box<[u8]>>,
    limits: DiscardLimits,
    mut is_end: impl FnMut(&[u8]) -> bool,
) {
    let mut left = MAX_DISCARDED_BYTES;
    let reading = async {
        loop {
            let read = poll_fn(|cx| {
                let mut buffer = buffer.borrow_mut();
                let read = ready!(poll_recv(cx, &mut buffer));
                Poll::Ready(read.is_ok_and(|count| {
                    left = left.saturating_sub(count);
                    count > 0 && left > 0 && !is_end(&buffer[..count])
                }))
            });
            if !timeout(limits.idle, read).await.unwrap_or(false) {
                return;
            }
        }
    };
    let _ = timeout(limits.total, reading).await;
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // Nothing is zeroed before data has arrived.
        let _ = ready!(self.0.poll_read_ready(cx))?;
        let len = buffer.remaining().min(REQUEST_BYTES);
        let count = ready!(self.poll_recv(cx, buffer.initialize_unfilled_to(len)))?;
        buffer.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_send(cx, &[IoSlice::new(bytes)])
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shutdown();
        Poll::Ready(Ok(()))
    }
}
