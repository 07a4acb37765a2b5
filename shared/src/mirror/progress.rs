//! What became of refs, over all attempts of one mirroring.

use std::collections::{BTreeMap, HashSet};

use bstr::BString;

use super::{MirrorPlan, MirrorResult, MirrorStats};
use crate::error::{Error, ErrorKind, Result};
use crate::git::ObjectId;
use crate::git::refs::RefOutcome;
use crate::remote::{PushReport, RefUpdate, Refs, Snapshot};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RefChangeKind {
    Created,
    Updated,
    Deleted,
}

impl RefChangeKind {
    fn of(change: &RefUpdate) -> Self {
        match (change.old, change.new) {
            (None, _) => Self::Created,
            (Some(_), Some(_)) => Self::Updated,
            (Some(_), None) => Self::Deleted,
        }
    }

    /// What two changes of one ref come to; `None` when they cancel out.
    fn then(self, later: Self) -> Option<Self> {
        match (self, later) {
            (Self::Created, Self::Deleted) => None,
            (Self::Created, _) => Some(Self::Created),
            (_, Self::Deleted) => Some(Self::Deleted),
            _ => Some(Self::Updated),
        }
    }
}

/// What was asked for of a ref.
#[derive(Debug, Clone, Copy)]
struct PendingChange {
    /// What it counts as; `None` for a temporary tag, which is no ref of the outcome.
    counts: Option<RefChangeKind>,
    /// What it shall be; `None` when it is to be deleted.
    wanted: Option<ObjectId>,
}

/// Counts each ref once, however often its push was tried, and those too whose push was
/// done although its answer was lost.
#[derive(Debug, Default)]
pub(super) struct RefProgress {
    // Changes that were asked for, of which no answer has come.
    asked: BTreeMap<BString, PendingChange>,
    done: BTreeMap<BString, RefChangeKind>,
    // Steps forward, for who decides whether to go on trying.
    steps: u64,
    outcome: MirrorStats,
}

impl RefProgress {
    /// Takes in what another look at both sides has shown.
    pub(super) fn planned(&mut self, plan: &MirrorPlan, source: &Snapshot, target: &Snapshot) {
        self.start_attempt(target);
        let changing: HashSet<_> = plan.changes.iter().map(|change| &change.name).collect();
        let ours = self.done.iter().filter(|(name, done)| {
            **done != RefChangeKind::Deleted
                && source.refs.contains_key(*name)
                && !changing.contains(name)
        });
        self.outcome.unchanged = plan.unchanged.saturating_sub(ours.count() as u64);
    }

    /// Another try begins with that look at the target.
    pub(super) fn start_attempt(&mut self, target: &Snapshot) {
        self.reconcile_pending(target);
        self.outcome.rejected.clear();
    }

    /// Settles what was asked for and not answered by another look at the target.
    pub(super) fn reconcile_pending(&mut self, target: &Snapshot) {
        for (name, asked) in std::mem::take(&mut self.asked) {
            if target.refs.get(&name).map(|there| there.id) == asked.wanted {
                self.record(name, asked);
            }
        }
    }

    /// Notes what the target is about to be asked for. Temporary refs do not count.
    pub(super) fn record_request(&mut self, changes: &[RefUpdate], temporary: &[RefUpdate]) {
        let counted = changes
            .iter()
            .map(|change| (change, Some(RefChangeKind::of(change))));
        let others = temporary.iter().map(|change| (change, None));
        let asked = counted.chain(others).map(|(change, counts)| {
            let asked = PendingChange {
                counts,
                wanted: change.new.map(|target| target.id),
            };
            (change.name.clone(), asked)
        });
        self.asked = asked.collect();
    }

    /// Whether something was asked for that was not answered.
    pub(super) fn is_open(&self) -> bool {
        !self.asked.is_empty()
    }

