//! `ws4redis check --listen`: prints what passes through Redis, and what the gateway does with it. Never prints contents.

use std::io::{self, Write};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::CommandError;
use super::listen_end::ListenEnd;
use crate::admin::ask_receivers;
use crate::redis::{Tap, TapEvent, Target};
use crate::settings::{AdminSettings, MountSettings, NamespacePattern, Settings};
use crate::shard::ask::ReceiverQuery;
use crate::sources::{Instruction, Source, SourceReader, escape_pattern, own_channels};
use crate::wire::socket_io::{EventData, JsonElements, JsonMembers, is_reserved_event, unescape_json};
use crate::wire::{AudienceKind, Channel, ClientName, Directive, EmitTarget, Message};

/// The first byte of a pickle.
const PICKLE: u8 = 0x80;

/// Pause after the admin listener did not answer.
const ASK_PAUSE: Duration = Duration::from_secs(5);

/// The channel of publishers, which is listened to as well where their source is off: the output says so.
const DEFAULT_CHANNEL: &str = "socketio";

/// Prints until `seconds` are over, or a signal arrives.
///
/// # Errors
///
/// When Redis is unreachable or refuses all names, or standard output fails.
pub(super) async fn listen(
    settings: &Settings,
    target: &Target,
    seconds: Option<u64>,
) -> Result<(), CommandError> {
    let mut tap =
        Tap::open(target, settings.messages.max_delivery_bytes).await.map_err(CommandError::Redis)?;
    let (decoder, names) = (Decoder::new(settings), names(settings));
    for (name, _, by_pattern) in &names {
        if let Some(reason) = tap.subscribe(name, *by_pattern).await.map_err(CommandError::Redis)? {
            print(&format!("refused {name:?}: {reason}"))?;
        }
    }
    let mut counts = Counts::new(settings.admin.as_ref());
    if settings.admin.is_none() {
        print("sockets are not counted: set admin.listen, here and for the gateway")?;
    }
    print("listening; Ctrl-C ends it")?;
    let mut end = ListenEnd::new(seconds)?;
    let mut decoder = decoder;
    loop {
        let event = tokio::select! {
            event = tap.next() => event.map_err(|reason| CommandError::Redis(format!("redis lost: {reason}")))?,
            () = end.reached() => return Ok(()),
        };
        let Some(passed) = decoder.decode(&names, event) else { continue };
        print(&match passed {
            Passed { subject, query: Ok(Some(query)) } => {
                let count = counts.ask(&query).await?;
                format!("{subject} sockets={count}")
            }
            Passed { subject, query: Ok(None) } => subject,
            Passed { subject, query: Err(reason) } => format!("dropped {subject}: {reason}"),
        })?;
    }
}

fn print(line: &str) -> Result<(), CommandError> {
    writeln!(io::stdout(), "{line}").map_err(CommandError::Stdio)
}

/// Returns what to subscribe to: more than the gateway does, because a namespace or a source that is missing in the settings
/// is a reason to report.
fn names(settings: &Settings) -> Vec<(Channel, Source, bool)> {
    let own = own_channels(settings).into_iter().filter(|(_, source)| !source.is_pattern());
    let mut names: Vec<_> = own.map(|(channel, source)| (channel, source, false)).collect();
    if !names.iter().any(|(_, source, _)| *source == Source::RedisManager) {
        names.push((Channel::from_redis(DEFAULT_CHANNEL), Source::RedisManager, false));
    }
    let key = escape_pattern(&settings.socket_io.emitter.key);
    let prefix = settings.namespace.as_str();
    let prefix = if prefix.is_empty() { String::new() } else { format!("{}:", escape_pattern(prefix)) };
    let audiences = [AudienceKind::Broadcast, AudienceKind::Group, AudienceKind::User, AudienceKind::Session];
    let relay = audiences.map(|kind| (format!("{prefix}{}:*", kind.word()), Source::Relay));
    let emitter =
        [(format!("{key}#/*#*"), Source::Emitter), (format!("{key}-request#/*#"), Source::EmitterRequest)];
    let patterns = relay.into_iter().chain(emitter);
    names.extend(patterns.map(|(name, source)| (Channel::from_redis(&name), source, true)));
    names
}

/// A message that has passed.
struct Passed {
    /// What it is: source, channel, and what it asks for.
    subject: String,
    /// Whom it is for; none if it is not for clients. An error is why the gateway drops it.
    query: Result<Option<ReceiverQuery>, String>,
}

/// Decodes messages as the gateway does, and finds out why it drops some.
struct Decoder<'a> {
    settings: &'a Settings,
    reader: SourceReader,
}

impl<'a> Decoder<'a> {
    /// The reader reads what the settings leave out, too, so that it can be named.
    fn new(settings: &'a Settings) -> Self {
        let mut all = settings.clone();
        all.socket_io.redis_manager.pickle = true;
        all.socket_io.namespaces = vec![NamespacePattern::Prefix("/".to_owned())];
        Self { settings, reader: SourceReader::new(&all, None) }
    }

