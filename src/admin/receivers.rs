//! How many clients a message reaches: the answer of the admin listener, and the question of `ws4redis check --listen`.

use serde_json::{Value, json};

use super::ask::{ask, push_parameter};
use super::refusal::Refusal;
use super::shards::Shards;
use crate::settings::AdminSettings;
use crate::shard::ask::{Ask, ReceiverQuery};
use crate::wire::{Channel, EmitTarget, parameters};

/// A query without its subject.
const NO_NAME: Refusal = Refusal::Parameter("channel or namespace has to be given");
const NO_PATH: Refusal = Refusal::Parameter("namespace needs a path, for example path=/socket.io/");
const UNKNOWN_PATH: Refusal =
    Refusal::Parameter("path is not that of Socket.IO clients; `ws4redis check` lists these paths");

/// Returns the number of clients that the query names.
///
/// # Errors
///
/// When the query names none, or a path that is not served, or a shard does not answer in time.
pub(super) async fn count(query: Option<&str>, shards: &Shards) -> Result<Value, Refusal> {
    let query = parse(query)?;
    let mut receivers = 0;
    for shard in 0..shards.count() {
        let query = query.clone();
        let answer = shards.ask(shard, |answer| Ask::Receivers(query, answer)).await;
        receivers += answer.ok_or(Refusal::Unresponsive(shard))?.ok_or(UNKNOWN_PATH)?;
    }
    Ok(json!({ "receivers": receivers }))
}

fn parse(query: Option<&str>) -> Result<ReceiverQuery, Refusal> {
    let names = |key| parameters(query, key).map(Into::into).collect::<Vec<Box<str>>>();
    if let Some(channel) = parameters(query, "channel").next() {
        return Ok(ReceiverQuery::Channel(Channel::from_redis(&channel)));
    }
    let namespace = parameters(query, "namespace").next().ok_or(NO_NAME)?.into();
    // Settings have the slash at the end, mounts do not.
    let path = |path: Box<str>| path.strip_suffix('/').map(Into::into).unwrap_or(path);
    let paths: Vec<_> = names("path").into_iter().map(path).collect();
    if paths.is_empty() {
        return Err(NO_PATH);
    }
    let rooms = Some(names("room")).filter(|rooms| !rooms.is_empty());
    let (skipped, excepted) = (names("skip_sid"), names("except"));
    let excepts_rooms = !excepted.is_empty();
    let except = if excepts_rooms { excepted } else { skipped };
    let target = EmitTarget { namespace, rooms, except, excepts_rooms, is_volatile: false };
    Ok(ReceiverQuery::Clients(paths, target))
}

fn query_text(query: &ReceiverQuery) -> String {
    let mut text = String::new();
    let mut add = |key: &str, value: &str| push_parameter(&mut text, key, value);
    match query {
        ReceiverQuery::Channel(channel) => add("channel", channel.as_str()),
        ReceiverQuery::Clients(paths, target) => {
            for path in paths {
                add("path", path);
            }
            add("namespace", &target.namespace);
            target.rooms.iter().flatten().for_each(|room| add("room", room));
            let key = if target.excepts_rooms { "except" } else { "skip_sid" };
            target.except.iter().for_each(|name| add(key, name));
        }
    }
    text
}

/// Asks the admin listener of a running gateway how many of its clients a message reaches. Must be called within a
/// `LocalSet`.
///
/// # Errors
///
/// With a description, when it does not answer, or refuses.
pub async fn ask_receivers(settings: &AdminSettings, query: &ReceiverQuery) -> Result<u64, String> {
    let answer = ask(settings, &format!("/receivers{}", query_text(query))).await?;
    answer["receivers"].as_u64().ok_or_else(|| "an answer without a count".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_arrives_as_it_was_asked() {
        let target = |rooms: Option<&[&str]>, except: &[&str], excepts_rooms| EmitTarget {
            namespace: "/ä b".into(),
            rooms: rooms.map(|rooms| rooms.iter().map(|&room| room.into()).collect()),
            except: except.iter().map(|&name| name.into()).collect(),
            excepts_rooms,
            is_volatile: false,
        };
        for query in [
            ReceiverQuery::Channel(Channel::from_redis("user:j&n=x%+#:f")),
            ReceiverQuery::Clients(vec!["/socket.io".into()], target(None, &[], false)),
            ReceiverQuery::Clients(vec!["/a b".into()], target(Some(&["a&b", "c"]), &["d"], false)),
            ReceiverQuery::Clients(vec!["/a".into(), "/b".into()], target(Some(&["e"]), &["f", "g"], true)),
        ] {
            let text = query_text(&query);
            assert!(text.is_ascii() && !text.contains(' '), "{text}");
            assert_eq!(parse(text.strip_prefix('?')), Ok(query));
        }
        assert_eq!(parse(Some("room=a")), Err(NO_NAME));
        assert_eq!(parse(Some("namespace=/")), Err(NO_PATH));
        let paths = |text| match parse(Some(text)) {
            Ok(ReceiverQuery::Clients(paths, _)) => paths,
            other => panic!("{other:?}"),
        };
        assert_eq!(paths("namespace=/&path=/a/&path=/b").concat(), "/a/b");
    }
}
