//! `git archive --format=zip` without git, streamed into an object store: over the
//! CodeCommit API, or out of an object database (for `s3+zip` remotes).
//!
//! The result equals git's under `TZ=UTC`, entry by entry: order, names, modes, times,
//! the contents after `.gitattributes`, and the commit's id as the comment. What git
//! takes from beyond the commit (refs, tags, the clock, a `.mailmap`) is listed in
//! `subst`. The same commit gives the same bytes, however the requests turn out.
//!
//! From above to below: `archiver` serves remotes; `build` runs everything; `walk` lists the
//! tree, which `files` or `database` read, asking `attributes`; `plan` puts it in order;
//! `fetch` gets the contents under the budget of `admission`, `convert` and `subst` change
//! them as git does; `large` streams what is too large to be held, and `git_files` what CodeCommit's API does
//! not serve; `zip` writes and
//! `upload` sends. Memory: the budget (16 MiB), retained duplicates (8 MiB), three parts
//! (15 MiB) and the entry at their end, and for each entry of the tree about 200 bytes and
//! twice its name: in the listing and in the zip's directory, which comes last. What
//! [`LargeFiles`] holds comes on top, and so does what a database reads with.

mod attributes;
mod build;
mod bundle_archives;
mod commit;
mod convert;
mod export_subst;
mod fetch;
pub mod large_files_over_git;
mod memory_budget;
mod odb_source;
mod plan;
mod streamed_entry;
mod tree_source;
mod upload;
mod walk;
mod zip;

pub use build::{ArchiveRequest, Built, Summary, build, write};
pub use bundle_archives::ZipArchiver;
pub use plan::ExtraFile;
pub use streamed_entry::{FileBody, LargeFile, LargeFiles};
pub use upload::{ArchiveDestination, PartSink, WriteSink, part_bytes};
