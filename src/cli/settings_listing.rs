//! `ws4redis settings` and `ws4redis generate-settings`.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;

use serde_json::json;

use super::output::CommandOutput;
use super::{CommandError, GenerateSettings, SettingsFlags};
use crate::settings::{self, SettingOrigin, SettingsSources};

/// Prints the settings in force, and where each comes from.
///
/// # Errors
///
/// When standard output fails.
pub fn print_settings(sources: &SettingsSources, flags: &SettingsFlags) -> Result<(), CommandError> {
    let output = CommandOutput::new(flags.output);
    let all = sources.in_force().into_iter();
    for setting in all.filter(|setting| !flags.changed || setting.origin != SettingOrigin::Default) {
        output.print(
            || {
                json!({
                    "key": setting.key,
                    "value": setting.value,
                    "source": setting.origin.word(),
                    "name": setting.name,
                })
            },
            || {
                let source = setting.name.as_deref().unwrap_or(SettingOrigin::Default.word());
                format!("{} = {}{}", setting.key, setting.toml(), output.dim(&format!("  # {source}")))
            },
        )?;
    }
    Ok(())
}

/// Writes a commented settings file for a new site, with these values, each as `KEY=VALUE`. Only its owner may read it.
///
/// # Errors
///
/// When a value is invalid, the file exists, or it or standard output cannot be written.
pub fn generate_settings(flags: &GenerateSettings, assignments: &[String]) -> Result<(), CommandError> {
    let own = [("redis.url", &flags.redis), ("server.listen", &flags.listen)];
    let own = own.into_iter().filter_map(|(key, value)| Some(format!("{key}={}", value.as_ref()?)));
    let assignments: Vec<_> = own.chain(assignments.iter().cloned()).collect();
    let text = settings::recommended(&assignments)?;
    let Some(path) = &flags.output else {
        return io::stdout().write_all(text.as_bytes()).map_err(CommandError::Stdio);
    };
    // The values may be secrets.
    let created = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    created.and_then(|mut file| file.write_all(text.as_bytes())).map_err(|error| {
        CommandError::Arguments(format!("--output: cannot write {}: {error}", path.display()))
    })
}
