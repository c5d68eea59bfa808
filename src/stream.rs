//! A client's socket, TCP or unix.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{self, IoSlice, Read};
use std::net::{IpAddr, Shutdown};
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

/// A client that has been accepted, whose socket no runtime knows yet: any shard may take it.
#[derive(Debug)]
pub struct Accepted {
    /// The socket, which does not block.
    pub socket: OwnedFd,
    /// The address at the other end; none for a unix socket.
    pub address: Option<IpAddr>,
}

/// A place among the connections of the process, from accept on. It is given back when it is dropped, unless it is
/// handed on.
#[derive(Debug)]
pub struct Permit(Option<Arc<AtomicUsize>>);

impl Permit {
    /// Takes one more place, if fewer than `most` are taken.
    pub fn take(live: &Arc<AtomicUsize>, most: usize) -> Option<Self> {
        let before = live.fetch_add(1, Ordering::Relaxed);
        // Dropped, it is given back at once.
        let permit = Self(Some(live.clone()));
        (before < most).then_some(permit)
    }

    /// Leaves it to somebody else to give the place back.
    pub fn hand_on(mut self) {
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
/// Whoever has something to say writes at once, through a shared reference and without asking the runtime whether it
/// would be taken: in a fan-out to many sockets, what the runtime knows of each would have to be fetched from memory.
#[derive(Debug)]
pub struct Stream(AsyncFd<Socket>);

/// Has the runtime watch a socket.
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
    reason = "sound for sockets that own their descriptor; the successor is unsafe for others' sake"
)]
pub fn watch<S: AsRawFd + Into<OwnedFd>>(socket: S) -> io::Result<AsyncFd<S>> {
    AsyncFd::new(socket)
}

/// What is read at once of a request: room that nobody has written to yet has to be cleared first.
const REQUEST_BYTES: usize = 2048;

/// What is read at most of a client to which nothing more is said.
const MAX_DISCARDED_BYTES: usize = 16 << 20;

/// How long a client is read to which nothing more is said.
#[derive(Debug, Clone, Copy)]
pub struct Discard {
    /// In all.
    pub total: Duration,
    /// Between two pieces.
    pub silence: Duration,
}

impl Discard {
    /// Returns bounds by which silence matters no less than noise.
    pub fn for_all(total: Duration) -> Self {
        Self { total, silence: total }
    }
}

impl Stream {
    /// Takes a socket that does not block.
    ///
    /// # Errors
    ///
    /// When the system refuses to watch it.
    ///
    /// # Panics
    ///
    /// Outside a runtime.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        watch(socket.into()).map(Self)
    }

    /// Reads what is there. Ready with 0 at the end.
    pub fn poll_recv(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.0.poll_read_ready(cx))?;
            let Ok(read) = guard.try_io(|socket| socket.get_ref().read(buffer)) else { continue };
            // A short read says that nothing is left, which saves asking.
            if read.as_ref().is_ok_and(|count| (1..buffer.len()).contains(count)) {
                guard.clear_ready();
            }
            return Poll::Ready(read);
        }
    }

    /// Writes as much as the kernel takes, without waiting.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when the kernel takes nothing, else the socket's own error.
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.0.get_ref().send(bytes)
    }

    /// Writes as much of all slices as the kernel takes, without waiting.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when the kernel takes nothing, else the socket's own error.
    pub fn try_send(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.get_ref().send_vectored(slices)
    }

    /// Writes as much of all slices as the kernel takes. Ready as soon as it takes something.
    pub fn poll_send(&self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.0.poll_write_ready(cx))?;
            let written = guard.try_io(|socket| match slices {
                // A single piece is nearly all there is, and costs the kernel less by itself.
                [piece] => socket.get_ref().send(piece),
                pieces => socket.get_ref().send_vectored(pieces),
            });
            if let Ok(written) = written {
                return Poll::Ready(written);
            }
        }
    }

    /// Reads and discards what the client still sends, until it closes, is silent, or a bound is reached. `seen` is
    /// given each piece, and ends the reading by returning true.
    ///
    /// Data that nobody reads would turn the end of a connection into a reset, which destroys what the client has not
    /// read yet (RFC 9112, section 9.6).
    pub async fn discard(
        &self,
        buffer: &RefCell<Box<[u8]>>,
        within: Discard,
        seen: impl FnMut(&[u8]) -> bool,
    ) {
        discard(|cx, buffer| self.poll_recv(cx, buffer), buffer, within, seen).await;
    }

    /// Closes the direction to the client.
    pub fn shutdown(&self) {
        // An error means that the client is gone already.
        let _ = self.0.get_ref().shutdown(Shutdown::Write);
    }
}

/// Does what [`Stream::discard`] does with another reader. Nothing is borrowed from the reader while it waits.
pub async fn discard(
    mut poll_recv: impl FnMut(&mut Context<'_>, &mut [u8]) -> Poll<io::Result<usize>>,
    buffer: &RefCell<Box<[u8]>>,
    within: Discard,
    mut seen: impl FnMut(&[u8]) -> bool,
) {
    let mut left = MAX_DISCARDED_BYTES;
    let reading = async {
        loop {
            let read = poll_fn(|cx| {
                let mut buffer = buffer.borrow_mut();
                let read = ready!(poll_recv(cx, &mut buffer));
                Poll::Ready(read.is_ok_and(|count| {
                    left = left.saturating_sub(count);
                    count > 0 && left > 0 && !seen(&buffer[..count])
                }))
            });
            if !timeout(within.silence, read).await.unwrap_or(false) {
                return;
            }
        }
    };
    let _ = timeout(within.total, reading).await;
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // Nothing is cleared as long as nothing is there.
        let _ = ready!(self.0.poll_read_ready(cx))?;
        let room = buffer.remaining().min(REQUEST_BYTES);
        let count = ready!(self.poll_recv(cx, buffer.initialize_unfilled_to(room)))?;
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
