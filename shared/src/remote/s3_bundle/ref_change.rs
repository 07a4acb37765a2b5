//! Change of one ref: decided by the state of the remote at its opening, then made under the
//! ref's lock.

use std::sync::Arc;

use bstr::ByteSlice as _;

use super::archive::{self, ArchiveAction};
use super::bundle_reader::OpenBundle;
use super::competing::{ResolvedRef, is_descendant};
use super::compose::BundleBody;
use super::delete;
use super::expected_ref::{ExpectedRef, stale_ref_error};
use super::indexed_bundle::IndexedBundle;
use super::keys::BundleFile;
use super::options::BundleLocation;
use super::plan::{BundlePlan, plan};
use super::publication::MAX_REPLACED;
use super::publish::{Published, publish};
use super::receive::AvailableObjects;
use super::source::BundleSnapshot;
use crate::error::Result;
use crate::git::ObjectId;
use crate::git::object::ObjectKind;
use crate::remote::{RefUpdate, conflicting_ref, is_branch, reject_non_commit};

/// Reason for not deleting a protected branch.
const PROTECTED: &str = "the branch is protected; remove its protection with `git-s3 unprotect`";
/// Reason for not forcing a protected branch.
const PROTECTED_FROM_FORCE: &str = "the branch is protected, and the push is not a fast-forward; \
     remove its protection with `git-s3 unprotect`";

/// Result of one ref.
pub(super) enum RefResult {
    Published(Box<PublishedRef>),
    Deleted,
    Rejected(String),
}

/// A ref whose bundle was published.
pub(super) struct PublishedRef {
    pub(super) file: BundleFile,
    pub(super) sent_bytes: u64,
    pub(super) archived: Result<()>,
    /// The new bundle as a base for later ones; `None` for a copy, whose objects were not read.
    pub(super) indexed: Option<IndexedBundle>,
    /// Bundle of which the new one was composed.
    pub(super) base: Option<BundleFile>,
}

/// A change that was decided, and not made yet.
pub(super) enum RefDecision {
    /// The ref must stay as it is, for this reason.
    Reject(String),
    Delete(RefDeletion),
    Write(Box<NewBundle>),
}

/// A ref to delete.
pub(super) struct RefDeletion {
    pub(super) expected: ExpectedRef,
    /// The bundle that the ref names; `None` for a missing ref.
    pub(super) current: Option<BundleFile>,
    pub(super) orphans: Vec<BundleFile>,
}

/// A bundle to write.
pub(super) struct NewBundle {
    pub(super) expected: ExpectedRef,
    /// Bundles of the ref that are neither its own nor in the history of the new commit.
    pub(super) orphans: Vec<BundleFile>,
    pub(super) id: ObjectId,
    pub(super) plan: BundlePlan,
    pub(super) action: ArchiveAction,
    /// Orphaned bundle in the folder of another ref that the new bundle replaces.
    pub(super) replaced_orphan: Option<ExpectedRef>,
}

/// State of a remote, and objects of a push, by which changes of refs are made.
pub(super) struct RefChanges<'a> {
    pub(super) location: &'a Arc<BundleLocation>,
    pub(super) opened: &'a BundleSnapshot,
    /// Bundles that were just written or used, the latest last.
    pub(super) recent: &'a [Arc<IndexedBundle>],
    pub(super) available: &'a AvailableObjects,
    /// Whether the refs are temporary: they have no archives.
    pub(super) temporary: bool,
}

