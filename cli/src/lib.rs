//! Git on S3 at the command line.
//!
//! One program with several names: `branchline` with commands of its own, and an applet for each
//! tool that it replaces, chosen by the name of the program file or by `--as NAME`.
//!
//! | module | content |
//! |---|---|
//! | [`Invocation`] | arguments, environment variables and paths, read once |
//! | `names`, `applet` | the names of the program, and the tools behind them |
//! | `commands` | `branchline`'s own commands |
//! | `helper` | `git-remote-s3`: git's remote helper protocol |
//! | `codecommit` | `git-remote-codecommit`: git's HTTP helper with AWS credentials |
//! | `lfs` | `git-lfs-s3`: git-lfs's transfer agent; `branchline lfs` |
//! | `manage` | `git-s3` and `branchline remote`: examine and repair repositories in S3 |
//! | `archive` | `branchline archive` |
//! | `stack` | the functions of a deployed stack; `branchline triggers` |
//! | `status`, `doctor` | `branchline status`, and `branchline doctor stack` |
//! | `migrate` | `branchline migrate`, and `incremental-repo-migration` |
//! | `mirror` | `branchline mirror`, and `mirror-git-to-s3` |
//! | `template` | `branchline template`: the stack of the functions |
//! | `remotes` | opens remotes of every kind, with git's credential helpers for git servers |
//! | `progress` | progress at a terminal |
//! | `connection` | opens the remote of a URL, with credentials, endpoint, region and cache |
//! | `local_git` | git commands in the user's repository |
//! | `install` | links to the program under its other names |
//! | `failure`, `exit`, `log` | errors, exit statuses and log lines, as a user sees them |
//! | `closed_output` | outputs that cannot be written |
//! | `interrupt` | Ctrl-C, and the requests that clean up |
//! | `system` | signals, links and terminals, which each system has in its own way |
//!
//! Decisions about remotes are in the core crate, which neither reads the environment nor writes
//! to the terminal.

mod applet;
mod archive;
mod closed_output;
mod codecommit;
mod commands;
mod connection;
mod doctor;
mod exit;
mod failure;
mod helper;
mod install;
mod interrupt;
mod invocation;
mod lfs;
mod local_git;
mod log;
mod manage;
mod migrate;
mod mirror;
mod names;
mod progress;
mod remotes;
mod stack;
mod status;
mod system;
mod template;

use std::time::Duration;

pub use exit::ExitStatus;
pub use invocation::Invocation;

/// Runs the program, and cleans up for at most `cleanup_limit`.
pub async fn run(invocation: Invocation, cleanup_limit: Duration) -> ExitStatus {
    let verbosity = log::start(&invocation);
    let work = closed_output::run_until_closed(Box::pin(applet::run(invocation, verbosity)));
    interrupt::run_or_interrupt(Box::pin(work), cleanup_limit).await
}