    /// Takes in the answer.
    ///
    /// # Errors
    /// `Transport` when it leaves a ref open.
    pub(super) fn record_report(&mut self, report: PushReport) -> Result<()> {
        self.outcome.objects += report.objects;
        self.outcome.bytes += report.bytes;
        let mut unknown = None;
        for (name, outcome) in report.refs {
            match outcome {
                RefOutcome::Done => {
                    if let Some(asked) = self.asked.remove(&name) {
                        self.record(name, asked);
                    }
                }
                RefOutcome::Rejected(reason) => {
                    self.asked.remove(&name);
                    self.outcome.rejected.insert(name, reason);
                }
                RefOutcome::Unknown => {
                    unknown.get_or_insert(name);
                }
            }
        }
        unknown.map_or(Ok(()), |name| {
            Err(Error::new(
                ErrorKind::Transport,
                format!("the target does not tell whether it changed `{name}`"),
            ))
        })
    }

    /// Takes in the answer to the push of a temporary tag; why the target refused it, if it
    /// did.
    ///
    /// # Errors
    /// As [`record_report`](Self::record_report).
    pub(super) fn record_sent(&mut self, report: PushReport) -> Result<Option<String>> {
        self.record_report_except_refused(report, |_| true)
    }

    /// As [`record_report`](Self::record_report), but refusals of `temporary` refs are not told; why
    /// the target refused one, if it did.
    pub(super) fn record_report_except_refused(
        &mut self,
        mut report: PushReport,
        temporary: impl Fn(&BString) -> bool,
    ) -> Result<Option<String>> {
        let mut refused = None;
        report.refs.retain(|(name, outcome)| {
            let RefOutcome::Rejected(reason) = outcome else {
                return true;
            };
            if !temporary(name) {
                return true;
            }
            self.asked.remove(name);
            refused = Some(reason.clone());
            false
        });
        self.record_report(report).map(|()| refused)
    }

    /// Whether the target has refused one of these refs since the last look.
    pub(super) fn was_any_rejected(&self, refs: &Refs) -> bool {
        let mut refused = self.outcome.rejected.keys();
        refused.any(|name| refs.contains_key(name))
    }

    fn record(&mut self, name: BString, asked: PendingChange) {
        self.steps += 1;
        let Some(done) = asked.counts else {
            return;
        };
        let both = match self.done.remove(&name) {
            Some(before) => before.then(done),
            None => Some(done),
        };
        if let Some(both) = both {
            self.done.insert(name, both);
        }
    }

    /// How many changes of refs are known to be made.
    pub(super) fn changes_made(&self) -> u64 {
        self.steps
    }

