//! The event `CodePipeline Pipeline Execution State Change` (CodePipeline user guide,
//! "Monitoring CodePipeline events").

use serde_json::json;

use super::model::Execution;
use crate::account::Account;
use crate::event::Event;

/// Builds the event of an execution that is now `state`, `STARTED` or `FAILED`.
pub(super) fn state_change(account: &Account, execution: &Execution, state: &str) -> Event {
    let Account { region, id, .. } = account;
    let pipeline = &execution.pipeline;
    let trigger = execution.trigger();
    Event {
        source: "aws.codepipeline".to_owned(),
        detail_type: "CodePipeline Pipeline Execution State Change".to_owned(),
        resources: vec![format!("arn:aws:codepipeline:{region}:{id}:{pipeline}")],
        detail: json!({
            "pipeline": pipeline,
            "execution-id": execution.id,
            "start-time": start_time(execution.started),
            "state": state,
            "version": execution.pipeline_version,
            "pipeline-execution-attempt": 1,
            "execution-trigger": {
                "trigger-type": trigger["triggerType"],
                "trigger-detail": trigger["triggerDetail"],
            },
        }),
    }
}

fn start_time(seconds: f64) -> String {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "milliseconds of our time are small"
    )]
    let milliseconds = (seconds * 1000.0) as i64;
    let time = jiff::Timestamp::from_millisecond(milliseconds).unwrap_or_default();
    time.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}
