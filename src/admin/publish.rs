//! Publishing for the operator, with the same keys as Django's `RedisPublisher`.

use std::sync::Arc;

use http_body_util::{BodyExt, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::{Request, Response};
use serde_json::{Map, Value, json};
use tokio::sync::Mutex;
use tokio::task::spawn_local;

use super::guard::MAX_BODY_BYTES;
use super::idempotency::{IdempotencyKeys, key_of};
use super::refusal::Refusal;
use super::reply::{self, ReplyBody};
use crate::redis::{PublishFailure, PublishedMessage, Target, publish_once};
use crate::settings::{MAX_EXPIRE_SECONDS, Settings};
use crate::wire::{AudienceNames, Facility, mask_sessions};

/// Most messages of a request, and most channels of all of them.
const MAX_MESSAGES: usize = 100;
const MAX_CHANNELS: usize = 1_000;

/// Publishes messages. One request at a time, which also bounds the connections to Redis.
#[derive(Debug, Clone)]
pub struct AdminPublisher {
    settings: Arc<Settings>,
    target: Target,
    keys: Arc<Mutex<IdempotencyKeys>>,
}

impl AdminPublisher {
    /// Creates a publisher for the Redis of the messages.
    pub fn new(settings: &Arc<Settings>, target: &Target) -> Self {
        Self { settings: settings.clone(), target: target.clone(), keys: Arc::default() }
    }

    /// Publishes the messages of a request, and answers with their receivers.
    ///
    /// # Errors
    ///
    /// When the request is malformed, its key was used for another one, or Redis cannot be reached or refuses.
    pub(super) async fn publish(&self, request: Request<Incoming>) -> Result<Response<ReplyBody>, Refusal> {
        let key = key_of(request.headers())?;
        let body = json_body(request).await?;
        let value = serde_json::from_slice(&body)
            .map_err(|error| Refusal::Body(format!("the body is not valid JSON: {error}")))?;
        let (messages, is_batch) = parse(&value, &self.settings).map_err(Refusal::Body)?;
        // A task of its own: messages must not be left half published when the client gives up.
        let mut keys = self.keys.clone().lock_owned().await;
        let Self { settings, target, .. } = self.clone();
        let publishing = spawn_local(async move {
            if let Some(key) = &key
                && let Some(answer) = keys.find(key, &body)?
            {
                return answer;
            }
            let outcome = publish_once(&settings, &target, &messages).await;
            let is_untouched = outcome.as_ref().is_err_and(|failure| !failure.was_connected);
            let answer = match outcome {
                Ok(receivers) => Ok(answer(&messages, &receivers, is_batch)),
                Err(failure) if failure.was_connected => Err(Refusal::NotPublished(failure)),
                Err(failure) => Err(Refusal::RedisUnreachable(failure.reason)),
            };
            // Nothing was written: the same request may be tried again.
            if let Some(key) = key.filter(|_| !is_untouched) {
                keys.remember(key, &body, answer.clone());
            }
            answer
        });
        // It fails only if it panics.
        let failed =
            |_| PublishFailure { published: 0, was_connected: true, reason: "it has failed".to_owned() };
        let answer = publishing.await.map_err(|error| Refusal::NotPublished(failed(error)))?;
        answer.map(|value| reply::json(&value))
    }
}

/// Reads a body of JSON, up to its limit.
async fn json_body(request: Request<Incoming>) -> Result<Bytes, Refusal> {
    let kind = request.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if !kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json") {
        return Err(Refusal::NotJson);
    }
    let most = usize::try_from(MAX_BODY_BYTES).unwrap_or(usize::MAX);
    let body = Limited::new(request.into_body(), most).collect().await;
    body.map(http_body_util::Collected::to_bytes).map_err(|_| Refusal::TooLarge(MAX_BODY_BYTES))
}

