//! Fixes what [`examine`](super::examine) finds, and keeps a bundle remote up. Each ref is changed
//! under its lock, and no commit is lost unless the caller chooses to delete it.

use std::sync::Arc;

use async_trait::async_trait;
use bstr::{BStr, BString, ByteSlice as _};
use bytes::Bytes;

use super::BundleRemote;
use super::archive;
use super::bundle_reader::OpenBundle;
use super::competing;
use super::delete::{copy_bundle, copy_to_conflict_ref, remove};
use super::examine::{examine, newest_first, newest_refs};
use super::keys::{BundleFile, Folders, RefFolder, common_hash};
use super::lock::Lock;
use super::options::BundleLocation;
use super::repair::release_abandoned_lock;
use crate::error::{Error, ErrorKind, Result};
use crate::git::escaped_excerpt;
use crate::remote::Leftovers;
use crate::remote::maintenance::{
    Examination, FixChoices, Garbage, Maintenance, Problem, ProblemKind, branch_for_head,
    cannot_fix, head_problem, missing_ref, side_to_set_aside,
};
use crate::remote::stale_ref::stale_name;
use crate::storage::{ObjectStoreExt as _, Precondition, PutOptions, delete_leftovers};

#[async_trait]
impl Maintenance for BundleRemote {
    async fn examine(&self) -> Result<Examination> {
        examine(&self.location).await
    }

    async fn fix(&self, problem: &Problem, choices: &FixChoices) -> Result<String> {
        let location = &self.location;
        let first = || {
            let first = problem.refs.first();
            first
                .map(|name| name.as_bstr())
                .ok_or_else(|| cannot_fix(problem))
        };
        let done = match problem.kind {
            ProblemKind::StaleLock => release_stale_lock(location, first()?).await,
            ProblemKind::SeveralBundles => keep_one_bundle(location, first()?, choices).await,
            ProblemKind::RefsInTheWay => set_aside(location, &problem.refs, choices).await,
            ProblemKind::Head => fix_head(location, choices).await,
            _ => Err(cannot_fix(problem)),
        };
        location.check_kept_lock()?;
        done
    }

    async fn set_protected(&self, name: &BStr, protected: bool) -> Result<bool> {
        let location = &self.location;
        let folder = location.folder(name).await?;
        if folder.bundles.is_empty() {
            return Err(missing_ref(name, location));
        }
        if folder.protected == protected {
            return Ok(false);
        }
        let key = location.protected_key(name)?;
        let (store, bucket) = (&location.store, &location.bucket);
        if protected {
            store
                .put(bucket, &key, Bytes::new(), &options(location))
                .await?;
        } else {
            store.delete(bucket, &key, &Precondition::None).await?;
        }
        Ok(true)
    }

    async fn set_head(&self, name: &BStr) -> Result<bool> {
        let location = &self.location;
        let (folder, head) = tokio::try_join!(location.folder(name), location.read_head())?;
        if folder.bundles.is_empty() {
            return Err(missing_ref(name, location));
        }
        if head.name.as_ref().is_some_and(|found| found == name) {
            return Ok(false);
        }
        location.write_head(&name.to_owned(), &head).await?;
        Ok(true)
    }

    async fn collect_garbage(&self, which: Leftovers) -> Result<Garbage> {
        let location = &self.location;
        let written_before = which.written_before((location.options.clock)());
        let prefix = location.incoming_prefix();
        let store = &*location.store;
        let deleted = delete_leftovers(store, &location.bucket, &prefix, written_before);
        Ok(Garbage {
            leftovers: deleted.await?,
            ..Garbage::default()
        })
    }
}

fn options(location: &BundleLocation) -> PutOptions {
    PutOptions {
        kms_key_id: location.options.kms_key_id.clone(),
        ..PutOptions::default()
    }
}

async fn release_stale_lock(location: &Arc<BundleLocation>, name: &BStr) -> Result<String> {
    release_abandoned_lock(location, name).await?;
    Ok(format!("deleted the lock of `{name}`"))
}

/// Keeps one bundle of a ref.
async fn keep_one_bundle(
    location: &Arc<BundleLocation>,
    name: &BStr,
    choices: &FixChoices,
) -> Result<String> {
    let lock = Lock::acquire(location, location.lock_key(name)?).await?;
    let kept = keep_one_locked(location, name, choices, &lock).await;
    lock.release().await;
    kept
}

async fn keep_one_locked(
    location: &Arc<BundleLocation>,
    name: &BStr,
    choices: &FixChoices,
    lock: &Lock,
) -> Result<String> {
    let folder = location.folder(name).await?;
    if folder.bundles.len() < 2 {
        return Ok(format!("`{name}` has one bundle now"));
    }
    let (winner, orphans) = choose(location, name, &folder, choices).await?;
    if !OpenBundle::open(location, &winner).await?.is_full() {
        let message = format!("`{}` may need the other bundles", winner.key);
        return Err(Error::new(ErrorKind::Config, message)
            .with_hint("push to the ref: the next bundle contains its whole history"));
    }
    let mut kept = Vec::new();
    if !choices.delete_others {
        for orphan in &orphans {
            OpenBundle::open(location, orphan).await.map_err(|error| {
                error.with_hint("delete it: choose to delete the other bundles")
            })?;
            kept.push(copy_to_conflict_ref(location, name, orphan).await?);
        }
    }
    lock.verify().await?;
    for file in folder.bundles.iter().filter(|file| **file != winner) {
        remove(location, file).await?;
    }
    let id = winner.id.to_hex_with_len(7);
    Ok(if kept.is_empty() {
        format!("kept bundle {id} of `{name}`, and deleted the others")
    } else {
        let kept: Vec<String> = kept.iter().map(|name| format!("`{name}`")).collect();
        format!(
            "kept bundle {id} of `{name}`, and the others as {}",
            kept.join(", ")
        )
    })
}

