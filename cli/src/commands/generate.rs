//! `branchline completions` and `branchline man`: generated from the definition of the commands.

use std::io::Write as _;
use std::path::PathBuf;

use branchline_core::{Error, ErrorKind, Result};
use clap::{Args, Command};
use clap_complete::Shell;

#[derive(Debug, Args)]
#[command(after_help = COMPLETIONS_EXAMPLES)]
pub(super) struct CompletionsArgs {
    /// The shell.
    #[arg(value_enum)]
    shell: Shell,
}

const COMPLETIONS_EXAMPLES: &str = "\
Examples:
  branchline completions bash > ~/.local/share/bash-completion/completions/branchline
  branchline completions zsh > ~/.zfunc/_branchline
  branchline completions fish > ~/.config/fish/completions/branchline.fish";

#[derive(Debug, Args)]
#[command(after_help = MAN_EXAMPLES)]
pub(super) struct ManArgs {
    /// Directory for one page for each command, instead of the first page on standard output.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

const MAN_EXAMPLES: &str = "\
Examples:
  branchline man | man -l -
  branchline man --out ~/.local/share/man/man1";

/// Prints the completions of a shell.
pub(super) fn completions(args: &CompletionsArgs, mut command: Command) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "branchline", &mut script);
    print(&script)
}

/// Prints the manual page of the program, or writes those of all commands.
pub(super) fn man(args: &ManArgs, command: Command) -> Result<()> {
    let Some(directory) = &args.out else {
        let mut page = Vec::new();
        let rendered = clap_mangen::Man::new(command).render(&mut page);
        rendered.map_err(|error| failed("the manual page", error))?;
        return print(&page);
    };
    let shown = format!("`{}`", directory.display());
    std::fs::create_dir_all(directory).map_err(|error| failed(&shown, error))?;
    clap_mangen::generate_to(command, directory).map_err(|error| failed(&shown, error))
}

fn print(bytes: &[u8]) -> Result<()> {
    let written = std::io::stdout().write_all(bytes);
    written.map_err(|error| failed("standard output", error))
}

fn failed(what: &str, error: std::io::Error) -> Error {
    Error::new(ErrorKind::Config, format!("{what} cannot be written")).with_source(error)
}
