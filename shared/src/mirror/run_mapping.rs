//! Runs one mapping of a request: opens its remotes, then mirrors, previews or cleans.

use std::sync::Arc;

use tokio::time::Instant;

use super::attempt::{ReleaseLimit, before_deadline};
use super::clean::clean_within;
use super::request::MirrorTask;
use super::{
    BatchLimits, IdleList, LfsOptions, MirrorMeter, MirrorOptions, MirrorPreview, MirrorResult,
    MirrorStats, TableMemory, mirror_with_stats, preview,
};
use crate::error::{Error, Result};
use crate::git::pack::PackLimits;
use crate::remote::Remote;
use crate::remote::open::{OpenRemote, RemoteSpec};

/// Chance, of 256, that a run without news lists temporary objects in place of LFS objects.
const LEFTOVER_CHANCE_OF_256: u8 = 16;

/// Limits of the work on one mapping.
#[derive(Debug, Clone)]
pub struct MappingLimits {
    /// Commits and bytes of one push.
    pub batch: BatchLimits,
    /// Memory in bytes.
    pub memory: usize,
    /// Memory for refs and objects, which is not divided among mappings.
    pub tables: TableMemory,
    /// Time at which the mapping is left incomplete.
    pub stop: Option<Instant>,
    /// Wait for the release of locks after `stop`.
    pub release: ReleaseLimit,
    /// Counters that another task reads meanwhile.
    pub meter: Option<Arc<MirrorMeter>>,
}

/// Result of a mapping, with what it would change if its task only plans.
#[derive(Debug)]
pub struct MappingRun {
    /// Counts, and the failure if any.
    pub result: MirrorResult,
    /// Changes that a run would make.
    pub preview: Option<MirrorPreview>,
}

impl MappingRun {
    /// Makes the result of a mapping that failed before anything was mirrored.
    pub fn failed(error: Error) -> Self {
        Self {
            result: MirrorResult {
                stats: MirrorStats::default(),
                error: Some(error),
            },
            preview: None,
        }
    }

    /// Makes the result of a mapping whose remotes could not be opened in time: not an error,
    /// because an equal request resumes it.
    fn unopened() -> Self {
        Self {
            result: MirrorResult {
                stats: MirrorStats::default(),
                error: None,
            },
            preview: None,
        }
    }
}

/// Runs the task of a mapping.
pub async fn run_mapping(
    remotes: &dyn OpenRemote,
    task: &MirrorTask,
    limits: &MappingLimits,
) -> MappingRun {
    if task.plan {
        return preview_mapping(remotes, task, limits).await;
    }
    let opened = open(remotes, task, &task.target, limits);
    // Opening counts against `stop`, because it may read a secret or list a bucket.
    let (source, target) = match before_deadline(limits.stop, opened).await {
        Some(Ok(opened)) => opened,
        Some(Err(error)) => return MappingRun::failed(error),
        None => return MappingRun::unopened(),
    };
    let result = match source {
        None => clean_within(&*target, limits.stop, limits.release).await,
        Some(source) => {
            let options = options(task, limits);
            mirror_with_stats(&*source, &*target, &options, limits.stop).await
        }
    };
    MappingRun {
        result,
        preview: None,
    }
}

/// Opens the target, and the source unless the task only cleans.
async fn open(
    remotes: &dyn OpenRemote,
    task: &MirrorTask,
    target: &RemoteSpec,
    limits: &MappingLimits,
) -> Result<(Option<Arc<dyn Remote>>, Arc<dyn Remote>)> {
    let memory = limits.memory;
    if task.clean && !task.plan {
        return Ok((None, remotes.open(target, memory).await?));
    }
    let (source, target) = tokio::try_join!(
        remotes.open_source(&task.source, memory),
        remotes.open(target, memory)
    )?;
    Ok((Some(source), target))
}

/// Previews a mapping. A repository that the mirroring would create is not created.
async fn preview_mapping(
    remotes: &dyn OpenRemote,
    task: &MirrorTask,
    limits: &MappingLimits,
) -> MappingRun {
    let target = RemoteSpec {
        create: false,
        ..task.target.clone()
    };
    let opened = before_deadline(limits.stop, open(remotes, task, &target, limits)).await;
    let (source, target) = match opened {
        Some(Ok((Some(source), target))) => (source, target),
        Some(Err(error)) => return MappingRun::failed(error),
        Some(Ok((None, _))) | None => return MappingRun::unopened(),
    };
    let options = options(task, limits);
    let creates = task.target.create;
    match preview(&*source, &*target, &options, creates, limits.stop).await {
        Err(error) => MappingRun::failed(error),
        Ok(preview) => MappingRun {
            result: MirrorResult {
                stats: preview.stats.clone(),
                error: None,
            },
            preview: Some(preview),
        },
    }
}

fn options(task: &MirrorTask, limits: &MappingLimits) -> MirrorOptions {
    let memory = limits.memory;
    MirrorOptions {
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
        tables: limits.tables,
        batch: limits.batch,
        meter: limits.meter.clone(),
        release_within: limits.release,
        idle_list: if rand::random::<u8>() < LEFTOVER_CHANCE_OF_256 {
            IdleList::Leftovers
        } else {
            IdleList::LfsObjects
        },
        ..MirrorOptions::default()
    }
}
