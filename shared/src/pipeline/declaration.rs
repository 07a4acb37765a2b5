//! The parts of a pipeline's declaration and of an execution that branchline reads.

use std::collections::BTreeMap;

/// Declaration of a pipeline, as `GetPipeline` returns it, reduced to what its starts depend on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PipelineDeclaration {
    /// ARN of the role that reads the sources, unless an action has its own.
    pub role_arn: String,
    /// Whether the pipeline is of type V2, which has variables.
    pub is_v2: bool,
    /// Names of the declared variables.
    pub variables: Vec<String>,
    /// Actions of category `Source`, in their order.
    pub sources: Vec<SourceAction>,
}

/// Source action of a pipeline.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SourceAction {
    /// Name of the action.
    pub name: String,
    /// Provider of the source, such as `S3` or `CodeCommit`.
    pub provider: String,
    /// ARN of the action's own role.
    pub role_arn: Option<String>,
    /// Configuration, such as `S3Bucket` and `PollForSourceChanges`.
    pub configuration: BTreeMap<String, String>,
}

impl SourceAction {
    /// Returns a value of the configuration.
    pub(super) fn configured(&self, name: &str) -> Option<&str> {
        self.configuration.get(name).map(String::as_str)
    }

    /// Returns true if a value of the configuration is `true`, in any case of letters; `default`
    /// if the value is missing.
    pub(super) fn flag(&self, name: &str, default: bool) -> bool {
        let value = self.configured(name);
        value.map_or(default, |value| value.eq_ignore_ascii_case("true"))
    }
}

/// State of an execution, as `GetPipelineExecution` returns it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecutionStatus {
    /// Status by the service's name: `InProgress`, `Succeeded`, `Failed`, `Stopped`, ..
    pub status: String,
    /// Reason of the status, if the service gives one.
    pub summary: Option<String>,
}
