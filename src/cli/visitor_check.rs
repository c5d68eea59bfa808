//! `ws4redis check --cookie` and `--url`: who a visitor is, and what it may do at an address.

use super::findings::Findings;
use super::{CommandError, VisitorFlags};
use crate::access::{Identity, Policy};
use crate::redis::Target;
use crate::settings::Settings;
use crate::visitors::{IdentifyError, try_cookie};
use crate::wire::{Channel, Facility, Flags, Handshake};

/// Reports who a visitor is, and what the access rules permit it.
///
/// # Errors
///
/// When the address is not one of a facility, or Redis cannot be reached.
pub(super) async fn examine(
    settings: &Settings,
    target: &Target,
    flags: &VisitorFlags,
) -> Result<Findings, CommandError> {
    let mut findings = Findings::default();
    let handshake = flags.url.as_deref().map(|url| parse(settings, url)).transpose()?;
    let mut identity = Identity {
        user: flags.user.as_deref().map(Into::into),
        // Any key does: rules know users by their names.
        user_id: flags.user.as_deref().map(Into::into),
        groups: flags.group.iter().map(String::as_str).collect(),
        ..Identity::default()
    };
    let mut allowed = None;
    if let Some(cookie) = &flags.cookie {
        (identity, allowed) = visitor(settings, target, cookie, handshake.as_ref(), &mut findings).await?;
    }
    findings.note(format!("visitor: {}", describe(&identity).escape_debug()));
    if let Some(handshake) = handshake {
        permissions(settings, &handshake, &identity, allowed, &mut findings);
    }
    Ok(findings)
}

/// Reads the address of a handshake: a path with its query, with or without a server.
fn parse(settings: &Settings, url: &str) -> Result<Handshake, CommandError> {
    let wrong = |problem: String| CommandError::Arguments(format!("--url {url}: {problem}"));
    let target = match url.split_once("://") {
        Some((_, rest)) => rest.find('/').map_or("/", |path| &rest[path..]),
        None => url,
    };
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    let handshake = Handshake::parse(path, query, &settings.websocket_url);
    let handshake = handshake.map_err(|error| wrong(error.to_string()))?;
    if handshake.facility.as_str().is_empty() {
        return Err(wrong(format!("expected {}FACILITY?FLAGS", settings.websocket_url)));
    }
    Ok(handshake)
}

async fn visitor(
    settings: &Settings,
    target: &Target,
    cookie: &str,
    handshake: Option<&Handshake>,
    findings: &mut Findings,
) -> Result<(Identity, Option<Flags>), CommandError> {
    let prefix = format!("{}=", settings.session.cookie);
    let cookie = cookie.strip_prefix(&prefix).unwrap_or(cookie);
    let sessions = settings.session.redis.as_ref().map(Target::new).transpose()?;
    // The callback is asked about a facility.
    let any = Handshake { facility: Facility::new("ws4redis-check"), flags: Flags::default() };
    let trial = try_cookie(settings, (target, sessions.as_ref()), cookie, handshake.unwrap_or(&any));
    let trial = trial.await.map_err(|reason| CommandError::Redis(format!("--cookie: {reason}")))?;
    if trial.is_key {
        findings.note("cookie: has the form of session.key_pattern".to_owned());
    } else if settings.callback.is_none() {
        findings.problem(
            "cookie: does not have the form of session.key_pattern, so its visitor is anonymous".to_owned(),
        );
    }
    let has_session = trial.keys.iter().any(|(_, found)| found.starts_with("a session"));
    for (template, found) in &trial.keys {
        findings.note(format!("  key {template}: {found}"));
    }
    if trial.is_key && settings.callback.is_none() && !has_session {
        findings.problem("cookie: no key of session.keys has a session for it, so its visitor is anonymous; manage.py ws4redis_settings prints the keys of the site".to_owned());
    }
    match trial.visitor {
        Ok(visitor) => Ok((visitor.identity, visitor.allowed)),
        Err(error) => {
            findings.problem(format!("cookie: its visitor cannot be identified, {}", reason(error)));
            Ok((Identity::default(), None))
        }
    }
}

fn reason(error: IdentifyError) -> &'static str {
    match error {
        IdentifyError::NoRedis => "since Redis gives no session; see session.redis_url",
        IdentifyError::Refused => "since the callback refuses it",
        IdentifyError::NoAnswer => "since the callback does not answer",
        IdentifyError::Busy | IdentifyError::Untrusted(_) => "try again",
    }
}

fn describe(identity: &Identity) -> String {
    let groups = if identity.groups.is_empty() {
        String::new()
    } else {
        format!(", groups {}", identity.groups.join(", "))
    };
    match (&identity.user, &identity.user_id) {
        (Some(user), Some(id)) if user != id => format!("{user} (key {id}){groups}"),
        (Some(name), _) | (None, Some(name)) => format!("{name}{groups}"),
        (None, None) if identity.session.is_some() => format!("a session without a user{groups}"),
        (None, None) => format!("anonymous{groups}"),
    }
}

fn permissions(
    settings: &Settings,
    handshake: &Handshake,
    identity: &Identity,
    allowed: Option<Flags>,
    findings: &mut Findings,
) {
    let policy = Policy::new(settings.namespace.clone(), settings.facility_colons, settings.access.clone());
    let policy = policy
        .anonymous_publish(settings.anonymous_publish)
        .with_groups(settings.channels.rules.clone(), settings.channels.names);
    let facility = handshake.facility.as_str().escape_debug();
    let Ok(grant) = policy.grant(handshake, identity, allowed) else {
        return findings.problem(format!(
            "facility {facility}: refused with 403, no [[access]] rule of this facility lets this visitor in"
        ));
    };
    let names = |channels: &[Channel]| match channels {
        [] => "nothing".to_owned(),
        channels => channels.iter().map(|channel| format!("{channel:?}")).collect::<Vec<_>>().join(", "),
    };
    findings.note(format!("facility {facility}: subscribes to {}", names(&grant.subscribe)));
    findings.note(format!("facility {facility}: publishes to {}", names(&grant.publish)));
}
