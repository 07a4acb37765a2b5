//! [`Functions`] under a [`RetryPolicy`](crate::retry::RetryPolicy): limited and retried.

use async_trait::async_trait;
use bytes::Bytes;

use super::{FunctionArn, FunctionInventory, FunctionPage, Functions};
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

#[async_trait]
impl<F: FunctionInventory> FunctionInventory for Retrying<F> {
    async fn list_functions(&self, next: Option<&str>) -> Result<FunctionPage> {
        self.policy.run(|| self.inner.list_functions(next)).await
    }

    async fn stack_of(&self, function: &FunctionArn) -> Result<Option<String>> {
        self.policy.run(|| self.inner.stack_of(function)).await
    }
}
