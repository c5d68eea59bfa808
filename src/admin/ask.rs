//! Questions of commands to the admin listener of a running gateway.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, HOST};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::spawn_local;
use tokio::time::timeout;

use crate::settings::{AdminSettings, Listen};

/// Time for an answer.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Largest answer.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

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

/// Sends a GET, and returns the JSON of its answer.
///
/// # Errors
///
/// With a description, when the listener does not answer, or refuses.
pub(super) async fn ask(settings: &AdminSettings, target: &str) -> Result<Value, String> {
    let answer = async {
        match &settings.listen {
            Listen::Tcp(address) => {
                let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
                exchange(stream, settings, target).await
            }
            Listen::Unix(path, _) => {
                let stream = UnixStream::connect(path).await.map_err(|error| error.to_string())?;
                exchange(stream, settings, target).await
            }
        }
    };
    timeout(TIMEOUT, answer).await.map_err(|_| format!("no answer within {} s", TIMEOUT.as_secs()))?
}

async fn exchange<S>(stream: S, settings: &AdminSettings, target: &str) -> Result<Value, String>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let describe = |error: hyper::Error| error.to_string();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(describe)?;
    // It ends with its sender.
    spawn_local(connection);
    let mut request = Request::get(target).header(HOST, "localhost");
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
