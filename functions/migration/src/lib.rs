//! The `migration` function: mirrors git remotes, in any direction.
//!
//! One invocation goes event -> [`Request`] -> [`Mapping`] -> two opened remotes ->
//! [`mirror::run_mapping`] -> [`Answer`]. Progress is read from the target itself, so an equal
//! request resumes where an earlier one stopped.

mod answer;
mod config;
mod request;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use branchline_core::archive::ZipArchiver;
use branchline_core::aws::{self, Aws};
use branchline_core::event_bus::client::SdkEventBus;
use branchline_core::event_bus::{Announcement, EventBus, MirrorCounts, Outbox};
use branchline_core::lambda::{self, FunctionContext, InvocationError};
use branchline_core::metrics::{HasMetrics, Metric, Metrics};
use branchline_core::mirror::{self, MappingLimits, MappingRun, MirrorResult, MirrorStats};
pub use branchline_core::mirror::{
    LfsCounts, Mapping, MappingAnswer, MappingError, MappingStatus as Status,
    MirrorRequest as Request, MirrorTask, PlanAnswer, RefCounts,
};
use branchline_core::remote::open::{OpenRemote, OpenerConfig, RemoteOpener};
use branchline_core::remote::url::RemoteUrl;
use branchline_core::retry::{RetryPolicy, Retrying};
use branchline_core::storage::DeniedDeletions;
use branchline_core::{Error, ErrorKind, Result};
use futures_util::stream;
use serde_json::Value;

pub use answer::Answer;
pub use config::Config;

/// Maximum number of concurrent mappings; the memory is divided among them.
const CONCURRENT_MAPPINGS: usize = 4;
/// Memory in bytes that each concurrent mapping must have.
const MIN_MEMORY_PER_MAPPING: usize = 32 << 20;

/// Maximum number of concurrent requests to the event bus.
const CONCURRENT_EVENTS: usize = 2;

/// Directory of the pack cache below `TMPDIR`. Later invocations of the same execution
/// environment reuse the packs.
const PACK_CACHE_DIR: &str = "branchline-packs";

/// Divisor of the memory: this share holds the files of the one archive being written.
const ARCHIVE_MEMORY_DIVISOR: usize = 8;

