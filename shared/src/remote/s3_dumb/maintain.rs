//! Examines, fixes and repacks a repository.

use std::collections::HashSet;

use async_trait::async_trait;
use bstr::{BStr, BString, ByteSlice as _};

use super::keys::{ObjectRole, RepositoryKeys};
use super::prune::{Abandoned, Pruned, prune};
use super::publish::{PackToPublish, upload_staged};
use super::repack::merge::{MergeInput, merge};
use super::repack::{delete_superseded, with_other_id};
use super::{DumbRemote, DumbSnapshot, parse};
use crate::error::{Error, ErrorKind, Result};
use crate::git::ObjectId;
use crate::git::dumb_http::{parse_head, parse_info_refs_and_ignored, write_head};
use crate::remote::dumb_files::odb::{Indexes, PackFile};
use crate::remote::dumb_files::pack_list::PackList;
use crate::remote::maintenance::{
    Examination, ExaminedRef, FixChoices, Garbage, Maintenance, Problem, ProblemKind,
    branch_for_head, cannot_fix, conflicting_names, head_problem, missing_ref, side_to_set_aside,
};
use crate::remote::stale_ref::stale_name;
use crate::remote::{Head, Leftovers, Push, RefOutcome, RefUpdate, Refs, Remote as _};
use crate::storage::{ETag, delete_leftovers};

/// Maximum number of attempts to prune while other clients push.
const MAX_PRUNINGS: u32 = 3;
/// Maximum number of times that the list of packs is read while other clients change it.
const MAX_LIST_READS: u32 = 10;

#[async_trait]
impl Maintenance for DumbRemote {
    async fn examine(&self) -> Result<Examination> {
        let keys = &self.keys;
        let (refs, head, packs, bundle) = tokio::try_join!(
            keys.read(&ObjectRole::Refs),
            self.head(),
            self.missing_packs(),
            self.first_bundle(),
        )?;
        let refs: Refs = match refs {
            Some((bytes, _)) => {
                let (refs, _) = parse(keys, "info/refs", parse_info_refs_and_ignored(&bytes))?;
                refs.into_iter()
                    .filter(|(name, _)| name != "HEAD")
                    .collect()
            }
            None => Refs::new(),
        };
        let mut problems = conflicting_names(&refs);
        if !matches!(head.head, Some(Head::Detached(_))) {
            problems.extend(head_problem(head.name(), &refs));
        }
        let of_remote = |kind, message| Problem {
            kind,
            refs: Vec::new(),
            bundles: Vec::new(),
            message,
        };
        problems.extend(packs.into_iter().map(|path| {
            let message = format!("`{path}` is missing, which `objects/info/packs` lists");
            of_remote(ProblemKind::MissingPack, message)
        }));
        problems.extend(bundle.map(|key| {
            let message = format!("`{key}` belongs to a repository in layout `bundle`");
            of_remote(ProblemKind::MixedLayouts, message)
        }));
        problems.sort_by_key(|problem| problem.kind);
        let refs = refs.iter().map(|(name, value)| ExaminedRef {
            name: name.clone(),
            id: value.id,
            bundles: 1,
            protected: false,
            has_archive: false,
            lock_age_seconds: None,
        });
        Ok(Examination {
            layout: "dumb",
            head: head.name().cloned(),
            refs: refs.collect(),
            problems,
        })
    }

    async fn fix(&self, problem: &Problem, choices: &FixChoices) -> Result<String> {
        match problem.kind {
            ProblemKind::Head => self.fix_head(choices).await,
            ProblemKind::RefsInTheWay => self.set_aside(&problem.refs, choices).await,
            _ => Err(cannot_fix(problem)),
        }
    }

    async fn set_protected(&self, _name: &BStr, _protected: bool) -> Result<bool> {
        let message = format!("{self} has the layout `dumb`, which has no protected branches");
        Err(Error::new(ErrorKind::Config, message)
            .with_hint("deny `s3:PutObject` of `info/refs` to those who must not push"))
    }

    async fn set_head(&self, name: &BStr) -> Result<bool> {
        let mut target = self.target().await?;
        let snapshot = target.snapshot();
        if !snapshot.refs.contains_key(name) {
            return Err(missing_ref(name, self));
        }
        let head = Head::Symbolic(name.to_owned());
        if snapshot.head.as_ref() == Some(&head) {
            return Ok(false);
        }
        let push = Push {
            head: Some(head),
            ..Push::default()
        };
        target.push(push).await?;
        Ok(true)
    }

