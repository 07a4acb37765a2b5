//! One push to an S3 bundle remote, as the writers of a race make it, in processes of their
//! own or in one.

use std::path::Path;

use anyhow::{Result, ensure};
use branchline_core::ErrorKind;
use branchline_core::git::ObjectId;
use branchline_core::git::pack::PackLimits;
use branchline_core::remote::local::LocalRepository;
use branchline_core::remote::s3_bundle::BundleRemote;
use branchline_core::remote::{
    IncomingOptions, IncomingPack, PackRequest, Push, RefOutcome, RefUpdate, RefValue, Remote as _,
};

/// Moves the ref `name` from `old` to `new`, a commit of the repository in `folder`.
///
/// Returns `Err` with the reason if another push came first, or may have.
///
/// # Errors
/// The push fails for another reason.
pub async fn push_one(
    remote: &BundleRemote,
    folder: &Path,
    name: &str,
    old: ObjectId,
    new: ObjectId,
) -> Result<Result<(), String>> {
    match push(remote, folder, name, old, new).await {
        Ok(None) => Ok(Err("the ref is at another commit".to_owned())),
        Ok(Some(outcome)) => {
            ensure!(outcome == RefOutcome::Done, "the ref was {outcome:?}");
            Ok(Ok(()))
        }
        Err(error) if error.kind() == ErrorKind::Conflict => Ok(Err(error.report())),
        Err(error) => Err(anyhow::anyhow!(error.report())),
    }
}

async fn push(
    remote: &BundleRemote,
    folder: &Path,
    name: &str,
    old: ObjectId,
    new: ObjectId,
) -> branchline_core::Result<Option<RefOutcome>> {
    let mut target = remote.open_target().await?;
    let change = RefUpdate {
        name: name.into(),
        old: Some(old),
        new: Some(RefValue {
            id: new,
            peeled: None,
        }),
    };
    let refs = &branchline_core::remote::Target::snapshot(&target).refs;
    if refs.get(&change.name).map(|at| at.id) != change.old {
        return Ok(None);
    }
    let wanted = PackRequest {
        wants: vec![new],
        haves: vec![old],
        thin: true,
        offset_deltas: true,
    };
    let local = LocalRepository::new(folder, PackLimits::default());
    let pack = local.source(&[]).await?.fetch(&wanted).await?;
    let options = IncomingOptions {
        hash: new.kind(),
        limits: PackLimits::default(),
        scanner: None,
        commits: None,
    };
    let push = Push {
        changes: vec![change],
        pack: Some(IncomingPack::new(pack, &options)),
        ..Push::default()
    };
    let mut each = target.push_all(push).await?;
    let (_, outcome) = each.refs.remove(0);
    outcome.map(Some)
}
