//! Files with placeholders (`export-subst`) that need more than the commit: refs, and history.
//!
//! Only the first `%(describe)` of an archive is expanded, as git does to bound the work. So the
//! files with placeholders are read before the archive, in its order. As many as fit into
//! [`MAX_KEPT_BYTES`] are kept, and the others are read again.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::convert::Conversion;
use super::export_subst::{
    Decorations, DescribePlaceholder, Described, SubstitutionContext, SubstitutionNeeds, needs,
};
use super::history::describe;
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
    /// Index of the item with the first `%(describe)`.
    pub(super) describing_item: Option<usize>,
    /// Contents of files, by blob.
    pub(super) kept: HashMap<ObjectId, Bytes>,
    /// Number of requests.
    pub(super) requests: u64,
}

/// Facts about the commit that are not in it.
#[derive(Debug, Default)]
pub(super) struct SubstitutionFacts {
    knows_history: bool,
    decorations: Option<Decorations>,
    described: String,
}

impl SubstitutionFacts {
    /// Returns what placeholders become. `describes` says that the file has the first
    /// `%(describe)` of the archive.
    pub(super) fn context<'a>(
        &'a self,
        commit: &'a Commit,
        describes: bool,
    ) -> SubstitutionContext<'a> {
        SubstitutionContext {
            commit,
            decorations: self.decorations.as_ref(),
            described: match (self.knows_history, describes) {
                (false, _) => Described::Unknown,
                (true, true) => Described::As(&self.described),
                (true, false) => Described::Unchanged,
            },
        }
    }
}

impl SubstitutionFacts {
    /// Returns what placeholders of repository `source` become. The history of submodules is not
    /// known.
    pub(super) fn context_of<'a>(
        &'a self,
        commit: &'a Commit,
        source: usize,
        describes: bool,
    ) -> SubstitutionContext<'a> {
        if source == 0 {
            return self.context(commit, describes);
        }
        SubstitutionContext {
            commit,
            decorations: None,
            described: Described::Unknown,
        }
    }
}

impl Substitutions {
    /// Returns the facts.
    pub(super) fn facts(&self) -> Arc<SubstitutionFacts> {
        Arc::clone(&self.facts)
    }

    /// Reads the files of `plan` with placeholders, and what these need. Nothing is read where
    /// the request has no history, or no file has placeholders.
    pub(super) async fn read(
        files: &dyn TreeSource,
        request: &ArchiveRequest,
        (tree, plan): (&Tree, &ArchivePlan),
        lfs: &LfsFiles,
    ) -> Result<Self> {
        let Some(history) = request.history.as_deref().filter(|_| !request.tree_only) else {
            return Ok(Self::default());
        };
        let mut found = Self::default();
        let mut facts = SubstitutionFacts {
            knows_history: true,
            ..SubstitutionFacts::default()
        };
        let mut seen = HashSet::new();
        let items = plan.items.iter().enumerate();
        let substituted = items.filter_map(|(number, item)| match *item {
            // A content that is used again needs nothing more.
            ArchiveItem::File(_, _, content)
                if plan.contents[content as usize].source == 0 && seen.insert(content) =>
            {
                let planned = plan.contents[content as usize];
                let mut conversion = tree.conversions.get(planned.conversion);
                if lfs.has(content) {
                    conversion = conversion.of_lfs_object();
                }
                let object = lfs.get(content);
                conversion
                    .substitutes()
                    .then_some((number, planned.blob, conversion, object))
            }
            _ => None,
        });
        let substituted: Vec<_> = substituted.collect();
        let before = history.requests();
        let large_files = request.large_files.as_deref();
        let reads = stream::iter(substituted).map(|(number, blob, conversion, object)| {
            let is_object = object.is_some();
            async move {
                let bytes = match (object, tree.kept.get(&blob)) {
                    (Some(object), _) => converted_in_memory(object).await?,
                    (None, Some(kept)) => Some(kept.clone()),
                    (None, None) => read(files, large_files, blob).await?,
                };
                Ok::<_, Error>((number, blob, conversion, is_object, bytes))
            }
        });
        let mut reads = reads.buffered(CONCURRENT_READS.min(request.concurrency.max(1)));
        let mut kept_bytes = 0;
        while let Some(done) = reads.try_next().await? {
            let (number, blob, conversion, is_object, bytes) = done;
            found.requests += u64::from(!is_object && !tree.kept.contains_key(&blob));
            let Some(bytes) = bytes else { continue };
            let needed = needs_of(blob, &bytes, conversion, &request.commit)?;
            if needed.decorations && facts.decorations.is_none() {
                let refs = history.refs().await?;
                facts.decorations = Some(Decorations::new(&refs, request.commit.id));
            }
            if let Some(placeholder) = needed.describe
                && found.describing_item.is_none()
            {
                found.describing_item = Some(number);
                if let DescribePlaceholder::Valid(options) = placeholder {
                    let described = describe(history, request.commit.id, &options).await?;
                    facts.described = described.unwrap_or_default();
                }
            }
            if !is_object && kept_bytes + bytes.len() <= MAX_KEPT_BYTES {
                kept_bytes += bytes.len();
                found.kept.insert(blob, bytes);
            }
        }
        drop(reads);
        found.requests += history.requests() - before;
        found.facts = Arc::new(facts);
        Ok(found)
    }
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
