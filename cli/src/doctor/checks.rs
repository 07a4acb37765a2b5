//! Checks the pipelines, triggers, bucket and key of a stack, and returns findings.

use std::collections::BTreeSet;

use branchline_core::codecommit::{Trigger, all_branches};
use branchline_core::name::{PipelineName, RepositoryName};
use branchline_core::trigger::Policy;
use branchline_core::{ErrorKind, Result};
use branchline_update::{Config, Context, RevisionPin, repository_status};
use futures_util::{StreamExt as _, stream};

use super::finding::Finding;
use super::key_policy;
use crate::stack::{Stack, deadline, name_in_arn};
use crate::status::branches::{TriggerState, trigger_of};

/// Maximum number of repositories that are read at once.
const CONCURRENT_REPOSITORIES: usize = 4;
/// Maximum number of branches that a finding names.
const MAX_NAMED_BRANCHES: usize = 10;

/// Checks the stack and `repositories`; without names those that the settings select.
///
/// # Errors
/// Failures of listing the repositories.
pub(super) async fn check_stack(stack: &Stack, repositories: &[String]) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    let policy = match stack.policy() {
        Ok(policy) => Some(policy),
        Err(error) => {
            findings.push(Finding::of_settings(&error));
            None
        }
    };
    if let Some(policy) = &policy {
        findings.extend(missing_update(stack, policy));
    }
    let context = match stack.update_context() {
        Ok(context) => Some(context),
        // A stack without `update` has been found, and its settings are not those of a function.
        Err(_) if stack.update_function().is_none() && !findings.is_empty() => None,
        Err(error) => {
            findings.push(Finding::of_settings(&error));
            None
        }
    };
    let (Some(policy), Some(context)) = (policy, context) else {
        findings.dedup();
        return Ok(findings);
    };
    let config = stack.update_config()?;
    findings.extend(bucket(stack, &config).await);
    let names = stack
        .repositories(repositories, &config.repositories)
        .await?;
    let reads = stream::iter(names).map(|repository| {
        let (policy, context) = (&policy, &context);
        let is_named = !repositories.is_empty() || config.repositories.names(&repository);
        async move {
            let checked = check_repository(stack, policy, context, &repository).await;
            match checked {
                Ok(checked) => checked,
                Err(error) if error.kind() == ErrorKind::AccessDenied && !is_named => {
                    Checked::default()
                }
                Err(error) => Checked {
                    findings: vec![Finding::unreadable(&error)],
                    ..Checked::default()
                },
            }
        }
    });
    let checked: Vec<Checked> = reads.buffered(CONCURRENT_REPOSITORIES).collect().await;
    let mut pipelines = BTreeSet::new();
    for one in checked {
        for finding in one.findings {
            if !findings.contains(&finding) {
                findings.push(finding);
            }
        }
        pipelines.extend(one.pipelines);
    }
    let mut declarations = Vec::new();
    let service = stack.pipelines();
    for pipeline in pipelines {
        match service.declaration(&pipeline).await {
            Ok(declaration) => declarations.push((pipeline, declaration)),
            Err(error) if error.is_pipeline_missing() => {}
            Err(error) => findings.push(Finding::unreadable(&error)),
        }
    }
    findings.extend(key_policy::check(stack, &config, &declarations).await);
    Ok(findings)
}

/// Findings of a repository, and the pipelines of its branches.
#[derive(Default)]
struct Checked {
    findings: Vec<Finding>,
    pipelines: Vec<PipelineName>,
}

async fn check_repository(
    stack: &Stack,
    policy: &Policy,
    context: &Context,
    repository: &RepositoryName,
) -> Result<Checked> {
    let codecommit = stack.codecommit();
    let (list, set) = futures_util::future::try_join(
        all_branches(&*codecommit, repository),
        codecommit.get_triggers(repository),
    )
    .await?;
    let mut findings = triggers_of_missing_functions(stack, repository, &set.triggers);
    let uncovered = list
        .branches
        .iter()
        .filter(|branch| trigger_of(policy, &set.triggers, branch).state == TriggerState::Missing);
    let uncovered: Vec<String> = uncovered.map(|branch| format!("`{branch}`")).collect();
    findings.extend(without_trigger(repository, &uncovered));
    let status = repository_status(context, repository, deadline()).await;
    findings.extend(status.findings.iter().map(Finding::from));
    findings.extend(status.errors.iter().map(Finding::unreadable));
    let observed = status.branches.into_iter();
    let pipelines = observed
        .filter_map(|branch| branch.observed)
        .flat_map(|branch| branch.pipelines);
    Ok(Checked {
        findings,
        pipelines: pipelines.collect(),
    })
}

