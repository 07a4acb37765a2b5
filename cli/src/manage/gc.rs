//! `gc`: deletes temporary objects of killed clients, and merges packs.

use branchline_core::Result;
use branchline_core::remote::Leftovers;
use clap::Args;
use serde::Serialize;

use super::located::Located;
use crate::interrupt::Resumable;
use crate::invocation::Invocation;

pub(crate) const EXAMPLES: &str = "\
In the layout `bundle`, packs that killed pushes left are deleted. In the layout `dumb`, all packs
up to 1 GiB are also merged into one, without objects that no ref needs; a larger pack is rewritten
only if it has such objects. Merged packs are deleted by a later push or `gc`, after a day, because
readers may still use them. What is younger than a day is kept. With `--all`, temporary objects are
not: a push that is running then fails, and can be repeated. Loose objects are kept.

Examples:
  branchline remote gc origin
  branchline remote gc --json s3://bucket/team/project";

#[derive(Debug, Args)]
pub(crate) struct GcArgs {
    /// URL in S3, or the name of a remote of the current repository.
    #[arg(value_name = "URL")]
    pub(super) remote: String,
    /// Deletes temporary objects of pushes that may be running, too.
    #[arg(long)]
    pub(super) all: bool,
    /// Prints the result as JSON.
    #[arg(long)]
    pub(super) json: bool,
}

/// The printed result.
#[derive(Debug, Serialize)]
struct Report {
    remote: String,
    leftovers: u64,
    merged_packs: usize,
    pruned_objects: usize,
    packs: usize,
}

/// Collects garbage.
pub(crate) async fn run(invocation: &Invocation, args: &GcArgs) -> Result<()> {
    let located = Located::open(invocation, &args.remote, None).await?;
    let which = if args.all {
        Leftovers::All
    } else {
        Leftovers::Abandoned
    };
    let _resumable = Resumable::new("the same command does the rest");
    let collected = located.maintenance()?.collect_garbage(which).await;
    let garbage = located.explained(collected).await?;
    let report = Report {
        remote: located.url.to_string(),
        leftovers: garbage.leftovers,
        merged_packs: garbage.merged_packs,
        pruned_objects: garbage.pruned_objects,
        packs: garbage.packs,
    };
    if args.json {
        println!("{}", serde_json::json!(report));
        return Ok(());
    }
    println!(
        "deleted {} temporary objects of {}",
        report.leftovers, report.remote
    );
    if report.merged_packs > 0 {
        println!(
            "merged {} packs; {} are left",
            report.merged_packs, report.packs
        );
    }
    if report.pruned_objects > 0 {
        println!(
            "removed {} objects that no ref needs",
            report.pruned_objects
        );
    }
    Ok(())
}
