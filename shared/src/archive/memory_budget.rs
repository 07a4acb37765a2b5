//! Decides which answers may be read into memory: a budget of bytes, given out in the
//! order in which the archive needs them.
//!
//! The entry that the archive needs next is always let in, so that a budget that is used
//! up by later entries can never hold it back.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use tokio::sync::oneshot;

use crate::codecommit::BlobAdmission;

/// What an answer costs besides its content.
const OVERHEAD: u64 = 512;

/// The bytes that fetched but unwritten entries may hold.
#[derive(Debug)]
pub(super) struct MemoryBudget {
    limit: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    held: u64,
    peak: u64,
    // The ticket that the archive waits for.
    urgent: Option<u64>,
    waiting: BTreeMap<u64, (u64, oneshot::Sender<Reservation>)>,
}

/// The right to hold some bytes; given back when dropped.
#[derive(Debug)]
pub(super) struct Reservation {
    budget: Arc<MemoryBudget>,
    bytes: u64,
}

/// Asks for the bytes of one fetch. Tickets with lower numbers are served first.
#[derive(Debug)]
pub(super) struct PendingReservation {
    budget: Arc<MemoryBudget>,
    number: u64,
    grant: Mutex<Option<Reservation>>,
}

impl MemoryBudget {
    pub(super) fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self {
            limit,
            state: Mutex::default(),
        })
    }

    /// A ticket; no two that are out at the same time have the same number.
    pub(super) fn ticket(self: &Arc<Self>, number: u64) -> PendingReservation {
        PendingReservation {
            budget: Arc::clone(self),
            number,
            grant: Mutex::new(None),
        }
    }

    /// Lets the ticket `number` in, whatever it costs.
    pub(super) fn prioritize(self: &Arc<Self>, number: u64) {
        let mut state = self.lock();
        if state.urgent != Some(number) {
            state.urgent = Some(number);
            self.admit(state);
        }
    }

    /// The most bytes that were held at once.
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

    /// Lets in whoever may: the urgent one, then the others in order while they fit.
    fn admit(self: &Arc<Self>, mut state: MutexGuard<'_, State>) {
        let mut admitted = Vec::new();
        let urgent = state.urgent;
        if let Some((bytes, sender)) = urgent.and_then(|urgent| state.waiting.remove(&urgent)) {
            admitted.push((self.grant(&mut state, bytes), sender));
        }
        while let Some(first) = state.waiting.first_entry() {
            let bytes = first.get().0;
            if state.held + bytes > self.limit {
                break;
            }
            let Some((_, (bytes, sender))) = state.waiting.pop_first() else {
                break;
            };
            admitted.push((self.grant(&mut state, bytes), sender));
        }
        drop(state);
        for (grant, sender) in admitted {
            // Who has gone away gives the bytes back, by the drop of what was sent.
            drop(sender.send(grant));
        }
    }
}

impl Reservation {
    /// Keeps only `bytes`.
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
    /// What was granted; for an answer that never asked, what its `bytes` cost.
    pub(super) fn into_grant(self, bytes: usize) -> Reservation {
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
        let mut place = self.grant.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *place, grant)
    }
}

#[async_trait]
impl BlobAdmission for PendingReservation {
    async fn admit(&self, size_bytes: u64) {
        // A second try of the same request starts anew.
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

/// What an answer holds while it is decoded: its text in base64 and its bytes, and some
/// of it twice where a buffer grows.
fn cost(bytes: u64) -> u64 {
    OVERHEAD + bytes.saturating_mul(11) / 4
}

#[cfg(test)]
mod tests {
    use futures_util::poll;

    use super::*;

    #[tokio::test]
    async fn the_urgent_ticket_is_let_in_and_the_others_wait_in_order() {
        let budget = MemoryBudget::new(10_000);
        let [first, second, third] = [0, 1, 2].map(|number| budget.ticket(number));
        third.admit(3000).await;
        let mut waiting_second = Box::pin(second.admit(2000));
        let mut waiting_first = Box::pin(first.admit(2000));
        assert!(poll!(&mut waiting_second).is_pending(), "it does not fit");
        assert!(poll!(&mut waiting_first).is_pending(), "it does not fit");
        budget.prioritize(0);
        waiting_first.await;
        assert!(poll!(&mut waiting_second).is_pending(), "it does not fit");
        drop(first.into_grant(2000));
        assert!(poll!(&mut waiting_second).is_pending(), "it does not fit");
        let mut grant = third.into_grant(3000);
        grant.shrink(100);
        waiting_second.await;
        drop((grant, second));
        assert_eq!(budget.lock().held, 0, "everything was given back");
    }

    #[tokio::test]
    async fn a_ticket_that_went_away_holds_nothing() {
        let budget = MemoryBudget::new(1000);
        let (first, second, third) = (budget.ticket(0), budget.ticket(1), budget.ticket(2));
        budget.prioritize(0);
        first.admit(5000).await;
        {
            let mut gone = Box::pin(second.admit(100));
            assert!(poll!(&mut gone).is_pending(), "the first holds everything");
        }
        drop(second);
        drop(first);
        budget.prioritize(2);
        third.admit(5000).await;
        drop(third);
        assert_eq!(budget.lock().held, 0, "everything was given back");
    }
}
