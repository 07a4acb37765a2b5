//! Pushes: what the target lacks is asked of the source, and refs are changed.

use tokio::time::{Instant, timeout};

use super::MirrorOptions;
use super::pack_limit::{PackMeter, PushLimit, limited};
use super::prefetch::{LimitedPack, Prefetch};
use super::progress::RefProgress;
use crate::error::Result;
use crate::git::ObjectId;
use crate::lfs::PointerScanner;
use crate::remote::{
    Head, IncomingOptions, IncomingPack, PackRequest, Push, PushReport, RefUpdate, Source, Target,
};

/// What is to be changed by one push.
#[derive(Debug, Default)]
pub(super) struct PushedRefs {
    pub(super) changes: Vec<RefUpdate>,
    /// Temporary refs that go with it.
    pub(super) gone: Vec<RefUpdate>,
    pub(super) head: Option<Head>,
    /// They are there only until all is there.
    pub(super) temporary: bool,
}

impl PushedRefs {
    /// What they name.
    fn ids(&self) -> impl Iterator<Item = ObjectId> {
        let detached = match &self.head {
            Some(Head::Detached(id)) => Some(*id),
            _ => None,
        };
        let changes = self.changes.iter();
        let named = changes.filter_map(|change| Some(change.new?.id));
        named.chain(detached)
    }
}

/// Those of `ids` that are not `there`, which is in order.
fn missing_on_target(ids: impl Iterator<Item = ObjectId>, there: &[ObjectId]) -> Vec<ObjectId> {
    let mut lacking: Vec<_> = ids.filter(|id| there.binary_search(id).is_err()).collect();
    lacking.sort_unstable();
    lacking.dedup();
    lacking
}

/// Some more ids, among those that are there in order.
fn merge_sorted(mut ids: Vec<ObjectId>, more: impl Iterator<Item = ObjectId>) -> Vec<ObjectId> {
    ids.extend(more);
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// From where, and how.
pub(super) struct Transfer<'a> {
    pub(super) source: &'a dyn Source,
    pub(super) options: &'a MirrorOptions,
    /// The most bytes of a push that can be cut.
    pub(super) bytes: u64,
    pub(super) deadline: Option<Instant>,
    /// What the next push will want, perhaps.
    pub(super) ahead: Option<Prefetch<'a>>,
}

/// What became of a push.
pub(super) enum Pushed {
    Answered(PushReport),
    /// It was more than it might be, and nothing was changed.
    Over(PackMeter),
}

impl<'a> Transfer<'a> {
    /// What a push may come to: its bytes, and its part of the time that is left, which
    /// counts only where the source tells how its history can be cut.
    pub(super) fn push_limit(&self) -> PushLimit {
        PushLimit {
            bytes: Some(self.bytes),
            deadline: self.deadline.filter(|_| self.source.has_cheap_history()),
        }
    }

    /// Sends what the refs need, and has the target change them. When that is more than
    /// `most`, nothing was changed, and what came of it is returned.
    pub(super) async fn refs(
        &mut self,
        target: &mut dyn Target,
        refs: &PushedRefs,
        most: PushLimit,
        tally: &mut RefProgress,
    ) -> Result<Option<PackMeter>> {
        tally.record_request(&refs.changes, &refs.gone);
        match self.push(target, refs, most, &[]).await? {
            Pushed::Over(over) => Ok(Some(over)),
            // What stays of them is deleted afterwards.
            Pushed::Answered(report) => tally
                .record_report_except_refused(report, |name| {
                    refs.gone.iter().any(|tag| tag.name == *name)
                })
                .map(|_| None),
        }
    }

    /// One push. What the `next` one will name is asked for while this one is at work.
    pub(super) async fn push(
        &mut self,
        target: &mut dyn Target,
        refs: &PushedRefs,
        most: PushLimit,
        next: &[ObjectId],
    ) -> Result<Pushed> {
        let there = target.snapshot().tips();
        let wants = missing_on_target(refs.ids(), &there);
        let (mut pack, mut meter, mut ahead) = (None, PackMeter::default(), None);
        if !wants.is_empty() {
            let accepts = target.accepts();
            let wanted = PackRequest {
                wants,
                haves: target.haves().await?,
                // Of a pointer that is a delta on what is not sent, nothing could be seen.
                thin: accepts.thin && self.options.lfs.is_none(),
                offset_deltas: accepts.offset_deltas,
            };
            (pack, meter) = self.request_pack(&wanted, most).await?;
            if pack.is_none() {
                return Ok(Pushed::Over(meter));
            }
            if !next.is_empty() {
                ahead = self.prefetch_for(refs, next, there, wanted, &meter);
            }
        }
        let changes = refs.changes.iter().chain(&refs.gone);
        let push = target.push(Push {
            changes: changes.cloned().collect(),
            head: refs.head.clone(),
            pack,
            before_refs: self.options.before_refs.clone(),
            temporary: refs.temporary,
        });
        let report = match ahead {
            None => push.await,
            Some(ahead) => {
                let (report, ahead) = ahead.run_during(push).await;
                self.ahead = ahead;
                report
            }
        };
        match report {
            Err(_) if meter.exceeded_limit() => Ok(Pushed::Over(meter)),
            report => report.map(Pushed::Answered),
        }
    }

    /// What the `next` push will want, when this one, which `wanted` that, has made its refs.
    fn prefetch_for(
        &self,
        refs: &PushedRefs,
        next: &[ObjectId],
        there: Vec<ObjectId>,
        wanted: PackRequest,
        meter: &PackMeter,
    ) -> Option<Prefetch<'a>> {
        let wants = missing_on_target(next.iter().copied(), &merge_sorted(there, refs.ids()));
        if wants.is_empty() {
            return None;
        }
        let later = PackRequest {
            wants,
            haves: merge_sorted(wanted.haves, refs.ids()),
            ..wanted
        };
        let ask = ask(self.source, self.options, later.clone(), self.push_limit());
        Some(Prefetch::new(ask, later, meter))
    }

    /// What was asked for ahead, or else is asked for now.
    async fn request_pack(&mut self, wanted: &PackRequest, most: PushLimit) -> Result<LimitedPack> {
        if let Some(ahead) = self.ahead.take()
            && let Some(asked) = ahead.into_matching(wanted).await
        {
            let (pack, meter) = asked?;
            // It was limited, and need not be.
            if !(most.is_unlimited() && meter.exceeded_limit()) {
                return Ok((pack, meter));
            }
        }
        ask(self.source, self.options, wanted.clone(), most).await
    }
}

/// Asks for a pack, of which no more than `most` will come; no pack when asking took all of
/// its time.
async fn ask(
    source: &dyn Source,
    options: &MirrorOptions,
    wanted: PackRequest,
    most: PushLimit,
) -> Result<LimitedPack> {
    let (begin, time) = (Instant::now(), most.time());
    let fetch = source.fetch(&wanted);
    let body = match time {
        None => Some(fetch.await?),
        Some(time) => timeout(time, fetch).await.ok().transpose()?,
    };
    let Some(body) = body else {
        let meter = PackMeter::default();
        meter.late();
        return Ok((None, meter));
    };
    let left = time.map(|time| time.saturating_sub(begin.elapsed()));
    let (body, meter) = limited(body, most.bytes, left);
    let options = IncomingOptions {
        hash: source.snapshot().hash,
        limits: options.limits,
        scanner: options.lfs.is_some().then_some(PointerScanner::boxed),
    };
    Ok((Some(IncomingPack::new(body, &options)), meter))
}
