//! The `migration` function: mirrors git remotes, in any direction.
//!
//! One invocation goes event -> [`Request`] -> [`Mapping`] -> two opened remotes ->
//! [`mirror::run`] -> [`Answer`]. Progress is read from the target itself, so an equal request
//! resumes where an earlier one stopped.

mod answer;
mod config;
mod fields;
mod mapping;
mod request;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use branchline_core::archive::ZipArchiver;
use branchline_core::aws::{self, Aws};
use branchline_core::git::pack::PackLimits;
use branchline_core::lambda::{self, FunctionContext, InvocationError};
use branchline_core::metrics::{HasMetrics, Metric, Metrics};
use branchline_core::mirror::{
    self, BatchLimits, LfsOptions, MirrorPreview, MirrorResult, MirrorStats,
};
use branchline_core::remote::open::{OpenRemote, OpenerConfig, RemoteOpener, RemoteSpec};
use branchline_core::{Error, ErrorKind, Result};
use futures_util::{StreamExt as _, stream};
use serde_json::Value;

pub use answer::{Answer, LfsCounts, MappingAnswer, PlanAnswer, RefCounts, Status};
pub use config::Config;
pub use mapping::{Mapping, MappingError, MirrorTask};
pub use request::Request;

/// Maximum number of concurrent mappings; the memory is divided among them.
const CONCURRENT_MAPPINGS: usize = 4;
/// Memory in bytes that each concurrent mapping must have.
const MIN_MEMORY_PER_MAPPING: usize = 32 << 20;

/// Directory of the pack cache below `TMPDIR`. Later invocations of the same execution
/// environment reuse the packs.
const PACK_CACHE_DIR: &str = "branchline-packs";

/// Divisor of the memory: this share holds the files of the one archive being written.
const ARCHIVE_MEMORY_DIVISOR: usize = 8;

/// Settings, remotes and metrics that all invocations share.
pub struct Context {
    config: Config,
    remotes: Arc<dyn OpenRemote>,
    metrics: Metrics,
}

impl FunctionContext for Context {}

impl HasMetrics for Context {
    fn metrics(&self) -> &Metrics {
        &self.metrics
    }
}

impl Context {
    /// Builds a context over AWS, as the `AWS_*` environment variables configure it.
    pub async fn connect(config: Config) -> Result<Self> {
        let aws = Aws::load(aws::AwsOverrides::default()).await?;
        let opener_config = OpenerConfig {
            http: config.http.clone(),
            encryption: config.encryption.clone(),
            pack_cache: Some(config.temporary.join(PACK_CACHE_DIR)),
            ..OpenerConfig::default()
        };
        let archiver = ZipArchiver::new(config.memory / ARCHIVE_MEMORY_DIVISOR);
        let remotes = RemoteOpener::new(aws, &opener_config)?.with_archiver(Arc::new(archiver));
        let metrics = Metrics::with_limiters(remotes.limiters());
        let context = Self::new(config, Arc::new(remotes));
        Ok(Self { metrics, ..context })
    }

    /// Builds a context that opens remotes with `remotes`.
    pub fn new(config: Config, remotes: Arc<dyn OpenRemote>) -> Self {
        Self {
            config,
            remotes,
            metrics: Metrics::default(),
        }
    }
}

/// Answer of one mapping, and its error if it failed.
type MappingResult = (MappingAnswer, Option<Error>);

/// Handles one event.
///
/// One mapping's failure does not stop the others. If any mapping failed, the invocation
/// fails after the last one, so that Lambda retries.
pub async fn handle(
    context: Arc<Context>,
    event: Value,
    deadline: Instant,
) -> Result<Answer, InvocationError> {
    let Some(request) = request::parse(&event)? else {
        tracing::info!("received the trigger's test event");
        return Ok(Answer {
            status: Status::Complete,
            mappings: Vec::new(),
        });
    };
    let margin = context.config.margin;
    let stop = deadline
        .checked_sub(margin)
        .filter(|stop| *stop > Instant::now())
        .ok_or_else(|| {
            Error::new(
                ErrorKind::Deadline,
                format!(
                    "less than the {} seconds of `DEADLINE_MARGIN_SECONDS` are left",
                    margin.as_secs()
                ),
            )
            .with_hint("raise the function's timeout, or lower `DEADLINE_MARGIN_SECONDS`")
        })?;
    answer(run_mappings(&context, &request, stop.into()).await)
}

