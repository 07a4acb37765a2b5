//! `push`: refs and objects of the local repository to a remote.

use std::io::Write as _;

use branchline_core::git::pack::PackLimits;
use branchline_core::git::{ObjectId, escaped_excerpt};
use branchline_core::remote::{
    Head, IncomingOptions, IncomingPack, Push, RefOutcome, RefUpdate, RefValue, Remote, Snapshot,
};
use branchline_core::{Error, ErrorKind, Result};
use bstr::{BString, ByteSlice as _};
use futures_util::StreamExt as _;
use tokio_util::io::ReaderStream;

use super::options::Options;
use super::protocol::PushSpec;
use crate::failure::one_line;
use crate::local_git;

/// Bytes that are read at once from `git pack-objects`.
const CHUNK_BYTES: usize = 256 * 1024;

/// Pushes refs, and returns the result of each in the lines of the protocol.
///
/// # Errors
/// When the remote cannot be opened. Later failures are results of the refs.
pub(super) async fn push(
    remote: &dyn Remote,
    specs: Vec<PushSpec>,
    options: Options,
) -> Result<Vec<u8>> {
    let mut target = remote.target().await?;
    let mut results: Vec<(BString, Result<(), String>)> = Vec::new();
    let mut changes = Vec::new();
    for spec in specs {
        let name = spec.destination.clone();
        match plan(target.snapshot(), spec).await? {
            Planned::Change(change) => changes.push(change),
            Planned::UpToDate => results.push((name, Ok(()))),
            Planned::Refused(why) => results.push((name, Err(why))),
        }
    }
    if options.dry_run {
        results.extend(changes.into_iter().map(|change| (change.name, Ok(()))));
        return Ok(lines(results));
    }
    if changes.is_empty() {
        return Ok(lines(results));
    }
    let names: Vec<_> = changes.iter().map(|change| change.name.clone()).collect();
    let snapshot = target.snapshot().clone();
    let pushed = async {
        let wants: Vec<ObjectId> = changes
            .iter()
            .filter_map(|change| Some(change.new?.id))
            .collect();
        let haves = target.haves().await?;
        let capabilities = target.capabilities();
        let (pack, packing) = if wants.is_empty() {
            (None, None)
        } else {
            let made = pack(&snapshot, &wants, &haves, capabilities.thin, options).await?;
            (Some(made.0), Some(made.1))
        };
        let head = if snapshot.head.is_none() && capabilities.head {
            head(&changes).await
        } else {
            None
        };
        let push = Push {
            changes,
            head,
            pack,
            ..Push::default()
        };
        let report = target.push(push).await;
        // Its failure is the cause of a pack that ends early.
        if let Some(packing) = packing {
            local_git::finish(packing, "pack-objects").await?;
        }
        report
    };
    match pushed.await {
        Ok(report) => results.extend(report.refs.into_iter().map(|(name, outcome)| {
            let result = match outcome {
                RefOutcome::Done => Ok(()),
                RefOutcome::Rejected(why) => Err(why),
                RefOutcome::Unknown => Err("the result is not known".to_owned()),
            };
            (name, result)
        })),
        Err(error) => {
            let error = explain_shallow(error).await;
            let why = one_line(&error);
            results.extend(names.into_iter().map(|name| (name, Err(why.clone()))));
        }
    }
    Ok(lines(results))
}

/// Action that a ref needs.
enum Planned {
    Change(RefUpdate),
    UpToDate,
    /// In git's own words where git knows them.
    Refused(String),
}