    async fn collect_garbage(&self, which: Leftovers) -> Result<Garbage> {
        let keys = &self.keys;
        let written_before = which.written_before((self.options.clock)());
        let prefix = keys.staged_prefix();
        let leftovers = delete_leftovers(&*keys.store, &keys.bucket, &prefix, written_before);
        let leftovers = leftovers.await?;
        if let Some(pruned) = self.prune().await? {
            return Ok(Garbage {
                leftovers,
                merged_packs: pruned.replaced,
                pruned_objects: pruned.objects,
                packs: pruned.packs,
            });
        }
        let (merged_packs, packs) = self.repack().await?;
        Ok(Garbage {
            leftovers,
            merged_packs,
            pruned_objects: 0,
            packs,
        })
    }
}

/// The file `HEAD`.
struct HeadFile {
    /// `None` if it is missing or cannot be parsed.
    head: Option<Head>,
    etag: Option<ETag>,
}

impl HeadFile {
    fn name(&self) -> Option<&BString> {
        match &self.head {
            Some(Head::Symbolic(name)) => Some(name),
            _ => None,
        }
    }
}

impl DumbRemote {
    async fn head(&self) -> Result<HeadFile> {
        let read = self.keys.read(&ObjectRole::Head).await?;
        let (bytes, etag) = read.unzip();
        Ok(HeadFile {
            head: bytes.and_then(|bytes| parse_head(&bytes).ok()),
            etag,
        })
    }

    async fn pack_list(&self) -> Result<Option<(PackList, ETag)>> {
        let keys = &self.keys;
        let Some((bytes, etag)) = keys.read(&ObjectRole::Packs).await? else {
            return Ok(None);
        };
        let list = parse(keys, "objects/info/packs", PackList::parse(&bytes))?;
        Ok(Some((list, etag)))
    }

    /// Returns the keys of listed packs and indexes that are not stored.
    async fn missing_packs(&self) -> Result<Vec<String>> {
        let Some((list, _)) = self.pack_list().await? else {
            return Ok(Vec::new());
        };
        let stored = keys_below(&self.keys, "objects/pack/", usize::MAX).await?;
        let stored: HashSet<String> = stored.into_iter().collect();
        let mut missing = Vec::new();
        for id in &list.packs {
            for role in [ObjectRole::Pack(*id), ObjectRole::Index(*id)] {
                let key = self.keys.key(&role)?.to_string();
                if !stored.contains(&key) {
                    missing.push(key);
                }
            }
        }
        Ok(missing)
    }

    /// Returns the key of a bundle among the first keys below `refs/`.
    async fn first_bundle(&self) -> Result<Option<String>> {
        let listed = keys_below(&self.keys, "refs/", 1).await?;
        Ok(listed.into_iter().find(|key| key.ends_with(".bundle")))
    }

    async fn fix_head(&self, choices: &FixChoices) -> Result<String> {
        let keys = &self.keys;
        let (refs, head) = tokio::try_join!(keys.read(&ObjectRole::Refs), self.head())?;
        let refs = match refs {
            Some((bytes, _)) => parse(keys, "info/refs", parse_info_refs_and_ignored(&bytes))?.0,
            None => Refs::new(),
        };
        if head_problem(head.name(), &refs).is_none() && choices.head.is_none() {
            return Ok("`HEAD` names a branch now".to_owned());
        }
        let Some(name) = branch_for_head(&refs, choices.head.as_ref(), self)? else {
            return Ok("no branch exists that `HEAD` could name".to_owned());
        };
        let bytes = write_head(&Head::Symbolic(name.clone()));
        keys.replace(&ObjectRole::Head, bytes, head.etag.as_ref())
            .await?;
        Ok(format!("`HEAD` names `{name}`"))
    }

    /// Sets one side of refs in each other's way aside, in one write.
    async fn set_aside(&self, names: &[BString], choices: &FixChoices) -> Result<String> {
        let mut target = self.target().await?;
        let mut taken = target.snapshot().refs.clone();
        let existing = names.iter().filter(|name| taken.contains_key(*name));
        let existing: Vec<BString> = existing.cloned().collect();
        if existing.first() != names.first() || existing.len() < 2 {
            return Ok("the names are not in each other's way any more".to_owned());
        }
        // Times of single refs are not stored.
        let side = side_to_set_aside(&existing, choices, |_| (0, false))?;
        let (mut changes, mut done) = (Vec::new(), Vec::new());
        for name in side {
            let Some(value) = taken.remove(&name) else {
                continue;
            };
            let stale = stale_name(&taken, name.as_bstr(), value.id);
            taken.insert(stale.clone(), value);
            done.push(format!("`{name}` as `{stale}`"));
            changes.push(RefUpdate {
                name,
                old: Some(value.id),
                new: None,
            });
            changes.push(RefUpdate {
                name: stale,
                old: None,
                new: Some(value),
            });
        }
        let push = Push {
            changes,
            ..Push::default()
        };
        let report = target.push(push).await?;
        for (name, outcome) in report.refs {
            if let RefOutcome::Rejected(why) = outcome {
                let message = format!("`{name}` was rejected: {why}");
                return Err(Error::new(ErrorKind::Rejected, message));
            }
        }
        Ok(format!("set aside {}", done.join(", ")))
    }

