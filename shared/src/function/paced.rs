//! [`Functions`] under a [`Pace`](crate::retry::Pace): limited and tried again.

use async_trait::async_trait;
use bytes::Bytes;

use super::{FunctionArn, Functions};
use crate::error::Result;
use crate::retry::Paced;

#[async_trait]
impl<F: Functions> Functions for Paced<F> {
    // Trying again after a lost answer may hand the payload over twice. Lambda delivers an
    // asynchronous event more than once anyhow, so every receiver must bear that.
    async fn invoke_async(&self, function: &FunctionArn, payload: Bytes) -> Result<()> {
        self.pace
            .run(|| self.inner.invoke_async(function, payload.clone()))
            .await
    }
}
