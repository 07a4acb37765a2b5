//! Counts ref outcomes over all attempts of one mirroring.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use bstr::BString;

use super::moved_ref::{ForcedUpdate, MovedRef};
use super::pending_changes::{PendingChange, PendingChanges};
use super::{MirrorPlan, MirrorResult, MirrorStats};
use crate::error::{Error, ErrorKind, Result};
use crate::git::ObjectId;
use crate::git::refs::RefOutcome;
use crate::remote::{PushReport, RefUpdate, Refs, Snapshot};

/// Hint for a ref that the target does not delete.
const UNDELETED_HINT: &str = "if it is the default branch, make another one the default at the \
                              target; else check whether it is protected there";

/// The count that an update of a ref adds to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RefChangeKind {
    Created,
    Updated,
    Deleted,
    /// Deleted after it was copied to another name.
    SetAside,
}

impl RefChangeKind {
    fn of(old: Option<ObjectId>, new: Option<ObjectId>) -> Self {
        match (old, new) {
            (None, _) => Self::Created,
            (Some(_), Some(_)) => Self::Updated,
            (Some(_), None) => Self::Deleted,
        }
    }

    /// Combines two changes of one ref; `None` if they cancel out.
    fn then(self, later: Self) -> Option<Self> {
        match (self, later) {
            (Self::Created, Self::Deleted) => None,
            (_, Self::SetAside) => Some(Self::SetAside),
            (Self::Created, _) => Some(Self::Created),
            (_, Self::Deleted) => Some(Self::Deleted),
            _ => Some(Self::Updated),
        }
    }
}

/// Counts each ref once, however often it was pushed, and also if its push took effect but the
/// report was lost.
#[derive(Debug, Default)]
pub(super) struct RefProgress {
    // Requested updates without a report.
    pending: PendingChanges,
    done: BTreeMap<BString, RefChangeKind>,
    // Refs that have moved, until it is known whether forward.
    moved: Vec<MovedRef>,
    // New names of refs that this attempt sets aside.
    stale_names: BTreeMap<BString, BString>,
    // Refs that this attempt does not push.
    rejected_by_plan: BTreeMap<BString, String>,
    // All updates that took effect, temporary tags included.
    changes_made: u64,
    stats: MirrorStats,
}

impl RefProgress {
    /// Starts another attempt with these snapshots and the plan between them.
    pub(super) fn start_planned_attempt(
        &mut self,
        plan: &MirrorPlan,
        source: &Snapshot,
        target: &Snapshot,
    ) {
        self.start_attempt(target);
        let changing: HashSet<_> = plan.changes.iter().map(|change| &change.name).collect();
        let made_before = self.done.iter().filter(|(name, done)| {
            !matches!(done, RefChangeKind::Deleted | RefChangeKind::SetAside)
                && source.refs.contains_key(*name)
                && !changing.contains(name)
        });
        self.stale_names.clone_from(&plan.set_aside);
        self.rejected_by_plan.clone_from(&plan.rejected);
        self.stats.ignored.clone_from(&source.ignored);
        self.stats.unchanged = plan.unchanged.saturating_sub(made_before.count() as u64);
    }

    /// Starts another attempt from this snapshot of the target.
    pub(super) fn start_attempt(&mut self, target: &Snapshot) {
        self.reconcile_pending(target);
        self.stats.rejected.clear();
        self.stats.undeleted.clear();
    }

    /// Resolves pending updates against a new snapshot of the target.
    pub(super) fn reconcile_pending(&mut self, target: &Snapshot) {
        let pending = std::mem::take(&mut self.pending);
        for pending in pending.unreported() {
            if target.refs.get(&pending.name).map(|there| there.id) == pending.new {
                self.record(pending);
            }
        }
    }

    /// Records the updates about to be pushed. `temporary` refs are not counted.
    pub(super) fn record_request(&mut self, changes: Arc<Vec<RefUpdate>>, temporary: &[RefUpdate]) {
        self.pending = PendingChanges::new(changes, temporary);
    }

    /// Returns true if an update was requested and no report has arrived.
    pub(super) fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Records the report of a push.
    ///
    /// # Errors
    /// `Transport` if the report leaves the outcome of a ref unknown.
    pub(super) fn record_report(&mut self, report: PushReport) -> Result<()> {
        self.stats.objects += report.objects;
        self.stats.bytes += report.bytes;
        let mut unknown = None;
        for (name, outcome) in report.refs {
            match outcome {
                RefOutcome::Done => {
                    if let Some(pending) = self.pending.take(name) {
                        self.record(pending);
                    }
                }
                RefOutcome::Rejected(reason) => {
                    let pending = self.pending.take(name.clone());
                    let is_counted_deletion =
                        |pending: PendingChange| pending.new.is_none() && pending.is_counted;
                    if pending.is_some_and(is_counted_deletion) {
                        let reason = format!("{reason}; hint: {UNDELETED_HINT}");
                        self.record_undeleted(name, reason);
                    } else {
                        self.stats.rejected.insert(name, reason);
                    }
                }
                RefOutcome::Unknown => {
                    unknown.get_or_insert(name);
                }
            }
        }
        unknown.map_or(Ok(()), |name| {
            Err(Error::new(
                ErrorKind::Transport,
                format!("the target does not report whether it changed `{name}`"),
            ))
        })
    }

