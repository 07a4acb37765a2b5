//! The `migration` function: mirrors git remotes, in any direction.
//!
//! A mapping names a source and a target. What is done is read off the target itself, so
//! the same request goes on where an earlier one stopped.

mod answer;
mod config;
mod request;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use branchline_core::archive::ZipArchiver;
use branchline_core::aws::{self, Aws};
use branchline_core::git::pack::PackLimits;
use branchline_core::lambda::{self, InvocationError};
use branchline_core::metrics::{HasMetrics, Metric, Metrics};
use branchline_core::mirror::{self, BatchLimits, LfsOptions, MirrorResult, MirrorStats};
use branchline_core::remote::open::{OpenRemote, OpenerConfig, RemoteOpener};
use branchline_core::{Error, ErrorKind, Result};
use futures_util::{StreamExt as _, stream};
use serde_json::Value;

pub use answer::{Answer, MappingAnswer, Refs, Status};
pub use config::Config;
pub use request::{Mapping, MirrorTask, Request};

/// The most mappings at once; each gets its share of the memory.
const MAPPINGS_AT_ONCE: usize = 4;
/// What a mapping needs at least, in bytes, before there is room for another one.
const MIN_MEMORY_PER_MAPPING: usize = 32 << 20;

/// The folder, among temporary ones, for copies of packs in S3: what one invocation leaves
/// there the next ones of the same environment need not read again.
const PACK_CACHE_DIR: &str = "branchline-packs";

/// What part of the memory holds files on their way into an archive; one is made at a time.
const ARCHIVE_MEMORY_DIVISOR: usize = 8;

/// What all invocations share.
pub struct Context {
    config: Config,
    remotes: Arc<dyn OpenRemote>,
    metrics: Metrics,
}

impl HasMetrics for Context {
    fn metrics(&self) -> &Metrics {
        &self.metrics
    }
}

impl Context {
    /// A context over AWS, as the `AWS_*` environment variables describe it.
    pub async fn connect(config: Config) -> Result<Self> {
        let aws = Aws::load(aws::AwsOverrides::default()).await?;
        let settings = OpenerConfig {
            http: config.http.clone(),
            kms_key_id: config.kms_key_id.clone(),
            copies: Some(config.temporary.join(PACK_CACHE_DIR)),
        };
        let archiver = ZipArchiver::new(config.memory / ARCHIVE_MEMORY_DIVISOR);
        let remotes = RemoteOpener::new(aws, &settings)?.with_archiver(Arc::new(archiver));
        let metrics = Metrics::with_limiters(remotes.limiters());
        let context = Self::new(config, Arc::new(remotes));
        Ok(Self { metrics, ..context })
    }

    /// A context over given remotes.
    pub fn new(config: Config, remotes: Arc<dyn OpenRemote>) -> Self {
        Self {
            config,
            remotes,
            metrics: Metrics::default(),
        }
    }
}

/// What became of one mapping: its answer, and its failure if it has one.
type MappingResult = (MappingAnswer, Option<Error>);

/// Does what one event asks for.
///
/// One mapping's failure does not stop the others; when any failed, so does the
/// invocation, so that Lambda tries again.
pub async fn handle(
    context: Arc<Context>,
    event: Value,
    deadline: Instant,
) -> Result<Answer, InvocationError> {
    let Some(request) = request::parse(&event)? else {
        tracing::info!("the trigger's test arrived");
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
    answer(run(&context, &request, stop.into()).await)
}

/// Works on all mappings. Those with one target take turns: they would only get in each
/// other's way.
async fn run(
    context: &Context,
    request: &Request,
    stop: tokio::time::Instant,
) -> Vec<MappingResult> {
    let mut turns: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (at, mapping) in request.mappings.iter().enumerate() {
        turns.entry(&mapping.target).or_default().push(at);
    }
    let room = (context.config.memory / MIN_MEMORY_PER_MAPPING).max(1);
    let at_once = turns.len().min(MAPPINGS_AT_ONCE).min(room).max(1);
    let share = context.config.memory / at_once;
    let turns = stream::iter(turns.into_values()).map(|turn| async move {
        let mut done = Vec::new();
        for at in turn {
            let mapping = &request.mappings[at];
            done.push((
                at,
                run_mapping(context, mapping, request.batch, share, stop).await,
            ));
        }
        done
    });
    let mut done: Vec<(usize, MappingResult)> = turns
        .buffer_unordered(at_once)
        .collect::<Vec<_>>()
        .await
        .into_iter()
        .flatten()
        .collect();
    done.sort_unstable_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, done)| done).collect()
}

