//! The subcommands, and the only table of exit codes.

mod arguments;
mod check;
mod facility_listener;
mod findings;
mod health;
mod inventory;
mod kick;
mod layer_inventory;
mod listen;
mod listen_end;
mod manual;
mod online;
mod output;
mod reload;
mod requirements;
mod settings_listing;
mod table;
mod terminal;
mod visitor_check;
mod yunity_client;

use std::io::{self, Read, Write};
use std::process::ExitCode;

use tokio::runtime::{Builder, LocalOptions};

pub use self::arguments::{
    Arguments, ChannelFlags, CheckFlags, Command, ConnectionFlags, GenerateSettings, HealthFlags, KickFlags,
    ListenFlags, OutputFlags, PublishFlags, SettingsFlags, UserFlags, VisitorFlags,
};
pub use self::check::check;
pub use self::facility_listener::{ListenRequest, listen_to_facilities};
pub use self::health::print_health;
pub use self::kick::kick;
pub use self::manual::{print_completions, print_manual};
pub use self::online::{OnlineList, print_online};
pub use self::reload::reload;
pub use self::settings_listing::{generate_settings, print_settings};
pub use self::yunity_client::{ListenCommand, listen};
use crate::redis::{PublishedMessage, Target, TargetError, publish_once};
use crate::server::{self, Parent, ReloadSource};
use crate::settings::{self, Settings};
use crate::wire::{AudienceError, AudienceNames, Facility};

/// Why a command fails.
#[derive(Debug)]
pub enum CommandError {
    /// Invalid flags, or a request for help.
    Usage(clap::Error),
    /// Invalid settings.
    Settings(settings::SettingsError),
    /// A running gateway is not healthy, refuses a request, or does not answer.
    Unhealthy(String),
    /// Invalid arguments.
    Arguments(String),
    /// An unusable Redis URL.
    Target(TargetError),
    /// Redis is unreachable or refuses a command.
    Redis(String),
    /// A server of Socket.IO refuses the client.
    Server(String),
    /// `check` has found so many problems, and printed them.
    Found(usize),
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
            Self::Arguments(text) | Self::Redis(text) | Self::Server(text) | Self::Unhealthy(text) => {
                writeln!(io::stderr(), "ws4redis: {text}")
            }
            Self::Target(error) => writeln!(io::stderr(), "ws4redis: {error}"),
            // The reader of a pipe may close it early, as `head` does.
            Self::Stdio(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            Self::Found(1) => writeln!(io::stderr(), "ws4redis: check found 1 problem, see its line above"),
            Self::Found(count) => {
                writeln!(io::stderr(), "ws4redis: check found {count} problems, see their lines above")
            }
            Self::Serving(error) => writeln!(io::stderr(), "ws4redis: {error:#}"),
            Self::Stdio(error) => writeln!(io::stderr(), "ws4redis: {error}"),
        };
        ExitCode::from(match self {
            Self::Usage(error) if !error.use_stderr() => 0,
            Self::Usage(_) | Self::Settings(_) | Self::Arguments(_) | Self::Target(_) => 64,
            Self::Redis(_) | Self::Server(_) => 69,
            Self::Unhealthy(_) | Self::Found(_) | Self::Serving(_) | Self::Stdio(_) => 1,
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

/// A message to publish from the command line.
#[derive(Debug)]
pub struct PublishCommand {
    /// The audiences to publish to.
    pub audiences: AudienceNames,
    /// Seconds that it is persisted; default: the setting.
    pub expire: Option<i64>,
    /// The facility.
    pub facility: String,
    /// The message; `None` reads standard input.
    pub text: Option<String>,
}

/// Runs the gateway until a signal, or until a watched parent ends.
///
/// # Errors
///
/// When the Redis URL is unusable, or the server cannot start or fails.
pub fn serve(settings: Settings, source: ReloadSource, parent: Parent) -> Result<(), CommandError> {
    let target = Target::new(&settings.redis)?;
    server::run(settings, source, target, parent).map_err(CommandError::Serving)
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
    let facility = Facility::new(&message.facility);
    let channels = message.audiences.channels(&settings.namespace, &facility).map_err(|error| {
        let hint =
            if error == AudienceError::None { ": add --broadcast, --user, --group or --session" } else { "" };
        CommandError::Arguments(format!("{error}{hint}"))
    })?;
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
    let history = settings.history.limits_of(&facility);
    let (count, plural) = (channels.len(), if channels.len() == 1 { "" } else { "s" });
    let publication = PublishedMessage { channels, payload, expire_seconds: expire, history };
    let receivers = block_on(publish_once(settings, &target, &[publication]))
        .map_err(|failure| unreachable_redis(&target, &failure.reason))?;
    let receivers: i64 = receivers.into_iter().flatten().sum();
    writeln!(io::stdout(), "published to {count} channel{plural}, {receivers} subscribed in Redis")
        .map_err(CommandError::Stdio)
}

/// Runs a future on a runtime of its own.
fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
    runtime.expect("a process that has just started gets a runtime").block_on(work)
}
