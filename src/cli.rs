//! What the binary does besides serving, and the only table of exit codes.

use std::io::{self, Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::ExitCode;

use tokio::runtime::{Builder, LocalOptions};

use crate::redis::{Found, Target, Unusable, examine, publish_once};
use crate::server::{self, Reserve};
use crate::settings::{self, Listen, Settings};
use crate::visitors::probe;
use crate::wire::{Audience, Channel, Facility, SessionKey};

/// Why the process ends with an error.
#[derive(Debug)]
pub enum Failed {
    /// The flags cannot be understood, or are a call for help.
    Usage(clap::Error),
    /// The settings cannot be used.
    Settings(settings::Error),
    /// What was asked for makes no sense.
    Senseless(String),
    /// The Redis URL cannot be used.
    Unusable(Unusable),
    /// Redis cannot be reached, or refuses.
    Redis(String),
    /// The server could not start, or broke.
    Serving(anyhow::Error),
    /// Standard input or output failed.
    Stdio(io::Error),
}

impl Failed {
    /// Tells the person what is wrong, and returns the exit code: 64 for settings and flags, 69 for a Redis that cannot
    /// be reached, else 1 (after sysexits.h).
    pub fn report(&self) -> ExitCode {
        // Nothing can be done where standard error is closed.
        let _ = match self {
            Self::Usage(error) => error.print(),
            Self::Settings(error) => writeln!(io::stderr(), "ws4redis: {error}"),
            Self::Senseless(text) | Self::Redis(text) => writeln!(io::stderr(), "ws4redis: {text}"),
            Self::Unusable(error) => writeln!(io::stderr(), "ws4redis: {error}"),
            // Whoever read the output has had enough of it.
            Self::Stdio(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            Self::Serving(error) => writeln!(io::stderr(), "ws4redis: {error:#}"),
            Self::Stdio(error) => writeln!(io::stderr(), "ws4redis: {error}"),
        };
        ExitCode::from(match self {
            Self::Usage(error) if !error.use_stderr() => 0,
            Self::Usage(_) | Self::Settings(_) | Self::Senseless(_) | Self::Unusable(_) => 64,
            Self::Redis(_) => 69,
            Self::Serving(_) | Self::Stdio(_) => 1,
        })
    }
}

impl From<Unusable> for Failed {
    fn from(error: Unusable) -> Self {
        Self::Unusable(error)
    }
}

impl From<settings::Error> for Failed {
    fn from(error: settings::Error) -> Self {
        Self::Settings(error)
    }
}

/// A message to be published from the command line.
#[derive(Debug)]
pub struct Message {
    /// Whether it is for everybody.
    pub broadcast: bool,
    /// The users that it is for.
    pub users: Vec<String>,
    /// The groups that it is for.
    pub groups: Vec<String>,
    /// The sessions that it is for.
    pub sessions: Vec<String>,
    /// Seconds for which it is kept, if not as set.
    pub expire: Option<i64>,
    /// The room.
    pub facility: String,
    /// The message, if it does not come from standard input.
    pub text: Option<String>,
}

/// Serves until a signal.
///
/// # Errors
///
/// When the Redis URL cannot be used, or the server cannot start or breaks.
pub fn serve(settings: Settings) -> Result<(), Failed> {
    let target = Target::new(&settings.redis)?;
    server::run(settings, target).map_err(Failed::Serving)
}

/// Checks the settings, connects to Redis and says in plain words what it found.
///
/// # Errors
///
/// When Redis cannot be reached, or standard output fails.
pub fn check(settings: &Settings, file: Option<&Path>, warnings: &[String]) -> Result<(), Failed> {
    let target = Target::new(&settings.redis)?;
    let mut out = io::stdout();
    let mut say = |line: String| writeln!(out, "{line}").map_err(Failed::Stdio);
    for warning in warnings {
        say(format!("warning: {warning}"))?;
    }
    say(match file {
        Some(file) => format!("settings: fine, from {} and the environment", file.display()),
        None => {
            "settings: fine, built-in and from the environment; there is no settings.toml here".to_owned()
        }
    })?;
    say(listening(&settings.server.listen))?;
    let broadcast = settings.namespace.channel(Audience::Broadcast, &Facility::new("<facility>"));
    say(format!(
        "WebSockets: {}<facility>, broadcast channel {}",
        settings.websocket_url,
        broadcast.as_str()
    ))?;
    say(format!("demo page: {}", if settings.demo { "on" } else { "off" }))?;
    if let Some(callback) = &settings.callback {
        let found = block_on(probe(callback, settings.session.reading.pattern.clone()));
        say(format!("callback: {} {}", callback.url, found.unwrap_or_else(|problem| problem)))?;
    }
    if settings.redis.url.is_none() && block_on(server::reserve()) == Reserve::Needed {
        return say("redis: none on 127.0.0.1:6379; the embedded store will be started there. Set redis.url for a real one".to_owned());
    }
    let found = block_on(examine(&target)).map_err(|reason| unreachable_redis(&target, &reason))?;
    say(describe(&target, &found))?;
    found.refusal.map_or(Ok(()), |refusal| say(format!("redis: refuses PING ({refusal})")))
}

/// Prints a settings file for a new site, which is their manual.
///
/// # Errors
///
/// When standard output fails.
pub fn print_settings() -> Result<(), Failed> {
    io::stdout().write_all(settings::recommended().as_bytes()).map_err(Failed::Stdio)
}

fn listening(listen: &Listen) -> String {
    match listen {
        Listen::Tcp(address) => match TcpListener::bind(address) {
            Ok(_) => format!("listen: {address} is free"),
            Err(error) => {
                format!(
                    "listen: {address} cannot be used now ({error}); fine if ws4redis is running there already"
                )
            }
        },
        Listen::Unix(path, mode) => format!("listen: unix socket {}, permissions {mode:o}", path.display()),
    }
}

fn describe(target: &Target, found: &Found) -> String {
    let version = found.version.as_deref().unwrap_or("of unknown version (INFO is not allowed)");
    let mode = found.mode.as_deref().unwrap_or("mode unknown");
    let millis = found.round_trip.as_secs_f64() * 1000.0;
    format!("redis: reached {}, {version}, {mode}, {millis:.1} ms for a command", target.name())
}

fn unreachable_redis(target: &Target, reason: &str) -> Failed {
    Failed::Redis(format!(
        "redis.url: cannot connect to {} ({reason}); {}",
        target.name(),
        target.hint(reason)
    ))
}

/// Publishes a message with the same keys as Django's `RedisPublisher`.
///
/// # Errors
///
/// When no audience is named, a name cannot be used, or Redis cannot be reached or refuses.
pub fn publish(settings: &Settings, message: Message) -> Result<(), Failed> {
    let channels = channels(settings, &message)?;
    let expire =
        message.expire.map_or(settings.expire_seconds, |seconds| u64::try_from(seconds).unwrap_or(0));
    let payload = match message.text {
        Some(text) if text != "-" => text.into_bytes(),
        _ => {
            let mut payload = Vec::new();
            // One byte more than allowed tells that it is too much.
            let most = settings.messages.max_delivery_bytes as u64 + 1;
            io::stdin().lock().take(most).read_to_end(&mut payload).map_err(Failed::Stdio)?;
            payload
        }
    };
    if payload.is_empty() {
        return Err(Failed::Senseless(
            "the message is empty, and empty messages are not delivered".to_owned(),
        ));
    }
    if payload.len() > settings.messages.max_delivery_bytes {
        return Err(Failed::Senseless(format!(
            "the message is longer than messages.max_delivery_bytes ({}), clients would not get it",
            settings.messages.max_delivery_bytes
        )));
    }
    let target = Target::new(&settings.redis)?;
    let receivers = block_on(publish_once(&target, &channels, &payload, expire))
        .map_err(|reason| unreachable_redis(&target, &reason))?;
    let (count, plural) = (channels.len(), if channels.len() == 1 { "" } else { "s" });
    writeln!(io::stdout(), "published to {count} channel{plural}, {receivers} subscribed in Redis")
        .map_err(Failed::Stdio)
}

fn channels(settings: &Settings, message: &Message) -> Result<Vec<Channel>, Failed> {
    let facility = Facility::new(&message.facility);
    let sessions: Vec<_> = message.sessions.iter().map(|key| SessionKey::new(key)).collect();
    let audiences = message.broadcast.then_some(Audience::Broadcast).into_iter();
    let audiences = audiences
        .chain(message.groups.iter().map(|name| Audience::Group(name)))
        .chain(message.users.iter().map(|name| Audience::User(name)))
        .chain(sessions.iter().map(Audience::Session));
    let channels: Vec<_> =
        audiences.map(|audience| settings.namespace.channel(audience, &facility)).collect();
    if channels.is_empty() {
        return Err(Failed::Senseless(
            "publish to whom? Add --broadcast, --user, --group or --session".to_owned(),
        ));
    }
    let names = message.users.iter().chain(&message.groups).chain(&message.sessions);
    if names.into_iter().any(String::is_empty) {
        return Err(Failed::Senseless("names must not be empty".to_owned()));
    }
    if channels.iter().any(|channel| channel.as_str().chars().any(char::is_control)) {
        return Err(Failed::Senseless("names must not hold control characters".to_owned()));
    }
    Ok(channels)
}

/// Runs one piece of work to its end.
fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
    runtime.expect("a process that has just started gets a runtime").block_on(work)
}
