//! Reconciles one repository's triggers with its branches.
//!
//! A run without a change reads triggers, branches (a page at a time) and triggers again:
//! `pages + 2` requests. With a change it writes once and reads the triggers once more:
//! `pages + 4` requests. The [parent module](super) has the guarantees with concurrent writers.

use std::collections::{BTreeSet, HashSet};

use super::foreign_triggers::ForeignTriggerTracker;
use super::invocation_event;
use super::plan::{TriggerPlan, is_same_set, partition_owned};
use super::policy::{BranchCoverage, DesiredTriggers, Policy, TriggerLimits, TriggerMode};
use crate::codecommit::{CodeCommit, LeftOutBranch, Trigger, TriggerSet, all_branches};
use crate::error::{Error, ErrorKind, Result};
use crate::name::{BranchName, RepositoryName};
use crate::retry::Backoff;

/// Retries of a run after a concurrent write.
const CONFLICT_BACKOFF: Backoff = Backoff {
    tries: 8,
    base: std::time::Duration::from_millis(50),
    cap: std::time::Duration::from_secs(2),
};

/// Makes a repository's triggers equal to the desired ones.
pub struct Reconciler<'a> {
    /// Client of the repository's region.
    pub codecommit: &'a dyn CodeCommit,
    /// Settings that determine the desired triggers.
    pub policy: &'a Policy,
    /// Assumed limits of the service.
    pub limits: TriggerLimits,
    /// Returns the random part of a wait, `0.0..1.0`.
    pub jitter: fn() -> f64,
}

/// Branches of one repository for which update must still be invoked; kept for the next run.
///
/// A hint in memory, with which Lambda's retry of an event, or the next event, completes an
/// interrupted run. If it is lost with the execution environment, the update function's
/// schedule archives those branches.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PendingInvocations {
    branches: BTreeSet<BranchName>,
    // Branches listed before a trigger for all branches was written. Branches that a later
    // listing adds are pending, because the trigger covers them and may have missed their
    // first push.
    listed: Option<HashSet<BranchName>>,
}

impl PendingInvocations {
    /// Returns the branches, sorted.
    pub fn branches(&self) -> &BTreeSet<BranchName> {
        &self.branches
    }

    /// Returns true if there is nothing to keep for the next run.
    pub fn is_empty(&self) -> bool {
        self.branches.is_empty() && self.listed.is_none()
    }

    /// Adds a branch.
    pub fn add(&mut self, branch: BranchName) {
        self.branches.insert(branch);
    }

    /// Marks the branch as invoked.
    pub fn mark_invoked(&mut self, branch: &BranchName) {
        self.branches.remove(branch);
    }

    /// Adds what another run of this repository left.
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

/// Result of reconciling a repository.
#[derive(Debug)]
pub enum ReconcileOutcome {
    /// The repository does not exist.
    RepositoryMissing,
    /// The triggers may not be read, for this reason; nothing was done.
    Unreadable(Error),
    /// The triggers equal the desired ones.
    Done(Reconciled),
}

/// Triggers of a reconciled repository, and what the run changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reconciled {
    /// Owned triggers.
    pub desired: DesiredTriggers,
    /// Branches that are covered now and were not when the run started.
    pub created: Vec<BranchName>,
    /// Branches that owned triggers named when the run started, and that need none: deleted,
    /// or no longer selected.
    pub removed: Vec<String>,
    /// Number of branches that were covered before and are now.
    pub kept: usize,
    /// All branches that are covered now.
    pub covered: BTreeSet<BranchName>,
    /// Number of foreign triggers.
    pub foreign: usize,
    /// Branches that get no trigger because their names cannot be used.
    pub left_out: Vec<LeftOutBranch>,
    /// Number of writes.
    pub writes: u32,
    /// Number of triggers that the writes added, changed, removed or restored.
    pub changes: usize,
    /// Limits of the service, lowered by its refusals.
    pub limits: TriggerLimits,
}

