//! `ws4redis kick`: closes connections of a running gateway.

use super::output::CommandOutput;
use super::{CommandError, KickFlags, block_on};
use crate::admin::ask_to_close;
use crate::settings::Settings;

/// Closes the connections that the flags name, and prints their number.
///
/// # Errors
///
/// When the gateway has no admin listener, does not answer or refuses, or standard output fails.
pub fn kick(settings: &Settings, flags: &KickFlags) -> Result<(), CommandError> {
    let Some(admin) = &settings.admin else {
        return Err(CommandError::Arguments(
            "admin.listen is empty, and kick asks there: set it, for the gateway, too".to_owned(),
        ));
    };
    let KickFlags { id, user, group, session, facility, code, reason, output } = flags;
    let code = code.map(|code| code.to_string());
    let parameters = [
        ("user", user),
        ("group", group),
        ("session", session),
        ("facility", facility),
        ("code", &code),
        ("reason", reason),
    ];
    let given = parameters.iter().filter_map(|(name, value)| Some((*name, value.as_deref()?)));
    let given: Vec<_> = given.collect();
    let answer = block_on(ask_to_close(admin, id.as_deref(), &given))
        .map_err(|reason| CommandError::Unhealthy(format!("{}: {reason}", admin.listen)))?;
    let closed = answer["closed"].as_u64().unwrap_or_default();
    let plural = if closed == 1 { "" } else { "s" };
    CommandOutput::new(*output).print(|| answer, || format!("closed {closed} connection{plural}"))
}
