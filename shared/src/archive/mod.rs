//! `git archive --format=zip` without git, streamed into an object store: over the
//! CodeCommit API, or from an object database (for `s3+zip` remotes).
//!
//! The result equals git's under `TZ=UTC`, entry by entry: order, names, modes, times,
//! contents after `.gitattributes`, and the commit's id as the comment. `export_subst` lists
//! what git takes from outside of the commit (the clock, a `.mailmap`). The same commit always gives
//! the same bytes, in whatever order the requests end, unless a file asks for refs.
//!
//! | file | job |
//! |---|---|
//! | `bundle_archives` | archives next to the bundles of a remote; the only file that uses `remote` |
//! | `served_archives` | archives from an object database, also as tar, and for `git archive --remote` |
//! | `codecommit_archives` | the same for CodeCommit, over its API |
//! | `request` | the commit and the options of an archive |
//! | `previous_archive` | the archive of another commit that is reused |
//! | `head_start` | reads ahead while the commit is read |
//! | `build` | makes one archive, from a previous one where that is possible |
//! | `archive_stream` | runs the steps below concurrently |
//! | `tree_source`, `odb_source`, `fetched_commit` | read trees and blobs: by the API, from an object database, from a pack that git fetched |
//! | `read_method`, `full_read` | choose between the API and git, and read a whole commit |
//! | `walk`, `listed_tree` | lists the whole tree |
//! | `attributes` | matches paths against `.gitattributes` |
//! | `plan` | puts the entries in order |
//! | `fetch`, `packing` | fetches and compresses the contents ahead |
//! | `memory_budget` | limits the bytes of fetched contents |
//! | `convert`, `encoding`, `export_subst` | convert a blob as git does |
//! | `history` | refs and history, for what `export_subst` writes about them |
//! | `lfs_files` | files whose content is an object of git LFS |
//! | `submodules` | content of submodules |
//! | `substitutions` | finds the files that need refs or history |
//! | `streamed_entry` | entries that are too large for memory |
//! | `large_files_over_git` | reads by git what the API does not serve, or everything |
//! | `zip`, `tar` | encode the zip and the tar |
//! | `pathspec` | limits an archive to paths |
//! | `upload` | receives the parts |
//! | `reuse` | copies unchanged files from the archive of another commit |
//!
//! Memory: the budget (16 MiB), retained duplicates (8 MiB), three parts (15 MiB) and the
//! entry at their end; and for each entry of the tree about 200 bytes and twice the name, in
//! the listing and in the central directory of the zip. The memory of [`LargeFiles`] and of
//! an object database is not included.

mod archive_stream;
mod attributes;
mod build;
mod bundle_archives;
mod codecommit_archives;
mod convert;
mod encoding;
mod export_subst;
mod fetch;
mod fetched_commit;
mod full_read;
mod head_start;
mod history;
pub mod large_files_over_git;
mod lfs_files;
mod listed_tree;
mod memory_budget;
mod odb_source;
mod packing;
mod pathspec;
mod plan;
mod previous_archive;
mod read_method;
mod request;
mod reuse;
mod served_archives;
mod streamed_entry;
mod submodules;
mod substitutions;
mod tar;
mod tree_source;
mod upload;
mod walk;
mod zip;

pub use archive_stream::Summary;
pub use build::{Built, build, write};
pub use bundle_archives::ZipArchiver;
pub use codecommit_archives::CodeCommitArchives;
pub use export_subst::strict_iso_date;
pub use head_start::HeadStart;
pub use history::{
    Ancestor, AnnotatedTag, CodeCommitHistory, DatabaseHistory, DescribeOptions, History, describe,
    tag_of,
};
pub use pathspec::PathSelection;
pub use plan::ExtraFile;
pub use previous_archive::PreviousArchive;
pub use read_method::{ReadCosts, ReadMethod};
pub use request::{ArchiveRequest, AttributesFiles};
pub use served_archives::{ServedArchives, archive_objects, stored_archive};
pub use streamed_entry::{FileBody, LargeFile, LargeFiles};
pub use submodules::{CodeCommitSubmodules, SubmoduleCommit, SubmoduleRepositories};
pub use upload::{ArchiveDestination, PartSink, WriteSink, part_bytes};