/// Finds the `update` that `lifecycle` names and that is not deployed.
fn missing_update(stack: &Stack, policy: &Policy) -> Option<Finding> {
    let arn = policy.destination.as_str();
    (!stack.may_exist(arn)).then(|| Finding {
        problem: "missing-function",
        message: format!("`UPDATE_FUNCTION_ARN` names function `{arn}`, which does not exist"),
        effect: "no push is archived: the triggers that lifecycle writes call nothing".to_owned(),
        remedy: "deploy the function update, or correct `UPDATE_FUNCTION_ARN` of lifecycle"
            .to_owned(),
    })
}

/// Finds a bucket that does not exist, or keeps no versions.
async fn bucket(stack: &Stack, config: &Config) -> Option<Finding> {
    let bucket = &config.bucket;
    match stack.store().is_versioned(bucket).await {
        Ok(true) => None,
        Ok(false) => {
            let pinned = (config.pipeline.is_some() || config.triggers.is_some())
                && config.pin_for(&config.key) != RevisionPin::None;
            let effect = if pinned {
                "update archives nothing, because a pipeline cannot be pinned to a version"
            } else {
                "S3 source actions of pipelines refuse it, and a replaced artifact is lost"
            };
            Some(Finding {
                problem: "bucket-without-versions",
                message: format!("bucket `{bucket}` of the artifacts keeps no versions"),
                effect: effect.to_owned(),
                remedy: format!(
                    "`aws s3api put-bucket-versioning --bucket {bucket} \
                     --versioning-configuration Status=Enabled`"
                ),
            })
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Some(Finding {
            problem: "bucket-missing",
            message: format!("bucket `{bucket}` of the artifacts does not exist"),
            effect: "update archives nothing".to_owned(),
            remedy: "create the bucket with versioning, or correct `ARTIFACT_BUCKET`".to_owned(),
        }),
        Err(error) => Some(Finding::unreadable(&error)),
    }
}

/// Finds triggers that call functions which are not deployed.
fn triggers_of_missing_functions(
    stack: &Stack,
    repository: &RepositoryName,
    triggers: &[Trigger],
) -> Vec<Finding> {
    let gone = triggers
        .iter()
        .filter(|trigger| !stack.may_exist(&trigger.destination_arn));
    let findings = gone.map(|trigger| {
        let (name, function) = (&trigger.name, name_in_arn(&trigger.destination_arn));
        Finding {
            problem: "trigger-of-missing-function",
            message: format!(
                "trigger `{name}` of repository `{repository}` calls function `{function}`, which \
                 does not exist"
            ),
            effect: "CodeCommit drops its events without a message, and it takes one of ten slots"
                .to_owned(),
            remedy: format!(
                "remove the trigger; if it is of this stack, `branchline triggers {repository} \
                 --apply` does"
            ),
        }
    });
    findings.collect()
}

fn without_trigger(repository: &RepositoryName, branches: &[String]) -> Option<Finding> {
    if branches.is_empty() {
        return None;
    }
    let mut names = branches
        .iter()
        .take(MAX_NAMED_BRANCHES)
        .cloned()
        .collect::<Vec<_>>()
        .join(", ");
    if branches.len() > MAX_NAMED_BRANCHES {
        names.push_str(", ..");
    }
    let noun = if branches.len() == 1 {
        "branch".to_owned()
    } else {
        format!("{} branches", branches.len())
    };
    Some(Finding {
        problem: "branch-without-trigger",
        message: format!("no trigger covers {noun} {names} of repository `{repository}`"),
        effect: "pushes are archived by the next schedule of update only, if it has one".to_owned(),
        remedy: format!(
            "`branchline triggers {repository} --apply`, and check that the rule of lifecycle is \
             enabled"
        ),
    })
}
