//! [`EventBus`] in memory.

use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;

use super::call_log::CallLog;
use crate::error::{Error, ErrorKind, Result};
use crate::event_bus::{Announcement, EventBus, MAX_BATCH_EVENTS};

/// A bus in memory.
#[derive(Debug, Default)]
pub struct MemoryEventBus {
    events: Mutex<Vec<Announcement>>,
    traffic: CallLog,
}

impl MemoryEventBus {
    /// Makes a bus without events.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the events since the last call.
    pub fn take(&self) -> Vec<Announcement> {
        std::mem::take(&mut *self.events.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[async_trait]
impl EventBus for MemoryEventBus {
    async fn put(&self, events: &[Announcement]) -> Result<()> {
        let _call = self.traffic.enter("put_events").await?;
        if !(1..=MAX_BATCH_EVENTS).contains(&events.len()) {
            let message = format!("{} events are more than a request may have", events.len());
            return Err(Error::new(ErrorKind::Config, message));
        }
        let mut kept = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend(events.iter().cloned());
        Ok(())
    }
}
