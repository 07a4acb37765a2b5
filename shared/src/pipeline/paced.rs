//! [`Pipelines`] under a [`Pace`](crate::retry::Pace): limited and tried again.

use async_trait::async_trait;

use super::{Pipelines, StartRequest};
use crate::error::Result;
use crate::retry::Paced;

#[async_trait]
impl<P: Pipelines> Pipelines for Paced<P> {
    // The request's token makes a second try start nothing twice.
    async fn start(&self, request: &StartRequest) -> Result<String> {
        self.pace.run(|| self.inner.start(request)).await
    }
}