/// Settings, remotes and metrics that all invocations share.
pub struct Context {
    config: Config,
    remotes: Arc<dyn OpenRemote>,
    denied_deletions: DeniedDeletions,
    outbox: Outbox,
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
        let bus = config.event_bus.clone().map(|name| -> Arc<dyn EventBus> {
            let policy = RetryPolicy::new(CONCURRENT_EVENTS);
            Arc::new(Retrying::new(SdkEventBus::new(&aws, name), policy))
        });
        let remotes = RemoteOpener::new(aws, &opener_config)?.with_archiver(Arc::new(archiver));
        let metrics = Metrics::with_limiters(remotes.limiters());
        let denied_deletions = remotes.denied_deletions().clone();
        let context = Self::new(config, Arc::new(remotes)).with_bus(bus);
        Ok(Self {
            denied_deletions,
            metrics,
            ..context
        })
    }

    /// Sets the bus of the function's own events.
    #[must_use]
    pub fn with_bus(mut self, bus: Option<Arc<dyn EventBus>>) -> Self {
        self.outbox = Outbox::new(bus);
        self
    }

    /// Builds a context that opens remotes with `remotes`.
    pub fn new(config: Config, remotes: Arc<dyn OpenRemote>) -> Self {
        Self {
            config,
            remotes,
            denied_deletions: DeniedDeletions::default(),
            outbox: Outbox::default(),
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
        return Ok(Answer::new(Vec::new()));
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
    let results = run_mappings(&context, &request, stop.into()).await;
    context.outbox.flush().await;
    answer(results)
}

/// Runs all mappings, side by side where their targets differ.
async fn run_mappings(
    context: &Context,
    request: &Request,
    stop: tokio::time::Instant,
) -> Vec<MappingResult> {
    let mappings = request.mappings.iter();
    let targets: BTreeSet<String> = mappings.map(Mapping::target_location).collect();
    let max_concurrent = (context.config.memory / MIN_MEMORY_PER_MAPPING).max(1);
    let concurrent = targets
        .len()
        .min(CONCURRENT_MAPPINGS)
        .min(max_concurrent)
        .max(1);
    let limits = MappingLimits {
        batch: request.batch,
        memory: context.config.memory / concurrent,
        tables: context.config.tables,
        stop: Some(stop),
        release: context.config.release_limit(),
        meter: None,
    };
    mirror::run_in_turns(
        stream::iter(&request.mappings),
        |mapping| mapping.target_location(),
        concurrent,
        |_, mapping| run_mapping(context, mapping, &limits),
    )
    .await
}

/// Mirrors one mapping, or previews that, counts it and logs it.
async fn run_mapping(
    context: &Context,
    mapping: &Mapping,
    limits: &MappingLimits,
) -> MappingResult {
    let started = Instant::now();
    let plan = mapping.task.as_ref().is_ok_and(|task| task.plan);
    let task = mapping.task.as_ref().map_err(MappingError::error);
    let task = task.and_then(|task| check_roles(&context.config, task));
    let MappingRun { result, preview } = match task {
        Err(invalid) => MappingRun::failed(invalid),
        Ok(task) => mirror::run_mapping(&*context.remotes, task, limits).await,
    };
    let MirrorResult { stats, error } = result;
    let error = error.map(with_stack_hint);
    let (source, target) = (mapping.source.clone(), mapping.target.clone());
    let error = error.or_else(|| {
        let rejected = mirror::rejected_refs_error(&stats);
        rejected.filter(|_| preview.is_none())
    });
    let answer = MappingAnswer::new(source, target, &stats, error.as_ref());
    let mut answer = answer.with_plan(preview.as_ref());
    answer.warnings.extend(denied_deletion(context, mapping));
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
        announce(context, &answer, &stats, error.as_ref());
        for warning in &answer.warnings {
            tracing::warn!(
                source.url = answer.source,
                target.url = answer.target,
                "{warning}"
            );
        }
        for warning in mirror::unanswered_ref_warnings(&stats) {
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
        status = answer.status.name(),
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
        "processed a mapping"
    );
    let error = error.map(|error| error.context(mirror::describe(&answer, &stats)));
    (answer, error)
}

/// Announces that a mapping is complete, or failed.
fn announce(context: &Context, answer: &MappingAnswer, stats: &MirrorStats, error: Option<&Error>) {
    let (source, target) = (answer.source.clone(), answer.target.clone());
    match (error, answer.status) {
        (Some(error), _) => context
            .outbox
            .add(|| Announcement::mirror_failed(source, target, error)),
        (None, Status::Complete) => context.outbox.add(|| Announcement::MirrorCompleted {
            source,
            target,
            counts: MirrorCounts {
                created: stats.created,
                updated: stats.updated,
                deleted: stats.deleted,
                objects: stats.objects,
                bytes: stats.bytes,
            },
        }),
        // The next invocation continues, or the failure is in the answer.
        (None, _) => {}
    }
}

/// Describes a deletion in the target's bucket that S3 denied, although the mapping may be complete.
fn denied_deletion(context: &Context, mapping: &Mapping) -> Option<String> {
    let RemoteUrl::S3(url) = &mapping.task.as_ref().ok()?.target.url else {
        return None;
    };
    let report = context.denied_deletions.take(&url.bucket)?;
    Some(format!("replaced or temporary objects are left: {report}"))
}

/// Returns the task, unless it names a role that the settings do not allow.
fn check_roles<'a>(config: &Config, task: &'a MirrorTask) -> Result<&'a MirrorTask> {
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
    let is_of_memory = |hint: &str| hint.starts_with("raise the memory limit");
    match error.hint() {
        Some(hint) if error.kind() == ErrorKind::AccessDenied && is_of_s3(hint) => {
            let hint =
                format!("{hint}; a stack grants access to the bucket of `MirrorBucket` only");
            error.with_hint(hint)
        }
        Some(hint) if error.kind() == ErrorKind::FileTooLarge && is_of_memory(hint) => {
            let hint = format!("{hint}: that of a stack is `MigrationMemorySize`");
            error.with_hint(hint)
        }
        _ => error,
    }
}

fn answer(results: Vec<MappingResult>) -> Result<Answer, InvocationError> {
    let results = results
        .into_iter()
        .map(|(answer, error)| error.map_or(Ok(answer), Err))
        .collect();
    lambda::collect_results(results).map(Answer::new)
}
