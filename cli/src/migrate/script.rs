//! `incremental-repo-migration`: the arguments and exit statuses of the script that AWS documents.
//!
//! As from the script, the course of the migration is on standard output.

use std::io::Write as _;

use branchline_core::git::escaped_excerpt;
use branchline_core::mirror::{AnsweredPush, BatchLimits};
use clap::Parser;

use super::{Places, run};
use crate::exit::ExitStatus;
use crate::failure::one_line;
use crate::invocation::Invocation;
use crate::mirror::RunOptions;
use crate::progress::ProgressForm;

/// Command line of `incremental-repo-migration`.
#[derive(Debug, Parser)]
#[command(
    name = "incremental-repo-migration",
    about = "Migrates a repository to CodeCommit in batches of commits",
    after_help = "\
Example:
  incremental-repo-migration -l project -r codecommit -b 500"
)]
struct Arguments {
    #[command(flatten)]
    places: Places,
}

/// Runs the tool.
pub(crate) async fn run_script(invocation: &Invocation) -> ExitStatus {
    let arguments = match Arguments::try_parse_from(&invocation.arguments) {
        Ok(arguments) => arguments,
        Err(error) => return crate::failure::usage(&error),
    };
    let places = arguments.places;
    let options = RunOptions {
        batch: BatchLimits {
            commits: places.batch.get(),
            ..BatchLimits::default()
        },
        jobs: 1,
        verify: false,
        // Each push is a line.
        form: ProgressForm::None,
        quiet: false,
    };
    if !places.clean {
        println!("Analyzing repository");
    }
    match run(invocation, &places, options, Some(Box::new(print_push))).await {
        Ok(ExitStatus::Done) => {
            if !places.clean {
                println!("Migration to CodeCommit was successful");
            }
            ExitStatus::Done
        }
        Ok(_) => ExitStatus::Failed,
        Err(error) => {
            println!(
                "Could not contact the remote repository: {}",
                one_line(&error)
            );
            ExitStatus::Failed
        }
    }
}

/// Prints a line for a push: the temporary tag of its batch, or the numbers of its refs.
fn print_push(push: &AnsweredPush) {
    let objects = push.objects;
    let line = match push.refs.as_slice() {
        [tag] if push.temporary => {
            let tag = tag.strip_prefix(b"refs/tags/").unwrap_or(tag);
            format!("Pushed tag {}: {objects} objects", escaped_excerpt(tag))
        }
        refs => {
            let is_branch = |name: &&bstr::BString| name.starts_with(b"refs/heads/");
            let branches = refs.iter().filter(is_branch).count();
            let tags = refs.len() - branches;
            format!("Pushed {branches} branches and {tags} tags: {objects} objects")
        }
    };
    // A reader that has gone away does not stop the work.
    let _ = writeln!(std::io::stdout(), "{line}");
}
