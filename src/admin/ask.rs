//! Questions of commands to the admin listener of a running gateway.

use std::fmt::Write;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, HOST};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::spawn_local;
use tokio::time::timeout;

use crate::settings::{AdminSettings, Listen};

/// Time for an answer.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Largest answer: a page with long names.
const MAX_ANSWER_BYTES: usize = 16 << 20;

/// Most objects of a page.
const PAGE: &str = "500";

/// What a health check asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HealthQuestion {
    /// Whether every shard runs its tasks.
    Live,
    /// Whether the gateway accepts clients.
    Ready,
}

/// Asks a running gateway for its health, and returns its answer. Must be called within a `LocalSet`.
///
/// # Errors
///
/// With a description, when it does not answer, or is not in this state.
pub async fn ask_health(settings: &AdminSettings, question: HealthQuestion) -> Result<Value, String> {
    let target = match question {
        HealthQuestion::Live => "/health/live",
        HealthQuestion::Ready => "/health/ready",
    };
    ask(settings, target).await
}

/// Asks a running gateway to close the connection with an id, or those that the parameters name, and returns its answer. Must
/// be called within a `LocalSet`.
///
/// # Errors
///
/// With a description, when it does not answer, or refuses.
pub async fn ask_to_close(
    settings: &AdminSettings,
    id: Option<&str>,
    parameters: &[(&str, &str)],
) -> Result<Value, String> {
    let mut target = String::from("/connections");
    if let Some(id) = id {
        // No other bytes are in an id, and they would be a part of the address.
        let is_sound = id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
        if id.is_empty() || !is_sound {
            return Err(format!("{id:?} is not the id of a connection; GET /connections lists them"));
        }
        target.push('/');
        target.push_str(id);
    }
    let mut query = String::new();
    for (name, value) in parameters {
        push_parameter(&mut query, name, value);
    }
    // Many connections take a while, and the gateway ends a request by itself.
    let deadline = TIMEOUT + settings.request;
    exchange_within(settings, (Method::DELETE, &(target + &query)), deadline).await
}

/// Asks a running gateway to reload its settings, and returns the keys that have changed. Must be called within a `LocalSet`.
///
/// # Errors
///
/// With a description, when it does not answer, or its settings have an error.
pub async fn ask_to_reload(settings: &AdminSettings) -> Result<Value, String> {
    exchange_within(settings, (Method::POST, "/reload"), TIMEOUT + settings.request).await
}

/// Asks a running gateway for a page of a list, behind the page whose `next` is `after`. Must be called within a `LocalSet`.
///
/// # Errors
///
/// With a description, when it does not answer, or refuses.
pub async fn ask_for_page(
    settings: &AdminSettings,
    list: &str,
    parameters: &[(&str, String)],
    after: Option<&str>,
) -> Result<Value, String> {
    let mut query = String::new();
    push_parameter(&mut query, "limit", PAGE);
    for (name, value) in parameters {
        push_parameter(&mut query, name, value);
    }
    if let Some(after) = after {
        push_parameter(&mut query, "after", after);
    }
    // A filter that matches little has the gateway look at many connections.
    let deadline = TIMEOUT + settings.request;
    exchange_within(settings, (Method::GET, &format!("/{list}{query}")), deadline).await
}

/// Appends a parameter to a query, with its separator.
pub(super) fn push_parameter(query: &mut String, name: &str, value: &str) {
    query.push(if query.is_empty() { '?' } else { '&' });
    query.push_str(name);
    query.push('=');
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() {
            query.push(byte.into());
        } else {
            // Writing to a string cannot fail.
            let _ = write!(query, "%{byte:02X}");
        }
    }
}

/// Sends a GET, and returns the JSON of its answer.
///
/// # Errors
///
/// With a description, when the listener does not answer, or refuses.
pub(super) async fn ask(settings: &AdminSettings, target: &str) -> Result<Value, String> {
    exchange_within(settings, (Method::GET, target), TIMEOUT).await
}

async fn exchange_within(
    settings: &AdminSettings,
    request: (Method, &str),
    deadline: Duration,
) -> Result<Value, String> {
    let answer = async {
        match &settings.listen {
            Listen::Tcp(address) => {
                let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
                exchange(stream, settings, request).await
            }
            Listen::Unix(path, _) => {
                let stream = UnixStream::connect(path).await.map_err(|error| error.to_string())?;
                exchange(stream, settings, request).await
            }
        }
    };
    timeout(deadline, answer).await.map_err(|_| format!("no answer within {} s", deadline.as_secs()))?
}

async fn exchange<S>(
    stream: S,
    settings: &AdminSettings,
    (method, target): (Method, &str),
) -> Result<Value, String>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let describe = |error: hyper::Error| error.to_string();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(describe)?;
    // It ends with its sender.
    spawn_local(connection);
    let mut request = Request::builder().method(method).uri(target).header(HOST, "localhost");
    if let Some(token) = &settings.token {
        request = request.header(AUTHORIZATION, format!("Bearer {token}"));
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(|error| error.to_string())?;
    let response = sender.send_request(request).await.map_err(describe)?;
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await;
    let body = body.map_err(|error| error.to_string())?.to_bytes();
    let foreign = || "an answer that is not the admin listener's".to_owned();
    let answer: Value = serde_json::from_slice(&body).map_err(|_| foreign())?;
    match answer["detail"].as_str() {
        _ if status == StatusCode::OK => Ok(answer),
        Some(detail) => Err(detail.to_owned()),
        None => Err(foreign()),
    }
}
