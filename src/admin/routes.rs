//! The routes of the admin listener.

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Method, Request, Response};

use super::refusal::Refusal;
use super::shards::Shards;
use super::{connections, guard, health, receivers, reply};
use crate::settings::AdminSettings;

/// Answers a request. Its body is not read: no route takes one.
pub(super) async fn answer<B>(
    request: &Request<B>,
    settings: &AdminSettings,
    shards: &Shards,
) -> Response<Full<Bytes>> {
    let answered = match guard::check(request, settings) {
        Ok(()) => route(request, shards).await,
        Err(refusal) => Err(refusal),
    };
    answered.unwrap_or_else(|refusal| refusal.response())
}

async fn route<B>(request: &Request<B>, shards: &Shards) -> Result<Response<Full<Bytes>>, Refusal> {
    let path = request.uri().path();
    if !["/health/live", "/health/ready", "/connections", "/receivers"].contains(&path) {
        return Err(Refusal::NotFound);
    }
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return Err(Refusal::Method);
    }
    let value = match path {
        "/health/live" => health::live(shards).await?,
        "/health/ready" => health::ready(shards).await?,
        "/receivers" => receivers::count(request.uri().query(), shards).await?,
        _ => connections::list(request.uri().query(), shards).await?,
    };
    Ok(reply::json(&value))
}
