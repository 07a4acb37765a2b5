//! [`Pipelines`] in memory.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use super::call_log::CallLog;
use crate::error::{Error, ErrorKind, Result};
use crate::name::PipelineName;
use crate::pipeline::{
    ExecutionStatus, PipelineDeclaration, Pipelines, SourceAction, StartRequest,
};

/// Definition of a pipeline of type V2 with an S3 source, as far as its start depends on it.
#[derive(Debug, Clone)]
pub struct PipelineOptions {
    /// Name of the source action.
    pub source_action: String,
    /// The source action has `AllowOverrideForS3ObjectKey`.
    pub allow_key_override: bool,
    /// Starts fail with `ConflictException`.
    pub busy: bool,
    /// Maximum number of executions.
    pub max_executions: usize,
    /// Further configuration of the source action, which only `declaration` returns.
    pub configuration: BTreeMap<String, String>,
}

impl Default for PipelineOptions {
    fn default() -> Self {
        Self {
            source_action: "Source".into(),
            allow_key_override: true,
            busy: false,
            max_executions: usize::MAX,
            configuration: [("PollForSourceChanges".to_owned(), "false".to_owned())].into(),
        }
    }
}

/// Started execution.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Execution {
    /// Id of the execution.
    pub id: String,
    /// Request that started the execution.
    pub request: StartRequest,
}

/// CodePipeline of one account and region, in memory.
#[derive(Debug, Default)]
pub struct MemoryPipelines {
    state: Mutex<State>,
    traffic: CallLog,
}

#[derive(Debug, Default)]
struct State {
    pipelines: BTreeMap<PipelineName, PipelineOptions>,
    executions: Vec<Execution>,
    tokens: HashMap<(PipelineName, String), String>,
}

impl MemoryPipelines {
    /// Makes a service without pipelines.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the log of calls, which has latency, throttling and hooks.
    pub fn traffic(&self) -> &CallLog {
        &self.traffic
    }

    /// Creates or changes a pipeline.
    pub fn set_pipeline(&self, name: &PipelineName, options: PipelineOptions) {
        self.lock().pipelines.insert(name.clone(), options);
    }

    /// Deletes a pipeline.
    pub fn delete_pipeline(&self, name: &PipelineName) {
        self.lock().pipelines.remove(name);
    }

    /// Returns the started executions, in order.
    pub fn executions(&self) -> Vec<Execution> {
        self.lock().executions.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Pipelines for MemoryPipelines {
    async fn start(&self, request: &StartRequest) -> Result<String> {
        let _call = self.traffic.enter("start").await?;
        let mut state = self.lock();
        let name = &request.pipeline;
        let Some(pipeline) = state.pipelines.get(name) else {
            return Err(missing_pipeline(name));
        };
        check(pipeline, request)?;
        let token = (name.clone(), request.client_request_token.clone());
        if let Some(id) = state.tokens.get(&token) {
            return Ok(id.clone());
        }
        if pipeline.busy {
            return Err(refused(
                ErrorKind::Conflict,
                "ConflictException",
                format!("pipeline `{name}` is busy"),
            ));
        }
        let running = |execution: &&Execution| execution.request.pipeline == *name;
        if state.executions.iter().filter(running).count() >= pipeline.max_executions {
            return Err(refused(
                ErrorKind::Throttled,
                "ConcurrentPipelineExecutionsLimitExceededException",
                format!("pipeline `{name}` runs as many executions at once as it can"),
            ));
        }
        let id = format!("10000000-0000-4000-8000-{:012x}", state.executions.len());
        state.tokens.insert(token, id.clone());
        state.executions.push(Execution {
            id: id.clone(),
            request: request.clone(),
        });
        Ok(id)
    }

    async fn declaration(&self, pipeline: &PipelineName) -> Result<PipelineDeclaration> {
        let _call = self.traffic.enter("declaration").await?;
        let state = self.lock();
        let found = state.pipelines.get(pipeline);
        let found = found.ok_or_else(|| missing_pipeline(pipeline))?;
        let mut configuration = found.configuration.clone();
        if found.allow_key_override {
            configuration.insert("AllowOverrideForS3ObjectKey".into(), "true".into());
        }
        Ok(PipelineDeclaration {
            role_arn: "arn:aws:iam::111122223333:role/pipeline".into(),
            is_v2: true,
            variables: ["REPOSITORY_NAME", "BRANCH_NAME", "COMMIT_ID"]
                .map(str::to_owned)
                .into(),
            sources: vec![SourceAction {
                name: found.source_action.clone(),
                provider: "S3".into(),
                role_arn: None,
                configuration,
            }],
        })
    }

    async fn execution_status(&self, pipeline: &PipelineName, id: &str) -> Result<ExecutionStatus> {
        let _call = self.traffic.enter("execution_status").await?;
        let state = self.lock();
        if !state.pipelines.contains_key(pipeline) {
            return Err(missing_pipeline(pipeline));
        }
        let is_same =
            |execution: &Execution| execution.id == id && execution.request.pipeline == *pipeline;
        if !state.executions.iter().any(is_same) {
            return Err(refused(
                ErrorKind::NotFound,
                "PipelineExecutionNotFoundException",
                format!("pipeline `{pipeline}` has no such execution"),
            ));
        }
        Ok(ExecutionStatus {
            status: "Succeeded".into(),
            summary: None,
        })
    }
}

fn missing_pipeline(name: &PipelineName) -> Error {
    refused(
        ErrorKind::NotFound,
        "PipelineNotFoundException",
        format!("pipeline `{name}` does not exist"),
    )
}

/// Checks the limits of `StartPipelineExecution` (API reference).
fn check(pipeline: &PipelineOptions, request: &StartRequest) -> Result<()> {
    let token = &request.client_request_token;
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '-';
    let length = |text: &str, max: usize| (1..=max).contains(&text.chars().count());
    let what = if !length(token, 128) || !token.chars().all(legal) {
        "the token"
    } else if request.variables.len() > 50 {
        "more than 50 variables"
    } else if !request
        .variables
        .iter()
        .all(|(name, value)| length(name, 128) && length(value, 1000))
    {
        "a variable"
    } else if let Some(source) = &request.source
        && source.action_name != pipeline.source_action
    {
        "the source action"
    } else if let Some(source) = &request.source
        && source.object_key.is_some()
        && !pipeline.allow_key_override
    {
        "the override of the object key"
    } else {
        return Ok(());
    };
    Err(refused(
        ErrorKind::Config,
        "ValidationException",
        format!("pipeline `{}` does not accept {what}", request.pipeline),
    ))
}

fn refused(kind: ErrorKind, code: &str, message: String) -> Error {
    Error::new(kind, message).with_aws(Some(code), None)
}