/// Observed triggers, desired ones, and the difference, without a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preview {
    /// Observed triggers, foreign ones included.
    pub present: Vec<Trigger>,
    /// Owned triggers that the branches need.
    pub desired: DesiredTriggers,
    /// Difference between both.
    pub plan: TriggerPlan,
}

/// Computes what a run would write, without writing.
///
/// # Errors
/// Like [`Reconciler::run`], but `NotFound` for a missing repository.
pub async fn preview(
    codecommit: &dyn CodeCommit,
    policy: &Policy,
    limits: TriggerLimits,
    repository: &RepositoryName,
) -> Result<Preview> {
    let branches = all_branches(codecommit, repository).await?.branches;
    let present = codecommit.get_triggers(repository).await?.triggers;
    let matching = policy.matching(&branches);
    let (desired, plan) = decide(policy, limits, repository, &matching, &present, &[])?;
    Ok(Preview {
        present,
        desired,
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
    let desired = policy.desired_triggers(repository, limits, matching, &ours, &foreign)?;
    let plan = TriggerPlan::new(&policy.prefix, present, &desired.triggers, returned);
    Ok((desired, plan))
}

impl Reconciler<'_> {
    /// Makes the triggers of `repository` equal to the desired ones.
    ///
    /// `pending` are the branches for which update must be invoked once the triggers cover
    /// them. The run adds branches that were not covered and removes those that need no
    /// trigger, before the first write, so that `pending` is complete after an error too.
    ///
    /// # Errors
    /// `Config` if foreign triggers use all slots or the service rejects the settings;
    /// `Conflict` if others keep writing; errors of the service.
    pub async fn run(
        &self,
        repository: &RepositoryName,
        pending: &mut PendingInvocations,
    ) -> Result<ReconcileOutcome> {
        let result = Run::new(self, repository, pending).run().await;
        let outcome = outcome(repository, result)?;
        if matches!(outcome, ReconcileOutcome::RepositoryMissing) {
            *pending = PendingInvocations::default();
        }
        Ok(outcome)
    }

    /// Computes what [`run`](Self::run) would do, without writing; adds to `pending` the branches
    /// for which update would be invoked.
    pub async fn plan(
        &self,
        repository: &RepositoryName,
        pending: &mut PendingInvocations,
    ) -> Result<ReconcileOutcome> {
        let result = Run::new(self, repository, pending).plan().await;
        outcome(repository, result)
    }

    /// Builds the event that invokes update for pending branches, at most
    /// [`invocation_event::MAX_BRANCHES`]; those that `is_found` selects may be older than the
    /// stack.
    pub fn initial_push_event(
        &self,
        repository: &RepositoryName,
        branches: &[BranchName],
        done: &Reconciled,
        is_found: impl Fn(&BranchName) -> bool,
    ) -> bytes::Bytes {
        invocation_event::event(self.policy, repository, branches, &done.desired, is_found)
    }
}

/// Sorts out the missing repository and the refused read.
fn outcome(
    repository: &RepositoryName,
    result: Result<Result<Reconciled>>,
) -> Result<ReconcileOutcome> {
    match result {
        Err(error) if error.is_repository_missing() => Ok(ReconcileOutcome::RepositoryMissing),
        Err(error) => Err(error.context(format!("triggers of repository `{repository}`"))),
        Ok(Ok(done)) => Ok(ReconcileOutcome::Done(done)),
        Ok(Err(error)) => Ok(ReconcileOutcome::Unreadable(
            error.context(format!("triggers of repository `{repository}`")),
        )),
    }
}

/// State of one run.
struct Run<'a> {
    reconciler: &'a Reconciler<'a>,
    repository: &'a RepositoryName,
    pending: &'a mut PendingInvocations,
    limits: TriggerLimits,
    foreign: ForeignTriggerTracker,
    // Triggers that the run read first.
    first: Option<Vec<Trigger>>,
    coverages: Vec<BranchCoverage>,
    // Branches with unusable names, as listed last.
    left_out: Vec<LeftOutBranch>,
    writes: u32,
    changes: usize,
}

