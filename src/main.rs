//! Flags, settings, telemetry, server, exit code. No logic.

use std::process::ExitCode;

use ws4redis::cli::{self, Arguments, Command, CommandError, ListenCommand, ListenFlags, OnlineList};
use ws4redis::server::{Parent, ReloadSource};
use ws4redis::settings::{self, Settings};
use ws4redis::telemetry;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failed) => failed.report(),
    }
}

fn run() -> Result<(), CommandError> {
    let flags = Arguments::read()?;
    // These read no settings.
    match flags.command {
        Some(Command::GenerateSettings(generate)) => return cli::generate_settings(&generate, &flags.set),
        Some(Command::Listen(ListenFlags { socketio: Some(url), session, engine, .. })) => {
            return cli::listen(&ListenCommand { url, sessions: session, engine });
        }
        Some(Command::Completions { shell }) => return cli::print_completions(shell),
        Some(Command::Man) => return cli::print_manual(),
        _ => {}
    }
    let file = settings::file(flags.settings.clone());
    let (settings, sources) = Settings::load(file.as_deref(), std::env::vars_os(), &flags.set)?;
    match flags.command.unwrap_or(Command::Serve) {
        // Handled above.
        Command::GenerateSettings(_) | Command::Completions { .. } | Command::Man => Ok(()),
        Command::Health(flags) => cli::print_health(&settings, flags),
        Command::Kick(flags) => cli::kick(&settings, &flags),
        Command::Reload(output) => cli::reload(&settings, output),
        Command::Settings(shown) => cli::print_settings(&sources, &shown),
        Command::Serve => {
            let log = telemetry::init(settings.log_json, &settings.log_levels);
            for warning in &sources.warnings {
                tracing::warn!("{warning}");
            }
            let parent = if flags.end_with_stdin { Parent::Watched } else { Parent::Unwatched };
            // The file that was found: without it, a reload would fall back to the built-in settings.
            cli::serve(settings, ReloadSource::new(file, flags.set, sources, log), parent)
        }
        Command::Check(flags) => cli::check(&settings, file.as_deref(), &sources, &flags),
        Command::Listen(flags) => {
            let output = flags.output;
            cli::listen_to_facilities(&settings, &flags.into(), output)
        }
        Command::Connections(flags) => {
            let output = flags.output;
            cli::print_online(&settings, &OnlineList::connections(flags), output)
        }
        Command::Channels(flags) => {
            let output = flags.output;
            cli::print_online(&settings, &OnlineList::channels(flags), output)
        }
        Command::Users(flags) => {
            let output = flags.output;
            cli::print_online(&settings, &OnlineList::users(flags), output)
        }
        Command::Publish(message) => cli::publish(&settings, message.into()),
    }
}