    /// Prunes objects, again from the start if other clients push meanwhile.
    async fn prune(&self) -> Result<Option<Pruned>> {
        let mut abandoned = Abandoned::default();
        for attempt in 1.. {
            let Some((list, etag)) = self.pack_list().await? else {
                break;
            };
            match prune(self, &list, &etag, &mut abandoned).await {
                Err(error) if error.kind() == ErrorKind::Conflict && attempt < MAX_PRUNINGS => {}
                pruned => return pruned,
            }
        }
        Ok(None)
    }

    /// Merges all packs that are not too large; returns the number of merged packs, and of
    /// listed ones afterwards.
    async fn repack(&self) -> Result<(usize, usize)> {
        let (keys, options) = (&self.keys, &self.options);
        let Some((list, etag)) = self.pack_list().await? else {
            return Ok((0, 0));
        };
        let hash = DumbSnapshot::read(keys).await?.snapshot.hash;
        let mut sizes: Vec<(u64, u64, ObjectId)> = list
            .sizes
            .iter()
            .filter(|(_, size)| size.bytes <= options.largest_merged)
            .map(|(id, size)| (size.objects, size.bytes, *id))
            .collect();
        // The largest first: of an object in several packs the first one is copied.
        sizes.sort_unstable();
        sizes.reverse();
        if sizes.len() < 2 {
            let mut changed = list.clone();
            delete_superseded(keys, options, &mut changed).await;
            if changed != list {
                keys.replace(&ObjectRole::Packs, changed.write(), Some(&etag))
                    .await?;
            }
            return Ok((0, list.packs.len()));
        }
        let mut indexes = Indexes::default();
        let mut read = Vec::new();
        for (_, bytes, id) in &sizes {
            let pack = PackFile {
                files: keys.files(),
                pack: *id,
            };
            read.push((indexes.read(keys, hash, *id).await?, *bytes, pack));
        }
        let inputs: Vec<MergeInput<'_>> = read
            .iter()
            .map(|(index, size, bytes)| MergeInput {
                index,
                size: *size,
                bytes,
            })
            .collect();
        let merged = merge(hash, &inputs, upload_staged(keys, options.memory / 2)?).await?;
        let (index, spool) = &merged;
        let old: Vec<ObjectId> = sizes.iter().map(|(_, _, id)| *id).collect();
        let mut packed = PackToPublish { index, spool };
        let mut other = None;
        let (now, grace) = ((options.clock)(), options.grace_seconds());
        if list.is_being_deleted(packed.id(), now, grace) {
            let (index, spool) = other.insert(with_other_id(keys, options, packed).await?);
            packed = PackToPublish { index, spool };
        }
        let listed = self.list_merged(packed, &old).await;
        for (_, spool) in std::iter::once(merged).chain(other) {
            spool.remove().await;
        }
        Ok((old.len(), listed?))
    }

    /// Publishes a pack, and lists it in place of the packs `old`; returns the number of listed
    /// packs.
    async fn list_merged(&self, packed: PackToPublish<'_>, old: &[ObjectId]) -> Result<usize> {
        let (keys, options) = (&self.keys, &self.options);
        packed.publish(keys).await?;
        for _ in 0..MAX_LIST_READS {
            let Some((mut list, etag)) = self.pack_list().await? else {
                break;
            };
            list.add(packed.id(), packed.size(), old, (options.clock)());
            delete_superseded(keys, options, &mut list).await;
            match keys
                .replace(&ObjectRole::Packs, list.write(), Some(&etag))
                .await
            {
                Ok(_) => return Ok(list.packs.len()),
                Err(error) if error.kind() == ErrorKind::Conflict => {}
                Err(error) => return Err(error),
            }
        }
        let message = format!("other clients changed the list of packs of {self}");
        Err(Error::new(ErrorKind::Conflict, message).with_hint("try again later"))
    }
}

/// Lists the keys below a path, of at most `max_pages` pages.
async fn keys_below(keys: &RepositoryKeys, path: &str, max_pages: usize) -> Result<Vec<String>> {
    let prefix = format!("{}{path}", keys.prefix);
    let (mut found, mut next) = (Vec::new(), None);
    for _ in 0..max_pages {
        let page = keys
            .store
            .list(&keys.bucket, &prefix, None, next.as_deref())
            .await?;
        found.extend(
            page.objects
                .into_iter()
                .map(|listed| listed.key.to_string()),
        );
        next = page.next;
        if next.is_none() {
            break;
        }
    }
    Ok(found)
}
