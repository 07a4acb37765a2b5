//! One repository's triggers become what its branches need.
//!
//! A run without a change reads: triggers, branches (a page at a time), triggers. With a
//! change it writes once and reads the triggers once more: `pages + 4` requests. What may
//! go on meanwhile, and what holds then, is told in the [module above](super).

use std::collections::{BTreeSet, HashSet};

use super::foreign_triggers::ForeignTriggerTracker;
use super::invocation_event;
use super::plan::{TriggerPlan, is_same_set, partition_owned};
use super::policy::{BranchCoverage, DesiredTriggers, Policy, TriggerLimits, TriggerMode};
use crate::codecommit::{CodeCommit, Trigger, TriggerSet, all_branches};
use crate::error::{Error, ErrorKind, Result};
use crate::name::{BranchName, RepositoryName};
use crate::retry::Backoff;

/// How often the whole is done again because someone else wrote.
pub const CONFLICT_BACKOFF: Backoff = Backoff {
    tries: 8,
    base: std::time::Duration::from_millis(50),
    cap: std::time::Duration::from_secs(2),
};

/// Makes triggers equal to what branches need.
pub struct Reconciler<'a> {
    /// The service.
    pub codecommit: &'a dyn CodeCommit,
    /// What the triggers are for.
    pub policy: &'a Policy,
    /// What the service is thought to accept.
    pub limits: TriggerLimits,
    /// Draws the share of a wait, `0.0..1.0`.
    pub jitter: fn() -> f64,
}

/// What update is yet to be invoked for, of one repository: what a run leaves to the next
/// when it cannot finish.
///
/// It is a hint, kept in memory, that lets Lambda's retry of an event, or the next event,
/// finish what was begun; when it is lost with the execution environment, the update
/// function's schedule finds those branches.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PendingInvocations {
    branches: BTreeSet<BranchName>,
    // A trigger for all branches also covers a branch that came after they were listed,
    // whose first push nothing saw: what a later list adds to this one is owed.
    listed: Option<HashSet<BranchName>>,
}

impl PendingInvocations {
    /// The branches.
    pub fn branches(&self) -> &BTreeSet<BranchName> {
        &self.branches
    }

    /// Whether there is nothing to remember.
    pub fn is_empty(&self) -> bool {
        self.branches.is_empty() && self.listed.is_none()
    }

    /// Update was invoked for the branch.
    pub fn mark_invoked(&mut self, branch: &BranchName) {
        self.branches.remove(branch);
    }

    /// Adds what another run of the same repository left.
    pub fn merge(&mut self, other: Self) {
        self.branches.extend(other.branches);
        self.listed = match (self.listed.take(), other.listed) {
            (Some(mut own), Some(other)) => {
                own.retain(|branch| other.contains(branch));
                Some(own)
            }
            (own, other) => own.or(other),
        };
    }
}

/// What became of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReconcileOutcome {
    /// It is not there: nothing to do.
    Gone,
    /// Its triggers are what its branches need.
    Done(Reconciled),
}

/// A repository whose triggers are what its branches need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reconciled {
    /// Our triggers.
    pub wanted: DesiredTriggers,
    /// Branches that are covered, and were not when the run began.
    pub created: Vec<BranchName>,
    /// Branches that our triggers named when the run began, and that need none: deleted,
    /// or no longer meant.
    pub removed: Vec<String>,
    /// How many branches were covered before and are now.
    pub kept: usize,
    /// How many foreign triggers there are.
    pub foreign: usize,
    /// How often the triggers were written.
    pub writes: u32,
    /// How many triggers these writes added, changed, removed or put back.
    pub changes: usize,
    /// What the service accepts, as far as it refused.
    pub limits: TriggerLimits,
}

/// What is there, what is wanted, and the difference; nothing was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preview {
    /// The triggers that are there, foreign ones included.
    pub present: Vec<Trigger>,
    /// Ours as they should be.
    pub wanted: DesiredTriggers,
    /// The difference.
    pub plan: TriggerPlan,
}

/// Finds out what a run would do, without doing it.
///
/// Errors: as [`Reconciler::run`], but `NotFound` for a repository that is not there.
pub async fn preview(
    codecommit: &dyn CodeCommit,
    policy: &Policy,
    limits: TriggerLimits,
    repository: &RepositoryName,
) -> Result<Preview> {
    let branches = all_branches(codecommit, repository).await?;
    let present = codecommit.get_triggers(repository).await?.triggers;
    let matching = policy.matching(&branches);
    let (wanted, plan) = decide(policy, limits, repository, &matching, &present, &[])?;
    Ok(Preview {
        present,
        wanted,
        plan,
    })
}

