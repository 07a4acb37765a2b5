//! Limits the bytes of responses in memory. Reservations are granted in the order in which the
//! archive needs the entries.
//!
//! The entry that the archive needs next is always admitted, so it never waits for bytes that
//! later entries hold.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use tokio::sync::oneshot;

use crate::codecommit::BlobAdmission;

/// Memory of a response apart from its content, in bytes.
const OVERHEAD_BYTES: u64 = 512;

/// Budget for fetched but unwritten entries, in bytes.
#[derive(Debug)]
pub(super) struct MemoryBudget {
    max_bytes: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    held: u64,
    peak: u64,
    // Number of the reservation that the archive waits for.
    urgent: Option<u64>,
    waiting: BTreeMap<u64, (u64, oneshot::Sender<Reservation>)>,
}

/// A granted part of the budget; released when dropped.
#[derive(Debug)]
pub(super) struct Reservation {
    budget: Arc<MemoryBudget>,
    bytes: u64,
}

/// A request for the bytes of one fetch. Lower numbers are granted first.
#[derive(Debug)]
pub(super) struct PendingReservation {
    budget: Arc<MemoryBudget>,
    number: u64,
    grant: Mutex<Option<Reservation>>,
}

impl MemoryBudget {
    pub(super) fn new(max_bytes: u64) -> Arc<Self> {
        Arc::new(Self {
            max_bytes,
            state: Mutex::default(),
        })
    }

    /// Makes a request; `number` must differ from those of all other pending requests.
    pub(super) fn reserve(self: &Arc<Self>, number: u64) -> PendingReservation {
        PendingReservation {
            budget: Arc::clone(self),
            number,
            grant: Mutex::new(None),
        }
    }

    /// Admits the request `number` even if that exceeds the budget.
    pub(super) fn prioritize(self: &Arc<Self>, number: u64) {
        let mut state = self.lock();
        if state.urgent != Some(number) {
            state.urgent = Some(number);
            self.admit(state);
        }
    }

    /// Returns the maximum of bytes that were reserved at any time.
    pub(super) fn peak(&self) -> u64 {
        self.lock().peak
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn grant(self: &Arc<Self>, state: &mut State, bytes: u64) -> Reservation {
        state.held += bytes;
        state.peak = state.peak.max(state.held);
        Reservation {
            budget: Arc::clone(self),
            bytes,
        }
    }

    /// Admits the urgent request, then the others in order while they fit.
    fn admit(self: &Arc<Self>, mut state: MutexGuard<'_, State>) {
        let mut admitted = Vec::new();
        let urgent = state.urgent;
        if let Some((bytes, sender)) = urgent.and_then(|urgent| state.waiting.remove(&urgent)) {
            admitted.push((self.grant(&mut state, bytes), sender));
        }
        while let Some(first) = state.waiting.first_entry() {
            let bytes = first.get().0;
            if state.held + bytes > self.max_bytes {
                break;
            }
            let Some((_, (bytes, sender))) = state.waiting.pop_first() else {
                break;
            };
            admitted.push((self.grant(&mut state, bytes), sender));
        }
        drop(state);
        for (grant, sender) in admitted {
            // If the receiver was dropped, so is the reservation, which releases its bytes.
            drop(sender.send(grant));
        }
    }
}

impl Reservation {
    /// Releases all but `bytes`.
    pub(super) fn shrink(&mut self, bytes: u64) {
        if bytes < self.bytes {
            let mut state = self.budget.lock();
            state.held -= self.bytes - bytes;
            self.bytes = bytes;
            self.budget.admit(state);
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.shrink(0);
    }
}

impl PendingReservation {
    /// Returns the granted reservation, or makes one for `bytes` if none was requested.
    pub(super) fn into_reservation(self, bytes: usize) -> Reservation {
        let grant = self
            .grant
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        grant.unwrap_or_else(|| {
            let mut state = self.budget.lock();
            self.budget.grant(&mut state, cost(bytes as u64))
        })
    }

    fn put(&self, grant: Option<Reservation>) -> Option<Reservation> {
        let mut slot = self.grant.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *slot, grant)
    }
}

#[async_trait]
impl BlobAdmission for PendingReservation {
    async fn admit(&self, size_bytes: u64) {
        // A retry of the request reserves again, so the first reservation is released.
        drop(self.put(None));
        let receiver = {
            let (sender, receiver) = oneshot::channel();
            let mut state = self.budget.lock();
            state
                .waiting
                .insert(self.number, (cost(size_bytes), sender));
            self.budget.admit(state);
            receiver
        };
        if let Ok(grant) = receiver.await {
            self.put(Some(grant));
        }
    }
}

/// Returns the memory of a response while it is decoded, in bytes: the base64 text, the
/// content, and a part of both twice while a buffer grows.
fn cost(bytes: u64) -> u64 {
    OVERHEAD_BYTES + bytes.saturating_mul(11) / 4
}

#[cfg(test)]
mod tests {
    use futures_util::poll;

    use super::*;

    #[tokio::test]
    async fn an_urgent_reservation_is_admitted_and_the_others_wait_in_order() {
        let budget = MemoryBudget::new(10_000);
        let [first, second, third] = [0, 1, 2].map(|number| budget.reserve(number));
        third.admit(3000).await;
        let mut waiting_second = Box::pin(second.admit(2000));
        let mut waiting_first = Box::pin(first.admit(2000));
        assert!(
            poll!(&mut waiting_second).is_pending(),
            "the budget is exceeded"
        );
        assert!(
            poll!(&mut waiting_first).is_pending(),
            "the budget is exceeded"
        );
        budget.prioritize(0);
        waiting_first.await;
        assert!(
            poll!(&mut waiting_second).is_pending(),
            "the budget is exceeded"
        );
        drop(first.into_reservation(2000));
        assert!(
            poll!(&mut waiting_second).is_pending(),
            "the budget is exceeded"
        );
        let mut grant = third.into_reservation(3000);
        grant.shrink(100);
        waiting_second.await;
        drop((grant, second));
        assert_eq!(budget.lock().held, 0, "all bytes are released");
    }

    #[tokio::test]
    async fn a_dropped_reservation_releases_its_bytes() {
        let budget = MemoryBudget::new(1000);
        let (first, second, third) = (budget.reserve(0), budget.reserve(1), budget.reserve(2));
        budget.prioritize(0);
        first.admit(5000).await;
        {
            let mut dropped = Box::pin(second.admit(100));
            assert!(
                poll!(&mut dropped).is_pending(),
                "the first reservation exceeds the budget"
            );
        }
        drop(second);
        drop(first);
        budget.prioritize(2);
        third.admit(5000).await;
        drop(third);
        assert_eq!(budget.lock().held, 0, "all bytes are released");
    }
}