/// Result of one attempt.
enum AttemptResult {
    Done(Reconciled),
    /// The first read was denied.
    Unreadable(Error),
    /// Another writer interfered, or the result of the write is unknown: read again.
    Again(Option<Error>),
}

impl<'a> Run<'a> {
    fn new(
        reconciler: &'a Reconciler<'a>,
        repository: &'a RepositoryName,
        pending: &'a mut PendingInvocations,
    ) -> Self {
        Self {
            reconciler,
            repository,
            pending,
            limits: reconciler.limits,
            foreign: ForeignTriggerTracker::new(&reconciler.policy.prefix),
            first: None,
            coverages: Vec::new(),
            left_out: Vec::new(),
            writes: 0,
            changes: 0,
        }
    }

    /// Reconciles; the inner error is the refusal of the first read.
    async fn run(mut self) -> Result<Result<Reconciled>> {
        let mut tries = 0;
        loop {
            tries += 1;
            let cause = match self.attempt().await? {
                AttemptResult::Done(done) => return Ok(Ok(done)),
                AttemptResult::Unreadable(error) => return Ok(Err(error)),
                AttemptResult::Again(cause) => cause,
            };
            if tries == CONFLICT_BACKOFF.tries {
                return Err(cause.unwrap_or_else(|| conflict(tries)));
            }
            let backoff = cause
                .and_then(|error| Backoff::for_kind(error.kind()))
                .unwrap_or(CONFLICT_BACKOFF);
            let wait = backoff.wait(tries, (self.reconciler.jitter)());
            tracing::info!(
                repository.name = %self.repository, tries,
                wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
                "the triggers changed meanwhile: reading again"
            );
            tokio::time::sleep(wait).await;
        }
    }

    /// Computes the result of a run in which nothing changes meanwhile, without writing.
    async fn plan(mut self) -> Result<Result<Reconciled>> {
        let policy = self.reconciler.policy;
        let present = match self.read().await {
            Err(error) if error.kind() == ErrorKind::AccessDenied => return Ok(Err(error)),
            read => read?,
        };
        let list = all_branches(self.reconciler.codecommit, self.repository).await?;
        let matching = policy.matching(&list.branches);
        self.left_out = list.left_out;
        self.update_pending(&matching);
        let (desired, plan) = decide(
            policy,
            self.limits,
            self.repository,
            &matching,
            &present.triggers,
            self.foreign.dropped_foreign_triggers(),
        )?;
        self.changes = plan.changes();
        Ok(Ok(self.done(desired, &plan, &matching)))
    }

