//! [`EventBus`] under a [`RetryPolicy`](crate::retry::RetryPolicy): limited and retried.

use async_trait::async_trait;

use super::{Announcement, EventBus};
use crate::error::Result;
use crate::retry::Retrying;

#[async_trait]
impl<B: EventBus> EventBus for Retrying<B> {
    // A retry may put an event twice, which readers of a bus expect anyway.
    async fn put(&self, events: &[Announcement]) -> Result<()> {
        self.policy.run(|| self.inner.put(events)).await
    }
}
