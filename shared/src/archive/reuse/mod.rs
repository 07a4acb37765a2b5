//! Makes an archive from the archive of another commit of the repository: files that the
//! differences between the two commits leave unchanged keep their compressed bytes under new
//! headers, and the others are fetched.
//!
//! The result is byte for byte the archive that a full run makes. Nothing is assumed about the
//! previous archive: what is copied is checked against its checksums, against the blobs' ids,
//! and against the record that was kept with the archive. Nor are the differences trusted: where
//! the archive has all blobs of its commit, they must make up the commit's tree. Everything
//! unexpected is a [`FullRun`].
//!
//! | file | job |
//! |---|---|
//! | `record` | digest of a listing, kept as metadata of the archive |
//! | `compared` | the differences of two commits, and the directory of the previous archive |
//! | `directory` | reads the directory of the previous archive |
//! | `previous_listing` | the tree entries that the directory names |
//! | `attributes_files`, `tree_rules` | the attributes of both commits, without their trees |
//! | `listing` | applies the differences to the previous listing |
//! | `new_plan` | plan of the new archive |
//! | `reader` | reads and checks the entries that are copied |
//! | `tree_check` | compares the new archive with the tree of its commit |
//! | `full_run` | reasons for which nothing is reused |

mod attributes_files;
pub(super) mod compared;
mod directory;
mod full_run;
mod listing;
mod new_plan;
mod previous_listing;
mod reader;
mod record;
mod tree_check;
mod tree_rules;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};

pub(super) use self::full_run::{FullRun, Stop};
pub(super) use self::reader::{READER_BYTES, ReusedEntries};
pub(super) use self::record::ListingRecord;

use self::attributes_files::ReadRules;
use self::compared::ComparedArchives;
use self::listing::{NewEntry, NewListing, merge};
use self::record::writer_of;
use super::listed_tree::Tree;
use super::pathspec::PathSelection;
use super::plan::{ArchivePlan, check_names};
use super::previous_archive::PreviousArchive;
use super::request::ArchiveRequest;
use crate::codecommit::CodeCommit;
use crate::git::ObjectId;
use crate::name::RepositoryName;
use crate::storage::ObjectStore;

/// Reason of a failed copy, for the run that follows.
pub(super) type Fault = Arc<Mutex<Option<FullRun>>>;

/// An archive whose unchanged entries are in a previous archive.
pub(super) struct Reuse {
    pub(super) tree: Tree,
    pub(super) plan: ArchivePlan,
    pub(super) record: ListingRecord,
    pub(super) entries: ReusedEntries,
}

/// The two commits and their services.
pub(super) struct ArchiveComparison<'a> {
    pub(super) codecommit: &'a dyn CodeCommit,
    pub(super) repository: &'a RepositoryName,
    pub(super) store: &'a Arc<dyn ObjectStore>,
    pub(super) request: &'a ArchiveRequest,
    pub(super) previous: &'a Arc<PreviousArchive>,
    /// Requests to CodeCommit.
    pub(super) requests: &'a AtomicU64,
}

impl ArchiveComparison<'_> {
    /// Computes the entries of the new archive. Copying them may still fail, with the reason in
    /// `fault`.
    pub(super) async fn prepare(&self, fault: &Fault) -> Result<Reuse, Stop> {
        let (request, previous) = (self.request, self.previous);
        let record = self.check_record()?;
        let Some(attributes) = record.attributes else {
            return Err(FullRun::because(
                "the previous commit has more `.gitattributes` than its record has room for",
            )
            .into());
        };
        check_names(&request.prefix, &request.extra_files)?;
        let ahead = request.head_start.as_ref();
        let ahead = ahead.and_then(|ahead| ahead.take_comparison(request.commit.id, previous));
        let compared = if let Some(compared) = ahead {
            compared
        } else {
            let (service, commit) = (self.codecommit, request.commit.id.into());
            ComparedArchives::read(service, self.repository, self.store, commit, previous).await
        };
        let made = compared.requests;
        self.requests.fetch_add(made, Ordering::Relaxed);
        let (differences, directory) = (compared.differences?, Arc::new(compared.directory?));
        let mut rules = ReadRules::read(self, attributes, &differences).await?;
        if rules.both.after.is_some() && record.hides {
            return Err(FullRun::because(
                "the attributes changed, and may archive files that were not archived",
            )
            .into());
        }
        let listing = merge(
            request,
            &directory.entries,
            &differences,
            &mut rules.both,
            record.sum,
            record.hides,
        )?;
        let substituted = self.substituted(&listing).await?;
        let (mut tree, plan) = new_plan::new_plan(request, &listing, &substituted)?;
        tree.requests = self.requests.load(Ordering::Relaxed);
        tree.kept = rules.contents;
        let mut sum = listing.sum;
        sum.add(record::sum_of_bare_folders(&tree, &plan));
        let record = ListingRecord {
            writer: record.writer,
            sum,
            hides: listing.hides,
            attributes: Some(rules.files),
        };
        let (uses, copied, is_complete) = (listing.uses, listing.copied, !listing.hides);
        let entries = ReusedEntries::new(
            Arc::clone(self.store),
            Arc::clone(previous),
            Arc::clone(&directory),
            uses,
            copied,
            is_complete,
            Arc::clone(fault),
        );
        Ok(Reuse {
            tree,
            plan,
            record,
            entries,
        })
    }

    /// Checks that the previous archive was made as the new one is.
    fn check_record(&self) -> Result<ListingRecord, FullRun> {
        let request = self.request;
        if request.paths != PathSelection::default() || request.time.is_some() || request.tree_only
        {
            return Err(FullRun::because("the archive is not of a whole commit"));
        }
        if request.submodules.is_some() {
            return Err(FullRun::because(
                "the differences do not show the content of submodules",
            ));
        }
        let text = self.previous.record.as_deref();
        let record = text.and_then(ListingRecord::parse);
        let record = record.ok_or_else(|| {
            FullRun::because("the previous archive has no record that this version reads")
        })?;
        if record.writer != writer_of(request) {
            return Err(FullRun::because(
                "the previous archive was made with other settings or by another version",
            ));
        }
        Ok(record)
    }

    /// Reads the blobs of unchanged files that depend on the commit, from the listings of their
    /// folders; returns their ids by path.
    async fn substituted(
        &self,
        listing: &NewListing<'_>,
    ) -> Result<HashMap<String, ObjectId>, Stop> {
        let mut folders: Vec<&str> = Vec::new();
        for (path, entry) in &listing.entries {
            if matches!(entry, NewEntry::Substituted(..)) {
                let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
                folders.push(folder);
            }
        }
        folders.sort_unstable();
        folders.dedup();
        let commit = self.request.commit.id.into();
        let lists = stream::iter(folders).map(|folder| async move {
            self.requests.fetch_add(1, Ordering::Relaxed);
            let listed = self.codecommit.get_folder(self.repository, commit, folder);
            let listed = listed.await.map_err(|error| {
                Stop::after(
                    "a folder of files with `export-subst` cannot be listed",
                    error,
                )
            })?;
            Ok::<_, Stop>((folder, listed))
        });
        let mut lists = lists.buffer_unordered(self.request.concurrency.max(1));
        let mut ids = HashMap::new();
        while let Some((folder, listed)) = lists.try_next().await? {
            for entry in listed.entries {
                let path = match folder {
                    "" => entry.name,
                    folder => format!("{folder}/{}", entry.name),
                };
                ids.insert(path, entry.id);
            }
        }
        Ok(ids)
    }
}
