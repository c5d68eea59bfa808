//! The demo page and its files, compiled into the binary.

use bytes::Bytes;
use http_body_util::Full;
use hyper::Response;
use hyper::header::{
    CACHE_CONTROL, CONNECTION, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS,
};

/// Allows content from this server only; the page may open WebSockets to any address.
const POLICY: &str = "default-src 'self'; connect-src 'self' ws: wss:; img-src 'self' data:; style-src 'self'; \
                      script-src 'self'; base-uri 'none'; frame-ancestors 'none'";

/// Names files below `static/`, each with its content.
macro_rules! files {
    ($($name:literal)*) => {
        &[$((concat!("/static/", $name), include_bytes!(concat!("../../static/", $name)))),*]
    };
}

/// The demo page's files, each with its path.
const FILES: &[(&str, &[u8])] = files![
    "ws4redis.js"
    "ws4redis.mjs"
    "demo/address.js"
    "demo/chat.js"
    "demo/connections.js"
    "demo/demo.css"
    "demo/echo.js"
    "demo/kept.js"
    "demo/log.js"
    "demo/messages.js"
    "demo/onesocket.js"
    "demo/page.js"
    "demo/snippets.js"
    "demo/socketio.js"
    "demo/tour.js"
    "demo/whoami.js"
    "vendor/socket.io.esm.min.js"
];

/// The settings that the demo page shows and uses.
#[derive(Debug, Clone, Copy, Default)]
pub struct PageValues<'a> {
    /// The prefix of the WebSockets' paths.
    pub websocket_url: &'a str,
    /// The prefix of the channels.
    pub prefix: &'a str,
    /// The heartbeat; empty if there is none.
    pub heartbeat: &'a str,
    /// Seconds for which messages of clients persist.
    pub expire_seconds: u64,
    /// The path of Socket.IO; empty if it is off.
    pub socket_io_path: &'a str,
    /// The channel of Socket.IO's publishers.
    pub socket_io_channel: &'a str,
    /// The command that reaches Redis.
    pub redis_cli: &'a str,
}

/// Returns the address of the documentation of this version; empty while the package names no repository.
fn docs(repository: &str) -> String {
    if repository.is_empty() {
        return String::new();
    }
    format!("{}/blob/v{}/docs/", repository.trim_end_matches('/'), env!("CARGO_PKG_VERSION"))
}

/// The demo page and its files.
#[derive(Debug)]
pub struct StaticFiles {
    index: Bytes,
}

impl StaticFiles {
    /// Fills in the page.
    pub fn new(values: &PageValues<'_>) -> Self {
        let index = include_str!("../../static/index.html")
            .replace("{{ version }}", env!("CARGO_PKG_VERSION"))
            .replace("{{ docs }}", &escape(&docs(env!("CARGO_PKG_REPOSITORY"))))
            .replace("{{ websocket_url }}", &escape(values.websocket_url))
            .replace("{{ prefix }}", &escape(values.prefix))
            .replace("{{ heartbeat }}", &escape(values.heartbeat))
            .replace("{{ expire }}", &values.expire_seconds.to_string())
            .replace("{{ socketio_path }}", &escape(values.socket_io_path))
            .replace("{{ socketio_channel }}", &escape(values.socket_io_channel))
            .replace("{{ redis_cli }}", &escape(values.redis_cli));
        Self { index: index.into() }
    }

    /// Returns the answer for a path, if there is a file.
    pub(super) fn get(&self, path: &str) -> Option<Response<Full<Bytes>>> {
        let content = match path {
            "/" => self.index.clone(),
            path => Bytes::from_static(FILES.iter().find(|(name, _)| *name == path)?.1),
        };
        let kind = match path.rsplit('.').next() {
            Some("css") => "text/css; charset=utf-8",
            Some("js" | "mjs") => "text/javascript; charset=utf-8",
            _ => "text/html; charset=utf-8",
        };
        let mut response = Response::new(Full::new(content));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        // Per response: hyper's own setting would add it to the 101, too.
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        Some(response)
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
        .replace('\'', "&#39;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_filled_in_and_escaped() {
        let files = StaticFiles::new(&PageValues { prefix: "a\"b<", ..PageValues::default() });
        let page = std::str::from_utf8(&files.index).unwrap();
        assert!(page.contains("a&quot;b&lt;") && !page.contains("{{"));
        assert!(files.get("/static/../Cargo.toml").is_none());
    }
}