fn decide(
    policy: &Policy,
    limits: TriggerLimits,
    repository: &RepositoryName,
    matching: &[&BranchName],
    present: &[Trigger],
    returned: &[Trigger],
) -> Result<(DesiredTriggers, TriggerPlan)> {
    let (ours, mut foreign) = partition_owned(&policy.prefix, present);
    foreign.extend_from_slice(returned);
    let wanted = policy.wanted(repository, limits, matching, &ours, &foreign)?;
    let plan = TriggerPlan::new(&policy.prefix, present, &wanted.triggers, returned);
    Ok((wanted, plan))
}

impl Reconciler<'_> {
    /// Makes `repository`'s triggers what its branches need.
    ///
    /// `owed` are the branches for which update is to be invoked once the triggers cover
    /// them. What this run finds not covered is added, what needs no trigger is taken
    /// out; it is filled before anything is written, so that it survives an error, and the
    /// next run gets it back.
    ///
    /// Errors: `Config` when foreign triggers leave no place or the service does not accept
    /// what is set; `Conflict` when others keep writing; those of the service.
    pub async fn run(
        &self,
        repository: &RepositoryName,
        owed: &mut PendingInvocations,
    ) -> Result<ReconcileOutcome> {
        match Run::new(self, repository, owed).run().await {
            Err(error) if error.is_repository_missing() => {
                *owed = PendingInvocations::default();
                Ok(ReconcileOutcome::Gone)
            }
            Err(error) => Err(error.context(format!("triggers of repository `{repository}`"))),
            Ok(done) => Ok(ReconcileOutcome::Done(done)),
        }
    }

    /// The event by which update is invoked for an owed branch.
    pub fn initial_push_event(
        &self,
        repository: &RepositoryName,
        branch: &BranchName,
        done: &Reconciled,
    ) -> bytes::Bytes {
        invocation_event::event(self.policy, repository, branch, &done.wanted)
    }
}

/// One run, with what it saw.
struct Run<'a> {
    reconciler: &'a Reconciler<'a>,
    repository: &'a RepositoryName,
    owed: &'a mut PendingInvocations,
    limits: TriggerLimits,
    witness: ForeignTriggerTracker,
    first: Option<Vec<Trigger>>,
    coverages: Vec<BranchCoverage>,
    writes: u32,
    changes: usize,
}

/// How one attempt ended.
enum AttemptResult {
    Done(Reconciled),
    /// Someone else wrote, or our write is in doubt: all is to be looked at again.
    Again(Option<Error>),
}

impl<'a> Run<'a> {
    fn new(
        reconciler: &'a Reconciler<'a>,
        repository: &'a RepositoryName,
        owed: &'a mut PendingInvocations,
    ) -> Self {
        Self {
            reconciler,
            repository,
            owed,
            limits: reconciler.limits,
            witness: ForeignTriggerTracker::new(&reconciler.policy.prefix),
            first: None,
            coverages: Vec::new(),
            writes: 0,
            changes: 0,
        }
    }

    async fn run(mut self) -> Result<Reconciled> {
        let mut tries = 0;
        loop {
            tries += 1;
            let why = match self.attempt().await? {
                AttemptResult::Done(done) => return Ok(done),
                AttemptResult::Again(why) => why,
            };
            if tries == CONFLICT_BACKOFF.tries {
                return Err(why.unwrap_or_else(|| conflict(tries)));
            }
            let backoff = why
                .and_then(|error| Backoff::for_kind(error.kind()))
                .unwrap_or(CONFLICT_BACKOFF);
            let wait = backoff.wait(tries, (self.reconciler.jitter)());
            tracing::info!(
                repository.name = %self.repository, tries,
                wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
                "the triggers changed meanwhile; looking again"
            );
            tokio::time::sleep(wait).await;
        }
    }

