//! Handshakes: parsing of path and query, and a complete request up to its 101.

use std::hint::black_box;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::runtime::Builder;
use tokio::task::LocalSet;
use tokio_util::sync::CancellationToken;
use ws4redis::access::{AllowedOrigins, Proxies};
use ws4redis::http::{HttpConfig, HttpEnd, Rejection, RequestRules, Route, RouteAnswer, Times, serve};
use ws4redis::metrics::Counters;
use ws4redis::reloadable::Reloadable;
use ws4redis::stream::Stream;
use ws4redis::telemetry::LogThrottle;
use ws4redis::unfinished::UnfinishedMemory;
use ws4redis::wire::Handshake;

use super::Case;

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case("handshake: path and query, one flag", prepare_words, 1000),
        Case("handshake: path and query, nine flags and %-encoding", prepare_words, 1000),
        Case("handshake: request of a browser to its 101, through hyper", prepare_request, 100),
    ]
}

const ONE: (&str, &str) = ("/ws/chat", "subscribe-broadcast");
const NINE: (&str, &str) = (
    "/ws/caf%C3%A9%20room",
    "subscribe-broadcast&subscribe-group&subscribe-user&subscribe-session&publish-broadcast&publish-group&publish-user&publish-session&echo",
);

fn prepare_words(name: &str) -> Box<dyn FnMut()> {
    let (path, query) = if name.contains("one") { ONE } else { NINE };
    Box::new(move || {
        black_box(Handshake::parse(black_box(path), Some(black_box(query)), "/ws/").unwrap());
    })
}

const REQUEST: &[u8] = b"GET /ws/chat?subscribe-user&subscribe-group&subscribe-broadcast HTTP/1.1\r
Host: www.example.com\r
Connection: Upgrade\r
Pragma: no-cache\r
Cache-Control: no-cache\r
User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36\r
Upgrade: websocket\r
Origin: https://www.example.com\r
Sec-WebSocket-Version: 13\r
Accept-Encoding: gzip, deflate, br, zstd\r
Accept-Language: en-GB,en;q=0.9\r
Cookie: csrftoken=1tQm7Rk0JZb0rJ3vW8n2yX4cL6sD9fGh; sessionid=wnqd0gbw5obpnj50zwh6yaq2yz4o8g9x\r
Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r
Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r
\r
";

/// Accepts every WebSocket at once.
async fn accept(route: Route) -> Result<RouteAnswer<Handshake>, Rejection> {
    let Route::WebSocket(request, acceptance) = route else { return Err(Rejection::Full) };
    assert!(request.credentials.session_cookie.is_some());
    Ok(RouteAnswer::WebSocket(acceptance, request.handshake))
}

fn prepare_request(_: &str) -> Box<dyn FnMut()> {
    let config = Rc::new(HttpConfig {
        mounts: None,
        path_prefix: "/ws/".to_owned(),
        rules: Reloadable::new(RequestRules {
            session_cookie: "sessionid".to_owned(),
            origins: AllowedOrigins::default(),
            proxies: Proxies::default(),
            tokens: false,
            passed_on: None,
        }),
        keeps_details: false,
        files: None,
        times: Times {
            request: Duration::from_secs(10),
            answer: Duration::from_secs(20),
            poll: Duration::from_secs(20),
            idle: Duration::from_secs(150),
        },
        stop: CancellationToken::new(),
        max_header_bytes: 16 * 1024,
        max_headers: 100,
        max_message_bytes: 1 << 20,
        unfinished: UnfinishedMemory::new(1 << 26),
        counters: Arc::new(Counters::default()),
        foreign_origins: LogThrottle::default(),
    });
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let local = LocalSet::new();
    Box::new(move || {
        let config = config.clone();
        local.block_on(&runtime, async move {
            let (mut client, server) = UnixStream::pair().unwrap();
            client.write_all(REQUEST).await.unwrap();
            let server = Stream::new(server.into_std().unwrap().into()).unwrap();
            let HttpEnd::Upgraded(_, handshake) = serve(server, None, &config, accept).await else {
                panic!("the handshake was refused");
            };
            black_box(&handshake);
            let mut head = [0; 512];
            let count = client.read(&mut head).await.unwrap();
            assert!(head[..count].starts_with(b"HTTP/1.1 101 "));
        });
    })
}
