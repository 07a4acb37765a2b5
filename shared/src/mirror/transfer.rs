//! Pushes: what the target lacks is asked of the source, and refs are changed.

use tokio::time::{Instant, timeout_at};

use super::Options;
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
    pub(super) head: Option<Head>,
    /// They are there only until all is there.
    pub(super) temporary: bool,
}

impl Refs {
    /// What they need that the target lacks.
    fn wants(&self, target: &dyn Target) -> Vec<ObjectId> {
        let there = target.snapshot().tips();
        let detached = match &self.head {
            Some(Head::Detached(id)) => Some(*id),
            _ => None,
        };
        let changes = self.changes.iter();
        let mut wants: Vec<ObjectId> = changes
            .filter_map(|change| Some(change.new?.id))
            .chain(detached)
            .filter(|id| there.binary_search(id).is_err())
            .collect();
        wants.sort_unstable();
        wants.dedup();
        wants
    }
}

/// From where, and how.
pub(super) struct Transfer<'a> {
    pub(super) source: &'a dyn Source,
    pub(super) options: &'a Options,
    /// The most bytes of a push that can be cut.
    pub(super) bytes: u64,
    pub(super) deadline: Option<Instant>,
}

/// What became of a push.
pub(super) enum Pushed {
    Answered(PushReport),
    /// It was more than it might be, and nothing was changed.
    Over(Meter),
}

impl Transfer<'_> {
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
        &self,
        target: &mut dyn Target,
        refs: &Refs,
        most: Most,
        tally: &mut Tally,
    ) -> Result<Option<Meter>> {
        tally.ask(&refs.changes);
        match self.push(target, refs, most).await? {
            Pushed::Over(over) => Ok(Some(over)),
            Pushed::Answered(report) => tally.answered(report).map(|()| None),
        }
    }

    /// One push.
    pub(super) async fn push(
        &self,
        target: &mut dyn Target,
        refs: &Refs,
        most: Most,
    ) -> Result<Pushed> {
        let wants = refs.wants(target);
        let mut meter = Meter::default();
        let pack = if wants.is_empty() {
            None
        } else {
            let accepts = target.accepts();
            let wanted = Wanted {
                wants,
                haves: target.haves().await?,
                // Of a pointer that is a delta on what is not sent, nothing could be seen.
                thin: accepts.thin && self.options.lfs.is_none(),
                offset_deltas: accepts.offset_deltas,
            };
            let fetch = self.source.fetch(&wanted);
            let body = match most.until() {
                None => Some(fetch.await?),
                Some(until) => timeout_at(until, fetch).await.ok().transpose()?,
            };
            let Some(body) = body else {
                meter.late();
                return Ok(Pushed::Over(meter));
            };
            let (body, limit) = limited(body, most);
            meter = limit;
            let options = IncomingOptions {
                hash: self.source.snapshot().hash,
                limits: self.options.limits,
                pointers: self.options.lfs.is_some(),
            };
            Some(Incoming::new(body, &options))
        };
        let push = Push {
            changes: refs.changes.clone(),
            head: refs.head.clone(),
            pack,
            before_refs: self.options.before_refs.clone(),
            temporary: refs.temporary,
        };
        match target.push(push).await {
            Err(_) if meter.is_over() => Ok(Pushed::Over(meter)),
            report => report.map(Pushed::Answered),
        }
    }
}
