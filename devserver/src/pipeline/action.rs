//! Executions of actions: as `ListActionExecutions` answers them, and in the log.

use serde_json::{Value, json};

use super::execution::Fetched;
use super::model::{Action, Execution, Pipeline, Status, prune};

/// Logs the end of an execution.
pub(super) fn log_end(execution: &Execution, fetched: &Fetched) {
    let (name, id) = (&execution.pipeline, &execution.id);
    if let Some(failure) = &fetched.failure {
        tracing::warn!(
            pipeline.name = name,
            execution.id = id,
            "execution {id} of pipeline `{name}` failed in source action {}: {}",
            failure.action,
            failure.message
        );
        return;
    }
    for source in &fetched.sources {
        tracing::info!(
            pipeline.name = name,
            execution.id = id,
            size_bytes = source.size_bytes,
            "execution {id} of pipeline `{name}` succeeded with s3://{}/{} at version {} ({} \
             entries)",
            source.bucket,
            source.key,
            source.version_id.as_deref().unwrap_or("-"),
            source.entries
        );
    }
    for commit in &fetched.commits {
        tracing::info!(
            pipeline.name = name,
            execution.id = id,
            commit.id = commit.commit_id,
            "execution {id} of pipeline `{name}` succeeded with commit {} of `{}`",
            commit.commit_id,
            commit.repository
        );
    }
}

/// Builds `ActionExecutionDetail` of each source action that was carried out, the last one first.
pub(super) fn action_executions(pipeline: &Pipeline, execution: &Execution) -> Vec<Value> {
    let mut details = Vec::new();
    for (stage, action) in pipeline.actions() {
        if action.category != "Source" {
            break;
        }
        let failure = execution.failure.as_ref();
        let failure = failure.filter(|failure| failure.action == action.name);
        details.push(action_execution(
            stage,
            &action,
            execution,
            failure.map(|f| &*f.message),
        ));
        if failure.is_some() {
            break;
        }
    }
    details.reverse();
    details
}

fn action_execution(
    stage: &str,
    action: &Action<'_>,
    execution: &Execution,
    failure: Option<&str>,
) -> Value {
    let status = match (execution.status, failure) {
        (Status::InProgress, _) => "InProgress",
        (_, Some(_)) => "Failed",
        (_, None) => "Succeeded",
    };
    let result = failure.map(
        |message| json!({ "errorDetails": { "code": "ConfigurationError", "message": message } }),
    );
    json!({
        "pipelineExecutionId": execution.id,
        // One execution of an action has one id.
        "actionExecutionId": format!("{}-{}", execution.id, action.name),
        "pipelineVersion": execution.pipeline_version,
        "stageName": stage,
        "actionName": action.name,
        "startTime": execution.started,
        "lastUpdateTime": execution.updated,
        "status": status,
        "input": {
            "actionTypeId": {
                "category": action.category, "owner": "AWS", "provider": action.provider,
                "version": "1",
            },
            "configuration": action.configuration,
        },
        "output": prune(json!({ "executionResult": result })),
    })
}