    async fn attempt(&mut self) -> Result<AttemptResult> {
        let codecommit = self.reconciler.codecommit;
        let before = self.read().await?;
        let branches = all_branches(codecommit, self.repository).await?;
        let matching = self.reconciler.policy.matching(&branches);
        loop {
            // Directly before the write: what is read here is what the write replaces.
            let present = self.read().await?;
            if !is_same_set(&present.triggers, &before.triggers) {
                // The list of branches may be older than this set: written over it, it
                // could take a newer branch's trigger away.
                return Ok(AttemptResult::Again(None));
            }
            self.note_owed(&matching);
            let (wanted, plan) = decide(
                self.reconciler.policy,
                self.limits,
                self.repository,
                &matching,
                &present.triggers,
                self.witness.dropped_foreign_triggers(),
            )?;
            if plan.is_empty() {
                return Ok(AttemptResult::Done(self.done(wanted, &plan, &matching)));
            }
            for trigger in &plan.returned {
                tracing::warn!(
                    repository.name = %self.repository, trigger.name = trigger.name,
                    "a foreign trigger vanished while triggers were written; it is put back"
                );
            }
            self.note_listed(wanted.mode, &present.triggers, &matching);
            let written = plan.triggers_to_put();
            match codecommit.put_triggers(self.repository, &written).await {
                Ok(id) => {
                    self.writes += 1;
                    self.changes += plan.changes();
                    self.note_written(&written);
                    let after = self.read().await?;
                    if after.configuration_id == id || is_same_set(&after.triggers, &written) {
                        return Ok(AttemptResult::Done(self.done(wanted, &plan, &matching)));
                    }
                    return Ok(AttemptResult::Again(None));
                }
                Err(error) if self.lower_limits(&error, wanted.mode, written.len()) => {}
                // It may have taken effect, and others may have written since.
                Err(error) if Backoff::for_kind(error.kind()).is_some() => {
                    return Ok(AttemptResult::Again(Some(error)));
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn read(&mut self) -> Result<TriggerSet> {
        let set = self
            .reconciler
            .codecommit
            .get_triggers(self.repository)
            .await?;
        self.witness.read(&set.triggers);
        self.note_coverage(&set.triggers);
        self.first.get_or_insert_with(|| set.triggers.clone());
        Ok(set)
    }

    fn note_written(&mut self, triggers: &[Trigger]) {
        self.witness.record_write(triggers);
        self.note_coverage(triggers);
    }

    fn note_coverage(&mut self, triggers: &[Trigger]) {
        let coverage = BranchCoverage::of(self.reconciler.policy, triggers);
        if !self.coverages.contains(&coverage) {
            self.coverages.push(coverage);
        }
    }

    /// A branch that any set of this run left out may have moved unseen meanwhile.
    fn note_owed(&mut self, matching: &[&BranchName]) {
        let meant: HashSet<_> = matching.iter().copied().collect();
        let owed = &mut *self.owed;
        owed.branches.retain(|branch| meant.contains(branch));
        for coverage in &self.coverages {
            let missed = matching.iter().filter(|branch| !coverage.covers(branch));
            owed.branches.extend(missed.copied().cloned());
        }
        if let Some(listed) = owed.listed.take() {
            let came = matching.iter().filter(|branch| !listed.contains(**branch));
            owed.branches.extend(came.copied().cloned());
        }
    }

    /// Remembers what was listed when a trigger for all branches is about to be written.
    fn note_listed(&mut self, mode: TriggerMode, present: &[Trigger], matching: &[&BranchName]) {
        if mode == TriggerMode::AllBranches
            && !BranchCoverage::of(self.reconciler.policy, present).covers_all()
        {
            self.owed.listed = Some(matching.iter().copied().cloned().collect());
        }
    }

    /// Takes a refusal as what the service accepts; `false` when that does not help.
    fn lower_limits(&mut self, error: &Error, mode: TriggerMode, triggers: usize) -> bool {
        let next = match mode {
            TriggerMode::PerBranch => TriggerMode::Packed,
            TriggerMode::Packed => TriggerMode::AllBranches,
            TriggerMode::AllBranches => return false,
        };
        match error.aws_code() {
            Some("MaximumRepositoryTriggersExceededException") => {
                self.limits.triggers = triggers.saturating_sub(1).max(1);
                self.limits.first_mode = next;
            }
            Some("MaximumBranchesExceededException") => {
                self.limits.branches_per_trigger = 1;
                self.limits.first_mode = TriggerMode::AllBranches;
            }
            _ => return false,
        }
        tracing::warn!(
            repository.name = %self.repository, mode = ?self.limits.first_mode,
            "CodeCommit accepts fewer triggers or branches than documented: {}", error.report()
        );
        true
    }

    fn done(
        &self,
        wanted: DesiredTriggers,
        plan: &TriggerPlan,
        matching: &[&BranchName],
    ) -> Reconciled {
        let policy = self.reconciler.policy;
        let first = self.first.as_deref().unwrap_or_default();
        let covered = BranchCoverage::of(policy, first);
        let (kept, created): (Vec<&BranchName>, _) = matching
            .iter()
            .copied()
            .partition(|branch| covered.covers(branch));
        let meant: HashSet<_> = matching.iter().map(|branch| branch.as_str()).collect();
        let (ours, _) = partition_owned(&policy.prefix, first);
        let named: BTreeSet<String> = ours.into_iter().flat_map(|own| own.branches).collect();
        let removed = named
            .into_iter()
            .filter(|name| !meant.contains(name.as_str()));
        Reconciled {
            wanted,
            created: created.into_iter().cloned().collect(),
            removed: removed.collect(),
            kept: kept.len(),
            foreign: plan.foreign.len() + plan.returned.len(),
            writes: self.writes,
            changes: self.changes,
            // Which mode a repository needs says nothing about the next one.
            limits: TriggerLimits {
                first_mode: self.reconciler.limits.first_mode,
                ..self.limits
            },
        }
    }
}

fn conflict(tries: u32) -> Error {
    Error::new(
        ErrorKind::Conflict,
        format!("someone else wrote in between, {tries} times in a row"),
    )
    .with_hint(
        "let one function at a time write them (reserved concurrency 1), and nothing else in \
         short intervals",
    )
}
