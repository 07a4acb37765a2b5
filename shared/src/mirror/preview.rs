//! The changes that a mirroring would make.

use async_trait::async_trait;
use bstr::BString;
use tokio::time::Instant;

use super::attempt::{Attempt, run_until_done};
use super::forced::FastForwardCheck;
use super::mirroring::{NAMED_BY_HEAD, can_set_head, is_kept_by_head, plan_for};
use super::moved_ref::MovedRef;
use super::plan::{MirrorPlan, PlanRules, plan};
use super::progress::RefProgress;
use super::{MirrorOptions, MirrorStats};
use crate::error::{Error, ErrorKind, Result};
use crate::remote::{Head, RefUpdate, Remote, Snapshot, Source, Target, has_branch};

/// Refs by the change that a mirroring would make to them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MirrorPreview {
    /// Refs that would be created.
    pub created: Vec<BString>,
    /// Refs that would be moved.
    pub updated: Vec<BString>,
    /// Refs that would be deleted.
    pub deleted: Vec<BString>,
    /// Branch or commit that `HEAD` would name, if it differs.
    pub head: Option<Head>,
    /// Counts as of the mirroring, with the other refs by name.
    pub stats: MirrorStats,
}

/// Computes the changes that [`mirror`](super::mirror()) would make, and makes none.
///
/// `may_be_missing` takes a missing target for an empty one.
///
/// # Errors
/// As [`mirror`](super::mirror()); `Deadline` if `deadline` comes first.
pub async fn preview(
    source: &dyn Remote,
    target: &dyn Remote,
    options: &MirrorOptions,
    may_be_missing: bool,
    deadline: Option<Instant>,
) -> Result<MirrorPreview> {
    let mut previewing = Previewing {
        source,
        target,
        options,
        may_be_missing,
        found: None,
    };
    let result = run_until_done(&mut previewing, deadline).await;
    match (result.error, previewing.found) {
        (Some(error), _) => Err(error),
        (None, Some(preview)) => Ok(preview),
        (None, None) => Err(Error::new(
            ErrorKind::Deadline,
            "the refs could not be read before the deadline",
        )),
    }
}

struct Previewing<'a> {
    source: &'a dyn Remote,
    target: &'a dyn Remote,
    options: &'a MirrorOptions,
    may_be_missing: bool,
    found: Option<MirrorPreview>,
}

#[async_trait]
impl Attempt for Previewing<'_> {
    fn target(&self) -> &dyn Remote {
        self.target
    }

    async fn attempt(&mut self, _progress: &mut RefProgress) -> Result<()> {
        let prefixes = self.options.refs.prefixes();
        let source = self.source.source(&prefixes);
        let (source, target) = futures_util::future::join(source, self.target.target()).await;
        let source = source?;
        let preview = match target {
            Err(error) if error.kind() == ErrorKind::NotFound && self.may_be_missing => {
                self.creation(&*source)?
            }
            target => self.compare(&*source, &*target?).await?,
        };
        self.found = Some(preview);
        Ok(())
    }
}

impl Previewing<'_> {
    /// Previews the mirroring into a target that would be created.
    fn creation(&self, source: &dyn Source) -> Result<MirrorPreview> {
        let source = source.snapshot();
        let empty = Snapshot::empty(source.hash);
        let rules = PlanRules {
            head: source.head.as_ref(),
            ..PlanRules::default()
        };
        let plan = plan(source, &empty, &self.options.refs, rules)?;
        let head = plan.head.clone();
        Ok(preview_of(plan, source, head))
    }

    async fn compare(&self, source: &dyn Source, target: &dyn Target) -> Result<MirrorPreview> {
        let mut plan = plan_for(source.snapshot(), target, self.options)?;
        let mut check = FastForwardCheck::new(source, None);
        if self.options.fast_forward_only {
            check.reject_forced(&mut plan).await;
        }
        let head = plan.head.clone();
        let head = head.filter(|head| can_set_head(target, head, &plan.changes));
        let mut forced = Vec::new();
        for moved in plan.changes.iter().filter_map(MovedRef::of) {
            if check.is_forced(&moved).await {
                forced.push(moved);
            }
        }
        let mut after = target.snapshot().refs.clone();
        for deletion in plan.conflicting_deletions.iter().chain(&plan.deletions) {
            after.remove(&deletion.name);
        }
        for change in plan.changes.iter().chain(&plan.copies) {
            after.extend(change.new.map(|new| (change.name.clone(), new)));
        }
        let current = head.as_ref().or(target.snapshot().head.as_ref()).cloned();
        let mut preview = preview_of(plan, source.snapshot(), head);
        let leaves_branch = has_branch(&after);
        let is_kept = |name: &BString| {
            is_kept_by_head(target.capabilities(), name, current.as_ref(), leaves_branch)
        };
        if let Some(at) = preview.deleted.iter().position(is_kept) {
            let kept = preview.deleted.remove(at);
            preview.stats.undeleted.insert(kept.clone());
            preview
                .stats
                .rejected
                .insert(kept, NAMED_BY_HEAD.to_owned());
        }
        for moved in forced {
            preview
                .stats
                .forced
                .insert(moved.name.clone(), moved.into());
        }
        preview.count();
        Ok(preview)
    }
}

fn preview_of(plan: MirrorPlan, source: &Snapshot, head: Option<Head>) -> MirrorPreview {
    let names = |updates: &[RefUpdate], is_of_kind: fn(&RefUpdate) -> bool| {
        let names = updates.iter().filter(|update| is_of_kind(update));
        names.map(|update| update.name.clone()).collect::<Vec<_>>()
    };
    let mut deleted = names(&plan.conflicting_deletions, |_| true);
    deleted.retain(|name| !plan.set_aside.contains_key(name));
    deleted.extend(names(&plan.deletions, |_| true));
    let mut preview = MirrorPreview {
        created: names(&plan.changes, |update| update.old.is_none()),
        updated: names(&plan.changes, |update| update.old.is_some()),
        deleted,
        head,
        stats: MirrorStats {
            unchanged: plan.unchanged,
            rejected: plan.rejected,
            set_aside: plan.set_aside,
            ignored: source.ignored.clone(),
            ..MirrorStats::default()
        },
    };
    preview.count();
    preview
}

impl MirrorPreview {
    /// Returns true if the mirroring would change nothing.
    pub fn is_empty(&self) -> bool {
        let Self {
            created,
            updated,
            deleted,
            head,
            stats,
        } = self;
        let changes = created.len() + updated.len() + deleted.len();
        changes == 0 && head.is_none() && stats.set_aside.is_empty()
    }

    fn count(&mut self) {
        self.stats.created = self.created.len() as u64;
        self.stats.updated = self.updated.len() as u64;
        self.stats.deleted = self.deleted.len() as u64;
        self.stats.complete = self.is_empty();
    }
}