async fn plan(snapshot: &Snapshot, spec: PushSpec) -> Result<Planned> {
    let PushSpec {
        force,
        source,
        destination,
    } = spec;
    let old = snapshot.refs.get(&destination).map(|target| target.id);
    let Some(source) = source else {
        if old.is_none() {
            return Ok(Planned::Refused("remote ref does not exist".to_owned()));
        }
        if snapshot.head == Some(Head::Symbolic(destination.clone())) {
            return Ok(Planned::Refused(format!(
                "`HEAD` of the remote names `{}`; hint: let it name another branch first",
                escaped_excerpt(&destination)
            )));
        }
        return Ok(Planned::Change(RefUpdate {
            name: destination,
            old,
            new: None,
        }));
    };
    let id = local_git::resolve(source.as_bstr()).await?;
    if old == Some(id) {
        return Ok(Planned::UpToDate);
    }
    if let (Some(old), false) = (old, force) {
        if destination.starts_with(b"refs/tags/") {
            return Ok(Planned::Refused("already exists".to_owned()));
        }
        let refusal = match local_git::is_ancestor(old, id).await? {
            Some(true) => None,
            Some(false) => Some("non-fast forward"),
            None if local_git::existing(&[old]).await?.is_empty() => Some("fetch first"),
            None => Some("needs force"),
        };
        if let Some(why) = refusal {
            return Ok(Planned::Refused(why.to_owned()));
        }
    }
    Ok(Planned::Change(RefUpdate {
        name: destination,
        old,
        new: Some(RefValue { id, peeled: None }),
    }))
}

/// Starts to make the pack of a push, and returns it with the command that makes it.
async fn pack(
    snapshot: &Snapshot,
    wants: &[ObjectId],
    haves: &[ObjectId],
    thin: bool,
    options: Options,
) -> Result<(IncomingPack, tokio::process::Child)> {
    let hash = local_git::object_format().await?;
    if !snapshot.refs.is_empty() && snapshot.hash != hash {
        let message = format!(
            "the remote has object ids of {}, and this repository of {hash}",
            snapshot.hash
        );
        return Err(Error::new(ErrorKind::Config, message)
            .with_hint("git cannot convert between them: push to another prefix"));
    }
    let known = local_git::existing(haves).await?;
    let mut child = local_git::pack_objects(wants, &known, thin, options.progress).await?;
    let stdout = child
        .stdout
        .take()
        .expect("because the command was started with a pipe");
    let body = ReaderStream::with_capacity(stdout, CHUNK_BYTES).map(|chunk| {
        chunk.map_err(|error| {
            let error = Error::new(ErrorKind::Internal, "`git pack-objects`").with_source(error);
            branchline_core::git::Error::from(error)
        })
    });
    let options = IncomingOptions {
        hash,
        limits: PackLimits::default(),
        scanner: None,
        commits: None,
    };
    Ok((IncomingPack::new(Box::pin(body), &options), child))
}

/// Returns the first `HEAD` of a remote: the branch that is checked out if it is pushed, else the
/// first branch of the push.
async fn head(changes: &[RefUpdate]) -> Option<Head> {
    let mut created = changes.iter().filter(|change| change.new.is_some());
    let own = local_git::head().await;
    let checked_out = created
        .clone()
        .find(|change| Some(&change.name) == own.as_ref());
    let first = created.find(|change| change.name.starts_with(b"refs/heads/"));
    let chosen = checked_out.or(first)?;
    Some(Head::Symbolic(chosen.name.clone()))
}

/// Adds the remedy to the error about objects that a shallow clone does not have.
async fn explain_shallow(error: Error) -> Error {
    if error.kind() == ErrorKind::Corrupt && local_git::is_shallow().await.unwrap_or(false) {
        return error.with_hint(
            "this repository is a shallow clone: run `git fetch --unshallow`, and push again",
        );
    }
    error
}

/// Formats results: `ok <ref>`, or `error <ref> <why>`.
fn lines(results: Vec<(BString, Result<(), String>)>) -> Vec<u8> {
    let mut lines = Vec::new();
    let to_memory = "because memory takes all bytes";
    for (name, result) in results {
        match result {
            Ok(()) => writeln!(lines, "ok {name}").expect(to_memory),
            Err(why) => {
                let why = why.replace(['\n', '\r'], " ");
                writeln!(lines, "error {name} {why}").expect(to_memory);
            }
        }
    }
    lines.push(b'\n');
    lines
}
