//! The route `/receivers`.

use std::net::SocketAddr;

use super::{json, refused};
use crate::support::client::Request;
use crate::support::socket_io::SocketIoGateway;

#[tokio::test]
async fn receivers_are_counted_at_a_path_with_or_without_its_slash() {
    let server = SocketIoGateway::start_with(&[("admin.listen", "127.0.0.1:0")]).await;
    let line = server.gateway.expect_log(&["admin listener: http://"]).await;
    let address: SocketAddr = line.split("http://").nth(1).unwrap().trim_end().parse().unwrap();
    let get = |target: &str| {
        let request = Request::handshake(address, target, "", 0);
        ["Upgrade", "Connection"].into_iter().fold(request, Request::without)
    };
    let (_client, _) = server.connect("/").await;
    for path in ["/socket.io", "/socket.io/"] {
        let answer = get(&format!("/receivers?namespace=/&path={path}")).expect_status(200).await;
        assert_eq!(json(&answer)["receivers"], 1, "{path}");
    }
    refused(get("/receivers?namespace=/&path=/nope/"), 400, "`ws4redis check` lists these paths").await;
    refused(get("/receivers?namespace=/"), 400, "needs a path").await;
}
