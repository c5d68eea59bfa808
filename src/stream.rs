//! A client's socket, TCP or unix: whole for the handshake, in two halves for the connection after it.

use std::io::{self, IoSlice};
use std::net::IpAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream, tcp, unix};

/// A client's socket.
#[derive(Debug)]
pub enum Stream {
    /// A TCP connection.
    Tcp(TcpStream),
    /// A connection through a unix socket.
    Unix(UnixStream),
}

/// The half that reads.
#[derive(Debug)]
pub enum ReadHalf {
    /// Of a TCP connection.
    Tcp(tcp::OwnedReadHalf),
    /// Of a unix socket.
    Unix(unix::OwnedReadHalf),
}

/// The half that writes. It is used through a shared reference: whoever has something to say writes at once.
#[derive(Debug)]
pub enum WriteHalf {
    /// Of a TCP connection.
    Tcp(tcp::OwnedWriteHalf),
    /// Of a unix socket.
    Unix(unix::OwnedWriteHalf),
}

/// Runs the same expression on either kind.
macro_rules! either {
    ($this:expr, $kind:ident, $socket:ident => $action:expr) => {
        match $this {
            $kind::Tcp($socket) => $action,
            $kind::Unix($socket) => $action,
        }
    };
}

impl Stream {
    /// Sets what a unix socket does not have from where it was accepted, as TCP's do: a send buffer of this many bytes (the
    /// kernel doubles it), so that what a slow client does not read is noticed.
    ///
    /// # Errors
    ///
    /// When the system refuses, as for a socket that is already closed.
    pub fn tune(&self, send_buffer_bytes: usize) -> io::Result<()> {
        match self {
            Self::Tcp(_) => Ok(()),
            Self::Unix(socket) => SockRef::from(socket).set_send_buffer_size(send_buffer_bytes),
        }
    }

    /// Returns the address at the other end; none for a unix socket.
    ///
    /// # Errors
    ///
    /// When the other end is gone.
    pub fn address(&self) -> io::Result<Option<IpAddr>> {
        match self {
            Self::Tcp(socket) => socket.peer_addr().map(|address| Some(address.ip())),
            Self::Unix(_) => Ok(None),
        }
    }

    /// Parts the socket.
    pub fn into_halves(self) -> (ReadHalf, WriteHalf) {
        match self {
            Self::Tcp(socket) => {
                let (read, write) = socket.into_split();
                (ReadHalf::Tcp(read), WriteHalf::Tcp(write))
            }
            Self::Unix(socket) => {
                let (read, write) = socket.into_split();
                (ReadHalf::Unix(read), WriteHalf::Unix(write))
            }
        }
    }
}

impl ReadHalf {
    /// Reads what is there. Unlike `try_read`, it knows from a short read that nothing is left.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        either!(self, Self, half => Pin::new(half).poll_read(cx, buffer))
    }
}

impl WriteHalf {
    /// Writes as much as the kernel takes, without waiting.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when the kernel takes nothing, else the socket's own error.
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        either!(self, Self, half => half.try_write(bytes))
    }

    /// Writes as much of all slices as the kernel takes, without waiting.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when the kernel takes nothing, else the socket's own error.
    pub fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        either!(self, Self, half => half.try_write_vectored(slices))
    }

    /// Waits until the kernel takes more.
    pub fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, Self, half => half.as_ref().poll_write_ready(cx))
    }

    /// Closes the direction to the client.
    pub fn shutdown(&self) {
        // An error means that the client is gone already.
        let _ = match self {
            Self::Tcp(half) => SockRef::from(half.as_ref()).shutdown(std::net::Shutdown::Write),
            Self::Unix(half) => SockRef::from(half.as_ref()).shutdown(std::net::Shutdown::Write),
        };
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        either!(self.get_mut(), Self, socket => Pin::new(socket).poll_read(cx, buffer))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        either!(self.get_mut(), Self, socket => Pin::new(socket).poll_write(cx, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self.get_mut(), Self, socket => Pin::new(socket).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self.get_mut(), Self, socket => Pin::new(socket).poll_shutdown(cx))
    }
}
