//! Prefetch of the pack of the next push during the current one.
//!
//! A server processes a pack for some time after the last byte, while the source is idle. Only
//! small packs are prefetched, as a whole, because they are held in memory.

use std::pin::{Pin, pin};

use futures_util::future::{BoxFuture, Either, MaybeDone, maybe_done, select};

use super::pack_limit::PackMeter;
use crate::error::Result;
use crate::remote::{IncomingPack, PackRequest};

/// Largest pack that is prefetched, and largest push during which one is.
const MAX_PREFETCH_BYTES: u64 = 1 << 20;

/// A pack that is being received, unless the request was too slow, and its meter.
pub(super) type LimitedPack = (Option<IncomingPack>, PackMeter);

/// The pack that the next push probably needs.
pub(super) struct Prefetch<'a> {
    request: PackRequest,
    // Meter of the current push's pack.
    current: PackMeter,
    fetched: MaybeDone<BoxFuture<'a, Result<Option<LimitedPack>>>>,
}

impl<'a> Prefetch<'a> {
    /// Prepares to request the pack and receive it, once the pack of the `current` push is
    /// complete.
    pub(super) fn new(
        fetch: impl Future<Output = Result<LimitedPack>> + Send + 'a,
        request: PackRequest,
        current: &PackMeter,
    ) -> Self {
        let meter = current.clone();
        let fetched: BoxFuture<'a, _> = Box::pin(async move {
            meter.completed().await;
            if meter.bytes() > MAX_PREFETCH_BYTES {
                return std::future::pending().await;
            }
            let (mut pack, meter) = fetch.await?;
            let is_small = match &mut pack {
                Some(pack) => pack.read_ahead(MAX_PREFETCH_BYTES).await,
                None => false,
            };
            Ok(is_small.then_some((pack, meter)))
        });
        Self {
            request,
            current: current.clone(),
            fetched: maybe_done(fetched),
        }
    }

    /// Runs `push` and requests the next pack meanwhile; `None` if the push ended first.
    pub(super) async fn run_during<T>(
        mut self,
        push: Pin<Box<dyn Future<Output = T> + Send + '_>>,
    ) -> (T, Option<Self>) {
        let done = match select(push, pin!(&mut self.fetched)).await {
            Either::Left((done, _)) => done,
            Either::Right(((), push)) => push.await,
        };
        let was_requested =
            self.current.is_complete() && self.current.bytes() <= MAX_PREFETCH_BYTES;
        (done, was_requested.then_some(self))
    }

    /// Returns the prefetched pack if it matches `request` and is small enough.
    pub(super) async fn into_matching(
        mut self,
        request: &PackRequest,
    ) -> Option<Result<LimitedPack>> {
        if !is_same(&self.request, request) {
            return None;
        }
        (&mut self.fetched).await;
        let fetched = Pin::new(&mut self.fetched).take_output();
        fetched.and_then(Result::transpose)
    }
}

/// Returns true if one pack serves both requests; the order of haves does not count.
fn is_same(a: &PackRequest, b: &PackRequest) -> bool {
    let sorted = |request: &PackRequest| {
        let mut request = request.clone();
        request.haves.sort_unstable();
        request
    };
    sorted(a) == sorted(b)
}
