//! Objects of git-lfs in S3: the applet `git-lfs-s3`, which git-lfs starts to transfer them, and
//! `branchline lfs`.
//!
//! | module | content |
//! |---|---|
//! | `agent` | the loop over the events of git-lfs |
//! | `transfers` | one upload or download |
//! | `location` | the store that a remote of the repository names |
//! | `settings` | keys in git's configuration by which git-lfs finds the agent |
//! | `install` | `install`, `enable-debug` and `disable-debug` |
//! | `needed_by` | commit and path that need a missing object |
//! | `command` | `branchline lfs` |
//! | `check` | `branchline lfs verify` and `branchline lfs repair` |
//!
//! The keys and words are those of awslabs' `git-lfs-s3`. In contrast to it, the agent is set for
//! single remotes and for `s3://` only, so that the objects of other remotes stay with them.

mod agent;
mod check;
mod command;
mod install;
mod location;
mod needed_by;
mod settings;
mod transfers;

use branchline_core::Result;

pub(crate) use self::command::LfsCommand;
pub(crate) use self::settings::{GLOBAL_SETTINGS, set_up_remote};
use crate::exit::ExitStatus;
use crate::failure::one_line;
use crate::invocation::Invocation;

const USAGE: &str = "\
usage: git-lfs-s3 install [--remote NAME]   sets up git-lfs for the remotes in S3, or for one
       git-lfs-s3 enable-debug              logs transfers to `lfs/tmp/git-lfs-s3.log`
       git-lfs-s3 disable-debug
git-lfs starts it without arguments, or with `debug`, to transfer objects.";

/// Runs the applet `git-lfs-s3`.
pub(crate) async fn run(invocation: &Invocation) -> ExitStatus {
    let arguments = invocation.arguments.iter().skip(1);
    let arguments: Vec<_> = arguments.map(|text| text.to_string_lossy()).collect();
    let arguments: Vec<&str> = arguments.iter().map(AsRef::as_ref).collect();
    match arguments[..] {
        [] => agent::run(invocation, false).await,
        ["debug"] => agent::run(invocation, true).await,
        ["install"] => status(install::install_all().await),
        ["install", "--remote", name] if !name.is_empty() => {
            status(install::install_remote(name, None).await)
        }
        ["install", option]
            if option.len() > "--remote=".len() && option.starts_with("--remote=") =>
        {
            status(install::install_remote(&option["--remote=".len()..], None).await)
        }
        ["install", ..] => {
            eprintln!("error: `install` takes `--remote NAME` only\n{USAGE}");
            ExitStatus::Usage
        }
        ["enable-debug"] => status(install::enable_debug().await),
        ["disable-debug"] => status(install::disable_debug().await),
        _ => {
            println!(
                "git-lfs-s3 (branchline {})\n{USAGE}",
                env!("CARGO_PKG_VERSION")
            );
            ExitStatus::Failed
        }
    }
}

fn status(result: Result<()>) -> ExitStatus {
    match result {
        Ok(()) => ExitStatus::Done,
        Err(error) => {
            eprintln!("error: {}", one_line(&error));
            ExitStatus::Failed
        }
    }
}
