//! [`Functions`] under a [`RetryPolicy`](crate::retry::RetryPolicy): limited and tried again.

use async_trait::async_trait;
use bytes::Bytes;

use super::{FunctionArn, Functions};
use crate::error::Result;
use crate::retry::Retrying;

#[async_trait]
impl<F: Functions> Functions for Retrying<F> {
    // Trying again after a lost answer may hand the payload over twice. Lambda delivers an
    // asynchronous event more than once anyhow, so every receiver must bear that.
    async fn invoke_async(&self, function: &FunctionArn, payload: Bytes) -> Result<()> {
        self.pace
            .run(|| self.inner.invoke_async(function, payload.clone()))
            .await
    }
}
