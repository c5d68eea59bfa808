//! The bytes of a connection, as the kernel counts them: they cost a connection neither memory nor time.

use socket2::Socket;

/// Bytes that a TCP connection has carried, those of its handshake included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes from the client.
    pub received: u64,
    /// Bytes that the client has acknowledged.
    pub sent: u64,
}

/// Returns the bytes of a socket; none for a unix socket.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "no crate in use has this option of a socket; it writes into the buffer only")]
pub(super) fn traffic(socket: &Socket) -> Option<Traffic> {
    use std::os::fd::AsRawFd;

    /// The offsets of `tcpi_bytes_acked` and `tcpi_bytes_received` in `struct tcp_info` of linux/tcp.h, since Linux 4.1.
    const ACKED: usize = 120;
    const RECEIVED: usize = 128;
    const BYTES: usize = RECEIVED + size_of::<u64>();

    let mut info = [0_u8; BYTES];
    let mut length = libc::socklen_t::try_from(BYTES).ok()?;
    // SAFETY: the kernel writes `length` bytes at most, and the buffer has as many.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    // An older kernel writes less.
    if result != 0 || usize::try_from(length).ok()? < BYTES {
        return None;
    }
    let at = |offset: usize| info.get(offset..)?.first_chunk().copied().map(u64::from_ne_bytes);
    Some(Traffic { received: at(RECEIVED)?, sent: at(ACKED)? })
}

/// Other systems count in other ways.
#[cfg(not(target_os = "linux"))]
pub(super) fn traffic(_: &Socket) -> Option<Traffic> {
    None
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn the_kernel_counts_the_bytes_of_a_tcp_socket() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        client.write_all(&[b'x'; 1_000]).unwrap();
        server.read_exact(&mut [0; 1_000]).unwrap();
        server.write_all(b"12345").unwrap();
        client.read_exact(&mut [0; 5]).unwrap();
        let socket = Socket::from(OwnedFd::from(server));
        let counted = traffic(&socket).unwrap();
        assert_eq!(counted.received, 1_000);
        // Its acknowledgement may be on its way.
        assert!(counted.sent <= 6, "{counted:?}");
        let (one, _other) = UnixStream::pair().unwrap();
        assert_eq!(traffic(&Socket::from(OwnedFd::from(one))), None);
    }
}
