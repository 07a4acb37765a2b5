//! Reads the `.gitattributes` of two commits: those that are recorded for the older one, and
//! those that the differences name.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::Ordering;

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::ArchiveComparison;
use super::full_run::{FullRun, Stop};
use super::listing::BothRules;
use super::record::{ATTRIBUTES_FILE, AttributesFile};
use super::tree_rules::TreeRules;
use crate::codecommit::{Difference, DifferenceSide, Unlimited};
use crate::git::ObjectId;
use crate::git::object::EntryMode;
use crate::name::BlobId;

/// Maximum size of all `.gitattributes` of both commits, in bytes.
const MAX_BYTES: usize = 2 * 1024 * 1024;

/// Maximum number of `.gitattributes` that are read concurrently.
const CONCURRENT_READS: usize = 4;

/// The attributes of two commits.
pub(super) struct ReadRules {
    pub(super) both: BothRules,
    /// The `.gitattributes` of the newer commit that have an effect.
    pub(super) files: Vec<AttributesFile>,
    /// Contents by blob.
    pub(super) contents: HashMap<ObjectId, Bytes>,
}

impl ReadRules {
    /// Reads the files `before` of the older commit, and those that `differences` add.
    pub(super) async fn read(
        comparison: &ArchiveComparison<'_>,
        before: Vec<AttributesFile>,
        differences: &[Difference],
    ) -> Result<Self, Stop> {
        let before: BTreeMap<String, ObjectId> = before.into_iter().collect();
        let mut after = before.clone();
        let removed = differences.iter().filter_map(|one| one.before.as_ref());
        for (folder, _) in removed.filter_map(attributes_file) {
            after.remove(folder);
        }
        let added = differences.iter().filter_map(|one| one.after.as_ref());
        for (folder, id) in added.filter_map(attributes_file) {
            if !id.is_empty_blob() {
                after.insert(folder.to_owned(), id);
            }
        }
        let contents = contents(comparison, before.values().chain(after.values())).await?;
        let rules = |files: &BTreeMap<String, ObjectId>| {
            let file = |(folder, id): (&String, &ObjectId)| {
                Some((folder.clone(), contents.get(id)?.clone()))
            };
            TreeRules::new(files.iter().filter_map(file).collect(), comparison.request)
        };
        let mut rules_after = None;
        if after != before {
            let mut rules = rules(&after)?;
            let mut effective = BTreeMap::new();
            for (folder, id) in after {
                if rules.archives_folder(&folder)? {
                    effective.insert(folder, id);
                }
            }
            after = effective;
            rules_after = (after != before).then_some(rules);
        }
        Ok(Self {
            both: BothRules {
                before: rules(&before)?,
                after: rules_after,
            },
            files: after.into_iter().collect(),
            contents,
        })
    }
}

/// Returns the folder and the blob of a `.gitattributes`; git reads a symbolic link as well.
fn attributes_file(side: &DifferenceSide) -> Option<(&str, ObjectId)> {
    let (folder, name) = side.path.rsplit_once('/').unwrap_or(("", &side.path));
    (name == ATTRIBUTES_FILE && side.mode != EntryMode::Commit).then_some((folder, side.id))
}

async fn contents(
    comparison: &ArchiveComparison<'_>,
    ids: impl Iterator<Item = &ObjectId>,
) -> Result<HashMap<ObjectId, Bytes>, Stop> {
    let mut ids: Vec<ObjectId> = ids.copied().collect();
    ids.sort_unstable();
    ids.dedup();
    let reads = stream::iter(ids).map(|id| async move {
        comparison.requests.fetch_add(1, Ordering::Relaxed);
        let (codecommit, repository) = (comparison.codecommit, comparison.repository);
        let read = codecommit.get_blob(repository, BlobId::from(id), &Unlimited);
        let read = read.await;
        let read = read.map_err(|error| Stop::after("a `.gitattributes` cannot be read", error))?;
        Ok::<_, Stop>((id, read))
    });
    let mut reads = reads.buffer_unordered(CONCURRENT_READS);
    let mut contents = HashMap::new();
    let mut size = 0;
    while let Some((id, bytes)) = reads.try_next().await? {
        size += bytes.len();
        if size > MAX_BYTES {
            let reason = "the `.gitattributes` of the two commits are large";
            return Err(FullRun::because(reason).into());
        }
        contents.insert(id, bytes);
    }
    Ok(contents)
}
