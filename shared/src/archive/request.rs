//! A commit to archive, and the options of the archive.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::head_start::HeadStart;
use super::history::History;
use super::large_files_over_git::GitLargeFiles;
use super::pathspec::PathSelection;
use super::plan::ExtraFile;
use super::previous_archive::PreviousArchive;
use super::read_method::ReadMethod;
use super::streamed_entry::LargeFiles;
use super::submodules::SubmoduleRepositories;
use crate::error::{Error, ErrorKind, Result};
use crate::git::object::Commit;
use crate::lfs::LfsStore;

/// A commit to archive and the options of the archive.
#[derive(Clone)]
pub struct ArchiveRequest {
    /// The commit; everything is read at this id, never at a branch.
    pub commit: Commit,
    /// Text before every path, as `git archive --prefix`; may be empty.
    pub prefix: String,
    /// Files that are added at the end; one replaces a file of the same path.
    pub extra_files: Vec<ExtraFile>,
    /// Maximum number of concurrent requests; the service's limiter may allow fewer.
    pub concurrency: usize,
    /// Maximum size of fetched but unwritten files, in bytes.
    pub memory_bytes: u64,
    /// Time at which the archive is abandoned.
    pub deadline: Option<Instant>,
    /// Reads files that the API refuses as too large. With `None` such a file ends the
    /// archive with `FileTooLarge`.
    pub large_files: Option<Arc<dyn LargeFiles>>,
    /// Way in which [`build`](super::build()) reads a commit that it archives in full.
    pub method: ReadMethod,
    /// The commit by git, for [`ReadMethod::Auto`] and [`ReadMethod::Git`]; with `None` it is
    /// read by the API. Its requests are counted if it is also the source of `large_files`.
    pub over_git: Option<Arc<GitLargeFiles>>,
    /// Results of requests that were sent together with the one for the commit.
    pub head_start: Option<Arc<HeadStart>>,
    /// Paths that are archived.
    pub paths: PathSelection,
    /// Time of the entries, in seconds since the epoch; that of the commit if `None`.
    pub time: Option<i64>,
    /// Level of the compression, 0 (stored) to 9; 6 if `None`.
    pub level: Option<u32>,
    /// The commit stands for its tree alone: the archive does not name it, and nothing is
    /// substituted (`export-subst`).
    pub tree_only: bool,
    /// Entries with the attribute `export-ignore` are left out.
    pub export_ignore: bool,
    /// The `.gitattributes` of the archived repository, in place of those of the commit.
    pub attributes: Option<Arc<dyn AttributesFiles>>,
    /// Refs and history of the repository, for `%(describe)` and `%d` in files with the attribute
    /// `export-subst`, which become nothing with `None`.
    pub history: Option<Arc<dyn History>>,
    /// Store of the objects of git LFS, which the archive contains instead of their pointers;
    /// the pointers with `None`.
    pub lfs: Option<Arc<dyn LfsStore>>,
    /// Repositories of submodules, whose content is archived; empty folders with `None`.
    pub submodules: Option<Arc<dyn SubmoduleRepositories>>,
    /// Archive of another commit of the repository, of which [`build`](super::build()) reuses
    /// what did not change.
    pub previous: Option<Arc<PreviousArchive>>,
}

/// `.gitattributes` from outside of the archived commit.
pub trait AttributesFiles: Send + Sync {
    /// Reads the `.gitattributes` of `folder`, which is empty for the root; `None` without one.
    fn read(&self, folder: &str) -> Result<Option<Bytes>>;
}

impl fmt::Debug for ArchiveRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ArchiveRequest")
            .field("commit", &self.commit.id)
            .field("prefix", &self.prefix)
            .field("paths", &self.paths)
            .finish_non_exhaustive()
    }
}

impl ArchiveRequest {
    /// Makes a request for `commit` without prefix and extra files, with 32 concurrent
    /// requests, 16 MiB of memory and no deadline.
    pub fn new(commit: Commit) -> Self {
        Self {
            commit,
            prefix: String::new(),
            extra_files: Vec::new(),
            concurrency: 32,
            memory_bytes: 16 * 1024 * 1024,
            deadline: None,
            large_files: None,
            method: ReadMethod::Auto,
            over_git: None,
            head_start: None,
            paths: PathSelection::default(),
            time: None,
            level: None,
            tree_only: false,
            export_ignore: true,
            attributes: None,
            history: None,
            lfs: None,
            submodules: None,
            previous: None,
        }
    }

    /// Returns the time of the entries, in seconds since the epoch.
    ///
    /// # Errors
    /// `Corrupt` for a commit without a date.
    pub(super) fn seconds(&self) -> Result<i64> {
        let commit = &self.commit;
        let seconds = self.time.or_else(|| commit.committer.seconds());
        seconds.ok_or_else(|| {
            Error::new(
                ErrorKind::Corrupt,
                format!("commit {} has no committer date", commit.id),
            )
        })
    }
}
