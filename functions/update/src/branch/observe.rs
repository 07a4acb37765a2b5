//! Records the state of a branch for a plan, and checks its pipeline.

use std::sync::Arc;

use branchline_core::Result;
use branchline_core::name::CommitId;
use branchline_core::pipeline::PipelineFinding;
use branchline_core::storage::ObjectHead;

use super::Attempt;
use crate::artifact::{ArtifactIdentity, S3Location};
use crate::filters::StartTarget;
use crate::observed::{ObservedArtifact, ObservedBranch};
use crate::plan::Plan;

impl Attempt<'_> {
    /// Adds the state of the branch, and the problems of its pipeline, to the plan if this is one.
    pub(super) async fn observe(
        &self,
        tip: CommitId,
        location: &S3Location,
        identity: &ArtifactIdentity,
        found: Option<&ObjectHead>,
    ) -> Result<()> {
        let Some(plan) = self.plan else {
            return Ok(());
        };
        let targets = self.possible_targets(tip)?;
        for target in &targets {
            plan.warn(&self.check_pipeline(target, location).await);
        }
        let pipelines = targets.into_iter().map(|target| target.pipeline).collect();
        let artifact = found.map(|head| ObservedArtifact::new(head, identity));
        let names = (self.repository(), self.branch(), tip);
        plan.observe(ObservedBranch::new(
            names,
            self.task.label(),
            location,
            artifact,
            pipelines,
        ));
        Ok(())
    }

    /// Compares the pipeline's declaration with a start on the artifact at `location`. Outside of a
    /// plan, what does not fit is logged once.
    pub(super) async fn check_pipeline(
        &self,
        target: &StartTarget,
        location: &S3Location,
    ) -> Arc<Vec<PipelineFinding>> {
        let context = self.context;
        let config = &context.config;
        let (pipelines, pin) = (&*context.pipelines, config.pin_for(self.key));
        let is_logged = self.plan.is_none();
        let checks = self.plan.map_or(&context.pipeline_checks, Plan::checks);
        checks
            .of(pipelines, config, pin, target, location, is_logged)
            .await
    }
}
