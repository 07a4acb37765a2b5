//! [`Functions`] in memory: records invocations without running them.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use serde_json::Value;

use super::call_log::CallLog;
use crate::error::{Error, ErrorKind, Result};
use crate::function::{FunctionArn, Functions};

/// Maximum payload of an asynchronous invocation, in bytes (1 MB).
const MAX_PAYLOAD_BYTES: usize = 1_000_000;

/// AWS Lambda of one account and region, in memory.
#[derive(Debug, Default)]
pub struct MemoryFunctions {
    functions: Mutex<BTreeMap<String, Vec<Value>>>,
    traffic: CallLog,
}

impl MemoryFunctions {
    /// Makes a service with these functions.
    pub fn with_functions(functions: &[&FunctionArn]) -> Self {
        let named = |arn: &&FunctionArn| (arn.as_str().to_owned(), Vec::new());
        Self {
            functions: Mutex::new(functions.iter().map(named).collect()),
            traffic: CallLog::default(),
        }
    }

    /// Returns the log of calls, which has latency, throttling and hooks.
    pub fn traffic(&self) -> &CallLog {
        &self.traffic
    }

    /// Returns the payloads of a function's invocations, in order.
    pub fn invocations(&self, function: &FunctionArn) -> Vec<Value> {
        let functions = self.lock();
        functions
            .get(function.as_str())
            .cloned()
            .unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Vec<Value>>> {
        self.functions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Functions for MemoryFunctions {
    async fn invoke_async(&self, function: &FunctionArn, payload: Bytes) -> Result<()> {
        let _call = self.traffic.enter("invoke_async").await?;
        let mut functions = self.lock();
        let Some(queue) = functions.get_mut(function.as_str()) else {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("function `{function}` does not exist"),
            )
            .with_aws(Some("ResourceNotFoundException"), None));
        };
        let refused = |code: &str, why: &str| {
            Error::new(ErrorKind::Internal, why.to_owned()).with_aws(Some(code), None)
        };
        if payload.len() > MAX_PAYLOAD_BYTES {
            return Err(refused(
                "RequestTooLargeException",
                "the payload is too large",
            ));
        }
        let event = serde_json::from_slice(&payload)
            .map_err(|_| refused("InvalidRequestContentException", "the payload is not JSON"))?;
        queue.push(event);
        Ok(())
    }
}
