//! `mirror-git-to-s3`: the arguments, layout and exit statuses of the Python tool of this name.
//!
//! Pairs run one after the other. A pair that fails does not stop the next ones. Nothing is printed
//! on standard output.

use branchline_core::mirror::{BatchLimits, Mapping, RequestOrigin};
use branchline_core::remote::open::S3Layout;
use clap::Parser;
use futures_util::stream::{self, StreamExt as _};
use serde_json::json;

use super::RunOptions;
use crate::exit::ExitStatus;
use crate::failure::one_line;
use crate::invocation::Invocation;
use crate::progress::ProgressForm;
use crate::remotes::TerminalRemotes;

/// Command line of `mirror-git-to-s3`.
#[derive(Debug, Parser)]
#[command(
    name = "mirror-git-to-s3",
    about = "Mirrors git repositories to S3, from where stock git clones them over HTTPS",
    after_help = "\
Sources and targets are paired in their order.

Example:
  mirror-git-to-s3 --source https://example.org/a.git --target s3://bucket/a"
)]
struct Arguments {
    /// URL of a repository; can be repeated.
    #[arg(long, required = true, value_name = "URL")]
    source: Vec<String>,
    /// Place in S3; can be repeated.
    #[arg(long, short = 's', required = true, value_name = "s3://BUCKET/PREFIX")]
    target: Vec<String>,
}

/// Runs the tool.
pub(crate) async fn run(invocation: &Invocation) -> ExitStatus {
    let arguments = match Arguments::try_parse_from(&invocation.arguments) {
        Ok(arguments) => arguments,
        Err(error) => return crate::failure::usage(&error),
    };
    let Arguments { source, target } = arguments;
    if source.len() != target.len() {
        eprintln!(
            "error: {} sources are given, but {} targets; hint: give one target for each source, \
             in the same order",
            source.len(),
            target.len()
        );
        return ExitStatus::Usage;
    }
    let remotes = match TerminalRemotes::new(invocation) {
        Ok(remotes) => remotes,
        Err(error) => {
            eprintln!("error: {}", one_line(&error));
            return ExitStatus::Failed;
        }
    };
    let origin = RequestOrigin::Terminal {
        new_layout: S3Layout::Loose,
    };
    let pairs = source.into_iter().zip(target).map(move |(source, target)| {
        let mapping = json!({
            "source": source,
            "target": target,
            "layout": "loose",
            "refs": ["refs/*"],
            "prune": "all",
        });
        Ok(Mapping::read(origin, "", &mapping, false))
    });
    let options = RunOptions {
        batch: BatchLimits::default(),
        jobs: 1,
        verify: false,
        form: ProgressForm::of(invocation, false, false),
        quiet: true,
    };
    let pairs: Vec<_> = pairs.collect();
    match super::run(&remotes, stream::iter(pairs).boxed(), options).await {
        ExitStatus::Done => ExitStatus::Done,
        _ => ExitStatus::Failed,
    }
}
