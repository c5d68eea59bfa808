//! Addresses: those that are refused, a port in use, a unix socket.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};

use super::refused_start;
use crate::support::gateway::binary;
use crate::support::{DEADLINE, RedisServer, eventually, signal, unique};

#[tokio::test]
async fn a_public_address_without_a_token_exits_with_64_and_names_the_cure() {
    for listen in ["0.0.0.0:9000", "[::]:9000", "192.0.2.1:9000", "gateway.internal:9000"] {
        let (code, said) = refused_start(&[format!("admin.listen={listen}")]).await;
        assert_eq!(code, 64, "{said}");
        for part in ["admin.listen: ", "admin.token_file", "127.0.0.1", "unix:/path"] {
            assert!(said.contains(part), "{said}");
        }
    }
}

#[tokio::test]
async fn a_port_in_use_aborts_the_start_and_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let (code, said) = refused_start(&[format!("admin.listen={address}")]).await;
    assert_eq!(code, 1, "{said}");
    assert!(said.contains(&format!("admin.listen: {address} is in use")), "{said}");
}

/// Sends a GET over a unix socket, with these header lines, and returns the response.
fn get_over_unix(path: &str, target: &str, lines: &str) -> String {
    over_unix(path, &format!("GET {target}"), lines)
}

fn over_unix(path: &str, request: &str, lines: &str) -> String {
    let mut stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(format!("{request} HTTP/1.1\r\n{lines}\r\n").as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn the_unix_socket_is_for_its_owner_replaces_a_stale_one_and_is_removed_on_exit() {
    let path = std::env::temp_dir().join(unique("ws4redis-admin"));
    let path = path.to_str().unwrap();
    let start = || -> Child {
        let mut command = binary();
        command.args(["--set", &format!("admin.listen=unix:{path}"), "--set", "server.listen=127.0.0.1:0"]);
        // The permissions of the public socket do not apply.
        command.args(["--set", "server.unix_mode=0666"]);
        command.args(["--set", &format!("redis.url={}", RedisServer::shared().url())]);
        command.stderr(Stdio::null()).spawn().unwrap()
    };
    let is_up = || UnixStream::connect(path).is_ok().then_some(());
    let mut first = start();
    eventually("the admin socket", is_up).await;
    assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
    for lines in ["", "Host:\r\n", "Host: localhost\r\n", "Host: 127.0.0.1:9\r\n"] {
        let answer = get_over_unix(path, "/health/live", lines);
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{lines:?}: {answer}");
    }
    for lines in ["Host: evil.example\r\n", "Host: localhost\r\nOrigin: null\r\n"] {
        assert!(get_over_unix(path, "/health/live", lines).starts_with("HTTP/1.1 403"), "{lines:?}");
    }
    // Its permissions are an authorization of their own.
    let answer = over_unix(path, "DELETE /connections?user=nobody", "");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains(r#"{"closed":0}"#), "{answer}");
    assert!(over_unix(path, "DELETE /connections?user=nobody", "Host: x\r\n").starts_with("HTTP/1.1 403"));
    let mut second = start();
    let status = eventually("the second one refuses", || second.try_wait().unwrap()).await;
    assert_eq!(status.code(), Some(1), "another process listens there");
    first.kill().unwrap();
    first.wait().unwrap();
    assert!(std::fs::exists(path).unwrap(), "killed, it left its socket behind");
    let mut third = start();
    eventually("a socket that replaced the stale one", is_up).await;
    signal(third.id(), "TERM");
    assert_eq!(eventually("it stops", || third.try_wait().unwrap()).await.code(), Some(0));
    assert!(!std::fs::exists(path).unwrap(), "stopped, it removed its socket");
}
