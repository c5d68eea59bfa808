//! `ws4redis health`: asks the admin listener of a running gateway, for images that have no other program.

use super::output::CommandOutput;
use super::{CommandError, HealthFlags, block_on};
use crate::admin::{HealthQuestion, ask_health};
use crate::settings::Settings;

/// Prints whether the gateway of these settings is ready, or with `--live` whether it is alive.
///
/// # Errors
///
/// When it is not, or does not answer, or has no admin listener, or standard output fails.
pub fn print_health(settings: &Settings, flags: HealthFlags) -> Result<(), CommandError> {
    let Some(admin) = &settings.admin else {
        return Err(CommandError::Arguments(
            "admin.listen is empty, and health asks there: set it, for the gateway, too".to_owned(),
        ));
    };
    let question = if flags.live { HealthQuestion::Live } else { HealthQuestion::Ready };
    let answer = block_on(ask_health(admin, question))
        .map_err(|reason| CommandError::Unhealthy(format!("{}: {reason}", admin.listen)))?;
    let text = answer["status"].as_str().unwrap_or_default().to_owned();
    CommandOutput::new(flags.output).print(|| answer, || text)
}
