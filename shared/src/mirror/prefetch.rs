//! A pack that is asked for while the push before it is at work.
//!
//! A server takes its time over a pack that has arrived, and the source is idle meanwhile.
//! Only what is small is held so, whole and looked at; a large pack is asked for when its
//! turn comes.

use std::pin::{Pin, pin};

use futures_util::future::{BoxFuture, Either, MaybeDone, maybe_done, select};

use super::pack_limit::PackMeter;
use crate::error::Result;
use crate::remote::{IncomingPack, PackRequest};

/// How large the pack before may be, and about how large this one.
const MAX_PREFETCH_BYTES: u64 = 1 << 20;

/// A pack that is on its way from the source, unless that is too slow, and how much of it
/// came.
pub(super) type LimitedPack = (Option<IncomingPack>, PackMeter);

/// A pack that will be wanted next.
pub(super) struct Prefetch<'a> {
    wanted: PackRequest,
    before: PackMeter,
    fetched: MaybeDone<BoxFuture<'a, Result<Option<LimitedPack>>>>,
}

impl<'a> Prefetch<'a> {
    /// Will ask for it, and take it in, when all of the pack `before` has passed.
    pub(super) fn new(
        ask: impl Future<Output = Result<LimitedPack>> + Send + 'a,
        wanted: PackRequest,
        before: &PackMeter,
    ) -> Self {
        let meter = before.clone();
        let fetched: BoxFuture<'a, _> = Box::pin(async move {
            meter.completed().await;
            if meter.bytes() > MAX_PREFETCH_BYTES {
                return std::future::pending().await;
            }
            let (mut pack, meter) = ask.await?;
            let is_held = match &mut pack {
                Some(pack) => pack.read_ahead(MAX_PREFETCH_BYTES).await,
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
    pub(super) async fn run_during<T>(
        mut self,
        push: Pin<Box<dyn Future<Output = T> + Send + '_>>,
    ) -> (T, Option<Self>) {
        let done = match select(push, pin!(&mut self.fetched)).await {
            Either::Left((done, _)) => done,
            Either::Right(((), push)) => push.await,
        };
        let is_begun = self.before.is_complete() && self.before.bytes() <= MAX_PREFETCH_BYTES;
        (done, is_begun.then_some(self))
    }

    /// The pack, if that is what is wanted now, and it is small.
    pub(super) async fn into_matching(
        mut self,
        wanted: &PackRequest,
    ) -> Option<Result<LimitedPack>> {
        if !is_same(&self.wanted, wanted) {
            return None;
        }
        (&mut self.fetched).await;
        let fetched = Pin::new(&mut self.fetched).take_output();
        fetched.and_then(Result::transpose)
    }
}

/// Whether one pack serves both: the order of what a receiver has means nothing.
fn is_same(one: &PackRequest, other: &PackRequest) -> bool {
    let sorted = |wanted: &PackRequest| {
        let mut wanted = wanted.clone();
        wanted.haves.sort_unstable();
        wanted
    };
    sorted(one) == sorted(other)
}
