//! The operations of CodePipeline.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::action::{action_executions, log_end};
use super::execution::{Sources, fetch_sources};
use super::model::{Execution, Pipeline, Status, now, prune};
use super::notices::state_change;
use super::state::{State, StateFile};
use super::validate;
use crate::account::Account;
use crate::aws_json::{ApiError, ApiResult, unknown_operation};
use crate::event::EventSink;

/// Operations that the service offers.
const OPERATIONS: [&str; 10] = [
    "CreatePipeline",
    "DeletePipeline",
    "GetPipeline",
    "GetPipelineExecution",
    "GetPipelineState",
    "ListActionExecutions",
    "ListPipelineExecutions",
    "ListPipelines",
    "StartPipelineExecution",
    "UpdatePipeline",
];

/// Settings of the service.
#[derive(Debug, Clone)]
pub struct PipelineOptions {
    /// The data folder.
    pub data: PathBuf,
    /// Maximum number of concurrent executions of one pipeline; AWS publishes no number.
    pub max_concurrent_executions: Option<usize>,
}

/// CodePipeline. A handle: clones share the pipelines.
#[derive(Clone)]
pub struct PipelineService(Arc<Inner>);

struct Inner {
    account: Account,
    options: PipelineOptions,
    sources: Sources,
    events: Arc<dyn EventSink>,
    file: StateFile,
    state: Mutex<State>,
    running: TaskTracker,
    stop: CancellationToken,
}

impl PipelineService {
    /// Opens the pipelines of the data folder and resumes interrupted
    /// executions. Must be called within a tokio runtime.
    pub fn open(
        account: Account,
        options: PipelineOptions,
        sources: Sources,
        events: Arc<dyn EventSink>,
    ) -> std::io::Result<Self> {
        let (file, state) = StateFile::open(&options.data)?;
        let unfinished: Vec<String> = state
            .executions
            .iter()
            .filter(|execution| execution.status == Status::InProgress)
            .map(|execution| execution.id.clone())
            .collect();
        let service = Self(Arc::new(Inner {
            account,
            options,
            sources,
            events,
            file,
            state: Mutex::new(state),
            running: TaskTracker::new(),
            stop: CancellationToken::new(),
        }));
        for id in unfinished {
            service.spawn(id);
        }
        Ok(service)
    }

    /// Answers one operation (`StartPipelineExecution`) requested by `principal_arn`.
    pub fn call(&self, operation: &str, input: &Value, principal_arn: &str) -> ApiResult {
        match operation {
            "CreatePipeline" => self.create(input),
            "GetPipeline" => self.get(input),
            "ListPipelines" => self.list(input),
            "UpdatePipeline" => self.update(input),
            "DeletePipeline" => self.delete(input),
            "StartPipelineExecution" => self.start(input, principal_arn),
            "GetPipelineExecution" => self.get_execution(input),
            "ListPipelineExecutions" => self.list_executions(input),
            "ListActionExecutions" => self.list_actions(input),
            "GetPipelineState" => self.get_state(input),
            _ => Err(unknown_operation("CodePipeline", operation, OPERATIONS)),
        }
    }

    /// Returns a function that starts an execution of a pipeline as a rule's target, with the
    /// `sourceRevisions` and `variables` of its input. It keeps the service from nothing: once the
    /// service is dropped, it fails.
    pub fn starter(&self) -> impl Fn(&str, &Value) -> Result<(), String> + Send + Sync + use<> {
        let service = Arc::downgrade(&self.0);
        move |name, input| {
            let service = service.upgrade().map(Self);
            let service = service.ok_or("the server is shutting down")?;
            let input = prune(json!({
                "name": name,
                "sourceRevisions": input["sourceRevisions"],
                "variables": input["variables"],
            }));
            let principal = "arn:aws:sts::events:assumed-role/rule/target";
            let started = service.start(&input, principal);
            started.map(drop).map_err(|error| error.message)
        }
    }

    /// Returns all executions of all pipelines, in the order of their start.
    pub fn executions(&self) -> Vec<Execution> {
        self.state().executions.clone()
    }

