//! Flags, settings, telemetry, server, exit code. No logic.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use ws4redis::cli::{self, CommandError, ListenCommand, ListenTime, PublishCommand};
use ws4redis::server::Parent;
use ws4redis::settings::{self, Settings};
use ws4redis::telemetry;

/// A gateway between Redis and browsers for Django sites.
#[derive(Parser)]
#[command(
    version,
    about,
    after_help = "A setting such as server.listen is set by --set server.listen=127.0.0.1:9000, by the environment\n\
                  (WS4REDIS_SERVER__LISTEN) or in a settings file; `ws4redis settings` prints them all.\n\
                  RUST_LOG sets what is logged.\n\n\
                  Exit codes: 0 fine, 64 settings or flags cannot be used, 69 Redis cannot be reached, 1 anything else, also a problem that check has found."
)]
struct Arguments {
    /// Settings file; default: settings.toml in the working directory, if it exists.
    #[arg(short, long, global = true, value_name = "FILE")]
    settings: Option<PathBuf>,
    /// One setting, for example --set server.listen=127.0.0.1:9000. May be repeated.
    #[arg(long, global = true, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Also stop when standard input is closed: a parent process that started the gateway with a pipe takes it along, even if
    /// it is killed.
    #[arg(long)]
    end_with_stdin: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Run the gateway (the default).
    Serve,
    /// Check the settings and the connection to Redis.
    Check(Check),
    /// Print a commented settings file: ws4redis settings > settings.toml
    Settings,
    /// Publish a message, as Django's RedisPublisher does.
    Publish(Publish),
    /// Print the notifications of a session, as the command-line client of yunity-sockets does.
    Listen(ListenFlags),
}

#[derive(Args)]
struct ListenFlags {
    /// The server and its path, for example <http://127.0.0.1:8000/socket/>
    #[arg(long, value_name = "URL")]
    socketio: String,
    /// The session id that the client names.
    #[arg(long, value_name = "NAME")]
    session: String,
    /// Protocol of Engine.IO, 3 or 4.
    #[arg(long, value_name = "VERSION", default_value = "4")]
    engine: String,
}

#[derive(Args)]
struct Check {
    /// Print each message that passes through Redis: source, channel, receivers, event, and why it is dropped; no contents.
    #[arg(long)]
    listen: bool,
    /// Listen for so many seconds; default: until Ctrl-C.
    #[arg(long, value_name = "N", requires = "listen")]
    seconds: Option<u64>,
}

#[derive(Args)]
struct Publish {
    /// Publish to all clients.
    #[arg(long)]
    broadcast: bool,
    /// Publish to a user. May be repeated.
    #[arg(long, value_name = "NAME")]
    user: Vec<String>,
    /// Publish to a group. May be repeated.
    #[arg(long, value_name = "NAME")]
    group: Vec<String>,
    /// Publish to a session. May be repeated.
    #[arg(long, value_name = "KEY")]
    session: Vec<String>,
    /// Seconds that the message is persisted for later subscribers; 0 or negative: not persisted.
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    expire: Option<i64>,
    /// The facility.
    facility: String,
    /// The message; without it, or with "-", it is read from standard input.
    message: Option<String>,
}

impl From<Publish> for PublishCommand {
    fn from(flags: Publish) -> Self {
        let Publish { broadcast, user, group, session, expire, facility, message } = flags;
        Self { broadcast, users: user, groups: group, sessions: session, expire, facility, text: message }
    }
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failed) => failed.report(),
    }
}

fn run() -> Result<(), CommandError> {
    let flags = Arguments::try_parse().map_err(CommandError::Usage)?;
    // These use no settings.
    match flags.command {
        Some(Command::Settings) => return cli::print_settings(),
        Some(Command::Listen(ListenFlags { socketio: url, session, engine })) => {
            return cli::listen(&ListenCommand { url, session, engine });
        }
        _ => {}
    }
    let file = settings::file(flags.settings);
    let (settings, sources) = Settings::load(file.as_deref(), std::env::vars_os(), &flags.set)?;
    match flags.command.unwrap_or(Command::Serve) {
        // Handled above.
        Command::Settings | Command::Listen(_) => Ok(()),
        Command::Serve => {
            // Dropping the guard at the end writes the buffered lines.
            let _log = telemetry::init(settings.log_json);
            for warning in &sources.warnings {
                tracing::warn!("{warning}");
            }
            cli::serve(settings, if flags.end_with_stdin { Parent::Watched } else { Parent::Unwatched })
        }
        Command::Check(Check { listen, seconds }) => {
            let listening = listen.then_some(ListenTime { seconds });
            cli::check(&settings, file.as_deref(), &sources, listening)
        }
        Command::Publish(message) => cli::publish(&settings, message.into()),
    }
}
