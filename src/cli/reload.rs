//! `ws4redis reload`: makes a running gateway read its settings again.

use super::output::CommandOutput;
use super::{CommandError, OutputFlags, block_on};
use crate::admin::ask_to_reload;
use crate::settings::Settings;

/// Makes the gateway of these settings reload them, and prints what has changed and what needs a restart.
///
/// # Errors
///
/// When the gateway has no admin listener, does not answer or refuses its settings, or standard output fails.
pub fn reload(settings: &Settings, flags: OutputFlags) -> Result<(), CommandError> {
    let Some(admin) = &settings.admin else {
        return Err(CommandError::Arguments(
            "admin.listen is empty, and reload asks there: set it, for the gateway, too; or send SIGHUP"
                .to_owned(),
        ));
    };
    let answer = block_on(ask_to_reload(admin))
        .map_err(|reason| CommandError::Unhealthy(format!("{}: {reason}", admin.listen)))?;
    let keys = |name: &str| {
        let keys = answer[name].as_array().into_iter().flatten().filter_map(|key| key.as_str());
        keys.collect::<Vec<_>>().join(", ")
    };
    let text = [("changed", keys("changed")), ("need a restart", keys("restart"))].map(|(what, keys)| {
        let keys = if keys.is_empty() { "nothing" } else { &keys };
        format!("{what}: {keys}")
    });
    CommandOutput::new(flags).print(|| answer.clone(), || text.join("\n"))
}
