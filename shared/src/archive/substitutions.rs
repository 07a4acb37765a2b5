//! Files with placeholders (`export-subst`) that need more than the commit: refs, and history.
//!
//! Only the first `%(describe)` of an archive is expanded, as git does to bound the work, and of each
//! submodule the first one, as if it was archived alone. So the files with placeholders are read
//! before the archive, in its order. As many as fit into
//! [`MAX_KEPT_BYTES`] are kept, and the others are read again.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::convert::Conversion;
use super::export_subst::{
    Decorations, DescribePlaceholder, Described, SubstitutionContext, SubstitutionNeeds, needs,
};
use super::history::{History, describe};
use super::lfs_files::LfsFiles;
use super::listed_tree::Tree;
use super::plan::{ArchiveItem, ArchivePlan};
use super::request::ArchiveRequest;
use super::streamed_entry::{LargeFile, LargeFiles, MAX_CONVERTED_BYTES, read_into_memory};
use super::tree_source::TreeSource;
use crate::codecommit::Unlimited;
use crate::error::{Error, ErrorKind, Result};
use crate::git::ObjectId;
use crate::git::object::Commit;

/// Maximum size of files that are kept for the archive, in bytes.
const MAX_KEPT_BYTES: usize = 2 * 1024 * 1024;

/// Maximum number of files that are read ahead.
const CONCURRENT_READS: usize = 8;

/// Texts of the placeholders of an archive.
#[derive(Debug, Default)]
pub(super) struct Substitutions {
    facts: Arc<SubstitutionFacts>,
    /// Contents of the items with the first `%(describe)` of their repositories.
    describing: HashMap<usize, u32>,
    /// Contents of files, by blob.
    pub(super) kept: HashMap<ObjectId, Bytes>,
    /// Number of requests.
    pub(super) requests: u64,
}

/// Facts about the commits of an archive that are not in them, by the number of the repository.
#[derive(Debug, Default)]
pub(super) struct SubstitutionFacts(Vec<RepositoryFacts>);

/// Facts about the commit of one repository that are not in it.
#[derive(Debug, Default)]
struct RepositoryFacts {
    knows_history: bool,
    decorations: Option<Decorations>,
    described: String,
}

impl SubstitutionFacts {
    /// Returns what placeholders of repository `source` become. `describes` says that the file has
    /// the first `%(describe)` of the repository.
    pub(super) fn context_of<'a>(
        &'a self,
        commit: &'a Commit,
        source: usize,
        describes: bool,
    ) -> SubstitutionContext<'a> {
        let known = self.0.get(source).filter(|facts| facts.knows_history);
        SubstitutionContext {
            commit,
            decorations: known.and_then(|facts| facts.decorations.as_ref()),
            described: match known {
                None => Described::Unknown,
                Some(facts) if describes => Described::As(&facts.described),
                Some(_) => Described::Unchanged,
            },
        }
    }
}

impl Substitutions {
    /// Returns the facts.
    pub(super) fn facts(&self) -> Arc<SubstitutionFacts> {
        Arc::clone(&self.facts)
    }

    /// Returns whether an item has the first `%(describe)` of its repository.
    pub(super) fn describes(&self, item: usize) -> bool {
        self.describing.contains_key(&item)
    }

    /// Returns whether an item with the first `%(describe)` of its repository has this content.
    pub(super) fn describe_content(&self, content: u32) -> bool {
        self.describing
            .values()
            .any(|describing| *describing == content)
    }

