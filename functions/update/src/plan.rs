//! Runs that only say what they would do.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use branchline_core::pipeline::PipelineFinding;

use crate::artifact::S3Location;
use crate::observed::ObservedBranch;
use crate::pipeline_check::PipelineChecks;

/// Artifacts that a plan would have written by now, and what it has found.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    state: Mutex<State>,
    checks: PipelineChecks,
}

#[derive(Debug, Default)]
struct State {
    written: HashSet<S3Location>,
    observed: Vec<ObservedBranch>,
    findings: Vec<PipelineFinding>,
}

impl Plan {
    /// Adds an artifact; returns false if it was added before.
    pub(crate) fn add(&self, location: &S3Location) -> bool {
        self.lock().written.insert(location.clone())
    }

    /// Adds the state of a branch.
    pub(crate) fn observe(&self, branch: ObservedBranch) {
        self.lock().observed.push(branch);
    }

    /// Returns the checks of pipelines, which each plan reads again.
    pub(crate) fn checks(&self) -> &PipelineChecks {
        &self.checks
    }

    /// Adds the problems of a pipeline, each once.
    pub(crate) fn warn(&self, findings: &[PipelineFinding]) {
        let mut state = self.lock();
        for finding in findings {
            if !state.findings.contains(finding) {
                state.findings.push(finding.clone());
            }
        }
    }

    /// Returns the states of the branches, and the problems of their pipelines.
    pub(crate) fn into_parts(self) -> (Vec<ObservedBranch>, Vec<PipelineFinding>) {
        let state = self
            .state
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        (state.observed, state.findings)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Limits of a run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run<'a> {
    /// The function's deadline.
    pub(crate) deadline: Instant,
    /// Set if nothing is written.
    pub(crate) plan: Option<&'a Plan>,
}
