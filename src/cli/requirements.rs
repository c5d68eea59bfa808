//! Whether Redis runs the commands that events, presence and the bridges need, and publishes keyspace events: `ws4redis check`.

use super::findings::Findings;
use crate::redis::error_reply::hint;
use crate::redis::{Permission, RightsTrial, Target};
use crate::settings::{EventDestination, Settings};
use crate::wire::PublishedEvents;

/// An id in the names of keys that are tried. The commands change nothing, whatever these keys hold.
const ID: &str = "0";

/// A member that no sorted set has: names of users have no control characters.
const NO_MEMBER: &str = "\0";

/// A part of the gateway, and the commands that it sends to Redis.
struct TriedPart {
    /// What the line begins with: its name, and its settings.
    subject: String,
    commands: Vec<TriedCommand>,
    /// Without them it works, but not as well.
    optional: Vec<TriedCommand>,
    /// What happens without a command, and without an optional one.
    consequences: [&'static str; 2],
}

/// A command that is tried.
struct TriedCommand {
    words: Vec<String>,
    /// It has no form that changes nothing, so a transaction queues it.
    is_queued: bool,
    /// The ACL pattern of its keys or its channel; empty if it has none.
    pattern: String,
}

impl TriedCommand {
    /// Takes a command that changes nothing, and whose second word is its key.
    fn harmless(words: &[&str], keys: &str) -> Self {
        let words = words.iter().map(|&word| word.to_owned()).collect();
        Self { words, is_queued: false, pattern: format!("~{keys}") }
    }

