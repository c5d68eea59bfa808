//! `ws4redis check`: what the settings mean, and whether they work with this Redis.

use std::io::{self, Write};
use std::net::TcpListener;
use std::path::Path;

use super::{
    CheckFlags, CommandError, block_on, inventory, layer_inventory, listen, requirements, unreachable_redis,
    visitor_check,
};
use crate::redis::{ServerReport, Target, examine, probe_history};
use crate::server;
use crate::settings::{Listen, Settings, SettingsSources};
use crate::visitors::probe;
use crate::wire::{Audience, Facility};

/// Checks the settings and the connection to Redis, and prints the results, also those of a visitor that the flags name. With
/// `--listen`, it then prints what passes through Redis, until the time is over or a signal arrives.
///
/// # Errors
///
/// When Redis is unreachable, or something that the settings need is missing there, or the callback is broken, or standard
/// output fails.
pub fn check(
    settings: &Settings,
    file: Option<&Path>,
    sources: &SettingsSources,
    flags: &CheckFlags,
) -> Result<(), CommandError> {
    let target = Target::new(&settings.redis)?;
    let problems = report(settings, &target, file, sources, flags)?;
    match problems {
        _ if flags.listen => block_on(listen::listen(settings, &target, flags.seconds)),
        0 => Ok(()),
        problems => Err(CommandError::Found(problems)),
    }
}

/// Prints the report, and returns the number of problems.
fn report(
    settings: &Settings,
    target: &Target,
    file: Option<&Path>,
    sources: &SettingsSources,
    flags: &CheckFlags,
) -> Result<usize, CommandError> {
    let is_listening = flags.listen;
    let mut out = io::stdout();
    let mut print = |line: String| writeln!(out, "{line}").map_err(CommandError::Stdio);
    for warning in sources.warnings.iter().cloned().chain(sources.overridden()) {
        print(format!("warning: {warning}"))?;
    }
    print(match file {
        Some(file) => format!("settings: fine, from {} and the environment", file.display()),
        None => {
            "settings: fine, built-in and from the environment; there is no settings.toml here".to_owned()
        }
    })?;
    for line in sources.lines() {
        print(format!("  {line}"))?;
    }
    print(format!("listen: {}", address(&settings.server.listen, is_listening)))?;
    if let Some(admin) = &settings.admin {
        print(format!("admin listener: {}", address(&admin.listen, is_listening)))?;
    }
    if let Some(yunity) = &settings.socket_io.yunity.admin {
        print(format!("list of yunity-sockets: {}", address(&yunity.listen, is_listening)))?;
    }
    let broadcast = settings.namespace.channel(Audience::Broadcast, &Facility::new("<facility>"));
    print(format!(
        "WebSockets: {}<facility>, broadcast channel {}",
        settings.websocket_url,
        broadcast.as_str()
    ))?;
    for line in inventory::mounts(settings).into_iter().chain(inventory::histories(settings)) {
        print(line)?;
    }
    for line in layer_inventory::rules(settings) {
        print(line)?;
    }
    print(format!("demo page: {}", if settings.demo { "on" } else { "off" }))?;
    let mut callback_problems = 0;
    if let Some(callback) = &settings.callback {
        let found = block_on(probe(callback, settings.session.reading.pattern.clone()));
        callback_problems = usize::from(found.is_err());
        print(format!("callback: {} {}", callback.url, found.unwrap_or_else(|problem| problem)))?;
    }
    if !is_listening && let Some(address) = block_on(server::address_without_redis(settings)) {
        print(format!(
            "redis: none on {address}; the embedded store will be started there. Set redis.url for a real one"
        ))?;
        let mut findings = requirements::embedded(settings);
        if flags.visitor.cookie.is_some() {
            findings.problem("cookie: the embedded store has no sessions before the gateway runs".to_owned());
        } else if flags.visitor.are_given() {
            findings.append(block_on(visitor_check::examine(settings, target, &flags.visitor))?);
        }
        findings.lines.into_iter().try_for_each(print)?;
        return Ok(findings.problems + callback_problems);
    }
    let unreachable = |reason: String| unreachable_redis(target, &reason);
    let found = block_on(examine(target)).map_err(unreachable)?;
    print(describe(target, &found))?;
    if let Some(refusal) = found.refusal {
        print(format!("redis: refuses PING ({refusal})"))?;
    }
    let mut findings = block_on(inventory::channels(settings, target)).map_err(unreachable)?;
    findings.append(block_on(requirements::examine(settings, target)).map_err(unreachable)?);
    if !settings.history.is_empty() {
        match block_on(probe_history(settings, target)) {
            Ok(()) => findings.note("history: Redis runs its scripts".to_owned()),
            Err(reason) => findings.problem(format!(
                "history: Redis refuses its scripts, so clients that publish to its facilities are closed ({reason})"
            )),
        }
    }
    if let Some(layer) = settings.channels.layer() {
        findings.append(block_on(layer_inventory::servers(layer)));
    }
    if flags.visitor.are_given() {
        findings.append(block_on(visitor_check::examine(settings, target, &flags.visitor))?);
    }
    findings.lines.into_iter().try_for_each(print)?;
    Ok(findings.problems + callback_problems)
}

/// Describes an address. With `is_listening` the gateway is expected to use it already.
fn address(listen: &Listen, is_listening: bool) -> String {
    match listen {
        Listen::Tcp(address) if is_listening => address.clone(),
        Listen::Tcp(address) => match TcpListener::bind(address) {
            Ok(_) => format!("{address} is free"),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                format!("{address} is in use, by ws4redis or another program")
            }
            Err(error) => format!("{address} cannot be used ({error})"),
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
