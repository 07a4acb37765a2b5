//! One push: fetches the objects that the target lacks from the source, and pushes them with
//! the ref updates.

use std::sync::Arc;

use bstr::BString;
use tokio::time::{Instant, timeout};

use super::MirrorOptions;
use super::meter::{AnsweredPush, MirrorMeter, metered};
use super::pack_limit::{PackMeter, PushLimit, limited};
use super::prefetch::{LimitedPack, Prefetch};
use super::progress::RefProgress;
use crate::error::Result;
use crate::git::ObjectId;
use crate::git::pack::incoming::BlobScanner;
use crate::git::pack::{Bases, PackLimits};
use crate::remote::{
    CommitTrace, Head, IncomingOptions, IncomingPack, PackRequest, Push, PushReport, RefOutcome,
    RefUpdate, Source, Target,
};

/// Ref updates of one push.
#[derive(Debug, Default)]
pub(super) struct RefsToPush {
    pub(super) changes: Arc<Vec<RefUpdate>>,
    /// Deletions of temporary tags in the same push.
    pub(super) deleted_tags: Vec<RefUpdate>,
    pub(super) head: Option<Head>,
    /// The updated refs are temporary tags, or copies of refs that are set aside: they are not
    /// counted.
    pub(super) temporary: bool,
}

impl RefsToPush {
    /// Ids that the updates refer to.
    fn ids(&self) -> impl Iterator<Item = ObjectId> {
        let detached = match &self.head {
            Some(Head::Detached(id)) => Some(*id),
            _ => None,
        };
        let changes = self.changes.iter();
        let new = changes.filter_map(|change| Some(change.new?.id));
        new.chain(detached)
    }
}

/// Returns those of `ids` that are not in the sorted list `existing`.
fn missing_on_target(ids: impl Iterator<Item = ObjectId>, existing: &[ObjectId]) -> Vec<ObjectId> {
    let mut missing: Vec<_> = ids
        .filter(|id| existing.binary_search(id).is_err())
        .collect();
    missing.sort_unstable();
    missing.dedup();
    missing
}

/// Inserts ids into a sorted list.
fn merge_sorted(mut ids: Vec<ObjectId>, more: impl Iterator<Item = ObjectId>) -> Vec<ObjectId> {
    ids.extend(more);
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// Source and options of the pushes of one attempt.
pub(super) struct Transfer<'a> {
    pub(super) source: &'a dyn Source,
    pub(super) options: &'a MirrorOptions,
    /// Limits of verifying packs.
    pub(super) limits: PackLimits,
    /// Maximum bytes of a push that can be split.
    pub(super) max_bytes: u64,
    pub(super) deadline: Option<Instant>,
    /// Receives the commits of all packs, if refs move.
    pub(super) commits: Option<Arc<CommitTrace>>,
    /// Makes the scanner of all packs, which collects pointers of git LFS.
    pub(super) scanner: Option<fn() -> Box<dyn BlobScanner>>,
    /// Pack that the next push probably needs.
    pub(super) prefetch: Option<Prefetch<'a>>,
}

/// Result of a push.
pub(super) enum PushResult {
    Reported(PushReport),
    /// The pack exceeded its limit, and no ref was changed.
    OverLimit(PackMeter),
}

impl<'a> Transfer<'a> {
    /// Limits of a push: its bytes, and its share of the time left. The time is limited only if
    /// the source lists its history cheaply, because only then a push can be split.
    pub(super) fn push_limit(&self) -> PushLimit {
        PushLimit {
            max_bytes: Some(self.max_bytes),
            deadline: self.deadline.filter(|_| self.source.has_cheap_history()),
        }
    }

    /// Pushes ref updates with the objects that they need. If the pack exceeds `limit`, no ref
    /// is changed, and the meter is returned.
    pub(super) async fn push_refs(
        &mut self,
        target: &mut dyn Target,
        refs: &RefsToPush,
        limit: PushLimit,
        progress: &mut RefProgress,
    ) -> Result<Option<PackMeter>> {
        if refs.temporary {
            progress.record_request(Arc::default(), &refs.changes);
        } else {
            progress.record_request(Arc::clone(&refs.changes), &refs.deleted_tags);
        }
        match self.push(target, refs, limit, &[]).await? {
            PushResult::OverLimit(meter) => Ok(Some(meter)),
            // Rejected deletions of tags are not counted, because they are retried afterwards.
            PushResult::Reported(report) => progress
                .record_report_with_temporary(report, |name| {
                    refs.temporary || refs.deleted_tags.iter().any(|tag| tag.name == *name)
                })
                .map(|_| None),
        }
    }