    async fn attempt(&mut self) -> Result<AttemptResult> {
        let codecommit = self.reconciler.codecommit;
        let before = match self.read().await {
            Err(error) if self.first.is_none() && error.kind() == ErrorKind::AccessDenied => {
                return Ok(AttemptResult::Unreadable(error));
            }
            read => read?,
        };
        let list = all_branches(codecommit, self.repository).await?;
        let matching = self.reconciler.policy.matching(&list.branches);
        self.left_out = list.left_out;
        loop {
            // Directly before the write, because the write replaces what is read here.
            let present = self.read().await?;
            if !is_same_set(&present.triggers, &before.triggers) {
                // The listing of branches may be older than this set: triggers computed from
                // it could drop those of newer branches.
                return Ok(AttemptResult::Again(None));
            }
            self.update_pending(&matching);
            let (desired, plan) = decide(
                self.reconciler.policy,
                self.limits,
                self.repository,
                &matching,
                &present.triggers,
                self.foreign.dropped_foreign_triggers(),
            )?;
            if plan.is_empty() {
                return Ok(AttemptResult::Done(self.done(desired, &plan, &matching)));
            }
            for trigger in &plan.returned {
                tracing::warn!(
                    repository.name = %self.repository, trigger.name = trigger.name,
                    "another reconciler dropped a foreign trigger: restoring it"
                );
            }
            self.record_listing(desired.mode, &present.triggers, &matching);
            let written = plan.triggers_to_put();
            match codecommit.put_triggers(self.repository, &written).await {
                Ok(id) => {
                    self.writes += 1;
                    self.changes += plan.changes();
                    self.record_write(&written);
                    let after = self.read().await?;
                    if after.configuration_id == id || is_same_set(&after.triggers, &written) {
                        return Ok(AttemptResult::Done(self.done(desired, &plan, &matching)));
                    }
                    return Ok(AttemptResult::Again(None));
                }
                Err(error) if self.lower_limits(&error, desired.mode, written.len()) => {}
                // The write may have taken effect, and others may have written since.
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
        self.foreign.record_read(&set.triggers);
        self.record_coverage(&set.triggers);
        self.first.get_or_insert_with(|| set.triggers.clone());
        Ok(set)
    }

    fn record_write(&mut self, triggers: &[Trigger]) {
        self.foreign.record_write(triggers);
        self.record_coverage(triggers);
    }

    fn record_coverage(&mut self, triggers: &[Trigger]) {
        let coverage = BranchCoverage::of(self.reconciler.policy, triggers);
        if !self.coverages.contains(&coverage) {
            self.coverages.push(coverage);
        }
    }

    /// Adds the branches that a set of this run does not cover, because their pushes may have
    /// been missed.
    fn update_pending(&mut self, matching: &[&BranchName]) {
        let selected: HashSet<_> = matching.iter().copied().collect();
        let pending = &mut *self.pending;
        pending.branches.retain(|branch| selected.contains(branch));
        for coverage in &self.coverages {
            let missed = matching.iter().filter(|branch| !coverage.covers(branch));
            pending.branches.extend(missed.copied().cloned());
        }
        if let Some(listed) = pending.listed.take() {
            let added = matching.iter().filter(|branch| !listed.contains(**branch));
            pending.branches.extend(added.copied().cloned());
        }
    }

    /// Records the listed branches before a trigger for all branches is written.
    fn record_listing(&mut self, mode: TriggerMode, present: &[Trigger], matching: &[&BranchName]) {
        if mode == TriggerMode::AllBranches
            && !BranchCoverage::of(self.reconciler.policy, present).covers_all()
        {
            self.pending.listed = Some(matching.iter().copied().cloned().collect());
        }
    }

    /// Lowers the limits after a refusal; returns false if that cannot help.
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
            repository.name = %self.repository, mode = self.limits.first_mode.name(),
            "CodeCommit accepts fewer triggers or branches than documented: {}", error.report()
        );
        true
    }

    fn done(
        &self,
        desired: DesiredTriggers,
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
        let selected: HashSet<_> = matching.iter().map(|branch| branch.as_str()).collect();
        let (ours, _) = partition_owned(&policy.prefix, first);
        let named: BTreeSet<String> = ours.into_iter().flat_map(|own| own.branches).collect();
        let removed = named
            .into_iter()
            .filter(|name| !selected.contains(name.as_str()));
        Reconciled {
            desired,
            created: created.into_iter().cloned().collect(),
            removed: removed.collect(),
            kept: kept.len(),
            covered: matching.iter().copied().cloned().collect(),
            foreign: plan.foreign.len() + plan.returned.len(),
            left_out: self.left_out.clone(),
            writes: self.writes,
            changes: self.changes,
            // The first mode is not kept, because each repository needs its own.
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
        format!("another writer changed the triggers during each of {tries} attempts"),
    )
    .with_hint(
        "set the lifecycle function's reserved concurrency to 1, and stop other frequent writers \
         of triggers",
    )
}
