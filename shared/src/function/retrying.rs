//! [`Functions`] under a [`RetryPolicy`](crate::retry::RetryPolicy): limited and retried.

use async_trait::async_trait;
use bytes::Bytes;

use super::{FunctionArn, Functions};
use crate::error::Result;
use crate::retry::Retrying;

#[async_trait]
impl<F: Functions> Functions for Retrying<F> {
    // A retry after a lost answer may send the payload twice. Receivers accept that,
    // because Lambda delivers asynchronous events at least once.
    async fn invoke_async(&self, function: &FunctionArn, payload: Bytes) -> Result<()> {
        self.policy
            .run(|| self.inner.invoke_async(function, payload.clone()))
            .await
    }
}