    /// Returns the number of running executions.
    pub fn pending(&self) -> usize {
        self.0.running.len()
    }

    /// Stops the running executions; they resume when the data folder is opened again.
    pub async fn shutdown(&self) {
        self.0.stop.cancel();
        self.0.running.close();
        self.0.running.wait().await;
    }

    fn create(&self, input: &Value) -> ApiResult {
        let mut declaration = validate::declaration(input)?;
        declaration["version"] = json!(1);
        let time = now();
        let pipeline = Pipeline {
            declaration,
            created: time,
            updated: time,
        };
        let mut state = self.state();
        if state.pipelines.contains_key(pipeline.name()) {
            return Err(ApiError::new(
                "PipelineNameInUseException",
                format!(
                    "A pipeline with the name '{}' already exists",
                    pipeline.name()
                ),
            ));
        }
        let answer = json!({ "pipeline": pipeline.declaration });
        state.pipelines.insert(pipeline.name().to_owned(), pipeline);
        self.save(&state)?;
        Ok(answer)
    }

    fn update(&self, input: &Value) -> ApiResult {
        let mut declaration = validate::declaration(input)?;
        let name = validate::pipeline_name(&declaration, "name")?.to_owned();
        let mut state = self.state();
        let old = state.pipelines.get_mut(&name);
        let old = old.ok_or_else(|| self.not_found(&name))?;
        declaration["version"] = json!(old.version() + 1);
        old.declaration = declaration.clone();
        old.updated = now();
        self.save(&state)?;
        Ok(json!({ "pipeline": declaration }))
    }

    fn get(&self, input: &Value) -> ApiResult {
        let name = validate::pipeline_name(input, "name")?;
        let pipeline = self.find(name)?;
        if let Some(version) = input["version"].as_u64()
            && version != pipeline.version()
        {
            return Err(ApiError::new(
                "PipelineVersionNotFoundException",
                format!(
                    "Pipeline {name} has no version {version} here; the development server keeps \
                     the newest only"
                ),
            ));
        }
        let Account { region, id, .. } = &self.0.account;
        Ok(json!({
            "pipeline": pipeline.declaration,
            "metadata": {
                "pipelineArn": format!("arn:aws:codepipeline:{region}:{id}:{name}"),
                "created": pipeline.created,
                "updated": pipeline.updated,
            },
        }))
    }

    fn list(&self, input: &Value) -> ApiResult {
        let state = self.state();
        let all: Vec<Value> = state.pipelines.values().map(Pipeline::summary).collect();
        let (items, next) = page(input, &all, 1000)?;
        Ok(prune(json!({ "pipelines": items, "nextToken": next })))
    }

    fn delete(&self, input: &Value) -> ApiResult {
        let name = validate::pipeline_name(input, "name")?;
        let mut state = self.state();
        // Deleting a missing pipeline is not an error.
        state.pipelines.remove(name);
        state
            .executions
            .retain(|execution| execution.pipeline != name);
        self.save(&state)?;
        Ok(Value::Null)
    }

