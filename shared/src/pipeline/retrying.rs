//! [`Pipelines`] under a [`RetryPolicy`](crate::retry::RetryPolicy): limited and tried again.

use async_trait::async_trait;

use super::{Pipelines, StartRequest};
use crate::error::Result;
use crate::retry::Retrying;

#[async_trait]
impl<P: Pipelines> Pipelines for Retrying<P> {
    // The request's token makes a second try start nothing twice.
    async fn start(&self, request: &StartRequest) -> Result<String> {
        self.pace.run(|| self.inner.start(request)).await
    }
}