    fn decode(&mut self, names: &[(Channel, Source, bool)], event: TapEvent) -> Option<Passed> {
        let (pattern, message) = match event {
            TapEvent::Message(pattern, message) => (pattern, message),
            TapEvent::Oversize(channel, bytes) => {
                let limit = self.settings.messages.max_delivery_bytes;
                let reason = format!("{bytes} bytes are more than messages.max_delivery_bytes ({limit})");
                return Some(Passed { subject: format!("{channel:?}"), query: Err(reason) });
            }
        };
        let name = pattern.as_ref().map_or_else(|| message.channel(), Bytes::as_ref);
        let (_, source, _) = names.iter().find(|(own, ..)| own.as_str().as_bytes() == name)?;
        let channel = Channel::from_redis(std::str::from_utf8(message.channel()).ok()?);
        Some(self.describe(*source, channel, message))
    }

    fn describe(&mut self, source: Source, channel: Channel, message: Message) -> Passed {
        let is_reserved = source == Source::RedisManager && has_reserved_name(message.payload());
        let is_pickle = message.payload().first() == Some(&PICKLE);
        let settings = &self.settings.socket_io;
        let head = format!("{} {channel:?}", source.word());
        let off = match source {
            _ if source.is_socket_io() && settings.mounts.is_empty() => {
                Some("Socket.IO is off: set socketio.enabled = true")
            }
            Source::RedisManager
                if self.paths(source).is_empty() || settings.redis_manager.channels.is_empty() =>
            {
                Some("this source is off: set socketio.redis_manager.enabled = true")
            }
            Source::RedisManager if is_pickle && !settings.redis_manager.pickle => Some(
                "pickle is off: set socketio.redis_manager.pickle = true, or publish with python-socketio 5.14.0 or newer",
            ),
            Source::Emitter | Source::EmitterRequest
                if self.paths(source).is_empty() || !settings.emitter.is_enabled =>
            {
                Some("this source is off: set socketio.emitter.enabled = true")
            }
            _ => None,
        };
        let (what, query) = match self.reader.read(source, message, |_| true) {
            None if source == Source::Relay => {
                (String::new(), Err("it is empty, and empty messages are not delivered".to_owned()))
            }
            None if is_reserved => (
                String::new(),
                Err("the name of the event is reserved by Socket.IO, and clients would not take it; choose another name"
                    .to_owned()),
            ),
            None => (
                String::new(),
                Err("it is malformed, or exceeds messages.max_delivery_bytes or socketio.max_attachments"
                    .to_owned()),
            ),
            Some(Instruction::Deliver(_)) => {
                (audience(self.settings, &channel), Ok(Some(ReceiverQuery::Channel(channel))))
            }
            Some(Instruction::Emit(emit)) => {
                let (target, event) = *emit;
                (format!(" event={}{}", event_name(&event), target_text(&target)), self.query(source, target))
            }
            Some(Instruction::Direct(directive)) => self.directive(source, *directive),
            Some(Instruction::Bridge(orders)) => {
                let users = orders.notification.as_ref().map_or(0, |(users, _)| users.len());
                (format!(" notified users={users} events of a task={}", orders.emits.len()), Ok(None))
            }
            Some(Instruction::Ignore) => (" for servers, not for clients".to_owned(), Ok(None)),
            Some(Instruction::KeyChanged(_)) => (" a session has changed".to_owned(), Ok(None)),
            Some(Instruction::Invalidate(_)) => (" a user or a session has changed".to_owned(), Ok(None)),
            Some(Instruction::Query(_)) => (" a question of manage.py ws4redis_doctor".to_owned(), Ok(None)),
        };
        Passed { subject: head + &what, query: off.map_or(query, |off| Err(off.to_owned())) }
    }

    /// Returns the paths whose clients a source reaches.
    fn paths(&self, source: Source) -> Vec<Box<str>> {
        let reaches = |mount: &MountSettings| match source {
            Source::RedisManager => mount.redis_manager,
            _ => mount.is_main,
        };
        let mounts = self.settings.socket_io.mounts.iter().filter(|mount| reaches(mount));
        mounts.map(|mount| mount.path.as_str().into()).collect()
    }

    fn directive(
        &self,
        source: Source,
        directive: Directive,
    ) -> (String, Result<Option<ReceiverQuery>, String>) {
        let client = |client: ClientName| {
            let ClientName { namespace, sid } = client;
            EmitTarget { namespace, rooms: Some(vec![sid]), ..EmitTarget::default() }
        };
        let (what, target) = match directive {
            Directive::Emit(target, ..) => (" event".to_owned(), target),
            Directive::Ask(target, asked) => {
                (format!(" event={} with a callback", event_name(&asked.event)), target)
            }
            Directive::Answer(name, answer) => {
                let ClientName { namespace, sid } = &name;
                let what = format!(" acknowledgement={} namespace={namespace:?} sid={sid:?}", answer.id);
                return (what, self.query(source, client(name)));
            }
            Directive::Disconnect(name) => (" disconnect".to_owned(), client(name)),
            Directive::EnterRoom(name, room) => (format!(" enter_room={room:?}"), client(name)),
            Directive::LeaveRoom(name, room) => (format!(" leave_room={room:?}"), client(name)),
            Directive::CloseRoom(namespace, room) => {
                let target = EmitTarget { namespace, rooms: Some(vec![room]), ..EmitTarget::default() };
                (" close_room".to_owned(), target)
            }
            Directive::EnterRooms(target, rooms) => (format!(" enter_rooms={rooms:?}"), target),
            Directive::LeaveRooms(target, rooms) => (format!(" leave_rooms={rooms:?}"), target),
            Directive::DisconnectAll(target, _) => (" disconnect".to_owned(), target),
            // The bridges' messages are no single directives.
            Directive::Notify(..) | Directive::BeginGathering => return (String::new(), Ok(None)),
        };
        (what + &target_text(&target), self.query(source, target))
    }

