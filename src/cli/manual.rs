//! `ws4redis man` and `ws4redis completions`: made from the definitions of the flags.

use std::io::{self, Write};

use clap::CommandFactory;
use clap_complete::Shell;
use clap_mangen::Man;

use super::{Arguments, CommandError};

/// The program's name.
const NAME: &str = "ws4redis";

/// Prints the completions for a shell.
///
/// # Errors
///
/// When standard output fails.
pub fn print_completions(shell: Shell) -> Result<(), CommandError> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), NAME, &mut text);
    io::stdout().write_all(&text).map_err(CommandError::Stdio)
}

/// Prints the man page, with a section for each subcommand.
///
/// # Errors
///
/// When standard output fails.
pub fn print_manual() -> Result<(), CommandError> {
    let mut text = Vec::new();
    write_manual(&mut text).map_err(CommandError::Stdio)?;
    io::stdout().write_all(&text).map_err(CommandError::Stdio)
}

fn write_manual(text: &mut Vec<u8>) -> io::Result<()> {
    let mut program = Arguments::command();
    program.build();
    let page = Man::new(program.clone());
    page.render_title(text)?;
    page.render_name_section(text)?;
    page.render_synopsis_section(text)?;
    page.render_description_section(text)?;
    page.render_options_section(text)?;
    for command in program.get_subcommands().filter(|command| !command.is_hide_set()) {
        let name = command.get_name().to_uppercase();
        // The options that all commands have are above.
        let command = command.clone().mut_args(|argument| {
            let is_global = argument.is_global_set();
            argument.hide(is_global)
        });
        writeln!(text, ".SH \"{NAME} {}\"", name.to_lowercase())?;
        let section = Man::new(command);
        let mut part = Vec::new();
        section.render_synopsis_section(&mut part)?;
        section.render_description_section(&mut part)?;
        section.render_options_section(&mut part)?;
        text.extend(String::from_utf8_lossy(&part).replace(".SH ", ".SS ").into_bytes());
    }
    page.render_extra_section(text)?;
    page.render_version_section(text)
}