    /// Records the report of a push of temporary tags; returns the target's reason if it
    /// rejected one.
    ///
    /// # Errors
    /// As [`record_report`](Self::record_report).
    pub(super) fn record_temporary(&mut self, report: PushReport) -> Result<Option<String>> {
        self.record_report_with_temporary(report, |_| true)
    }

    /// Like [`record_report`](Self::record_report), but rejections of `temporary` refs are not
    /// counted; returns the target's reason if it rejected one.
    pub(super) fn record_report_with_temporary(
        &mut self,
        mut report: PushReport,
        temporary: impl Fn(&BString) -> bool,
    ) -> Result<Option<String>> {
        let mut rejected = None;
        report.refs.retain(|(name, outcome)| {
            let RefOutcome::Rejected(reason) = outcome else {
                return true;
            };
            if !temporary(name) {
                return true;
            }
            self.pending.take(name.clone());
            rejected = Some(reason.clone());
            false
        });
        self.record_report(report).map(|()| rejected)
    }

    /// Records that a ref is not deleted, for this reason.
    pub(super) fn record_undeleted(&mut self, name: BString, reason: impl Into<String>) {
        self.stats.undeleted.insert(name.clone());
        self.stats.rejected.insert(name, reason.into());
    }

    /// Returns the refs that have moved since the last call.
    pub(super) fn take_moved(&mut self) -> Vec<MovedRef> {
        std::mem::take(&mut self.moved)
    }

    /// Records that a ref has not moved forward.
    pub(super) fn record_forced(&mut self, moved: MovedRef) {
        let MovedRef { name, old, new } = moved;
        let first = self
            .stats
            .forced
            .get(&name)
            .map_or(old, |forced| forced.old);
        let forced = ForcedUpdate { old: first, new };
        self.stats.forced.insert(name, forced);
    }

    /// Returns true if the target rejected one of these refs in this attempt.
    pub(super) fn was_any_rejected(&self, refs: &Refs) -> bool {
        let mut rejected = self.stats.rejected.keys();
        rejected.any(|name| refs.contains_key(name))
    }

    fn record(&mut self, made: PendingChange) {
        self.changes_made += 1;
        if !made.is_counted {
            return;
        }
        let PendingChange { name, old, new, .. } = made;
        let kind = match RefChangeKind::of(old, new) {
            RefChangeKind::Deleted if self.stale_names.contains_key(&name) => {
                RefChangeKind::SetAside
            }
            kind => kind,
        };
        if let (RefChangeKind::Updated, Some(old), Some(new)) = (kind, old, new) {
            self.moved.push(MovedRef {
                name: name.clone(),
                old,
                new,
            });
        }
        if kind == RefChangeKind::SetAside
            && let Some(kept) = self.stale_names.get(&name)
        {
            self.stats.set_aside.insert(name.clone(), kept.clone());
        }
        let combined = match self.done.remove(&name) {
            Some(before) => before.then(kind),
            None => Some(kind),
        };
        if let Some(combined) = combined {
            self.done.insert(name, combined);
        }
    }

    /// Number of updates known to have taken effect, temporary tags included.
    pub(super) fn changes_made(&self) -> u64 {
        self.changes_made
    }