    /// Reads the files of `plan` with placeholders, and what these need. Nothing is read of a
    /// repository whose history is not known, or where no file has placeholders.
    pub(super) async fn read(
        files: &dyn TreeSource,
        request: &ArchiveRequest,
        (tree, plan): (&Tree, &ArchivePlan),
        lfs: &LfsFiles,
    ) -> Result<Self> {
        let histories = histories(request, tree);
        if histories.iter().all(Option::is_none) {
            return Ok(Self::default());
        }
        let mut found = Self::default();
        let known = histories.iter().map(|history| RepositoryFacts {
            knows_history: history.is_some(),
            ..RepositoryFacts::default()
        });
        let mut facts: Vec<RepositoryFacts> = known.collect();
        let commits = tree.commits(&request.commit);
        let mut seen = HashSet::new();
        let items = plan.items.iter().enumerate();
        let substituted = items.filter_map(|(number, item)| {
            let ArchiveItem::File(_, _, content) = *item else {
                return None;
            };
            let planned = plan.contents[content as usize];
            histories[planned.source as usize]?;
            // A content that is used again needs nothing more.
            if !seen.insert(content) {
                return None;
            }
            let mut conversion = tree.conversions.get(planned.conversion);
            if lfs.has(content) {
                conversion = conversion.of_lfs_object();
            }
            conversion.substitutes().then(|| SubstitutedFile {
                item: number,
                content,
                blob: planned.blob,
                source: planned.source,
                conversion,
                object: lfs.get(content).map(|object| object as _),
            })
        });
        let substituted: Vec<_> = substituted.collect();
        let requests = || {
            histories
                .iter()
                .flatten()
                .map(|one| one.requests())
                .sum::<u64>()
        };
        let before = requests();
        let reads = stream::iter(substituted).map(|file| async move {
            let bytes = match (&file.object, tree.kept.get(&file.blob)) {
                (Some(object), _) => converted_in_memory(Arc::clone(object)).await?,
                (None, Some(kept)) => Some(kept.clone()),
                (None, None) => {
                    let large_files = match tree.submodule(file.source) {
                        None => request.large_files.as_deref(),
                        Some(submodule) => submodule.large_files.as_deref(),
                    };
                    read(tree.files(file.source, files), large_files, file.blob).await?
                }
            };
            Ok::<_, Error>((file, bytes))
        });
        let mut reads = reads.buffered(CONCURRENT_READS.min(request.concurrency.max(1)));
        let mut kept_bytes = 0;
        let mut described = HashSet::new();
        while let Some((file, bytes)) = reads.try_next().await? {
            let is_object = file.object.is_some();
            let is_read = !is_object && !tree.kept.contains_key(&file.blob);
            let source_files = tree.files(file.source, files);
            found.requests += u64::from(is_read && !source_files.is_local());
            let Some(bytes) = bytes else { continue };
            let source = file.source as usize;
            let (Some(history), commit) = (histories[source], &*commits[source]) else {
                continue;
            };
            let facts = &mut facts[source];
            let needed = needs_of(file.blob, &bytes, file.conversion, commit)?;
            if needed.decorations && facts.decorations.is_none() {
                let refs = history.refs().await?;
                facts.decorations = Some(Decorations::new(&refs, commit.id));
            }
            if let Some(placeholder) = needed.describe
                && described.insert(source)
            {
                found.describing.insert(file.item, file.content);
                if let DescribePlaceholder::Valid(options) = placeholder {
                    let described = describe(history, commit.id, &options).await?;
                    facts.described = described.unwrap_or_default();
                }
            }
            if !is_object && kept_bytes + bytes.len() <= MAX_KEPT_BYTES {
                kept_bytes += bytes.len();
                found.kept.insert(file.blob, bytes);
            }
        }
        drop(reads);
        found.requests += requests() - before;
        found.facts = Arc::new(SubstitutionFacts(facts));
        Ok(found)
    }
}

/// A file with the attribute `export-subst`.
struct SubstitutedFile {
    item: usize,
    content: u32,
    blob: ObjectId,
    /// Number of the repository.
    source: u32,
    conversion: Conversion,
    /// Object of git LFS in place of the blob.
    object: Option<Arc<dyn LargeFile>>,
}

/// Returns the histories of all repositories by their numbers, as far as they are known.
fn histories<'a>(request: &'a ArchiveRequest, tree: &'a Tree) -> Vec<Option<&'a dyn History>> {
    let own = request.history.as_deref().filter(|_| !request.tree_only);
    let submodules = tree.submodules.iter();
    let submodules = submodules.map(|submodule| submodule.content.history.as_deref());
    std::iter::once(own).chain(submodules).collect()
}

/// Reads a file; `None` for one that is too large to be converted, which the archive reports.
async fn read(
    files: &dyn TreeSource,
    large_files: Option<&dyn LargeFiles>,
    blob: ObjectId,
) -> Result<Option<Bytes>> {
    match (files.file(blob, &Unlimited).await, large_files) {
        (Ok(bytes), _) => Ok(Some(bytes)),
        (Err(error), large_files) if error.kind() == ErrorKind::FileTooLarge => {
            let Some(large_files) = large_files else {
                return Ok(None);
            };
            converted_in_memory(large_files.open(blob).await?).await
        }
        (Err(error), _) => Err(error),
    }
}

/// Reads a file into memory; `None` for one that is too large to be converted.
async fn converted_in_memory(file: Arc<dyn LargeFile>) -> Result<Option<Bytes>> {
    if file.size_bytes() > MAX_CONVERTED_BYTES {
        return Ok(None);
    }
    read_into_memory(file).await.map(Some)
}

/// Returns what the placeholders of a file need.
fn needs_of(
    blob: ObjectId,
    bytes: &Bytes,
    conversion: Conversion,
    commit: &Commit,
) -> Result<SubstitutionNeeds> {
    let context = SubstitutionContext {
        commit,
        decorations: None,
        described: Described::Unknown,
    };
    let converted = conversion.without_subst().apply(blob, bytes, context)?;
    needs(&converted, commit)
}