/// Chooses the bundle to keep; returns those, too, that have commits of their own.
async fn choose(
    location: &Arc<BundleLocation>,
    name: &BStr,
    folder: &RefFolder,
    choices: &FixChoices,
) -> Result<(BundleFile, Vec<BundleFile>)> {
    let is_chosen = |file: &&BundleFile| {
        let id = file.id.to_string();
        choices
            .keep
            .iter()
            .any(|start| id.starts_with(start.as_str()))
    };
    let chosen: Vec<&BundleFile> = folder.bundles.iter().filter(is_chosen).collect();
    if let [_, second, ..] = chosen.as_slice() {
        let message = format!(
            "more than one bundle of `{name}` is chosen, such as {}",
            second.id
        );
        return Err(Error::new(ErrorKind::Config, message).with_hint("give more digits of its id"));
    }
    let folders = Folders::from([(name.to_owned(), folder.clone())]);
    let hash = common_hash(&folders)?;
    let refs = competing::refs(location, hash, folders).await?;
    let resolved = refs.into_iter().find(|(found, _)| found == name);
    let resolved = resolved.map(|(_, found)| found);
    match (chosen.first(), resolved) {
        (None, Some(found)) => Ok((found.file, found.orphans)),
        (Some(chosen), Some(found)) if found.file == **chosen => Ok((found.file, found.orphans)),
        (Some(chosen), _) => {
            let others = folder.bundles.iter().filter(|file| file != chosen);
            Ok(((*chosen).clone(), others.cloned().collect()))
        }
        (None, None) => Err(missing_ref(name, location)),
    }
}

/// Sets one side of refs in each other's way aside.
async fn set_aside(
    location: &Arc<BundleLocation>,
    refs: &[BString],
    choices: &FixChoices,
) -> Result<String> {
    let folders = location.folders("refs/".into()).await?;
    let existing: Vec<BString> = refs
        .iter()
        .filter(|name| {
            folders
                .get(*name)
                .is_some_and(|folder| !folder.bundles.is_empty())
        })
        .cloned()
        .collect();
    if existing.first() != refs.first() || existing.len() < 2 {
        return Ok("the names are not in each other's way any more".to_owned());
    }
    let side = side_to_set_aside(&existing, choices, |name| {
        let folder = folders.get(name);
        let newest = folder.and_then(|folder| newest_first(folder).first().copied());
        let time = newest.map_or(0, |file| file.last_modified);
        (time, folder.is_some_and(|folder| folder.protected))
    })?;
    let mut taken = newest_refs(&folders);
    let mut done = Vec::new();
    for name in &side {
        let Some(value) = taken.remove(name) else {
            continue;
        };
        let stale = stale_name(&taken, name.as_bstr(), value.id);
        move_ref(location, name.as_bstr(), stale.as_bstr()).await?;
        taken.insert(stale.clone(), value);
        done.push(format!("`{name}` as `{stale}`"));
    }
    Ok(format!("set aside {}", done.join(", ")))
}

/// Moves the bundle of a ref to another name, under its lock.
async fn move_ref(location: &Arc<BundleLocation>, name: &BStr, to: &BStr) -> Result<()> {
    let lock = Lock::acquire(location, location.lock_key(name)?).await?;
    let moved = async {
        let folder = location.folder(name).await?;
        let file = match folder.bundles.as_slice() {
            [] => return Ok(()),
            [file] => file,
            _ => {
                let shown = escaped_excerpt(name);
                let message = format!("`{shown}` has several bundles");
                return Err(Error::new(ErrorKind::Config, message).with_hint("fix them first"));
            }
        };
        if folder.protected {
            let message = format!("`{}` is protected", escaped_excerpt(name));
            return Err(Error::new(ErrorKind::Rejected, message)
                .with_hint("remove its protection by `git-s3 unprotect`"));
        }
        if !OpenBundle::open(location, file).await?.is_full() {
            let message = format!("`{}` may need other bundles", file.key);
            return Err(Error::new(ErrorKind::Config, message)
                .with_hint("push to the ref: the next bundle contains its whole history"));
        }
        copy_bundle(location, file, to).await?;
        lock.verify().await?;
        if let Some(etag) = folder.archive {
            archive::delete(location, name, &Precondition::Matches(etag)).await?;
        }
        remove(location, file).await
    };
    let moved = moved.await;
    lock.release().await;
    moved
}

/// Lets `HEAD` name a branch.
async fn fix_head(location: &Arc<BundleLocation>, choices: &FixChoices) -> Result<String> {
    let (folders, head) = tokio::try_join!(location.folders("refs/".into()), location.read_head())?;
    let refs = newest_refs(&folders);
    if head_problem(head.name.as_ref(), &refs).is_none() && choices.head.is_none() {
        return Ok("`HEAD` names a branch now".to_owned());
    }
    let Some(name) = branch_for_head(&refs, choices.head.as_ref(), location)? else {
        return Ok("no branch exists that `HEAD` could name".to_owned());
    };
    location.write_head(&name, &head).await?;
    Ok(format!("`HEAD` names `{name}`"))
}
