//! systemd: socket activation.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::PathBuf;

use crate::limits::{handshake_over_unix, handshake_over_unix_with};
use crate::support::gateway::{binary, with_inherited_sockets};
use crate::support::{RedisServer, SiteReply, TestGateway, TestSite, eventually, unique};

fn socket_path() -> PathBuf {
    std::env::temp_dir().join(unique("ws4redis-handed"))
}

#[tokio::test]
async fn all_inherited_sockets_are_used_and_left_in_place() {
    let (tcp, path) = (TcpListener::bind("127.0.0.1:0").unwrap(), socket_path());
    let (unix, address) = (UnixListener::bind(&path).unwrap(), tcp.local_addr().unwrap());
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    for round in 0..2 {
        let sockets: Vec<OwnedFd> = vec![tcp.try_clone().unwrap().into(), unix.try_clone().unwrap().into()];
        let builder = TestGateway::builder().set("server.listen", &taken);
        let mut gateway = builder.with_inherited_sockets(sockets).start().await;
        assert_eq!(gateway.address(), address);
        let line = gateway.expect_log(&["listening on"]).await;
        assert!(line.contains(&format!("{address}, unix:{}", path.display())), "{line}");
        gateway.expect_log(&["passed the listening sockets", "server.listen is not used"]).await;
        for _ in 0..3 {
            gateway.connect("/ws/x?subscribe-broadcast").await.expect_nothing().await;
            assert_eq!(handshake_over_unix(path.to_str().unwrap()), "HTTP/1.1 101", "{round}");
        }
        gateway.signal("TERM");
        assert_eq!(gateway.expect_exit().await.code(), Some(0));
        // From here on, connections wait in the backlog for the next process.
        assert!(std::net::TcpStream::connect(address).is_ok());
        assert!(std::fs::exists(&path).unwrap(), "the socket is not its own to remove");
    }
    std::fs::remove_file(path).unwrap();
}

#[tokio::test]
async fn sockets_inherited_for_another_process_are_ignored() {
    let builder = TestGateway::builder().variable("LISTEN_FDS", "1").variable("LISTEN_PID", "1");
    let gateway = builder.start().await;
    gateway.connect("/ws/x").await;
    assert_eq!(gateway.count_log(&["passed the listening sockets"]), 0);
}

#[tokio::test]
async fn an_inherited_socket_that_does_not_listen_aborts_the_start_and_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let connected = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (datagrams, _other) = UnixDatagram::pair().unwrap();
    let file = std::fs::File::open("/dev/null").unwrap();
    for bad in [OwnedFd::from(connected), OwnedFd::from(datagrams), OwnedFd::from(file)] {
        let mut command = binary();
        command.args(["--set", &format!("redis.url={}", RedisServer::shared().url())]);
        let sockets = vec![listener.try_clone().unwrap().into(), bad];
        let mut command = with_inherited_sockets(&command, sockets);
        let mut child = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
        let status = eventually("it ends", || child.try_wait().unwrap()).await;
        let said = std::io::read_to_string(child.stderr.take().unwrap()).unwrap();
        assert_eq!(status.code(), Some(1), "{said}");
        assert!(said.contains("LISTEN_FDS: socket 2 of 2") && said.contains("Accept=no"), "{said}");
    }
}

#[tokio::test]
async fn forwarded_headers_are_trusted_on_a_trusted_unix_socket() {
    let site = TestSite::start(|_| SiteReply::json("null")).await;
    let path = socket_path();
    for (round, (trusted, expected)) in [("unix", vec!["203.0.113.7"]), ("", vec![])].into_iter().enumerate()
    {
        let sockets: Vec<OwnedFd> =
            vec![TcpListener::bind("127.0.0.1:0").unwrap().into(), UnixListener::bind(&path).unwrap().into()];
        let builder = TestGateway::builder().set("auth.callback_url", &site.url());
        let builder = builder.set("server.trusted_proxies", trusted);
        let _gateway = builder.with_inherited_sockets(sockets).start().await;
        let (path, lines) = (path.clone(), "Cookie: a=1\r\nX-Forwarded-For: 203.0.113.7\r\n");
        let file = path.clone();
        let answer =
            tokio::task::spawn_blocking(move || handshake_over_unix_with(path.to_str().unwrap(), lines));
        assert_eq!(answer.await.unwrap(), "HTTP/1.1 101");
        let asked = site.expect_requests(round + 1).await.pop().unwrap();
        assert_eq!(asked.all("x-forwarded-for"), expected, "{trusted}");
        std::fs::remove_file(file).unwrap();
    }
}