    /// Makes one push, and fetches the pack of the `next` one meanwhile.
    pub(super) async fn push(
        &mut self,
        target: &mut dyn Target,
        refs: &RefsToPush,
        limit: PushLimit,
        next: &[ObjectId],
    ) -> Result<PushResult> {
        let existing = target.snapshot().tips();
        let wants = missing_on_target(refs.ids(), &existing);
        let (mut pack, mut meter, mut prefetch) = (None, PackMeter::default(), None);
        if !wants.is_empty() {
            let capabilities = target.capabilities();
            let request = PackRequest {
                wants,
                haves: target.haves().await?,
                // Not thin with LFS: a pointer could not be read if its base is not sent.
                thin: capabilities.thin && self.scanner.is_none(),
                offset_deltas: capabilities.offset_deltas,
            };
            let bases = target.bases();
            (pack, meter) = self.request_pack(&request, limit, bases.clone()).await?;
            if pack.is_none() {
                return Ok(PushResult::OverLimit(meter));
            }
            if !next.is_empty() {
                prefetch = self.prefetch_for(refs, next, existing, (request, bases), &meter);
            }
        }
        let changes = refs.changes.iter().chain(&refs.deleted_tags);
        let push = target.push(Push {
            changes: changes.cloned().collect(),
            head: refs.head.clone(),
            pack,
            publish_hook: self.options.publish_hook.clone(),
            temporary: refs.temporary,
            atomic: false,
        });
        let report = match prefetch {
            None => push.await,
            Some(prefetch) => {
                let (report, prefetch) = prefetch.run_during(push).await;
                self.prefetch = prefetch;
                report
            }
        };
        match report {
            Err(_) if meter.exceeded_limit() => Ok(PushResult::OverLimit(meter)),
            Ok(report) => {
                self.count_push(refs, &report);
                Ok(PushResult::Reported(report))
            }
            Err(error) => Err(error),
        }
    }

    fn count_push(&self, refs: &RefsToPush, report: &PushReport) {
        let Some(meter) = &self.options.meter else {
            return;
        };
        let is_deleted = |name: &BString| refs.deleted_tags.iter().any(|tag| tag.name == *name);
        let done = report
            .refs
            .iter()
            .filter(|(name, outcome)| *outcome == RefOutcome::Done && !is_deleted(name));
        meter.add_push(&AnsweredPush {
            refs: done.map(|(name, _)| name.clone()).collect(),
            temporary: refs.temporary,
            objects: report.objects,
        });
    }

    /// Prepares the pack request of the `next` push, assuming that this one, which made
    /// `request`, succeeds.
    fn prefetch_for(
        &self,
        refs: &RefsToPush,
        next: &[ObjectId],
        existing: Vec<ObjectId>,
        (request, bases): (PackRequest, Option<Arc<dyn Bases>>),
        meter: &PackMeter,
    ) -> Option<Prefetch<'a>> {
        let wants = missing_on_target(next.iter().copied(), &merge_sorted(existing, refs.ids()));
        if wants.is_empty() {
            return None;
        }
        let next = PackRequest {
            wants,
            haves: merge_sorted(request.haves, refs.ids()),
            ..request
        };
        let fetch = self.fetch_pack(next.clone(), self.push_limit(), bases);
        Some(Prefetch::new(fetch, next, meter))
    }

    /// Takes the prefetched pack if it matches, else fetches the pack.
    async fn request_pack(
        &mut self,
        request: &PackRequest,
        limit: PushLimit,
        bases: Option<Arc<dyn Bases>>,
    ) -> Result<LimitedPack> {
        if let Some(prefetch) = self.prefetch.take()
            && let Some(prefetched) = prefetch.into_matching(request).await
        {
            let (pack, meter) = prefetched?;
            // A prefetched pack that exceeded its limit does not serve an unlimited push.
            if !(limit.is_unlimited() && meter.exceeded_limit()) {
                return Ok((pack, meter));
            }
        }
        self.fetch_pack(request.clone(), limit, bases).await
    }

    fn fetch_pack(
        &self,
        request: PackRequest,
        limit: PushLimit,
        bases: Option<Arc<dyn Bases>>,
    ) -> impl Future<Output = Result<LimitedPack>> + Send + use<'a> {
        let incoming = IncomingOptions {
            hash: self.source.snapshot().hash,
            limits: self.limits,
            scanner: self.scanner,
            commits: self.commits.clone(),
        };
        let meter = self.options.meter.clone();
        fetch_pack(self.source, incoming, (request, bases), (limit, meter))
    }
}

/// Fetches a pack that fails beyond `limit`; no pack if the request alone takes all of its
/// time.
async fn fetch_pack(
    source: &dyn Source,
    options: IncomingOptions,
    (request, bases): (PackRequest, Option<Arc<dyn Bases>>),
    (limit, mirror_meter): (PushLimit, Option<Arc<MirrorMeter>>),
) -> Result<LimitedPack> {
    let (begin, max_time) = (Instant::now(), limit.max_time());
    let fetch = source.fetch_with_bases(&request, bases.as_deref());
    let body = match max_time {
        None => Some(fetch.await?),
        Some(max_time) => timeout(max_time, fetch).await.ok().transpose()?,
    };
    let Some(body) = body else {
        let meter = PackMeter::default();
        meter.set_exceeded_time();
        return Ok((None, meter));
    };
    let time_left = max_time.map(|max_time| max_time.saturating_sub(begin.elapsed()));
    let (body, meter) = limited(metered(body, mirror_meter), limit.max_bytes, time_left);
    Ok((Some(IncomingPack::new(body, &options)), meter))
}
