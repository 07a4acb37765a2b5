//! Files whose content is an object of git LFS: those with the attribute `filter=lfs` whose blob
//! is a pointer. Their objects are read where git-lfs's filter would be run, after the conversions
//! of text and before `export-subst`.
//!
//! As git-lfs does, a file that is not a pointer is archived as it is.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream};

use super::listed_tree::Tree;
use super::plan::{ArchiveItem, ArchivePlan};
use super::request::ArchiveRequest;
use super::streamed_entry::{FileBody, LargeFile};
use super::tree_source::TreeSource;
use crate::codecommit::Unlimited;
use crate::error::{Error, ErrorKind, Result};
use crate::git::ObjectId;
use crate::lfs::{LfsStore, MAX_BATCH_OBJECTS, MAX_POINTER, Pointer, verify_stream};

/// Maximum number of blobs that are read ahead.
const CONCURRENT_READS: usize = 16;

/// The objects of an archive.
#[derive(Default)]
pub(super) struct LfsFiles {
    store: Option<Arc<dyn LfsStore>>,
    // By index of the content in the plan, with the stores of submodules.
    pointers: HashMap<u32, (Pointer, Option<Arc<dyn LfsStore>>)>,
    /// Number of requests.
    pub(super) requests: u64,
}

impl LfsFiles {
    /// Reads the pointers of `plan`. Nothing is read where the request has no store.
    pub(super) async fn find(
        files: &dyn TreeSource,
        request: &ArchiveRequest,
        tree: &Tree,
        plan: &ArchivePlan,
    ) -> Result<Self> {
        let Some(store) = &request.lfs else {
            return Ok(Self::default());
        };
        let mut found = Self {
            store: Some(Arc::clone(store)),
            ..Self::default()
        };
        let mut seen = BTreeSet::new();
        let items = plan.items.iter().enumerate();
        let candidates = items.filter_map(|(number, item)| match *item {
            ArchiveItem::File(_, _, content) if seen.insert(content) => {
                let planned = plan.contents[content as usize];
                let is_lfs = tree.conversions.get(planned.conversion).is_lfs();
                is_lfs.then_some((number, content, planned.blob, planned.source))
            }
            _ => None,
        });
        let candidates: Vec<_> = candidates.collect();
        let reads = stream::iter(candidates).map(|(number, content, blob, source)| async move {
            let files = tree.files(source, files);
            let pointer = pointer(files, blob).await.map_err(|error| {
                let extra = &request.extra_files;
                let path = plan.path(number, tree, &request.prefix, extra);
                error.context(format!("file `{}`", path.escape_debug()))
            })?;
            Ok::<_, Error>((content, source, pointer))
        });
        let concurrency = CONCURRENT_READS.min(request.concurrency.max(1));
        let mut reads = reads.buffered(concurrency);
        while let Some((content, source, pointer)) = reads.try_next().await? {
            found.requests += u64::from(!tree.files(source, files).is_local());
            let submodule = tree.submodule(source);
            // A submodule whose objects are not known keeps its pointers.
            let store = submodule.map(|submodule| submodule.lfs.clone());
            if let (Some(pointer), None | Some(Some(_))) = (pointer, &store) {
                found.pointers.insert(content, (pointer, store.flatten()));
            }
        }
        drop(reads);
        let own = found.pointers.values().filter(|(_, store)| store.is_none());
        let distinct: BTreeSet<&Pointer> = own.map(|(pointer, _)| pointer).collect();
        let distinct: Vec<Pointer> = distinct.into_iter().cloned().collect();
        for batch in distinct.chunks(MAX_BATCH_OBJECTS) {
            let prepared = store.prepare(batch).await;
            prepared.map_err(|error| explained(error, &batch[0]))?;
        }
        Ok(found)
    }

    /// Returns whether the content is an object.
    pub(super) fn has(&self, content: u32) -> bool {
        self.pointers.contains_key(&content)
    }

    /// Returns the object of a content; `None` if the content is that of its blob.
    pub(super) fn get(&self, content: u32) -> Option<Arc<LfsFile>> {
        let (pointer, store) = self.pointers.get(&content)?;
        Some(Arc::new(LfsFile {
            store: Arc::clone(store.as_ref().or(self.store.as_ref())?),
            pointer: pointer.clone(),
        }))
    }
}

/// Reads a blob; `None` if it is not a pointer.
async fn pointer(files: &dyn TreeSource, blob: ObjectId) -> Result<Option<Pointer>> {
    match files.file(blob, &Unlimited).await {
        Ok(bytes) if bytes.len() as u64 <= MAX_POINTER => Ok(Pointer::parse(&bytes)),
        Ok(_) => Ok(None),
        Err(error) if error.kind() == ErrorKind::FileTooLarge => Ok(None),
        Err(error) => Err(error),
    }
}

/// Adds the object and the remedy to an error.
fn explained(error: Error, pointer: &Pointer) -> Error {
    let error = match error.kind() {
        ErrorKind::NotFound => error.with_hint(
            "push the object with `git lfs push --all`, or archive the pointers, without LFS",
        ),
        ErrorKind::AccessDenied => error
            .with_hint("allow reading the LFS objects (`s3:GetObject`), or check that it exists"),
        _ => error,
    };
    error.context(format!("reading LFS object {}", pointer.oid))
}

/// An object, verified each time it is read.
pub(super) struct LfsFile {
    store: Arc<dyn LfsStore>,
    pointer: Pointer,
}

impl fmt::Debug for LfsFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LfsFile")
            .field("pointer", &self.pointer)
            .finish_non_exhaustive()
    }
}

impl LargeFile for LfsFile {
    fn size_bytes(&self) -> u64 {
        self.pointer.size_bytes
    }

    fn content(self: Arc<Self>) -> FileBody {
        if self.pointer.size_bytes == 0 {
            return stream::empty().boxed();
        }
        let opened = {
            let file = Arc::clone(&self);
            async move {
                let content = file.store.read(&file.pointer).await?;
                Ok::<_, Error>(verify_stream(&file.pointer, content))
            }
        };
        let content = opened.into_stream().try_flatten();
        let content = content.map_err(move |error| explained(error, &self.pointer));
        // Stores may send large pieces.
        let pieces = content.map_ok(|bytes: Bytes| {
            let ranges = (0..bytes.len()).step_by(PIECE_BYTES);
            let pieces: Vec<Result<Bytes>> = ranges
                .map(|start| Ok(bytes.slice(start..bytes.len().min(start + PIECE_BYTES))))
                .collect();
            stream::iter(pieces)
        });
        pieces.try_flatten().boxed()
    }
}

/// Maximum size of a piece of a file, in bytes.
const PIECE_BYTES: usize = 256 * 1024;
