//! `ws4redis listen FACILITY…`: prints the messages of facilities as they come.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::listen_end::ListenEnd;
use super::output::{CommandOutput, note};
use super::{CommandError, OutputFlags, block_on, unreachable_redis};
use crate::redis::{Tap, TapEvent, Target};
use crate::settings::Settings;
use crate::sources::escape_pattern;
use crate::wire::{Audience, AudienceKind, Channel, Facility, SessionKey, iso_text};

/// What to listen to.
#[derive(Debug)]
pub struct ListenRequest {
    /// The facilities.
    pub facilities: Vec<String>,
    /// Whether to listen to the messages to all clients.
    pub broadcast: bool,
    /// The users whose messages to listen to.
    pub users: Vec<String>,
    /// The groups whose messages to listen to.
    pub groups: Vec<String>,
    /// The session keys whose messages to listen to. Without any audience all messages are printed.
    pub sessions: Vec<String>,
    /// Seconds; none until a signal arrives.
    pub seconds: Option<u64>,
}

/// A channel, or a pattern of channels, with its facility.
struct Heard {
    name: Channel,
    is_pattern: bool,
    facility: Facility,
}

/// Prints the messages of facilities, until the time is over or a signal arrives.
///
/// # Errors
///
/// When Redis is unreachable or refuses all names, or standard output fails.
pub fn listen_to_facilities(
    settings: &Settings,
    request: &ListenRequest,
    flags: OutputFlags,
) -> Result<(), CommandError> {
    let target = Target::new(&settings.redis)?;
    block_on(listen(settings, &target, request, CommandOutput::new(flags)))
}

async fn listen(
    settings: &Settings,
    target: &Target,
    request: &ListenRequest,
    output: CommandOutput,
) -> Result<(), CommandError> {
    let unreachable = |reason: String| unreachable_redis(target, &reason);
    let mut tap = Tap::open(target, settings.messages.max_delivery_bytes).await.map_err(unreachable)?;
    let (mut heard, mut refusal) = (Vec::new(), None);
    for each in names(settings, request) {
        match tap.subscribe(&each.name, each.is_pattern).await.map_err(unreachable)? {
            None => heard.push(each),
            Some(reason) => {
                note(&format!("Redis refuses {:?}: {reason}", each.name));
                refusal = Some(reason);
            }
        }
    }
    if let Some(reason) = refusal.filter(|_| heard.is_empty()) {
        let cure = "allow its user to subscribe with ACL SETUSER, or name audiences with --broadcast, --user, --group or --session";
        return Err(CommandError::Redis(format!("Redis refuses all names ({reason}); {cure}")));
    }
    note("listening; Ctrl-C ends it");
    let mut end = ListenEnd::new(request.seconds)?;
    loop {
        let event = tokio::select! {
            event = tap.next() => event.map_err(|reason| CommandError::Redis(format!("redis lost: {reason}")))?,
            () = end.reached() => return Ok(()),
        };
        print(settings, &heard, &event, output)?;
    }
}

/// Returns the channels of the audiences, or patterns for all of them.
fn names(settings: &Settings, request: &ListenRequest) -> Vec<Heard> {
    let ListenRequest { broadcast, users, groups, sessions, .. } = request;
    let keys: Vec<_> = sessions.iter().map(|key| SessionKey::new(key)).collect();
    let is_all = !broadcast && users.is_empty() && groups.is_empty() && sessions.is_empty();
    let audiences = (*broadcast || is_all).then_some(Audience::Broadcast).into_iter();
    let audiences = audiences
        .chain(users.iter().map(|name| Audience::User(name)))
        .chain(groups.iter().map(|name| Audience::Group(name)))
        .chain(keys.iter().map(Audience::Session));
    let audiences: Vec<_> = audiences.collect();
    let prefix = settings.namespace.as_str();
    let prefix = if prefix.is_empty() { String::new() } else { format!("{}:", escape_pattern(prefix)) };
    let mut heard = Vec::new();
    for facility in request.facilities.iter().map(|name| Facility::new(name)) {
        for audience in &audiences {
            let name = settings.namespace.channel(*audience, &facility);
            heard.push(Heard { name, is_pattern: false, facility: facility.clone() });
        }
        let kinds = [AudienceKind::User, AudienceKind::Group, AudienceKind::Session];
        for kind in kinds.into_iter().filter(|_| is_all) {
            let pattern = format!("{prefix}{}:*:{}", kind.word(), escape_pattern(facility.as_str()));
            let name = Channel::from_redis(&pattern);
            heard.push(Heard { name, is_pattern: true, facility: facility.clone() });
        }
    }
    heard
}

fn print(
    settings: &Settings,
    heard: &[Heard],
    event: &TapEvent,
    output: CommandOutput,
) -> Result<(), CommandError> {
    let (name, channel, payload) = match event {
        TapEvent::Message(pattern, message) => {
            let name = pattern.as_ref().map_or_else(|| message.channel(), |pattern| &pattern[..]);
            (name, Channel::from_redis(&String::from_utf8_lossy(message.channel())), message.payload())
        }
        TapEvent::Oversize(channel, bytes) => {
            let limit = settings.messages.max_delivery_bytes;
            note(&format!(
                "{channel:?}: a message of {bytes} bytes is larger than messages.max_delivery_bytes ({limit}), clients do not get it"
            ));
            return Ok(());
        }
    };
    let Some(Heard { facility, .. }) = heard.iter().find(|heard| heard.name.as_str().as_bytes() == name)
    else {
        return Ok(());
    };
    let audience = settings.namespace.audience_of(&channel, facility);
    let time = now();
    let text = std::str::from_utf8(payload);
    output.print(
        || {
            let mut object = json!({ "time": time, "facility": facility.as_str(), "audience": audience });
            match text {
                Ok(text) => object["data"] = text.into(),
                Err(_) => object["base64"] = Value::String(STANDARD.encode(payload)),
            }
            object
        },
        || {
            let source = format!("{time} {} {}", facility.as_str().escape_debug(), audience.escape_debug());
            let shown = match text {
                // A message must not control the terminal.
                Ok(text) => {
                    text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
                }
                Err(_) => format!("({} bytes that are no text)", payload.len()),
            };
            format!("{}  {shown}", output.dim(&source))
        },
    )
}

fn now() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    iso_text(i64::try_from(now.as_secs()).unwrap_or_default(), now.subsec_nanos()).unwrap_or_default()
}
