//! A pack that is asked for while the push before it is at work.
//!
//! A server takes its time over a pack that has arrived, and the source is idle meanwhile.
//! Only what is small is held so; a large pack is asked for when its turn comes.

use std::pin::{Pin, pin};

use bytes::Bytes;
use futures_util::future::{BoxFuture, Either, MaybeDone, maybe_done, select};
use futures_util::{StreamExt as _, stream};

use super::size::Meter;
use crate::error::Result;
use crate::remote::{PackBody, Source, Wanted};

/// How large the pack before may be, and how much of this one is held.
const MOST: u64 = 1 << 20;

/// A pack that will be wanted next.
pub(super) struct Ahead<'a> {
    wanted: Wanted,
    before: Meter,
    fetched: MaybeDone<BoxFuture<'a, Result<PackBody>>>,
}

impl<'a> Ahead<'a> {
    /// Will ask for it when all of the pack `before` has passed.
    pub(super) fn new(source: &'a dyn Source, wanted: Wanted, before: &Meter) -> Self {
        let (asked, meter) = (wanted.clone(), before.clone());
        let fetched: BoxFuture<'a, _> = Box::pin(async move {
            meter.passed().await;
            if meter.bytes() > MOST {
                return std::future::pending().await;
            }
            hold(source.fetch(&asked).await?).await
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

    /// The pack, if that is what is wanted now.
    pub(super) async fn take(mut self, wanted: &Wanted) -> Option<Result<PackBody>> {
        if !is_same(&self.wanted, wanted) {
            return None;
        }
        (&mut self.fetched).await;
        Pin::new(&mut self.fetched).take_output()
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

/// The same pack, as much of it held as may be.
async fn hold(body: PackBody) -> Result<PackBody> {
    let mut body = body.fuse();
    let mut held: Vec<Result<Bytes>> = Vec::new();
    let mut size = 0;
    while size <= MOST {
        let Some(bytes) = body.next().await else {
            break;
        };
        let bytes = bytes?;
        size += bytes.len() as u64;
        held.push(Ok(bytes));
    }
    Ok(stream::iter(held).chain(body).boxed())
}
