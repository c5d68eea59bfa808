//! The subcommands, and the only table of exit codes.

mod inventory;
mod listen;
mod yunity_client;

use std::io::{self, Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::ExitCode;

use tokio::runtime::{Builder, LocalOptions};

pub use self::yunity_client::{ListenCommand, listen};
use crate::redis::{ServerReport, Target, TargetError, examine, publish_once};
use crate::server::{self, Standby};
use crate::settings::{self, Listen, Settings};
use crate::visitors::probe;
use crate::wire::{Audience, Channel, Facility, SessionKey};

/// Why a command fails.
#[derive(Debug)]
pub enum CommandError {
    /// Invalid flags, or a request for help.
    Usage(clap::Error),
    /// Invalid settings.
    Settings(settings::SettingsError),
    /// Invalid arguments.
    Arguments(String),
    /// An unusable Redis URL.
    Target(TargetError),
    /// Redis is unreachable or refuses a command.
    Redis(String),
    /// A server of Socket.IO refuses the client.
    Server(String),
    /// The server could not start, or failed.
    Serving(anyhow::Error),
    /// Standard input or output failed.
    Stdio(io::Error),
}

impl CommandError {
    /// Prints the error to standard error, and returns the exit code: 64 for settings and flags, 69 for an unreachable
    /// Redis, else 1 (after sysexits.h).
    pub fn report(&self) -> ExitCode {
        // If standard error is closed, there is nowhere to report to.
        let _ = match self {
            Self::Usage(error) => error.print(),
            Self::Settings(error) => writeln!(io::stderr(), "ws4redis: {error}"),
            Self::Arguments(text) | Self::Redis(text) | Self::Server(text) => {
                writeln!(io::stderr(), "ws4redis: {text}")
            }
            Self::Target(error) => writeln!(io::stderr(), "ws4redis: {error}"),
            // The reader of a pipe may close it early, as `head` does.
            Self::Stdio(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            Self::Serving(error) => writeln!(io::stderr(), "ws4redis: {error:#}"),
            Self::Stdio(error) => writeln!(io::stderr(), "ws4redis: {error}"),
        };
        ExitCode::from(match self {
            Self::Usage(error) if !error.use_stderr() => 0,
            Self::Usage(_) | Self::Settings(_) | Self::Arguments(_) | Self::Target(_) => 64,
            Self::Redis(_) | Self::Server(_) => 69,
            Self::Serving(_) | Self::Stdio(_) => 1,
        })
    }
}

impl From<TargetError> for CommandError {
    fn from(error: TargetError) -> Self {
        Self::Target(error)
    }
}

impl From<settings::SettingsError> for CommandError {
    fn from(error: settings::SettingsError) -> Self {
        Self::Settings(error)
    }
}

/// The time for which `check` listens.
#[derive(Debug, Clone, Copy)]
pub struct ListenTime {
    /// Seconds; `None` until a signal arrives.
    pub seconds: Option<u64>,
}

/// A message to publish from the command line.
#[derive(Debug)]
pub struct PublishCommand {
    /// Whether to publish to all clients.
    pub broadcast: bool,
    /// The users to publish to.
    pub users: Vec<String>,
    /// The groups to publish to.
    pub groups: Vec<String>,
    /// The session keys to publish to.
    pub sessions: Vec<String>,
    /// Seconds that it is persisted; default: the setting.
    pub expire: Option<i64>,
    /// The facility.
    pub facility: String,
    /// The message; `None` reads standard input.
    pub text: Option<String>,
}

/// Runs the gateway until a signal.
///
/// # Errors
///
/// When the Redis URL is unusable, or the server cannot start or fails.
pub fn serve(settings: Settings) -> Result<(), CommandError> {
    let target = Target::new(&settings.redis)?;
    server::run(settings, target).map_err(CommandError::Serving)
}

/// Checks the settings and the connection to Redis, and prints the results. With `listening`, it then prints what passes
/// through Redis, until the time is over or a signal arrives.
///
/// # Errors
///
/// When Redis is unreachable, or standard output fails.
pub fn check(
    settings: &Settings,
    file: Option<&Path>,
    warnings: &[String],
    listening: Option<ListenTime>,
) -> Result<(), CommandError> {
    let target = Target::new(&settings.redis)?;
    report(settings, &target, file, warnings, listening.is_some())?;
    match listening {
        Some(ListenTime { seconds }) => block_on(listen::listen(settings, &target, seconds)),
        None => Ok(()),
    }
}

fn report(
    settings: &Settings,
    target: &Target,
    file: Option<&Path>,
    warnings: &[String],
    needs_redis: bool,
) -> Result<(), CommandError> {
    let mut out = io::stdout();
    let mut print = |line: String| writeln!(out, "{line}").map_err(CommandError::Stdio);
    for warning in warnings {
        print(format!("warning: {warning}"))?;
    }
    print(match file {
        Some(file) => format!("settings: fine, from {} and the environment", file.display()),
        None => {
            "settings: fine, built-in and from the environment; there is no settings.toml here".to_owned()
        }
    })?;
    print(format!("listen: {}", listening(&settings.server.listen)))?;
    if let Some(admin) = &settings.admin {
        print(format!("admin listener: {}", listening(&admin.listen)))?;
    }
    if let Some(yunity) = &settings.socket_io.yunity.admin {
        print(format!("list of yunity-sockets: {}", listening(&yunity.listen)))?;
    }
    let broadcast = settings.namespace.channel(Audience::Broadcast, &Facility::new("<facility>"));
    print(format!(
        "WebSockets: {}<facility>, broadcast channel {}",
        settings.websocket_url,
        broadcast.as_str()
    ))?;
    for line in inventory::mounts(settings) {
        print(line)?;
    }
    print(format!("demo page: {}", if settings.demo { "on" } else { "off" }))?;
    if let Some(callback) = &settings.callback {
        let found = block_on(probe(callback, settings.session.reading.pattern.clone()));
        print(format!("callback: {} {}", callback.url, found.unwrap_or_else(|problem| problem)))?;
    }
    if settings.redis.url.is_none()
        && !needs_redis
        && block_on(server::probe_default_redis()) == Standby::Needed
    {
        return print("redis: none on 127.0.0.1:6379; the embedded store will be started there. Set redis.url for a real one".to_owned());
    }
    let unreachable = |reason: String| unreachable_redis(target, &reason);
    let found = block_on(examine(target)).map_err(unreachable)?;
    print(describe(target, &found))?;
    if let Some(refusal) = found.refusal {
        print(format!("redis: refuses PING ({refusal})"))?;
    }
    for line in block_on(inventory::channels(settings, target)).map_err(unreachable)? {
        print(line)?;
    }
    Ok(())
}

/// Prints a commented settings file for a new site.
///
/// # Errors
///
/// When standard output fails.
pub fn print_settings() -> Result<(), CommandError> {
    io::stdout().write_all(settings::recommended().as_bytes()).map_err(CommandError::Stdio)
}

fn listening(listen: &Listen) -> String {
    match listen {
        Listen::Tcp(address) => match TcpListener::bind(address) {
            Ok(_) => format!("{address} is free"),
            Err(error) => {
                format!("{address} cannot be used now ({error}); fine if ws4redis is running there already")
            }
        },
        Listen::Unix(path, mode) => format!("unix socket {}, permissions {mode:o}", path.display()),
    }
}

fn describe(target: &Target, found: &ServerReport) -> String {
    let version = found.version.as_deref().unwrap_or("of unknown version (INFO is not allowed)");
    let mode = found.mode.as_deref().unwrap_or("mode unknown");
    let millis = found.round_trip.as_secs_f64() * 1000.0;
    format!("redis: reached {}, {version}, {mode}, {millis:.1} ms for a command", target.name())
}

fn unreachable_redis(target: &Target, reason: &str) -> CommandError {
    CommandError::Redis(format!(
        "redis.url: cannot connect to {} ({reason}); {}",
        target.name(),
        target.hint(reason)
    ))
}

/// Publishes a message with the same keys as Django's `RedisPublisher`.
///
/// # Errors
///
/// When no audience is given, a name is invalid, or Redis is unreachable or refuses.
pub fn publish(settings: &Settings, message: PublishCommand) -> Result<(), CommandError> {
    let channels = channels(settings, &message)?;
    let expire =
        message.expire.map_or(settings.expire_seconds, |seconds| u64::try_from(seconds).unwrap_or(0));
    let payload = match message.text {
        Some(text) if text != "-" => text.into_bytes(),
        _ => {
            let mut payload = Vec::new();
            // Reading one byte more than the limit shows that the message is too long.
            let most = settings.messages.max_delivery_bytes as u64 + 1;
            io::stdin().lock().take(most).read_to_end(&mut payload).map_err(CommandError::Stdio)?;
            payload
        }
    };
    if payload.is_empty() {
        return Err(CommandError::Arguments(
            "the message is empty, and empty messages are not delivered".to_owned(),
        ));
    }
    if payload.len() > settings.messages.max_delivery_bytes {
        return Err(CommandError::Arguments(format!(
            "the message is longer than messages.max_delivery_bytes ({}), clients would not get it",
            settings.messages.max_delivery_bytes
        )));
    }
    let target = Target::new(&settings.redis)?;
    let receivers = block_on(publish_once(&target, &channels, &payload, expire))
        .map_err(|reason| unreachable_redis(&target, &reason))?;
    let (count, plural) = (channels.len(), if channels.len() == 1 { "" } else { "s" });
    writeln!(io::stdout(), "published to {count} channel{plural}, {receivers} subscribed in Redis")
        .map_err(CommandError::Stdio)
}

fn channels(settings: &Settings, message: &PublishCommand) -> Result<Vec<Channel>, CommandError> {
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
        return Err(CommandError::Arguments(
            "no audience given: add --broadcast, --user, --group or --session".to_owned(),
        ));
    }
    let names = message.users.iter().chain(&message.groups).chain(&message.sessions);
    if names.into_iter().any(String::is_empty) {
        return Err(CommandError::Arguments("names must not be empty".to_owned()));
    }
    if channels.iter().any(|channel| channel.as_str().chars().any(char::is_control)) {
        return Err(CommandError::Arguments("names must not hold control characters".to_owned()));
    }
    Ok(channels)
}

/// Runs a future on a runtime of its own.
fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
    runtime.expect("a process that has just started gets a runtime").block_on(work)
}
