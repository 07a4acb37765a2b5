//! The event `CodePipeline Pipeline Execution State Change` of Amazon EventBridge (CodePipeline
//! user guide, "Monitoring CodePipeline events").

use serde_json::Value;

use super::{Request, invalid_field};
use crate::arn::Origin;
use crate::error::Result;
use crate::name::PipelineName;

/// Maximum length of an execution's id; those of AWS have 36 characters.
const MAX_ID_CHARS: usize = 64;

/// A changed execution. Its state must be read, because it may have changed again since.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecutionEvent {
    /// The pipeline.
    pub pipeline: PipelineName,
    /// The execution's id.
    pub execution_id: String,
    /// Account and region of the pipeline, if the event has them.
    pub origin: Option<Origin>,
}

/// The `detail-type` of this event.
pub(super) const DETAIL_TYPE: &str = "CodePipeline Pipeline Execution State Change";

/// Parses the event.
pub(super) fn parse(event: &Value) -> Result<Request> {
    let text = |member: &str| {
        let value = event["detail"][member].as_str();
        value.ok_or_else(|| invalid_field(&format!("detail.{member}"), "it must be a string"))
    };
    let pipeline = PipelineName::new(text("pipeline")?)
        .map_err(|error| invalid_field("detail.pipeline", error))?;
    let id = text("execution-id")?;
    let is_legal = id
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if id.is_empty() || id.len() > MAX_ID_CHARS || !is_legal {
        let rule = format!("it must have 1 to {MAX_ID_CHARS} letters, digits and `-`");
        return Err(invalid_field("detail.execution-id", rule));
    }
    let origin = match (event["account"].as_str(), event["region"].as_str()) {
        (Some(account), Some(region)) => Some(Origin {
            account: account.to_owned(),
            region: region.to_owned(),
        }),
        _ => None,
    };
    Ok(Request::Execution(ExecutionEvent {
        pipeline,
        execution_id: id.to_owned(),
        origin,
    }))
}
