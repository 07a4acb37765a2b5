//! The state of a repository's branches: triggers as `lifecycle` decides, artifacts and pipelines
//! as `update` does.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use branchline_core::codecommit::{CodeCommit, Trigger, all_branches};
use branchline_core::name::{BranchName, RepositoryName};
use branchline_core::pipeline::PipelineFinding;
use branchline_core::trigger::Policy;
use branchline_core::trigger::policy::BranchCoverage;
use branchline_core::{Error, Result};
use branchline_update::{
    BranchStatus, Context, ObservedArtifact, ObservedBranch, Outcome, repository_status,
};
use serde::Serialize;

use super::text_of;
use crate::stack::deadline;

/// State of a repository.
#[derive(Debug, Serialize)]
pub(crate) struct RepositoryReport {
    pub(super) repository: String,
    pub(super) branches: Vec<BranchReport>,
    /// Problems of pipelines.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) warnings: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) errors: Vec<String>,
}

/// State of a branch; of a branch whose triggers choose several keys, that of one of them.
#[derive(Debug, Serialize)]
pub(crate) struct BranchReport {
    pub(super) branch: String,
    pub(super) tip: Option<String>,
    /// Whether the settings of `update` select the branch.
    pub(super) selected: bool,
    pub(super) behind: bool,
    pub(super) trigger: TriggerReport,
    pub(super) artifact: ArtifactReport,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) pipeline: Option<PipelineReport>,
}

/// Trigger of a branch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct TriggerReport {
    pub(crate) state: TriggerState,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) name: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum TriggerState {
    /// The branch has a trigger.
    Present,
    /// The branch needs a trigger and has none.
    Missing,
    /// The settings of `lifecycle` give the branch no trigger.
    NotNeeded,
}

/// Artifact of a branch.
#[derive(Debug, Serialize)]
pub(crate) struct ArtifactReport {
    pub(super) state: ArtifactState,
    /// Reason why less is done than usual.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) version_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) commit: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) age_seconds: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) size_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) files: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ArtifactState {
    /// Built from the tip.
    Current,
    /// Built from another commit.
    OtherCommit,
    /// Built from the tip with other settings.
    OtherSettings,
    /// The key holds the artifact of another branch.
    OtherBranch,
    /// The key holds an object of another writer.
    Foreign,
    /// The artifact does not exist.
    Missing,
    /// The artifact is not made, for the reason in the answer.
    Skipped,
    /// The settings do not select the branch.
    NotSelected,
}

/// Pipeline of a branch, and its execution on the artifact.
#[derive(Debug, Serialize)]
pub(crate) struct PipelineReport {
    pub(super) name: String,
    /// Status of the execution by CodePipeline's name; `None` if none was started, or if it cannot
    /// be read.
    pub(super) status: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) summary: Option<String>,
    pub(super) execution_id: Option<String>,
}

impl RepositoryReport {
    pub(super) fn unreadable(repository: &RepositoryName, error: &Error) -> Self {
        Self {
            repository: repository.to_string(),
            branches: Vec::new(),
            warnings: Vec::new(),
            errors: vec![text_of(error)],
        }
    }

    pub(super) fn is_behind(&self) -> bool {
        self.branches.iter().any(|branch| branch.behind)
    }

    pub(super) fn has_errors(&self) -> bool {
        !self.errors.is_empty()
    }
}

/// Reads the state of the branches of `repository`.
///
/// # Errors
/// Failures of the whole repository; those of single branches are part of the report.
pub(super) async fn read(
    context: &Context,
    policy: &Policy,
    codecommit: &dyn CodeCommit,
    repository: &RepositoryName,
) -> Result<RepositoryReport> {
    let (list, set) = futures_util::future::try_join(
        all_branches(codecommit, repository),
        codecommit.get_triggers(repository),
    )
    .await?;
    let status = repository_status(context, repository, deadline()).await;
    let mut planned: BTreeMap<String, Vec<BranchStatus>> = BTreeMap::new();
    for branch in status.branches {
        let name = branch.planned.branch.clone();
        planned.entry(name).or_default().push(branch);
    }
    let mut branches = Vec::new();
    for branch in &list.branches {
        let trigger = trigger_of(policy, &set.triggers, branch);
        match planned.remove(branch.as_str()) {
            None => branches.push(not_selected(branch.as_str(), &trigger)),
            Some(all) => {
                branches.extend(all.into_iter().map(|one| report_of(one, trigger.clone())));
            }
        }
    }
    // Branches whose names cannot be used, tags and pull requests.
    for left in planned.into_values().flatten() {
        let trigger = TriggerReport {
            state: TriggerState::NotNeeded,
            name: None,
        };
        branches.push(report_of(left, trigger));
    }
    Ok(RepositoryReport {
        repository: repository.to_string(),
        branches,
        warnings: status
            .findings
            .iter()
            .map(PipelineFinding::report)
            .collect(),
        errors: status.errors.iter().map(text_of).collect(),
    })
}

