//! A pack that is asked for while the push before it is at work.
//!
//! A server takes its time over a pack that has arrived, and the source is idle meanwhile.
//! Only what is small is held so, whole and looked at; a large pack is asked for when its
//! turn comes.

use std::pin::{Pin, pin};

use futures_util::future::{BoxFuture, Either, MaybeDone, maybe_done, select};

use super::size::Meter;
use crate::error::Result;
use crate::remote::{Incoming, Wanted};

/// How large the pack before may be, and about how large this one.
const MOST: u64 = 1 << 20;

/// A pack that is on its way from the source, unless that is too slow, and how much of it
/// came.
pub(super) type Asked = (Option<Incoming>, Meter);

/// A pack that will be wanted next.
pub(super) struct Ahead<'a> {
    wanted: Wanted,
    before: Meter,
    fetched: MaybeDone<BoxFuture<'a, Result<Option<Asked>>>>,
}

impl<'a> Ahead<'a> {
    /// Will ask for it, and take it in, when all of the pack `before` has passed.
    pub(super) fn new(
        ask: impl Future<Output = Result<Asked>> + Send + 'a,
        wanted: Wanted,
        before: &Meter,
    ) -> Self {
        let meter = before.clone();
        let fetched: BoxFuture<'a, _> = Box::pin(async move {
            meter.passed().await;
            if meter.bytes() > MOST {
                return std::future::pending().await;
            }
            let (mut pack, meter) = ask.await?;
            let is_held = match &mut pack {
                Some(pack) => pack.read_ahead(MOST).await,
                None => false,
            };
            Ok(is_held.then_some((pack, meter)))
        });
        Self {
            wanted,
            before: before.clone(),
            fetched: maybe_done(fetched),
        }
    }

    /// Does `push`, and meanwhile asks. `None` with its answer when there was no time to.
    pub(super) async fn beside<T>(
        mut self,
        push: Pin<Box<dyn Future<Output = T> + Send + '_>>,
    ) -> (T, Option<Self>) {
        let done = match select(push, pin!(&mut self.fetched)).await {
            Either::Left((done, _)) => done,
            Either::Right(((), push)) => push.await,
        };
        let is_begun = self.before.has_passed() && self.before.bytes() <= MOST;
        (done, is_begun.then_some(self))
    }

    /// The pack, if that is what is wanted now, and it is small.
    pub(super) async fn take(mut self, wanted: &Wanted) -> Option<Result<Asked>> {
        if !is_same(&self.wanted, wanted) {
            return None;
        }
        (&mut self.fetched).await;
        let fetched = Pin::new(&mut self.fetched).take_output();
        fetched.and_then(Result::transpose)
    }
}

/// Whether one pack serves both: the order of what a receiver has means nothing.
fn is_same(one: &Wanted, other: &Wanted) -> bool {
    let sorted = |wanted: &Wanted| {
        let mut wanted = wanted.clone();
        wanted.haves.sort_unstable();
        wanted
    };
    sorted(one) == sorted(other)
}