    /// Returns the counts, with how the mirroring ended.
    pub(super) fn into_result(mut self, complete: bool, error: Option<Error>) -> MirrorResult {
        let done = &self.done;
        let is_updated = |name: &BString| done.get(name) == Some(&RefChangeKind::Updated);
        self.stats.forced.retain(|name, _| is_updated(name));
        for done in self.done.values() {
            match done {
                RefChangeKind::Created => self.stats.created += 1,
                RefChangeKind::Updated => self.stats.updated += 1,
                RefChangeKind::Deleted => self.stats.deleted += 1,
                RefChangeKind::SetAside => {}
            }
        }
        self.stats.rejected.append(&mut self.rejected_by_plan);
        self.stats.complete = complete;
        MirrorResult {
            stats: self.stats,
            error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::git::HashKind;
    use crate::mirror::{PlanRules, RefSelection, plan};
    use crate::remote::RefValue;

    fn side(refs: &[(&str, u8)]) -> Snapshot {
        let refs = refs.iter().map(|(name, number)| {
            let hex = format!("{number:040x}");
            let id = ObjectId::from_hex(hex.as_bytes()).unwrap();
            (BString::from(*name), RefValue { id, peeled: None })
        });
        Snapshot {
            refs: refs.collect(),
            ..Snapshot::empty(HashKind::Sha1)
        }
    }

    fn observe(progress: &mut RefProgress, source: &Snapshot, target: &Snapshot) -> MirrorPlan {
        let rules = PlanRules {
            prune: true,
            prune_all: true,
            ..PlanRules::default()
        };
        let plan = plan(source, target, &RefSelection::default(), rules).unwrap();
        progress.start_planned_attempt(&plan, source, target);
        plan
    }

    fn updates(plan: &MirrorPlan) -> Vec<RefUpdate> {
        let updates = plan.changes.iter().chain(&plan.deletions);
        updates.cloned().collect()
    }

    fn report(plan: &MirrorPlan, outcome: &RefOutcome) -> PushReport {
        let changes = updates(plan);
        let changes = changes.iter();
        PushReport {
            refs: changes
                .map(|change| (change.name.clone(), outcome.clone()))
                .collect(),
            objects: 3,
            bytes: 100,
        }
    }

    fn counts(progress: RefProgress) -> [u64; 4] {
        let stats = progress.into_result(true, None).stats;
        [stats.created, stats.updated, stats.deleted, stats.unchanged]
    }

    const NEW: &str = "refs/heads/new";
    const MOVED: &str = "refs/heads/moved";
    const DELETED: &str = "refs/heads/gone";
    const SAME: &str = "refs/heads/same";

    #[test]
    fn an_update_whose_report_was_lost_counts_once() {
        let source = side(&[(NEW, 1), (MOVED, 2), (SAME, 3)]);
        let before = side(&[(MOVED, 1), (DELETED, 1), (SAME, 3)]);
        let mut progress = RefProgress::default();
        let plan = observe(&mut progress, &source, &before);
        progress.record_request(Arc::new(updates(&plan)), &[]);
        assert_eq!(
            progress.changes_made(),
            0,
            "no update is known to have taken effect"
        );
        // Two of three updates took effect before the connection broke.
        let now = side(&[(NEW, 1), (MOVED, 1), (SAME, 3)]);
        let plan = observe(&mut progress, &source, &now);
        assert_eq!((updates(&plan).len(), progress.changes_made()), (1, 2));
        progress.record_request(Arc::new(updates(&plan)), &[]);
        progress
            .record_report(report(&plan, &RefOutcome::Done))
            .unwrap();
        observe(&mut progress, &source, &source);
        assert_eq!(counts(progress), [1, 1, 1, 1]);
    }

    #[test]
    fn a_requested_update_without_effect_does_not_count() {
        let source = side(&[(NEW, 1), (SAME, 3)]);
        let before = side(&[(SAME, 3)]);
        let mut progress = RefProgress::default();
        let plan = observe(&mut progress, &source, &before);
        progress.record_request(Arc::new(updates(&plan)), &[]);
        let error = progress.record_report(report(&plan, &RefOutcome::Unknown));
        assert_eq!(error.unwrap_err().kind(), ErrorKind::Transport);
        let plan = observe(&mut progress, &source, &before);
        progress.record_request(Arc::new(updates(&plan)), &[]);
        let refused = RefOutcome::Rejected("no".into());
        progress.record_report(report(&plan, &refused)).unwrap();
        assert_eq!(
            (progress.changes_made(), progress.stats.rejected.len()),
            (0, 1)
        );
        observe(&mut progress, &source, &source);
        assert!(
            progress.stats.rejected.is_empty(),
            "another writer made the update"
        );
        assert_eq!(counts(progress), [0, 0, 0, 2]);
    }

    #[test]
    fn a_ref_updated_twice_counts_once_by_the_combined_change() {
        let empty = side(&[]);
        let states = [side(&[(NEW, 1)]), side(&[(NEW, 2)]), empty.clone()];
        let cases = [
            // (state at the start, later states, [created, updated, deleted])
            (&empty, vec![0, 1], [1, 0, 0]),
            (&empty, vec![0, 2], [0, 0, 0]),
            (&states[0], vec![1, 0], [0, 1, 0]),
            (&states[0], vec![2, 1], [0, 1, 0]),
            (&states[0], vec![1, 2], [0, 0, 1]),
        ];
        for (start, turns, expected) in cases {
            let mut progress = RefProgress::default();
            let mut target = start.clone();
            for turn in &turns {
                let plan = observe(&mut progress, &states[*turn], &target);
                progress.record_request(Arc::new(updates(&plan)), &[]);
                progress
                    .record_report(report(&plan, &RefOutcome::Done))
                    .unwrap();
                target = states[*turn].clone();
            }
            assert_eq!(counts(progress)[..3], expected, "{turns:?}");
        }
    }
}
