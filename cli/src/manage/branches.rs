//! `protect`, `unprotect`, `delete-branch` and `set-head`.

use branchline_core::remote::{Head, Push, RefOutcome, RefUpdate};
use branchline_core::{Error, ErrorKind, Result};
use bstr::{BString, ByteSlice as _};
use clap::Args;
use serde::Serialize;

use super::located::{Located, branch};
use crate::invocation::Invocation;

#[derive(Debug, Args)]
pub(crate) struct BranchArgs {
    /// URL in S3, or the name of a remote of the current repository.
    #[arg(value_name = "URL")]
    pub(super) remote: String,
    /// Name of the branch.
    pub(super) branch: String,
    /// Prints the result as JSON.
    #[arg(long)]
    pub(super) json: bool,
}

/// Change of a branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    Protect,
    Unprotect,
    Delete,
    SetHead,
}

/// The printed result.
#[derive(Debug, Serialize)]
struct Report<'a> {
    remote: String,
    #[serde(rename = "ref")]
    name: String,
    result: &'a str,
}

/// Makes a change. One that was made before is not an error.
pub(crate) async fn run(invocation: &Invocation, args: &BranchArgs, change: Change) -> Result<()> {
    let name = branch(&args.branch)?;
    let located = Located::open(invocation, &args.remote, None).await?;
    let changed = located
        .explained(make(&located, &name, change).await)
        .await?;
    let result = match change {
        _ if !changed => "unchanged",
        Change::Protect => "protected",
        Change::Unprotect => "unprotected",
        Change::Delete => "deleted",
        Change::SetHead => "head",
    };
    if args.json {
        let report = Report {
            remote: located.url.to_string(),
            name: name.to_string(),
            result,
        };
        println!("{}", serde_json::json!(report));
    } else if result == "head" {
        println!("`HEAD` of {} names `{name}`", located.url);
    } else {
        println!("`{name}` of {}: {result}", located.url);
    }
    Ok(())
}

/// Returns whether the repository was changed.
async fn make(located: &Located, name: &BString, change: Change) -> Result<bool> {
    let maintenance = located.maintenance()?;
    match change {
        Change::Protect => maintenance.set_protected(name.as_bstr(), true).await,
        Change::Unprotect => maintenance.set_protected(name.as_bstr(), false).await,
        Change::SetHead => maintenance.set_head(name.as_bstr()).await,
        Change::Delete => delete(located, name).await,
    }
}

/// Deletes a ref as a push does.
async fn delete(located: &Located, name: &BString) -> Result<bool> {
    let mut target = located.remote.target().await?;
    let snapshot = target.snapshot();
    let Some(value) = snapshot.refs.get(name) else {
        return Err(missing(located, name));
    };
    if snapshot.head == Some(Head::Symbolic(name.clone())) {
        let message = format!("`HEAD` of {} names `{name}`", located.url);
        return Err(Error::new(ErrorKind::Rejected, message)
            .with_hint("name another branch by `branchline remote set-head` first"));
    }
    let deletion = RefUpdate {
        name: name.clone(),
        old: Some(value.id),
        new: None,
    };
    let push = Push {
        changes: vec![deletion],
        ..Push::default()
    };
    for (name, outcome) in target.push(push).await?.refs {
        if let RefOutcome::Rejected(why) = outcome {
            let message = format!("`{name}` was not deleted: {why}");
            return Err(Error::new(ErrorKind::Rejected, message));
        }
    }
    Ok(true)
}

fn missing(located: &Located, name: &BString) -> Error {
    let message = format!("`{name}` does not exist at {}", located.url);
    Error::new(ErrorKind::NotFound, message).with_hint("`git ls-remote` lists the refs")
}
