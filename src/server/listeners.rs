//! The listening sockets, bound here or passed by systemd.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::task::{Context as TaskContext, Poll, ready};

use anyhow::{Context, anyhow, bail};
use listenfd::ListenFd;
use mio::net::TcpListener;
use socket2::SockRef;
use tokio::io::unix::AsyncFd;

use crate::settings::Listen;
use crate::stream::{Accepted, register};

/// Backlog of connections to accept, capped by the kernel (`net.core.somaxconn`): after a restart of a proxy, all pages
/// reconnect at once.
const BACKLOG: i32 = 65_535;

/// The listening sockets.
#[derive(Debug)]
pub struct Listeners {
    sockets: Vec<BoundSocket>,
    name: String,
    file: Option<SocketFile>,
    handed_over: bool,
    send_buffer_bytes: usize,
}

#[derive(Debug)]
enum BoundSocket {
    /// mio's type: it accepts non-blocking sockets, which saves a system call for each.
    Tcp(AsyncFd<TcpListener>),
    /// Not mio's type, which panics if a client's own path has the maximum length (1.2.4).
    Unix(AsyncFd<UnixListener>),
}

/// The file of a unix socket that was bound here. Dropping this removes the file.
#[derive(Debug)]
pub struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        if is_socket(&self.0) {
            let _ = std::fs::remove_file(&self.0);
        }
    }
}

impl Listeners {
    /// Takes all sockets that systemd passed (`LISTEN_FDS` and `LISTEN_PID`, see `sd_listen_fds(3)`), or binds the
    /// configured address if there are none.
    ///
    /// # Errors
    ///
    /// When the address cannot be bound, or a passed socket is not a listening one.
    pub async fn open(listen: &Listen) -> anyhow::Result<Self> {
        let mut handed_over = ListenFd::from_env();
        if handed_over.len() > 0 {
            return Self::take(&mut handed_over);
        }
        Self::bind(listen, "server.listen").await
    }

    /// Binds the address of a setting. Must be called on the runtime that accepts.
    ///
    /// # Errors
    ///
    /// When the address cannot be bound. The text names the setting, `key`.
    pub async fn bind(listen: &Listen, key: &str) -> anyhow::Result<Self> {
        let (listener, name, file) = match listen {
            Listen::Tcp(address) => {
                let listener = bind_tcp(address, key).await?;
                let name = listener.local_addr()?.to_string();
                (BoundSocket::Tcp(register(listener)?), name, None)
            }
            Listen::Unix(path, mode) => {
                let listener = BoundSocket::Unix(register(bind_unix(path, *mode, key)?)?);
                (listener, listen.to_string(), Some(SocketFile(path.clone())))
            }
        };
        Ok(Self { sockets: vec![listener], name, file, handed_over: false, send_buffer_bytes: 0 })
    }

    fn take(sockets: &mut ListenFd) -> anyhow::Result<Self> {
        let count = sockets.len();
        let taken = (0..count).map(|number| {
            BoundSocket::take(sockets, number).with_context(|| {
                format!("LISTEN_FDS: socket {} of {count} that systemd passed cannot be used; a socket unit needs ListenStream= and Accept=no", number + 1)
            })
        });
        let sockets = taken.collect::<anyhow::Result<Vec<_>>>()?;
        let name = sockets.iter().map(BoundSocket::name).collect::<Vec<_>>().join(", ");
        Ok(Self { sockets, name, file: None, handed_over: true, send_buffer_bytes: 0 })
    }

    /// Sets `TCP_NODELAY` and the send buffer of client sockets, in bytes (the kernel doubles it). A small buffer makes
    /// slow clients visible. Accepted TCP sockets inherit both (`tcp(7)`, `socket(7)`), which saves calls per client.
    ///
    /// # Errors
    ///
    /// When the system call fails.
    pub fn tune(&mut self, send_buffer_bytes: usize) -> io::Result<()> {
        self.send_buffer_bytes = send_buffer_bytes;
        for listener in &self.sockets {
            if let BoundSocket::Tcp(listener) = listener {
                let socket = SockRef::from(listener.get_ref());
                socket.set_tcp_nodelay(true)?;
                socket.set_send_buffer_size(send_buffer_bytes)?;
            }
        }
        Ok(())
    }

    /// Returns the addresses, for display.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the first TCP address, if there is one.
    pub fn address(&self) -> Option<SocketAddr> {
        self.sockets.iter().find_map(|listener| match listener {
            BoundSocket::Tcp(listener) => listener.get_ref().local_addr().ok(),
            BoundSocket::Unix(_) => None,
        })
    }

    /// Returns whether systemd passed the sockets; `server.listen` is not used then.
    pub fn is_handed_over(&self) -> bool {
        self.handed_over
    }

    /// Returns the socket file to remove at the end. A passed socket has none: systemd keeps listening on it.
    pub fn take_file(&mut self) -> Option<SocketFile> {
        self.file.take()
    }