async fn run_mapping(
    context: &Context,
    mapping: &Mapping,
    batch: BatchLimits,
    memory: usize,
    stop: tokio::time::Instant,
) -> MappingResult {
    let shown = || (mapping.source.clone(), mapping.target.clone());
    let started = Instant::now();
    let MirrorResult { outcome, error } = match &mapping.work {
        Err(invalid) => failed(invalid.error()),
        Ok(work) => mirror_mapping(context, work, batch, memory, stop).await,
    };
    let (source, target) = shown();
    let error = error.or_else(|| answer::rejected_refs_error(&outcome));
    let answer = MappingAnswer::new(source, target, &outcome, error.as_ref());
    // What was done counts, whatever came of it.
    let unfinished = u64::from(answer.status == Status::Incomplete);
    let mirrored = u64::from(answer.status != Status::Failed);
    context.metrics.add(Metric::Mirrors, mirrored);
    context.metrics.add(Metric::IncompleteMirrors, unfinished);
    context.metrics.add(Metric::MirrorBytes, outcome.bytes);
    tracing::info!(
        source.url = answer.source,
        target.url = answer.target,
        status = ?answer.status,
        refs.created = outcome.created,
        refs.updated = outcome.updated,
        refs.deleted = outcome.deleted,
        refs.unchanged = outcome.unchanged,
        refs.rejected = outcome.rejected.len(),
        objects = outcome.objects,
        size_bytes = outcome.bytes,
        lfs.objects = outcome.lfs.objects,
        lfs.size_bytes = outcome.lfs.bytes,
        lfs.left_out = outcome.lfs.left_out,
        duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        "worked on a mapping"
    );
    let error = error.map(|error| error.context(answer::describe(&answer, &outcome)));
    (answer, error)
}

/// A mapping of which nothing was done.
fn failed(error: Error) -> MirrorResult {
    MirrorResult {
        outcome: MirrorStats::default(),
        error: Some(error),
    }
}

async fn mirror_mapping(
    context: &Context,
    work: &MirrorTask,
    batch: BatchLimits,
    memory: usize,
    stop: tokio::time::Instant,
) -> MirrorResult {
    // A secret or a layout may have to be read first.
    let remotes = &context.remotes;
    let open = async {
        if work.clean {
            return Ok((None, remotes.open(&work.target, memory).await?));
        }
        let (source, target) = tokio::try_join!(
            remotes.open(&work.source, memory),
            remotes.open(&work.target, memory)
        )?;
        Ok((Some(source), target))
    };
    let (source, target) = match tokio::time::timeout_at(stop, open).await {
        Ok(Ok(opened)) => opened,
        Ok(Err(error)) => return failed(error),
        // Nothing was done, and it is not complete.
        Err(_) => {
            return MirrorResult {
                outcome: MirrorStats::default(),
                error: None,
            };
        }
    };
    let Some(source) = source else {
        return mirror::clean(&*target, Some(stop)).await;
    };
    let options = mirror::MirrorOptions {
        refs: work.refs.clone(),
        prune: work.prune,
        lfs: work.lfs.then_some(LfsOptions { memory: memory / 4 }),
        // What is left is for parts under way and for what is read back.
        limits: PackLimits::default().with_memory(memory / 2),
        batch,
        ..mirror::MirrorOptions::default()
    };
    mirror::run(&*source, &*target, &options, Some(stop)).await
}

fn answer(done: Vec<MappingResult>) -> Result<Answer, InvocationError> {
    let results = done
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