/// Runs all mappings. Mappings with the same target run one after the other, because
/// concurrent pushes to one target conflict.
async fn run_mappings(
    context: &Context,
    request: &Request,
    stop: tokio::time::Instant,
) -> Vec<MappingResult> {
    let mut by_target: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (index, mapping) in request.mappings.iter().enumerate() {
        let target = mapping.target_location();
        by_target.entry(target).or_default().push(index);
    }
    let max_concurrent = (context.config.memory / MIN_MEMORY_PER_MAPPING).max(1);
    let concurrent = by_target
        .len()
        .min(CONCURRENT_MAPPINGS)
        .min(max_concurrent)
        .max(1);
    let memory = context.config.memory / concurrent;
    let targets = stream::iter(by_target.into_values()).map(|indices| async move {
        let mut results = Vec::new();
        for index in indices {
            let mapping = &request.mappings[index];
            let limits = MappingLimits {
                batch: request.batch,
                memory,
                stop,
            };
            let result = run_mapping(context, mapping, limits).await;
            results.push((index, result));
        }
        results
    });
    let mut results: Vec<(usize, MappingResult)> = targets
        .buffer_unordered(concurrent)
        .collect::<Vec<_>>()
        .await
        .into_iter()
        .flatten()
        .collect();
    results.sort_unstable_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}

/// Limits of the work on one mapping.
#[derive(Debug, Clone, Copy)]
struct MappingLimits {
    batch: BatchLimits,
    /// Bytes.
    memory: usize,
    stop: tokio::time::Instant,
}

/// Mirrors one mapping, or previews that, counts it and logs it.
async fn run_mapping(context: &Context, mapping: &Mapping, limits: MappingLimits) -> MappingResult {
    let started = Instant::now();
    let plan = mapping.task.as_ref().is_ok_and(|task| task.plan);
    let task = mapping.task.as_ref().map_err(MappingError::error);
    let task = task.and_then(|task| allowed_roles(&context.config, task));
    let (MirrorResult { stats, error }, preview) = match task {
        Err(invalid) => (failed(invalid), None),
        Ok(task) if plan => preview_mapping(context, task, limits).await,
        Ok(task) => (mirror_mapping(context, task, limits).await, None),
    };
    let (source, target) = (mapping.source.clone(), mapping.target.clone());
    let error = error.or_else(|| {
        let rejected = answer::rejected_refs_error(&stats);
        rejected.filter(|_| preview.is_none())
    });
    let answer = MappingAnswer::new(source, target, &stats, error.as_ref());
    let answer = answer.with_plan(preview.as_ref());
    if !plan {
        // Bytes count for failed mappings too, because they were sent.
        let unfinished = u64::from(answer.status == Status::Incomplete);
        let mirrored = u64::from(answer.status != Status::Failed);
        context.metrics.add(Metric::Mirrors, mirrored);
        context.metrics.add(Metric::IncompleteMirrors, unfinished);
        context.metrics.add(Metric::MirrorBytes, stats.bytes);
        let lfs = &stats.lfs;
        context.metrics.add(Metric::MirrorLfsBytes, lfs.bytes);
        context.metrics.add(Metric::MissingLfsObjects, lfs.missing);
        for warning in &answer.warnings {
            tracing::warn!(
                source.url = answer.source,
                target.url = answer.target,
                "{warning}"
            );
        }
    }
    tracing::info!(
        source.url = answer.source,
        target.url = answer.target,
        status = ?answer.status,
        plan,
        refs.created = answer.refs.created,
        refs.updated = answer.refs.updated,
        refs.forced = answer.refs.forced,
        refs.deleted = answer.refs.deleted,
        refs.unchanged = answer.refs.unchanged,
        refs.rejected = answer.refs.rejected,
        refs.set_aside = answer.refs.set_aside,
        objects = stats.objects,
        size_bytes = stats.bytes,
        lfs.objects = stats.lfs.objects,
        lfs.size_bytes = stats.lfs.bytes,
        lfs.missing = stats.lfs.missing,
        lfs.left_out = stats.lfs.left_out,
        duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        "worked on a mapping"
    );
    let error = error.map(|error| error.context(answer::describe(&answer, &stats)));
    (answer, error)
}

/// Result of a mapping that failed before anything was mirrored.
fn failed(error: Error) -> MirrorResult {
    MirrorResult {
        stats: MirrorStats::default(),
        error: Some(error),
    }
}

/// Result of a mapping whose remotes could not be opened in time: no error, because an equal
/// request resumes it.
fn unopened() -> MirrorResult {
    MirrorResult {
        stats: MirrorStats::default(),
        error: None,
    }
}