/// Returns the trigger by which a push to `branch` reaches the update function.
pub(crate) fn trigger_of(
    policy: &Policy,
    triggers: &[Trigger],
    branch: &BranchName,
) -> TriggerReport {
    let covers = |trigger: &&Trigger| {
        BranchCoverage::of(policy, std::slice::from_ref(trigger)).covers(branch)
    };
    let name = triggers.iter().find(covers).map(|one| one.name.clone());
    let state = match &name {
        Some(_) => TriggerState::Present,
        None if policy.branches.matches(branch) => TriggerState::Missing,
        None => TriggerState::NotNeeded,
    };
    TriggerReport { state, name }
}

fn not_selected(branch: &str, trigger: &TriggerReport) -> BranchReport {
    BranchReport {
        branch: branch.to_owned(),
        tip: None,
        selected: false,
        behind: false,
        trigger: TriggerReport {
            // A trigger for all branches covers this one as well.
            state: TriggerState::NotNeeded,
            name: trigger.name.clone(),
        },
        artifact: ArtifactReport::new(ArtifactState::NotSelected, None),
        pipeline: None,
    }
}

fn report_of(status: BranchStatus, trigger: TriggerReport) -> BranchReport {
    let BranchStatus {
        planned,
        observed,
        started,
    } = status;
    let would_act = matches!(
        planned.outcome,
        Outcome::Started | Outcome::Uploaded | Outcome::Deleted
    );
    let tip = observed.as_ref().map(|observed| observed.tip.to_string());
    let mut artifact = match &observed {
        Some(observed) => artifact_of(observed),
        None => ArtifactReport::new(ArtifactState::Skipped, None),
    };
    if planned.outcome == Outcome::Skipped && artifact.state == ArtifactState::Missing {
        artifact.state = ArtifactState::Skipped;
    }
    artifact.reason = planned.reason;
    let pipeline = observed.and_then(|observed| observed.pipelines.into_iter().next());
    let pipeline = match (started, pipeline) {
        (None, None) => None,
        (None, Some(pipeline)) => Some(PipelineReport {
            name: pipeline.to_string(),
            status: None,
            summary: None,
            execution_id: None,
        }),
        (Some(started), pipeline) => {
            let expected = pipeline.map(|pipeline| pipeline.to_string());
            let (status, summary) = started
                .state
                .map(|state| (state.status, state.summary))
                .unzip();
            Some(PipelineReport {
                name: started.pipeline.or(expected).unwrap_or_default(),
                status,
                summary: summary.flatten(),
                execution_id: Some(started.id),
            })
        }
    };
    BranchReport {
        branch: planned.branch,
        tip: tip.or_else(|| planned.commit.map(|commit| commit.to_string())),
        selected: true,
        behind: would_act || trigger.state == TriggerState::Missing,
        trigger,
        artifact,
        pipeline,
    }
}

fn artifact_of(observed: &ObservedBranch) -> ArtifactReport {
    let url = format!("s3://{}/{}", observed.bucket, observed.key);
    let Some(artifact) = &observed.artifact else {
        return ArtifactReport::new(ArtifactState::Missing, Some(url));
    };
    ArtifactReport {
        version_id: artifact.version_id.clone(),
        commit: artifact.commit.map(|commit| commit.to_string()),
        age_seconds: Some((now() - artifact.last_modified).max(0)),
        size_bytes: Some(artifact.size_bytes),
        files: artifact.files,
        ..ArtifactReport::new(state_of(observed, artifact), Some(url))
    }
}

fn state_of(observed: &ObservedBranch, artifact: &ObservedArtifact) -> ArtifactState {
    let ObservedBranch {
        repository,
        branch,
        tip,
        ..
    } = observed;
    match (&artifact.made_for, artifact.commit) {
        _ if artifact.is_current => ArtifactState::Current,
        (_, None) => ArtifactState::Foreign,
        (Some((its_repository, its_branch)), _)
            if its_repository != repository || its_branch != branch =>
        {
            ArtifactState::OtherBranch
        }
        (_, Some(commit)) if commit == *tip => ArtifactState::OtherSettings,
        _ => ArtifactState::OtherCommit,
    }
}

impl ArtifactReport {
    fn new(state: ArtifactState, url: Option<String>) -> Self {
        Self {
            state,
            reason: None,
            url,
            version_id: None,
            commit: None,
            age_seconds: None,
            size_bytes: None,
            files: None,
        }
    }
}

/// Returns the seconds since the epoch.
pub(super) fn now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |time| i64::try_from(time.as_secs()).unwrap_or(i64::MAX))
}