    /// Accepts one connection, from each listener in turn, so that a busy one does not starve the others. Cancel-safe.
    ///
    /// # Errors
    ///
    /// When accepting fails, for example without free file descriptors.
    pub async fn accept(&mut self) -> io::Result<Accepted> {
        poll_fn(|cx| {
            for _ in 0..self.sockets.len() {
                self.sockets.rotate_left(1);
                let listener = self.sockets.last();
                let accepted =
                    listener.map_or(Poll::Pending, |listener| listener.poll(cx, self.send_buffer_bytes));
                if accepted.is_ready() {
                    return accepted;
                }
            }
            Poll::Pending
        })
        .await
    }
}

/// Refuses a socket that systemd passes and that does not listen, such as a connection of a unit with `Accept=yes`.
///
/// # Errors
///
/// When it does not listen.
fn ensure_listens(socket: &impl AsFd) -> anyhow::Result<()> {
    // macOS has no such option, and no systemd.
    #[cfg(target_os = "linux")]
    anyhow::ensure!(SockRef::from(socket).is_listener()?, "it does not listen");
    #[cfg(not(target_os = "linux"))]
    let _ = socket;
    Ok(())
}

impl BoundSocket {
    fn take(sockets: &mut ListenFd, number: usize) -> anyhow::Result<Self> {
        if let Ok(Some(listener)) = sockets.take_unix_listener(number) {
            ensure_listens(&listener)?;
            listener.set_nonblocking(true)?;
            return Ok(Self::Unix(register(listener)?));
        }
        let listener = sockets.take_tcp_listener(number)?.context("it was taken already")?;
        ensure_listens(&listener)?;
        listener.set_nonblocking(true)?;
        Ok(Self::Tcp(register(TcpListener::from_std(listener))?))
    }

    fn poll(&self, cx: &mut TaskContext<'_>, send_buffer_bytes: usize) -> Poll<io::Result<Accepted>> {
        match self {
            Self::Tcp(listener) => poll_accept(listener, cx, |listener| {
                let (socket, address) = listener.accept()?;
                Ok(Accepted { socket: socket.into(), address: Some(address.ip()) })
            }),
            Self::Unix(listener) => poll_accept(listener, cx, |listener| {
                let (socket, _) = listener.accept()?;
                socket.set_nonblocking(true)?;
                SockRef::from(&socket).set_send_buffer_size(send_buffer_bytes)?;
                Ok(Accepted { socket: socket.into(), address: None })
            }),
        }
    }

    fn name(&self) -> String {
        match self {
            Self::Tcp(listener) => listener.get_ref().local_addr().map(|address| address.to_string()),
            Self::Unix(listener) => listener.get_ref().local_addr().map(|address| {
                let path = address.as_pathname().map(|path| path.display().to_string());
                format!("unix:{}", path.unwrap_or_default())
            }),
        }
        .unwrap_or_default()
    }
}

fn poll_accept<L: AsRawFd>(
    listener: &AsyncFd<L>,
    cx: &mut TaskContext<'_>,
    accept: impl Fn(&L) -> io::Result<Accepted>,
) -> Poll<io::Result<Accepted>> {
    loop {
        if let Ok(accepted) =
            ready!(listener.poll_read_ready(cx))?.try_io(|listener| accept(listener.get_ref()))
        {
            return Poll::Ready(accepted);
        }
    }
}

async fn bind_tcp(address: &str, key: &str) -> anyhow::Result<TcpListener> {
    let listener = tokio::net::TcpListener::bind(address).await.and_then(tokio::net::TcpListener::into_std);
    let listener = listener.and_then(|listener| {
        // tokio's default is 1,024.
        SockRef::from(&listener).listen(BACKLOG)?;
        Ok(TcpListener::from_std(listener))
    });
    listener.map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => anyhow!(
            "{key}: {address} is in use by another program; stop it, or choose another: --set {key}=127.0.0.1:8002"
        ),
        io::ErrorKind::AddrNotAvailable => anyhow!("{key}: this machine has no address {address}"),
        _ => anyhow!("{key}: cannot listen on {address} ({error})"),
    })
}

fn bind_unix(path: &Path, mode: u32, key: &str) -> anyhow::Result<UnixListener> {
    let shown = path.display();
    // A socket that refuses connections is stale: its process was killed.
    match UnixStream::connect(path) {
        Ok(_) => bail!("{key}: another process listens on {shown}"),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            if !is_socket(path) {
                bail!("{key}: {shown} exists and is not a socket; choose another path");
            }
            std::fs::remove_file(path)
                .with_context(|| format!("{key}: cannot replace the stale socket {shown}"))?;
        }
        Err(_) => {}
    }
    let listener = UnixListener::bind(path).with_context(|| {
        format!("{key}: cannot listen on {shown}; its directory has to exist and be writable, its path be shorter than 108 bytes")
    })?;
    listener.set_nonblocking(true)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
        .with_context(|| format!("{key}: cannot set the permissions of {shown}"))?;
    Ok(listener)
}

fn is_socket(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket())
}
