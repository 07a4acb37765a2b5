//! [`Pipelines`] under a [`RetryPolicy`](crate::retry::RetryPolicy): limited and retried.

use async_trait::async_trait;

use super::{Pipelines, StartRequest};
use crate::error::Result;
use crate::retry::Retrying;

#[async_trait]
impl<P: Pipelines> Pipelines for Retrying<P> {
    // The request's token prevents a second execution on a retry.
    async fn start(&self, request: &StartRequest) -> Result<String> {
        self.policy.run(|| self.inner.start(request)).await
    }
}