fn mirror_options(task: &MirrorTask, limits: MappingLimits) -> mirror::MirrorOptions {
    let memory = limits.memory;
    mirror::MirrorOptions {
        refs: task.refs.clone(),
        prune: task.prune,
        prune_all: task.prune_all,
        fast_forward_only: !task.force,
        lfs: Some(LfsOptions {
            memory: memory / 4,
            policy: task.lfs,
        }),
        // The last quarter is for upload parts in flight and for objects read back.
        limits: PackLimits::default().with_memory(memory / 2),
        batch: limits.batch,
        ..mirror::MirrorOptions::default()
    }
}

/// Opens both remotes of a mapping and mirrors one into the other.
async fn mirror_mapping(
    context: &Context,
    task: &MirrorTask,
    limits: MappingLimits,
) -> MirrorResult {
    // Opening counts against `stop`, because it may read a secret or list a bucket.
    let remotes = &context.remotes;
    let MappingLimits { memory, stop, .. } = limits;
    let open = async {
        if task.clean {
            return Ok((None, remotes.open(&task.target, memory).await?));
        }
        let (source, target) = tokio::try_join!(
            remotes.open(&task.source, memory),
            remotes.open(&task.target, memory)
        )?;
        Ok((Some(source), target))
    };
    let (source, target) = match tokio::time::timeout_at(stop, open).await {
        Ok(Ok(opened)) => opened,
        Ok(Err(error)) => return failed(with_stack_hint(error)),
        Err(_) => return unopened(),
    };
    let Some(source) = source else {
        return mirror::clean(&*target, Some(stop)).await;
    };
    let options = mirror_options(task, limits);
    let result = mirror::run(&*source, &*target, &options, Some(stop)).await;
    MirrorResult {
        error: result.error.map(with_stack_hint),
        ..result
    }
}

/// Returns the task, unless it names a role that the settings do not allow.
fn allowed_roles<'a>(config: &Config, task: &'a MirrorTask) -> Result<&'a MirrorTask> {
    let mut roles = task.roles();
    match roles.find(|role| !config.roles.allow(role)) {
        None => Ok(task),
        Some(role) => Err(Error::new(
            ErrorKind::InvalidEvent,
            format!("`roleArn` is `{role}`, which `ASSUME_ROLE_ARNS` does not allow"),
        )
        .with_hint("correct the mapping, or add the role to the stack's `AssumeRoleArns`")),
    }
}

/// Names the stack's parameter that grants access to a bucket.
fn with_stack_hint(error: Error) -> Error {
    let is_of_s3 = |hint: &str| hint.contains("`s3:");
    match error.hint().filter(|hint| is_of_s3(hint)) {
        Some(hint) if error.kind() == ErrorKind::AccessDenied => {
            let hint =
                format!("{hint}; a stack grants access to the bucket of `MirrorBucket` only");
            error.with_hint(hint)
        }
        _ => error,
    }
}

/// Opens both remotes of a mapping and computes what mirroring would change. A repository that
/// the mirroring would create is not created.
async fn preview_mapping(
    context: &Context,
    task: &MirrorTask,
    limits: MappingLimits,
) -> (MirrorResult, Option<MirrorPreview>) {
    let remotes = &context.remotes;
    let MappingLimits { memory, stop, .. } = limits;
    let target = RemoteSpec {
        create: false,
        ..task.target.clone()
    };
    let open = async {
        tokio::try_join!(
            remotes.open(&task.source, memory),
            remotes.open(&target, memory)
        )
    };
    let (source, target) = match tokio::time::timeout_at(stop, open).await {
        Ok(Ok(opened)) => opened,
        Ok(Err(error)) => return (failed(with_stack_hint(error)), None),
        Err(_) => return (unopened(), None),
    };
    let options = mirror_options(task, limits);
    let creates = task.target.create;
    match mirror::preview(&*source, &*target, &options, creates, Some(stop)).await {
        Ok(preview) => {
            let stats = preview.stats.clone();
            (MirrorResult { stats, error: None }, Some(preview))
        }
        Err(error) => (failed(with_stack_hint(error)), None),
    }
}

fn answer(results: Vec<MappingResult>) -> Result<Answer, InvocationError> {
    let results = results
        .into_iter()
        .map(|(answer, error)| error.map_or(Ok(answer), Err))
        .collect();
    let mappings: Vec<MappingAnswer> = lambda::collect_results(results)?;
    let complete = mappings
        .iter()
        .all(|mapping| mapping.status == Status::Complete);
    Ok(Answer {
        status: if complete {
            Status::Complete
        } else {
            Status::Incomplete
        },
        mappings,
    })
}
