//! The demo page and its files, compiled into the binary.

use bytes::Bytes;
use http_body_util::Full;
use hyper::Response;
use hyper::header::{
    CACHE_CONTROL, CONNECTION, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS,
};

/// Everything comes from this server, and only its own WebSockets may be opened.
const POLICY: &str = "default-src 'self'; connect-src 'self' ws: wss:; img-src 'self' data:; style-src 'self'; \
                      script-src 'self'; base-uri 'none'; frame-ancestors 'none'";

/// The demo page and its files.
#[derive(Debug)]
pub struct StaticFiles {
    index: Bytes,
}

impl StaticFiles {
    /// Fills in the page: prefix of the WebSockets, prefix of the channels, heartbeat.
    pub fn new(websocket_url: &str, prefix: &str, heartbeat: &str) -> Self {
        let index = include_str!("../../static/index.html")
            .replace("{{ websocket_url }}", &escape(websocket_url))
            .replace("{{ prefix }}", &escape(prefix))
            .replace("{{ heartbeat }}", &escape(heartbeat));
        Self { index: index.into() }
    }

    /// Returns the answer for a path, if there is a file.
    pub(super) fn get(&self, path: &str) -> Option<Response<Full<Bytes>>> {
        let (kind, content) = match path {
            "/" => ("text/html", self.index.clone()),
            "/static/demo.css" => ("text/css", Bytes::from_static(include_bytes!("../../static/demo.css"))),
            "/static/demo.js" => {
                ("text/javascript", Bytes::from_static(include_bytes!("../../static/demo.js")))
            }
            "/static/ws4redis.mjs" => {
                ("text/javascript", Bytes::from_static(include_bytes!("../../static/ws4redis.mjs")))
            }
            "/static/ws4redis.js" => {
                ("text/javascript", Bytes::from_static(include_bytes!("../../static/ws4redis.js")))
            }
            _ => return None,
        };
        let mut response = Response::new(Full::new(content));
        let headers = response.headers_mut();
        if let Ok(kind) = HeaderValue::try_from(format!("{kind}; charset=utf-8")) {
            headers.insert(CONTENT_TYPE, kind);
        }
        // Set here and in every rejection, as hyper would else say it beside "Upgrade" in the 101, too.
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
        let files = StaticFiles::new("/ws/", "a\"b<", "");
        let page = std::str::from_utf8(&files.index).unwrap();
        assert!(page.contains("a&quot;b&lt;") && !page.contains("{{"));
        assert!(files.get("/static/../Cargo.toml").is_none());
    }
}