fn answer(messages: &[PublishedMessage], receivers: &[Vec<i64>], is_batch: bool) -> Value {
    let one = |(message, counts): (&PublishedMessage, &Vec<i64>)| {
        let channels = message.channels.iter().zip(counts);
        let channels: Vec<_> = channels
            .map(|(channel, count)| json!({ "channel": mask_sessions(channel.as_str()), "receivers": count }))
            .collect();
        json!({ "channels": channels })
    };
    let mut answers: Vec<_> = messages.iter().zip(receivers).map(one).collect();
    if is_batch { json!({ "messages": answers }) } else { answers.pop().unwrap_or_default() }
}

/// Returns the messages of a body, and whether it is a batch.
fn parse(body: &Value, settings: &Settings) -> Result<(Vec<PublishedMessage>, bool), String> {
    let Some(object) = body.as_object() else { return Err("the body has to be an object".to_owned()) };
    let Some(batch) = object.get("messages") else { return Ok((vec![message(object, settings)?], false)) };
    let batch = batch.as_array().filter(|_| object.len() == 1);
    let batch = batch.ok_or("a batch has only messages, a list of objects")?;
    if batch.is_empty() || batch.len() > MAX_MESSAGES {
        return Err(format!("a batch has 1 to {MAX_MESSAGES} messages"));
    }
    let mut messages = Vec::with_capacity(batch.len());
    for (index, value) in batch.iter().enumerate() {
        let object = value.as_object().ok_or("it has to be an object");
        let read = object.map_err(str::to_owned).and_then(|object| message(object, settings));
        messages.push(read.map_err(|problem| format!("message {index} of the batch: {problem}"))?);
    }
    if messages.iter().map(|message| message.channels.len()).sum::<usize>() > MAX_CHANNELS {
        return Err(format!("a request has {MAX_CHANNELS} channels at most; send several"));
    }
    Ok((messages, true))
}

fn message(object: &Map<String, Value>, settings: &Settings) -> Result<PublishedMessage, String> {
    let (mut audiences, mut facility, mut text, mut expire) =
        (AudienceNames::default(), None, None, settings.expire_seconds);
    for (name, value) in object {
        let wrong = |expected: &str| format!("{name} has to be {expected}");
        match name.as_str() {
            "facility" => facility = Some(value.as_str().ok_or_else(|| wrong("a text"))?),
            "message" => text = Some(value.as_str().ok_or_else(|| wrong("a text"))?),
            "broadcast" => audiences.broadcast = value.as_bool().ok_or_else(|| wrong("true or false"))?,
            "users" => audiences.users = names(value).ok_or_else(|| wrong("a list of texts"))?,
            "groups" => audiences.groups = names(value).ok_or_else(|| wrong("a list of texts"))?,
            "sessions" => audiences.sessions = names(value).ok_or_else(|| wrong("a list of texts"))?,
            "expire" => {
                let seconds = value.as_i64().ok_or_else(|| wrong("a number of seconds"))?;
                if seconds > MAX_EXPIRE_SECONDS {
                    return Err(wrong(&format!("{MAX_EXPIRE_SECONDS} at most")));
                }
                expire = u64::try_from(seconds).unwrap_or(0);
            }
            _ => {
                return Err(format!(
                    "{name:?} is unknown; there are facility, message, broadcast, users, groups, sessions and expire"
                ));
            }
        }
    }
    let facility = Facility::new(facility.ok_or("facility is missing")?);
    let payload = text.ok_or("message is missing")?.as_bytes().to_vec();
    if payload.is_empty() {
        return Err("the message is empty, and empty messages are not delivered".to_owned());
    }
    let most = settings.messages.max_delivery_bytes;
    if payload.len() > most {
        return Err(format!(
            "the message is longer than messages.max_delivery_bytes ({most}), clients would not get it"
        ));
    }
    let channels = audiences.channels(&settings.namespace, &facility);
    let channels = channels.map_err(|error| format!("{error}; see broadcast, users, groups and sessions"))?;
    if channels.len() > MAX_CHANNELS {
        return Err(format!("a message has {MAX_CHANNELS} channels at most; send several"));
    }
    let history = settings.history.limits_of(&facility);
    Ok(PublishedMessage { channels, payload, expire_seconds: expire, history })
}

fn names(value: &Value) -> Option<Vec<String>> {
    value.as_array()?.iter().map(|name| name.as_str().map(str::to_owned)).collect()
}
