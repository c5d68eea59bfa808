//! The lists of channels and users, in the order of their names.

use std::collections::BTreeMap;

use hyper::{Request, Response};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::list::{ListPart, ListRequest, respond};
use super::refusal::Refusal;
use super::reply::ReplyBody;
use super::shards::Shards;
use crate::shard::ask::{Ask, NameQuery};
use crate::wire::parameters;

/// A question for names.
type NameQuestion = fn(NameQuery, oneshot::Sender<Vec<(String, usize)>>) -> Ask;

/// Answers with the Redis channels that clients listen to, or the groups of Django Channels.
///
/// # Errors
///
/// When a parameter is malformed, or a shard does not answer in time.
pub(super) async fn channels<B>(
    request: &Request<B>,
    shards: &Shards,
) -> Result<Response<ReplyBody>, Refusal> {
    let query = request.uri().query();
    let of_groups = match parameters(query, "kind").next().as_deref() {
        None | Some("channel") => false,
        Some("group") => true,
        Some(_) => return Err(Refusal::Parameter("kind has to be channel or group")),
    };
    let list = ListRequest::read(request, String::new(), &["kind", "prefix"])?;
    let ask: NameQuestion = if of_groups { Ask::Groups } else { Ask::Channels };
    let name = if of_groups { "group" } else { "channel" };
    let object = move |text: String, count: usize| json!({ name: text, "listeners": count });
    names("channels", list, prefix(query), shards, ask, object).await
}

/// Answers with the users that are connected.
///
/// # Errors
///
/// When a parameter is malformed, or a shard does not answer in time.
pub(super) async fn users<B>(request: &Request<B>, shards: &Shards) -> Result<Response<ReplyBody>, Refusal> {
    let list = ListRequest::read(request, String::new(), &["prefix"])?;
    let object = |name: String, count: usize| json!({ "user": name, "connections": count });
    names("users", list, prefix(request.uri().query()), shards, Ask::Users, object).await
}

fn prefix(query: Option<&str>) -> Box<str> {
    parameters(query, "prefix").next().unwrap_or_default().into()
}

async fn names(
    name: &'static str,
    list: ListRequest<String>,
    prefix: Box<str>,
    shards: &Shards,
    ask: NameQuestion,
    object: impl Fn(String, usize) -> Value + 'static,
) -> Result<Response<ReplyBody>, Refusal> {
    let shards = shards.clone();
    let collect = async move |after: String, limit: usize| {
        let query = NameQuery { after: after.into(), prefix: prefix.clone(), limit };
        let (found, next) = collect_names(&shards, &query, ask).await?;
        Ok(ListPart { objects: found.into_iter().map(|(name, count)| object(name, count)).collect(), next })
    };
    respond(name, list, collect).await
}

/// Returns the first names of all shards, and the last one of them if there are more.
async fn collect_names(
    shards: &Shards,
    query: &NameQuery,
    ask: NameQuestion,
) -> Result<(Vec<(String, usize)>, Option<String>), Refusal> {
    let _listing = shards.begin_listing().await;
    let (mut all, mut is_whole) = (BTreeMap::<String, usize>::new(), true);
    for shard in 0..shards.count() {
        let answer = shards.ask(shard, |answer| ask(query.clone(), answer)).await;
        let found = answer.ok_or(Refusal::Unresponsive(shard))?;
        is_whole &= found.len() < query.limit;
        for (name, count) in found {
            *all.entry(name).or_default() += count;
        }
    }
    // The first names of all are among the first ones of each shard.
    is_whole &= all.len() <= query.limit;
    let found: Vec<_> = all.into_iter().take(query.limit).collect();
    let next = found.last().filter(|_| !is_whole).map(|(name, _)| name.clone());
    Ok((found, next))
}