    fn query(&self, source: Source, target: EmitTarget) -> Result<Option<ReceiverQuery>, String> {
        let namespaces = &self.settings.socket_io.namespaces;
        if !namespaces.iter().any(|known| known.admits(&target.namespace)) {
            return Err(format!(
                "namespace {} is not in socketio.namespaces",
                target.namespace.escape_debug()
            ));
        }
        if target.rooms.as_ref().is_some_and(Vec::is_empty) {
            return Err("it names no room, so it reaches nobody".to_owned());
        }
        Ok(Some(ReceiverQuery::Clients(self.paths(source), target)))
    }
}

/// Returns the audience and the facility of a channel of the relay. Session keys are masked.
fn audience(settings: &Settings, channel: &Channel) -> String {
    let shown = format!("{channel:?}");
    let prefix = settings.namespace.as_str();
    let name = shown.strip_prefix(prefix).unwrap_or(&shown);
    let name = if prefix.is_empty() { name } else { name.trim_start_matches(':') };
    let (kind, rest) = name.split_once(':').unwrap_or((name, ""));
    match rest.rsplit_once(':') {
        Some((owner, facility)) if kind != AudienceKind::Broadcast.word() => {
            format!(" audience={kind}:{owner} facility={facility}")
        }
        _ => format!(" audience={kind} facility={rest}"),
    }
}

fn event_name(event: &EventData) -> String {
    let name = JsonElements::new(event.json()).and_then(|mut elements| elements.next()?.ok());
    name.and_then(unescape_json).map_or_else(|| "?".to_owned(), |name| format!("{name:?}"))
}

/// Returns whether a message in JSON emits an event with a reserved name.
fn has_reserved_name(payload: &[u8]) -> bool {
    let text = std::str::from_utf8(payload).unwrap_or_default();
    let event = JsonMembers::new(text).and_then(|members| {
        let (_, event) =
            members.flatten().find(|(key, _)| unescape_json(key).is_some_and(|key| key == "event"))?;
        unescape_json(event)
    });
    event.is_some_and(|name| is_reserved_event(&name))
}

fn target_text(target: &EmitTarget) -> String {
    let EmitTarget { namespace, rooms, except, is_volatile, .. } = target;
    let rooms = rooms.as_ref().map_or_else(String::new, |rooms| format!(" rooms={rooms:?}"));
    let except = if except.is_empty() { String::new() } else { format!(" except={except:?}") };
    let volatile = if *is_volatile { " volatile" } else { "" };
    format!(" namespace={namespace:?}{rooms}{except}{volatile}")
}

/// Returns why a message reaches no client.
fn reached_nobody(query: &ReceiverQuery) -> String {
    match query {
        ReceiverQuery::Channel(_) => "no client of this gateway has subscribed to it".to_owned(),
        ReceiverQuery::Clients(_, target) => {
            let namespace = target.namespace.escape_debug();
            match &target.rooms {
                None if target.except.is_empty() => {
                    format!("no client of this gateway is connected to namespace {namespace}")
                }
                None => format!("no other client of this gateway is connected to namespace {namespace}"),
                Some(_) => {
                    format!("no client of this gateway is in these rooms of namespace {namespace}")
                }
            }
        }
    }
}

/// Asks the running gateway for counts.
struct Counts<'a> {
    admin: Option<&'a AdminSettings>,
    paused_until: Option<Instant>,
}

impl<'a> Counts<'a> {
    fn new(admin: Option<&'a AdminSettings>) -> Self {
        Self { admin, paused_until: None }
    }

    /// Returns the number of sockets of the gateway that a message reaches, or a question mark.
    async fn ask(&mut self, query: &ReceiverQuery) -> Result<String, CommandError> {
        let Some(admin) = self.admin else { return Ok("?".to_owned()) };
        if self.paused_until.is_some_and(|until| Instant::now() < until) {
            return Ok("?".to_owned());
        }
        match ask_receivers(admin, query).await {
            Ok(0) => Ok(format!("0 (reached nobody: {})", reached_nobody(query))),
            Ok(count) => Ok(count.to_string()),
            Err(reason) => {
                self.paused_until = Some(Instant::now() + ASK_PAUSE);
                print(&format!(
                    "admin.listen: no count ({reason}); is the gateway running with these settings?"
                ))?;
                Ok("?".to_owned())
            }
        }
    }
}