    fn start(&self, input: &Value, principal_arn: &str) -> ApiResult {
        let name = validate::pipeline_name(input, "name")?;
        let token = validate::token(input)?;
        let mut state = self.state();
        let pipeline = state.pipelines.get(name);
        let pipeline = pipeline.ok_or_else(|| self.not_found(name))?;
        let overrides = validate::overrides(input, pipeline)?;
        let variables = validate::variables(input, pipeline)?;
        let parameters = json!({
            "sourceRevisions": input["sourceRevisions"],
            "variables": input["variables"],
        });
        let of_pipeline = || state.executions.iter().filter(|e| e.pipeline == name);
        if let Some(token) = &token
            && let Some((earlier, (_, earlier_parameters))) = of_pipeline()
                .filter_map(|e| Some((e, e.token.as_ref()?)))
                .find(|(_, (known, _))| known == token)
        {
            if *earlier_parameters != parameters {
                return Err(ApiError::new(
                    "ValidationException",
                    format!(
                        "clientRequestToken {token} was used with other parameters for execution {}",
                        earlier.id
                    ),
                ));
            }
            return Ok(json!({ "pipelineExecutionId": earlier.id }));
        }
        let running = of_pipeline().filter(|e| e.status == Status::InProgress);
        if let Some(most) = self.0.options.max_concurrent_executions
            && running.count() >= most
        {
            return Err(ApiError::new(
                "ConcurrentPipelineExecutionsLimitExceededException",
                format!("Pipeline {name} has reached its limit of {most} concurrent executions"),
            ));
        }
        let time = now();
        let execution = Execution {
            id: Uuid::new_v4().to_string(),
            pipeline: name.to_owned(),
            pipeline_version: pipeline.version(),
            execution_mode: pipeline.text("executionMode").to_owned(),
            status: Status::InProgress,
            status_summary: None,
            started: time,
            updated: time,
            principal_arn: principal_arn.to_owned(),
            variables,
            sources: Vec::new(),
            commits: Vec::new(),
            failure: None,
            overrides,
            token: token.map(|token| (token, parameters)),
        };
        let id = execution.id.clone();
        let started = state_change(&self.0.account, &execution, "STARTED");
        state.executions.push(execution);
        self.save(&state)?;
        drop(state);
        self.0.events.put(started);
        tracing::info!(
            pipeline.name = name,
            execution.id = id,
            "execution {id} of pipeline `{name}` started"
        );
        self.spawn(id.clone());
        Ok(json!({ "pipelineExecutionId": id }))
    }

    fn spawn(&self, id: String) {
        let service = self.clone();
        self.0.running.spawn(async move {
            tokio::select! {
                () = service.0.stop.cancelled() => {}
                () = service.run(&id) => {}
            }
        });
    }

    async fn run(&self, id: &str) {
        let found = {
            let state = self.state();
            let execution = state.executions.iter().find(|e| e.id == id).cloned();
            execution.and_then(|e| Some((state.pipelines.get(&e.pipeline)?.clone(), e)))
        };
        let Some((pipeline, execution)) = found else {
            return;
        };
        let fetched = fetch_sources(&pipeline, &execution, &self.0.sources).await;
        log_end(&execution, &fetched);
        let mut state = self.state();
        let mut ended = None;
        if let Some(execution) = state.executions.iter_mut().find(|e| e.id == id) {
            let (status, name) = match &fetched.failure {
                None => (Status::Succeeded, "SUCCEEDED"),
                Some(_) => (Status::Failed, "FAILED"),
            };
            execution.status = status;
            execution.status_summary = fetched
                .failure
                .as_ref()
                .map(|failure| format!("source action {}: {}", failure.action, failure.message));
            execution.sources = fetched.sources;
            execution.commits = fetched.commits;
            execution.failure = fetched.failure;
            execution.updated = now();
            ended = Some(state_change(&self.0.account, execution, name));
        }
        if let Err(error) = self.save(&state) {
            tracing::error!(
                "the end of execution {id} could not be stored: {}",
                error.message
            );
        }
        drop(state);
        if let Some(ended) = ended {
            self.0.events.put(ended);
        }
    }

    fn get_execution(&self, input: &Value) -> ApiResult {
        let name = validate::pipeline_name(input, "pipelineName")?;
        let id = validate::text(input, "pipelineExecutionId")?;
        self.find(name)?;
        let state = self.state();
        let execution = state
            .executions
            .iter()
            .find(|e| e.id == id && e.pipeline == name)
            .ok_or_else(|| {
                ApiError::new(
                    "PipelineExecutionNotFoundException",
                    format!("Pipeline {name} has no execution with the id '{id}'"),
                )
            })?;
        Ok(json!({ "pipelineExecution": execution.detail() }))
    }

    fn list_executions(&self, input: &Value) -> ApiResult {
        let name = validate::pipeline_name(input, "pipelineName")?;
        self.find(name)?;
        let state = self.state();
        let all: Vec<Value> = state
            .executions
            .iter()
            .rev()
            .filter(|execution| execution.pipeline == name)
            .map(Execution::summary)
            .collect();
        let (items, next) = page(input, &all, 100)?;
        Ok(prune(
            json!({ "pipelineExecutionSummaries": items, "nextToken": next }),
        ))
    }