    fn name(&self) -> &str {
        &self.words[0]
    }
}

/// Finds out what the embedded store cannot do for these settings.
pub(super) fn embedded(settings: &Settings) -> Findings {
    let mut findings = Findings::default();
    match &settings.events.destination {
        Some(EventDestination::Stream(_) | EventDestination::List(_)) => findings.problem(format!(
            "{} the embedded store has neither consumer groups nor lists, so the gateway does not start. Set redis.url",
            events_subject(settings)
        )),
        Some(EventDestination::Channel(_)) => {
            findings.note(format!("{} the embedded store publishes them", events_subject(settings)));
        }
        None => without_events(settings, &mut findings),
    }
    match presence_subject(settings) {
        Some(subject) => findings.problem(format!(
            "{subject} the embedded store has no sorted sets, so nobody is ever online. Set redis.url"
        )),
        None => findings.note("presence: off".to_owned()),
    }
    let messenger = settings.socket_io.mounts.iter().any(|mount| mount.messenger);
    if messenger && settings.socket_io.messenger.connections_key.is_some() {
        findings.problem(
            "messenger: the embedded store has no scripts, so connections are not gathered. Set redis.url"
                .to_owned(),
        );
    }
    findings
}

/// Tries the commands that the settings need, and asks for keyspace events.
///
/// # Errors
///
/// With a description, when the connection is lost.
pub(super) async fn examine(settings: &Settings, target: &Target) -> Result<Findings, String> {
    let mut findings = Findings::default();
    let mut trial = RightsTrial::open(target).await?;
    match &settings.events.destination {
        Some(destination) => examine_part(&mut trial, &events(settings, destination), &mut findings).await?,
        None => without_events(settings, &mut findings),
    }
    match presence_subject(settings) {
        Some(subject) => examine_part(&mut trial, &presence(settings, subject), &mut findings).await?,
        None => findings.note("presence: off".to_owned()),
    }
    for bridge in bridges(settings) {
        examine_part(&mut trial, &bridge, &mut findings).await?;
    }
    examine_keyspace_events(settings, target, trial, &mut findings).await?;
    Ok(findings)
}

async fn examine_part(
    trial: &mut RightsTrial,
    part: &TriedPart,
    findings: &mut Findings,
) -> Result<(), String> {
    let TriedPart { subject, commands, optional, consequences: [without, less] } = part;
    let (mut granted, mut untested, mut refused) = (Vec::new(), Vec::new(), Vec::new());
    for command in commands {
        match attempt(trial, command).await? {
            Permission::Granted => granted.push(command),
            Permission::Untested => untested.push(command),
            Permission::Refused(reason) => refused.push((command, reason)),
        }
    }
    if let Some((_, reason)) = refused.first() {
        let all: Vec<_> = refused.iter().map(|(command, _)| *command).collect();
        let cure = if reason.starts_with("NOPERM") {
            format!("Allow it with ACL SETUSER \u{2026} {}", rights(&all))
        } else if hint(reason).is_empty() {
            "The embedded store has neither lists, sorted sets nor these scripts: set redis.url to a Redis"
                .to_owned()
        } else {
            format!("The reason: {}", hint(reason))
        };
        findings.problem(format!("{subject} Redis refuses {} ({reason}); {without}. {cure}", names(&all)));
        return Ok(());
    }
    let mut facts = Vec::new();
    if !granted.is_empty() {
        facts.push(format!("Redis permits {}", names(&granted)));
    }
    if !untested.is_empty() {
        facts.push(format!("{} was not tested, because Redis refuses MULTI", names(&untested)));
    }
    let mut missing = Vec::new();
    for command in optional {
        if matches!(attempt(trial, command).await?, Permission::Refused(_)) {
            missing.push(command);
        }
    }
    if !missing.is_empty() {
        facts.push(format!("without {} {less}", names(&missing)));
    }
    findings.note(format!("{subject} {}", facts.join("; ")));
    Ok(())
}

async fn attempt(trial: &mut RightsTrial, command: &TriedCommand) -> Result<Permission, String> {
    let words: Vec<_> = command.words.iter().map(String::as_str).collect();
    if command.is_queued { trial.queue(&words).await } else { trial.send(&words).await }
}

/// Lists the names of commands.
fn names(commands: &[&TriedCommand]) -> String {
    let mut names: Vec<_> = commands.iter().map(|command| command.name()).collect();
    names.dedup();
    match names.split_last() {
        Some((last, others)) if !others.is_empty() => format!("{} and {last}", others.join(", ")),
        _ => names.concat(),
    }
}

/// Returns the rights that commands need, as arguments of `ACL SETUSER`.
fn rights(commands: &[&TriedCommand]) -> String {
    let names = commands.iter().map(|command| format!("+{}", command.name().to_lowercase()));
    let mut rights: Vec<String> = Vec::new();
    for right in names.chain(commands.iter().map(|command| command.pattern.clone())) {
        if !right.is_empty() && !rights.contains(&right) {
            rights.push(right);
        }
    }
    rights.join(" ")
}

fn events_subject(settings: &Settings) -> String {
    match &settings.events.destination {
        Some(EventDestination::Stream(key)) => format!("events: stream:{key},"),
        Some(EventDestination::List(key)) => format!("events: list:{key},"),
        Some(EventDestination::Channel(name)) => format!("events: channel:{name},"),
        None => "events: off".to_owned(),
    }
}

/// Reports events that are selected and go nowhere.
fn without_events(settings: &Settings, findings: &mut Findings) {
    if settings.socket_io.client_events.is_empty() {
        findings.note("events: off".to_owned());
    } else {
        findings.problem(
            "events: off, and socketio.client_events selects events, which Django does not get. Set events.to, for example stream:ws4redis:events"
                .to_owned(),
        );
    }
}

fn events(settings: &Settings, destination: &EventDestination) -> TriedPart {
    let bare =
        |name: &str| TriedCommand { words: vec![name.to_owned()], is_queued: false, pattern: String::new() };
    let queued = |name: &str, to: &str, sign: char| TriedCommand {
        words: vec![name.to_owned(), to.to_owned(), ID.to_owned()],
        is_queued: true,
        pattern: format!("{sign}{to}"),
    };
    let (commands, optional) = match destination {
        EventDestination::Stream(key) => {
            // An invalid id.
            let add = TriedCommand::harmless(&["XADD", key, "x", "data", "x"], key);
            // EXEC ends the transaction that MULTI begins.
            (vec![add], vec![bare("MULTI"), bare("EXEC")])
        }
        EventDestination::List(key) => {
            let trim = TriedCommand::harmless(&["LTRIM", key, "0", "-1"], key);
            (vec![queued("RPUSH", key, '~'), trim], Vec::new())
        }
        EventDestination::Channel(name) => (vec![queued("PUBLISH", name, '&')], Vec::new()),
    };
    let consequences = ["Django gets no events", "a passing error of Redis may change the order of events"];
    TriedPart { subject: events_subject(settings), commands, optional, consequences }
}

/// Returns what is counted; `None` if nothing is.
fn presence_subject(settings: &Settings) -> Option<String> {
    match settings.presence.len() {
        0 if settings.events.tells_presence() => Some("presence: users of the site,".to_owned()),
        0 => None,
        1 => Some("presence: 1 table and users of the site,".to_owned()),
        tables => Some(format!("presence: {tables} tables and users of the site,")),
    }
}

fn presence(settings: &Settings, subject: String) -> TriedPart {
    let namespace = &settings.namespace;
    let users = namespace.own("online");
    let user = namespace.own(&format!("online:{ID}"));
    // One pattern for both: that of the users alone has no place for the keys of their connections.
    let online = format!("{users}*");
    let mut keys = vec![(users.clone(), online.clone()), (user.clone(), online.clone())];
    for rule in &settings.presence {
        for pattern in rule.facilities.texts() {
            let facility = pattern.replace('*', "").replace('?', ID);
            let key = |facility: &str| namespace.own(&format!("presence:{facility}"));
            keys.push((key(&facility), key(&pattern)));
        }
    }
    // Invalid numbers, or a member that does not exist.
    let mut commands = Vec::new();
    for words in
        [&["ZADD", "x", "x"][..], &["ZREM", NO_MEMBER], &["ZREMRANGEBYSCORE", "x", "x"], &["EXPIRE", "x"]]
    {
        for (key, pattern) in &keys {
            let (name, arguments) = (words[0], &words[1..]);
            commands.push(TriedCommand::harmless(&[&[name, key.as_str()], arguments].concat(), pattern));
        }
    }
    let script = TriedCommand::harmless(&["EVAL", "return 0", "2", &user, &users], &online);
    let optional = vec![
        script,
        TriedCommand::harmless(&["ZSCORE", &user, ID], &online),
        TriedCommand::harmless(&["ZCARD", &user], &online),
    ];
    let consequences =
        ["Django does not know who is online", "users may be announced twice, or go offline late"];
    TriedPart { subject, commands, optional, consequences }
}

fn bridges(settings: &Settings) -> Vec<TriedPart> {
    let mut parts = Vec::new();
    let (mounts, yunity) = (&settings.socket_io.mounts, &settings.socket_io.yunity);
    if mounts.iter().any(|mount| mount.yunity) {
        let (key, keys) = (yunity.key(ID), yunity.key("*"));
        let commands = [&["GETRANGE", key.as_str(), "0", "0"][..], &["PTTL", &key], &["GET", &key]];
        let commands = commands.iter().map(|words| TriedCommand::harmless(words, &keys)).collect();
        let consequences = ["no session id has a user, so clients get no notifications", ""];
        parts.push(TriedPart {
            subject: "yunity-sockets:".to_owned(),
            commands,
            optional: Vec::new(),
            consequences,
        });
    }
    let key = settings.socket_io.messenger.connections_key.as_deref();
    if let Some(key) = key.filter(|_| mounts.iter().any(|mount| mount.messenger)) {
        let commands = [
            // Two options that exclude each other.
            &["SET", key, "x", "NX", "XX"][..],
            &["EVAL", "return 0", "1", key],
            &["STRLEN", key],
            &["GETRANGE", key, "0", "0"],
            &["SETRANGE", key, "x", "x"],
        ];
        let commands = commands.iter().map(|words| TriedCommand::harmless(words, key)).collect();
        let consequences = ["connections are not gathered", ""];
        parts.push(TriedPart {
            subject: "messenger:".to_owned(),
            commands,
            optional: Vec::new(),
            consequences,
        });
    }
    parts
}

/// Reports whether the events of sessions arrive, from the Redis that stores them.
async fn examine_keyspace_events(
    settings: &Settings,
    target: &Target,
    mut trial: RightsTrial,
    findings: &mut Findings,
) -> Result<(), String> {
    let yunity = settings.socket_io.mounts.iter().any(|mount| mount.yunity);
    if settings.session.redis.is_some() && !yunity {
        return Ok(());
    }
    let (every, every_named) =
        (settings.session.recheck_seconds, settings.socket_io.yunity.recheck.as_secs());
    let named = format!("sessions of yunity-sockets are read again every {every_named} s");
    let late = match (settings.session.redis.is_none(), yunity) {
        (true, true) => {
            format!("sessions are read again every {every} s, those of yunity-sockets every {every_named} s")
        }
        (true, false) => format!("sessions are read again every {every} s"),
        (false, _) => named.clone(),
    };
    let flags = if yunity { "KA" } else { "Kgx" };
    let cure = format!("To notice changes at once, set notify-keyspace-events to {flags}");
    let line = match settings.session.events {
        _ if target.is_cluster() => format!("not used in a cluster; {late}"),
        Some(true) if yunity => format!("on by session.keyspace_events; {named}"),
        Some(true) => "on by session.keyspace_events".to_owned(),
        Some(false) => format!("off by session.keyspace_events; {late}"),
        None => match trial.keyspace_flags().await?.as_deref().map(PublishedEvents::parse) {
            None => format!(
                "unknown, because Redis refuses CONFIG GET; without them {late}. Set session.keyspace_events to on or off"
            ),
            Some(PublishedEvents { has_expiry: false, .. }) => format!("off; {late}. {cure}"),
            Some(PublishedEvents { has_writes: false, .. }) if yunity => {
                format!("on, without those of plain writes; {named}. {cure}")
            }
            Some(_) => "on".to_owned(),
        },
    };
    findings.note(format!("keyspace events: {line}"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_store_lacks_what_events_presence_and_the_messenger_need() {
        let found = |assignments: &[&str]| {
            let assignments: Vec<_> = assignments.iter().map(|text| (*text).to_owned()).collect();
            let (settings, _) = Settings::load(None, std::iter::empty(), &assignments).unwrap();
            let Findings { lines, problems } = embedded(&settings);
            (lines.join("\n"), problems)
        };
        assert_eq!(found(&[]), ("events: off\npresence: off".to_owned(), 0));
        let (lines, problems) = found(&["events.to=stream:a"]);
        assert!(
            lines.contains("events: stream:a, the embedded store has neither consumer groups"),
            "{lines}"
        );
        assert!(lines.contains("presence: users of the site, the embedded store has no sorted"), "{lines}");
        assert_eq!(problems, 2);
        assert_eq!(found(&["events.to=channel:a", "events.what=connect"]).1, 0);
        assert_eq!(found(&["socketio.client_events=a"]).1, 1);
        let messenger = ["socketio.messenger.enabled=true", "socketio.messenger.connections_key=k"];
        assert_eq!(found(&messenger).1, 1);
        assert_eq!(found(&messenger[..1]).1, 0);
    }
}