    /// The counts so far, and how it ended.
    pub(super) fn into_result(mut self, complete: bool, error: Option<Error>) -> MirrorResult {
        for done in self.done.values() {
            *match done {
                RefChangeKind::Created => &mut self.outcome.created,
                RefChangeKind::Updated => &mut self.outcome.updated,
                RefChangeKind::Deleted => &mut self.outcome.deleted,
            } += 1;
        }
        self.outcome.complete = complete;
        MirrorResult {
            outcome: self.outcome,
            error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::git::HashKind;
    use crate::mirror::{RefSelection, plan};
    use crate::remote::RefTarget;

    fn side(refs: &[(&str, u8)]) -> Snapshot {
        let refs = refs.iter().map(|(name, number)| {
            let hex = format!("{number:040x}");
            let id = ObjectId::from_hex(hex.as_bytes()).unwrap();
            (BString::from(*name), RefTarget { id, peeled: None })
        });
        Snapshot {
            refs: refs.collect(),
            ..Snapshot::empty(HashKind::Sha1)
        }
    }

    fn look(tally: &mut RefProgress, source: &Snapshot, target: &Snapshot) -> MirrorPlan {
        let plan = plan(source, target, &RefSelection::default(), true).unwrap();
        tally.planned(&plan, source, target);
        plan
    }

    fn answer(plan: &MirrorPlan, outcome: &RefOutcome) -> PushReport {
        let changes = plan.changes.iter();
        PushReport {
            refs: changes
                .map(|change| (change.name.clone(), outcome.clone()))
                .collect(),
            objects: 3,
            bytes: 100,
        }
    }

    fn counts(tally: RefProgress) -> [u64; 4] {
        let outcome = tally.into_result(true, None).outcome;
        [
            outcome.created,
            outcome.updated,
            outcome.deleted,
            outcome.unchanged,
        ]
    }

    const NEW: &str = "refs/heads/new";
    const MOVED: &str = "refs/heads/moved";
    const GONE: &str = "refs/heads/gone";
    const SAME: &str = "refs/heads/same";

    #[test]
    fn what_was_done_although_its_answer_was_lost_counts_once() {
        let source = side(&[(NEW, 1), (MOVED, 2), (SAME, 3)]);
        let before = side(&[(MOVED, 1), (GONE, 1), (SAME, 3)]);
        let mut tally = RefProgress::default();
        let plan = look(&mut tally, &source, &before);
        tally.record_request(&plan.changes, &[]);
        assert_eq!(tally.changes_made(), 0, "nothing is known to be done");
        // Of three changes two were made when the connection broke.
        let now = side(&[(NEW, 1), (MOVED, 1), (SAME, 3)]);
        let plan = look(&mut tally, &source, &now);
        assert_eq!((plan.changes.len(), tally.changes_made()), (1, 2));
        tally.record_request(&plan.changes, &[]);
        tally
            .record_report(answer(&plan, &RefOutcome::Done))
            .unwrap();
        look(&mut tally, &source, &source);
        assert_eq!(counts(tally), [1, 1, 1, 1]);
    }

    #[test]
    fn what_was_asked_for_and_not_done_does_not_count() {
        let source = side(&[(NEW, 1), (SAME, 3)]);
        let before = side(&[(SAME, 3)]);
        let mut tally = RefProgress::default();
        let plan = look(&mut tally, &source, &before);
        tally.record_request(&plan.changes, &[]);
        let error = tally.record_report(answer(&plan, &RefOutcome::Unknown));
        assert_eq!(error.unwrap_err().kind(), ErrorKind::Transport);
        let plan = look(&mut tally, &source, &before);
        tally.record_request(&plan.changes, &[]);
        let refused = RefOutcome::Rejected("no".into());
        tally.record_report(answer(&plan, &refused)).unwrap();
        assert_eq!((tally.changes_made(), tally.outcome.rejected.len()), (0, 1));
        look(&mut tally, &source, &source);
        assert!(tally.outcome.rejected.is_empty(), "someone else made it");
        assert_eq!(counts(tally), [0, 0, 0, 2]);
    }

    #[test]
    fn a_ref_that_changes_again_counts_by_what_it_comes_to() {
        let empty = side(&[]);
        let states = [side(&[(NEW, 1)]), side(&[(NEW, 2)]), empty.clone()];
        let all = [
            // (where it starts, what it becomes in turn, created updated deleted)
            (&empty, vec![0, 1], [1, 0, 0]),
            (&empty, vec![0, 2], [0, 0, 0]),
            (&states[0], vec![1, 0], [0, 1, 0]),
            (&states[0], vec![2, 1], [0, 1, 0]),
            (&states[0], vec![1, 2], [0, 0, 1]),
        ];
        for (start, turns, expected) in all {
            let mut tally = RefProgress::default();
            let mut target = start.clone();
            for turn in &turns {
                let plan = look(&mut tally, &states[*turn], &target);
                tally.record_request(&plan.changes, &[]);
                tally
                    .record_report(answer(&plan, &RefOutcome::Done))
                    .unwrap();
                target = states[*turn].clone();
            }
            assert_eq!(counts(tally)[..3], expected, "{turns:?}");
        }
    }
}