    /// Lists the source actions of one execution or of all, the newest execution first.
    fn list_actions(&self, input: &Value) -> ApiResult {
        let name = validate::pipeline_name(input, "pipelineName")?;
        let pipeline = self.find(name)?;
        let wanted = input["filter"]["pipelineExecutionId"].as_str();
        let state = self.state();
        let executions = state.executions.iter().rev().filter(|execution| {
            execution.pipeline == name && wanted.is_none_or(|id| id == execution.id)
        });
        let all: Vec<Value> = executions
            .flat_map(|execution| action_executions(&pipeline, execution))
            .collect();
        if let Some(id) = wanted
            && !state
                .executions
                .iter()
                .any(|e| e.id == id && e.pipeline == name)
        {
            return Err(ApiError::new(
                "PipelineExecutionNotFoundException",
                format!("Pipeline {name} has no execution with the id '{id}'"),
            ));
        }
        let (items, next) = page(input, &all, 100)?;
        Ok(prune(
            json!({ "actionExecutionDetails": items, "nextToken": next }),
        ))
    }

    fn get_state(&self, input: &Value) -> ApiResult {
        let name = validate::pipeline_name(input, "name")?;
        let pipeline = self.find(name)?;
        let state = self.state();
        let latest = state.executions.iter().rfind(|e| e.pipeline == name);
        let mut stages: Vec<Value> = Vec::new();
        for (stage, action) in pipeline.actions() {
            if stages.last().is_none_or(|last| last["stageName"] != stage) {
                // Only the source stage is executed.
                let entered = latest.filter(|_| action.category == "Source");
                stages.push(prune(json!({
                    "stageName": stage,
                    "actionStates": [],
                    "latestExecution": entered.map(|e| json!({
                        "pipelineExecutionId": e.id,
                        "status": e.status.name(),
                    })),
                })));
            }
            if let Some(actions) = stages
                .last_mut()
                .and_then(|stage| stage["actionStates"].as_array_mut())
            {
                actions.push(json!({ "actionName": action.name }));
            }
        }
        Ok(json!({
            "pipelineName": name,
            "pipelineVersion": pipeline.version(),
            "stageStates": stages,
            "created": pipeline.created,
            "updated": pipeline.updated,
        }))
    }

    fn find(&self, name: &str) -> Result<Pipeline, ApiError> {
        let found = self.state().pipelines.get(name).cloned();
        found.ok_or_else(|| self.not_found(name))
    }

    fn not_found(&self, name: &str) -> ApiError {
        ApiError::new(
            "PipelineNotFoundException",
            format!(
                "Account '{}' does not have a pipeline with name '{name}'",
                self.0.account.id
            ),
        )
    }

    fn save(&self, state: &State) -> Result<(), ApiError> {
        self.0.file.save(state).map_err(ApiError::internal)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns one page of `all`: the token is the index of the next item.
fn page(input: &Value, all: &[Value], most: usize) -> Result<(Vec<Value>, Value), ApiError> {
    let start = match input["nextToken"].as_str() {
        None => 0,
        Some(token) => token.parse::<usize>().map_err(|_| {
            ApiError::new("InvalidNextTokenException", "The next token is not valid")
        })?,
    };
    let size = match &input["maxResults"] {
        Value::Null => most,
        value => value
            .as_u64()
            .and_then(|size| usize::try_from(size).ok())
            .filter(|size| (1..=most).contains(size))
            .ok_or_else(|| {
                ApiError::new(
                    "ValidationException",
                    format!("maxResults must be 1 to {most}"),
                )
            })?,
    };
    let end = start.saturating_add(size).min(all.len());
    let items = all.get(start..end).unwrap_or_default().to_vec();
    let next = if end < all.len() {
        Value::from(end.to_string())
    } else {
        Value::Null
    };
    Ok((items, next))
}
