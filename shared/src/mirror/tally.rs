//! What became of refs, over all attempts of one mirroring.

use std::collections::{BTreeMap, HashSet};

use bstr::BString;

use super::{Outcome, Plan};
use crate::error::{Error, ErrorKind, Result};
use crate::git::smart_http::RefOutcome;
use crate::remote::lfs::Copied;
use crate::remote::{PushReport, RefChange, Snapshot};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Done {
    Created,
    Updated,
    Deleted,
}

impl Done {
    fn of(change: &RefChange) -> Self {
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

/// Counts each ref once, however often its push was tried, and those too whose push was
/// done although its answer was lost.
#[derive(Debug, Default)]
pub(super) struct Tally {
    // Changes that were asked for, of which no answer has come.
    asked: BTreeMap<BString, Done>,
    done: BTreeMap<BString, Done>,
    // Steps forward, for who decides whether to go on trying.
    steps: u64,
    outcome: Outcome,
}

impl Tally {
    /// Takes in what another look at both sides has shown.
    pub(super) fn planned(&mut self, plan: &Plan, source: &Snapshot, target: &Snapshot) {
        for (name, done) in std::mem::take(&mut self.asked) {
            let there = target.refs.get(&name).map(|target| target.id);
            let is_done = match done {
                Done::Deleted => there.is_none(),
                Done::Created | Done::Updated => {
                    let wanted = source.refs.get(&name).map(|target| target.id);
                    there.is_some() && there == wanted
                }
            };
            if is_done {
                self.record(name, done);
            }
        }
        self.outcome.rejected.clear();
        let changing: HashSet<_> = plan.changes.iter().map(|change| &change.name).collect();
        let ours = self.done.iter().filter(|(name, done)| {
            **done != Done::Deleted && source.refs.contains_key(*name) && !changing.contains(name)
        });
        self.outcome.unchanged = plan.unchanged.saturating_sub(ours.count() as u64);
    }

    /// Notes what the target is about to be asked for.
    pub(super) fn ask(&mut self, changes: &[RefChange]) {
        let changes = changes.iter();
        self.asked = changes
            .map(|change| (change.name.clone(), Done::of(change)))
            .collect();
    }

    /// Takes in the answer.
    ///
    /// # Errors
    /// `Transport` when it leaves a ref open.
    pub(super) fn answered(&mut self, report: PushReport) -> Result<()> {
        self.outcome.objects += report.objects;
        self.outcome.bytes += report.bytes;
        let mut unknown = None;
        for (name, outcome) in report.refs {
            match outcome {
                RefOutcome::Done => {
                    if let Some(done) = self.asked.remove(&name) {
                        self.record(name, done);
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

    /// Takes in the answer to the push of a temporary tag, which is no ref of the outcome.
    ///
    /// # Errors
    /// `Conflict`, with the target's words, when it refused.
    pub(super) fn sent(&mut self, report: PushReport) -> Result<()> {
        self.outcome.objects += report.objects;
        self.outcome.bytes += report.bytes;
        for (name, outcome) in report.refs {
            let reason = match outcome {
                RefOutcome::Done => {
                    self.steps += 1;
                    continue;
                }
                RefOutcome::Rejected(reason) => reason,
                RefOutcome::Unknown => "it does not tell".to_owned(),
            };
            return Err(Error::new(
                ErrorKind::Conflict,
                format!("the target did not change `{name}`: {reason}"),
            ));
        }
        Ok(())
    }

    fn record(&mut self, name: BString, done: Done) {
        self.steps += 1;
        let both = match self.done.remove(&name) {
            Some(before) => before.then(done),
            None => Some(done),
        };
        if let Some(both) = both {
            self.done.insert(name, both);
        }
    }

    /// How many changes of refs are known to be made.
    pub(super) fn steps(&self) -> u64 {
        self.steps
    }

    /// The counts so far.
    pub(super) fn into_outcome(mut self, complete: bool, lfs: Copied) -> Outcome {
        for done in self.done.values() {
            *match done {
                Done::Created => &mut self.outcome.created,
                Done::Updated => &mut self.outcome.updated,
                Done::Deleted => &mut self.outcome.deleted,
            } += 1;
        }
        Outcome {
            complete,
            lfs,
            ..self.outcome
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::git::{HashKind, ObjectId};
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

    fn look(tally: &mut Tally, source: &Snapshot, target: &Snapshot) -> Plan {
        let plan = plan(source, target, &RefSelection::default(), true).unwrap();
        tally.planned(&plan, source, target);
        plan
    }

    fn answer(plan: &Plan, outcome: &RefOutcome) -> PushReport {
        let changes = plan.changes.iter();
        PushReport {
            refs: changes
                .map(|change| (change.name.clone(), outcome.clone()))
                .collect(),
            objects: 3,
            bytes: 100,
        }
    }

    fn counts(tally: Tally) -> [u64; 4] {
        let outcome = tally.into_outcome(true, Copied::default());
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
        let mut tally = Tally::default();
        let plan = look(&mut tally, &source, &before);
        tally.ask(&plan.changes);
        assert_eq!(tally.steps(), 0, "nothing is known to be done");
        // Of three changes two were made when the connection broke.
        let now = side(&[(NEW, 1), (MOVED, 1), (SAME, 3)]);
        let plan = look(&mut tally, &source, &now);
        assert_eq!((plan.changes.len(), tally.steps()), (1, 2));
        tally.ask(&plan.changes);
        tally.answered(answer(&plan, &RefOutcome::Done)).unwrap();
        look(&mut tally, &source, &source);
        assert_eq!(counts(tally), [1, 1, 1, 1]);
    }

    #[test]
    fn what_was_asked_for_and_not_done_does_not_count() {
        let source = side(&[(NEW, 1), (SAME, 3)]);
        let before = side(&[(SAME, 3)]);
        let mut tally = Tally::default();
        let plan = look(&mut tally, &source, &before);
        tally.ask(&plan.changes);
        let error = tally.answered(answer(&plan, &RefOutcome::Unknown));
        assert_eq!(error.unwrap_err().kind(), ErrorKind::Transport);
        let plan = look(&mut tally, &source, &before);
        tally.ask(&plan.changes);
        let refused = RefOutcome::Rejected("no".into());
        tally.answered(answer(&plan, &refused)).unwrap();
        assert_eq!((tally.steps(), tally.outcome.rejected.len()), (0, 1));
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
            let mut tally = Tally::default();
            let mut target = start.clone();
            for turn in &turns {
                let plan = look(&mut tally, &states[*turn], &target);
                tally.ask(&plan.changes);
                tally.answered(answer(&plan, &RefOutcome::Done)).unwrap();
                target = states[*turn].clone();
            }
            assert_eq!(counts(tally)[..3], expected, "{turns:?}");
        }
    }
}
