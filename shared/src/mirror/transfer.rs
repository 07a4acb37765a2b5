//! Pushes: what the target lacks is asked of the source, and refs are changed.

use tokio::time::{Instant, timeout};

use super::Options;
use super::ahead::{Ahead, Asked};
use super::size::{Meter, Most, limited};
use super::tally::Tally;
use crate::error::Result;
use crate::git::ObjectId;
use crate::remote::{
    Head, Incoming, IncomingOptions, Push, PushReport, RefChange, Source, Target, Wanted,
};

/// What is to be changed by one push.
#[derive(Debug, Default)]
pub(super) struct Refs {
    pub(super) changes: Vec<RefChange>,
    /// Temporary refs that go with it.
    pub(super) gone: Vec<RefChange>,
    pub(super) head: Option<Head>,
    /// They are there only until all is there.
    pub(super) temporary: bool,
}

impl Refs {
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
fn lacking(ids: impl Iterator<Item = ObjectId>, there: &[ObjectId]) -> Vec<ObjectId> {
    let mut lacking: Vec<_> = ids.filter(|id| there.binary_search(id).is_err()).collect();
    lacking.sort_unstable();
    lacking.dedup();
    lacking
}

/// Some more ids, among those that are there in order.
fn with(mut ids: Vec<ObjectId>, more: impl Iterator<Item = ObjectId>) -> Vec<ObjectId> {
    ids.extend(more);
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// From where, and how.
pub(super) struct Transfer<'a> {
    pub(super) source: &'a dyn Source,
    pub(super) options: &'a Options,
    /// The most bytes of a push that can be cut.
    pub(super) bytes: u64,
    pub(super) deadline: Option<Instant>,
    /// What the next push will want, perhaps.
    pub(super) ahead: Option<Ahead<'a>>,
}

/// What became of a push.
pub(super) enum Pushed {
    Answered(PushReport),
    /// It was more than it might be, and nothing was changed.
    Over(Meter),
}

impl<'a> Transfer<'a> {
    /// What a push may come to: its bytes, and its part of the time that is left, which
    /// counts only where the source tells how its history can be cut.
    pub(super) fn most(&self) -> Most {
        Most {
            bytes: Some(self.bytes),
            deadline: self.deadline.filter(|_| self.source.tells_history()),
        }
    }

    /// Sends what the refs need, and has the target change them. When that is more than
    /// `most`, nothing was changed, and what came of it is returned.
    pub(super) async fn refs(
        &mut self,
        target: &mut dyn Target,
        refs: &Refs,
        most: Most,
        tally: &mut Tally,
    ) -> Result<Option<Meter>> {
        tally.ask(&refs.changes, &refs.gone);
        match self.push(target, refs, most, &[]).await? {
            Pushed::Over(over) => Ok(Some(over)),
            // What stays of them is deleted afterwards.
            Pushed::Answered(report) => tally
                .answered_but(report, |name| refs.gone.iter().any(|tag| tag.name == *name))
                .map(|_| None),
        }
    }

    /// One push. What the `next` one will name is asked for while this one is at work.
    pub(super) async fn push(
        &mut self,
        target: &mut dyn Target,
        refs: &Refs,
        most: Most,
        next: &[ObjectId],
    ) -> Result<Pushed> {
        let there = target.snapshot().tips();
        let wants = lacking(refs.ids(), &there);
        let (mut pack, mut meter, mut ahead) = (None, Meter::default(), None);
        if !wants.is_empty() {
            let accepts = target.accepts();
            let wanted = Wanted {
                wants,
                haves: target.haves().await?,
                // Of a pointer that is a delta on what is not sent, nothing could be seen.
                thin: accepts.thin && self.options.lfs.is_none(),
                offset_deltas: accepts.offset_deltas,
            };
            (pack, meter) = self.ask(&wanted, most).await?;
            if pack.is_none() {
                return Ok(Pushed::Over(meter));
            }
            if !next.is_empty() {
                ahead = self.ahead_of(refs, next, there, wanted, &meter);
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
                let (report, ahead) = ahead.beside(push).await;
                self.ahead = ahead;
                report
            }
        };
        match report {
            Err(_) if meter.is_over() => Ok(Pushed::Over(meter)),
            report => report.map(Pushed::Answered),
        }
    }

    /// What the `next` push will want, when this one, which `wanted` that, has made its refs.
    fn ahead_of(
        &self,
        refs: &Refs,
        next: &[ObjectId],
        there: Vec<ObjectId>,
        wanted: Wanted,
        meter: &Meter,
    ) -> Option<Ahead<'a>> {
        let wants = lacking(next.iter().copied(), &with(there, refs.ids()));
        if wants.is_empty() {
            return None;
        }
        let later = Wanted {
            wants,
            haves: with(wanted.haves, refs.ids()),
            ..wanted
        };
        let ask = ask(self.source, self.options, later.clone(), self.most());
        Some(Ahead::new(ask, later, meter))
    }

    /// What was asked for ahead, or else is asked for now.
    async fn ask(&mut self, wanted: &Wanted, most: Most) -> Result<Asked> {
        if let Some(ahead) = self.ahead.take()
            && let Some(asked) = ahead.take(wanted).await
        {
            let (pack, meter) = asked?;
            // It was limited, and need not be.
            if !(most.is_all() && meter.is_over()) {
                return Ok((pack, meter));
            }
        }
        ask(self.source, self.options, wanted.clone(), most).await
    }
}

/// Asks for a pack, of which no more than `most` will come; no pack when asking took all of
/// its time.
async fn ask(source: &dyn Source, options: &Options, wanted: Wanted, most: Most) -> Result<Asked> {
    let (begin, time) = (Instant::now(), most.time());
    let fetch = source.fetch(&wanted);
    let body = match time {
        None => Some(fetch.await?),
        Some(time) => timeout(time, fetch).await.ok().transpose()?,
    };
    let Some(body) = body else {
        let meter = Meter::default();
        meter.late();
        return Ok((None, meter));
    };
    let left = time.map(|time| time.saturating_sub(begin.elapsed()));
    let (body, meter) = limited(body, most.bytes, left);
    let options = IncomingOptions {
        hash: source.snapshot().hash,
        limits: options.limits,
        pointers: options.lfs.is_some(),
    };
    Ok((Some(Incoming::new(body, &options)), meter))
}