impl RefChanges<'_> {
    /// Changes a ref.
    pub(super) async fn change(&self, change: &RefUpdate) -> Result<RefResult> {
        match self.decide(change).await? {
            RefDecision::Reject(reason) => Ok(RefResult::Rejected(reason)),
            RefDecision::Delete(deletion) => {
                self.delete(deletion).await?;
                Ok(RefResult::Deleted)
            }
            RefDecision::Write(bundle) => self.write(*bundle).await,
        }
    }

    /// Decides how a ref is changed. Writes nothing but the repair of a ref that has too many
    /// bundles.
    ///
    /// # Errors
    /// `Conflict` if the ref is not in the state that the change expects.
    pub(super) async fn decide(&self, change: &RefUpdate) -> Result<RefDecision> {
        let found = self.opened.find(&change.name);
        if found.map(|found| found.file.id) != change.old {
            return Err(stale_ref_error(change.name.as_bstr()));
        }
        // An orphan is stored, and deleted, in the folder of the ref that it lost.
        let orphan = found.filter(|found| found.expected.name != change.name);
        let Some(new) = change.new else {
            return Ok(decide_deletion(change, found));
        };
        let (catalog, recent) = (&self.opened.catalog, self.recent);
        if found.is_none()
            && let Some(reason) = self.rejection_of_new_ref(change)
        {
            return Ok(RefDecision::Reject(reason));
        }
        let plan = plan(catalog, self.available, recent, &change.name, found, new.id).await?;
        if is_branch(&change.name) && !self.is_commit(new.id, &plan).await? {
            return Ok(RefDecision::Reject(reject_non_commit(&change.name, new.id)));
        }
        let stays_protected = |found: &ResolvedRef| found.expected.protected && orphan.is_none();
        if !plan.is_fast_forward && found.is_some_and(stays_protected) {
            return Ok(RefDecision::Reject(PROTECTED_FROM_FORCE.to_owned()));
        }
        let mut bundle = NewBundle {
            expected: ExpectedRef::absent(change.name.clone()),
            orphans: Vec::new(),
            id: new.id,
            action: self.archive_action(&plan, new.id).await?,
            plan,
            replaced_orphan: orphan.map(|orphan| orphan.expected.clone()),
        };
        let Some(found) = found.filter(|_| orphan.is_none()) else {
            return Ok(RefDecision::Write(Box::new(bundle)));
        };
        bundle.expected = found.expected.clone();
        let mut orphans = found.orphans.as_slice();
        // More bundles than the new bundle can name. An incremental bundle may need the others.
        if found.expected.files.len() > MAX_REPLACED
            && OpenBundle::open(self.location, &found.file)
                .await?
                .is_full()
        {
            delete::repair(self.location, &found.expected, &found.file, orphans).await?;
            bundle.expected.files = vec![found.file.clone()];
            orphans = &[];
        }
        // Ancestors of the new commit are in its bundle.
        for orphan in orphans {
            if !is_descendant(&bundle.plan.database, new.id, orphan.id).await? {
                bundle.orphans.push(orphan.clone());
            }
        }
        Ok(RefDecision::Write(Box::new(bundle)))
    }

    /// Returns true if the new value of a branch is a commit.
    async fn is_commit(&self, id: ObjectId, plan: &BundlePlan) -> Result<bool> {
        let mut branches = self.opened.refs.iter().filter(|(name, _)| is_branch(name));
        if branches.any(|(_, branch)| branch.file.id == id) {
            return Ok(true);
        }
        let catalog = &self.opened.catalog;
        let database = match &plan.body {
            BundleBody::Copy(bundle) => {
                let bundle = catalog.read(&bundle.file).await?;
                catalog.database(None, &[bundle])?
            }
            BundleBody::Compose(_) => Arc::clone(&plan.database),
        };
        Ok(database.peel(id).await? == (id, ObjectKind::Commit))
    }

    async fn delete(&self, deletion: RefDeletion) -> Result<()> {
        let RefDeletion {
            expected,
            current,
            orphans,
        } = deletion;
        match current {
            Some(current) => delete::delete(self.location, &expected, &current, &orphans).await,
            None if expected.files.is_empty() => Ok(()),
            None => delete::delete_orphan(self.location, &expected).await,
        }
    }

    async fn write(&self, bundle: NewBundle) -> Result<RefResult> {
        let NewBundle {
            expected,
            orphans,
            id,
            plan,
            action,
            replaced_orphan,
        } = bundle;
        let (location, body) = (self.location, &plan.body);
        let published = publish(location, expected, orphans, id, body, &action).await?;
        if let Some(orphan) = replaced_orphan {
            delete::delete_orphan(location, &orphan).await?;
        }
        self.cache_new_pack(published, plan).await
    }

    /// Returns the reason why a new ref cannot be stored: another ref is in its way, or its name
    /// does not fit into a key.
    fn rejection_of_new_ref(&self, change: &RefUpdate) -> Option<String> {
        let name = change.name.as_bstr();
        let new = change.new?;
        if let Some(other) = conflicting_ref(&self.opened.snapshot.refs, name) {
            return Some(format!("`{other}` is in the way"));
        }
        let key = self.location.bundle_key(name, new.id);
        key.err().map(|error| error.report())
    }

    /// Returns the change of the archive of a ref. Temporary refs have no archives.
    async fn archive_action(&self, plan: &BundlePlan, id: ObjectId) -> Result<ArchiveAction> {
        if self.temporary {
            return Ok(ArchiveAction::Leave);
        }
        archive::action_for(&self.opened.catalog, &plan.database, id).await
    }

    /// Inserts the pack of a published bundle into the pack cache.
    pub(super) async fn cache_new_pack(
        &self,
        published: Published,
        plan: BundlePlan,
    ) -> Result<RefResult> {
        let base = plan.body.base_file().cloned();
        let cache = self.location.options.pack_cache.as_ref();
        let cached = match cache.zip(published.extension) {
            Some((cache, extension)) => cache.insert(extension).await,
            None => None,
        };
        let file = published.file;
        let indexed = plan
            .body
            .into_indexed(self.location, file.clone(), cached)?;
        Ok(RefResult::Published(Box::new(PublishedRef {
            file,
            sent_bytes: published.sent_bytes,
            archived: published.archived,
            indexed,
            base,
        })))
    }
}

fn decide_deletion(change: &RefUpdate, found: Option<&ResolvedRef>) -> RefDecision {
    let Some(found) = found else {
        return RefDecision::Delete(RefDeletion {
            expected: ExpectedRef::absent(change.name.clone()),
            current: None,
            orphans: Vec::new(),
        });
    };
    let is_orphan = found.expected.name != change.name;
    if found.expected.protected && !is_orphan {
        return RefDecision::Reject(PROTECTED.to_owned());
    }
    RefDecision::Delete(RefDeletion {
        expected: found.expected.clone(),
        current: (!is_orphan).then(|| found.file.clone()),
        orphans: if is_orphan {
            Vec::new()
        } else {
            found.orphans.clone()
        },
    })
}
