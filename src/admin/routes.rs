//! The routes of the listeners.

use hyper::body::Incoming;
use hyper::{Method, Request, Response};

use super::publish::AdminPublisher;
use super::refusal::Refusal;
use super::reply::ReplyBody;
use super::shards::Shards;
use super::{close, connections, guard, health, metrics, names, receivers, reload, reply, yunity};
use crate::settings::AdminSettings;

/// What a listener serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteSet {
    /// Everything for the operator.
    Operator,
    /// The list of yunity-sockets alone, at the address that its server had for it.
    Yunity,
}

impl RouteSet {
    /// Returns the setting that has the address of the listener.
    pub(super) fn key(self) -> &'static str {
        match self {
            Self::Operator => "admin.listen",
            Self::Yunity => "socketio.yunity.admin_listen",
        }
    }

    /// Returns the name of the listener in the log.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Operator => "admin listener",
            Self::Yunity => "list of yunity-sockets",
        }
    }
}

/// Answers a request. Only publishing reads its body.
pub(super) async fn answer(
    request: Request<Incoming>,
    settings: &AdminSettings,
    routes: RouteSet,
    shards: &Shards,
    publisher: Option<&AdminPublisher>,
) -> Response<ReplyBody> {
    let publisher = publisher.filter(|_| request.uri().path() == "/publish");
    let answered = match guard::check(&request, settings, routes) {
        Ok(()) if routes == RouteSet::Yunity => the_list(&request, shards).await,
        Ok(()) => match publisher {
            Some(publisher) if request.method() == Method::POST => publisher.publish(request).await,
            Some(_) => Err(Refusal::Method("POST")),
            None => route(&request, shards).await,
        },
        Err(refusal) => Err(refusal),
    };
    answered.unwrap_or_else(|refusal| refusal.response())
}

async fn route<B>(request: &Request<B>, shards: &Shards) -> Result<Response<ReplyBody>, Refusal> {
    let path = request.uri().path();
    if let Some(id) = path.strip_prefix("/connections/").filter(|id| !id.is_empty()) {
        if request.method() != Method::DELETE {
            return Err(Refusal::Method("DELETE"));
        }
        return Ok(reply::json(&close::close(Some(id), request.uri().query(), shards).await?));
    }
    let paths = [
        "/health/live",
        "/health/ready",
        "/connections",
        "/channels",
        "/users",
        "/metrics",
        "/receivers",
        "/reload",
        "/yunity",
    ];
    if !paths.contains(&path) {
        return Err(Refusal::NotFound);
    }
    if path == "/reload" {
        if request.method() != Method::POST {
            return Err(Refusal::Method("POST"));
        }
        return Ok(reply::json(&reload::reload(shards).await?));
    }
    if path == "/connections" && request.method() == Method::DELETE {
        return Ok(reply::json(&close::close(None, request.uri().query(), shards).await?));
    }
    if !is_read(request) {
        return Err(Refusal::Method(if path == "/connections" { "GET, HEAD, DELETE" } else { "GET, HEAD" }));
    }
    let value = match path {
        "/channels" => return names::channels(request, shards).await,
        "/users" => return names::users(request, shards).await,
        "/health/live" => health::live(shards).await?,
        "/health/ready" => health::ready(shards).await?,
        "/metrics" => return metrics::metrics(shards).await,
        "/receivers" => receivers::count(request.uri().query(), shards).await?,
        "/yunity" => return Ok(reply::response(yunity::list(shards).await?)),
        _ => return connections::list(request, shards).await,
    };
    Ok(reply::json(&value))
}

/// Answers as the server of yunity-sockets: everything but its list is 404.
async fn the_list<B>(request: &Request<B>, shards: &Shards) -> Result<Response<ReplyBody>, Refusal> {
    if request.uri().path() != "/" || !is_read(request) {
        return Err(Refusal::NotTheList);
    }
    Ok(reply::response(yunity::list(shards).await?))
}

fn is_read<B>(request: &Request<B>) -> bool {
    request.method() == Method::GET || request.method() == Method::HEAD
}
