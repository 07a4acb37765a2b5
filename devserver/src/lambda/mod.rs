//! Runs functions as the real bootstrap binaries.
//!
//! - [`FunctionConfig`]: the definition of a function.
//! - `environment`, `runtime_api`, `process`, `output`: one execution environment: a
//!   process, its own Runtime API, and its output.
//! - [`LambdaHost`]: the environments of all functions, warm and cold.
//! - [`AsyncInvocations`]: the queue of `Event` invocations, with Lambda's retries.
//! - [`LambdaApi`]: `Invoke` and the other operations over HTTP.

mod api;
mod environment;
mod function;
mod host;
mod output;
mod process;
mod queue;
mod runtime_api;

pub use api::LambdaApi;
pub(crate) use api::{refuse, service_error, throttled};
pub use function::{FunctionConfig, FunctionRef};
pub use host::{HostOptions, InvokeError, LambdaHost};
pub use process::peak_memory;
pub use queue::{AsyncInvocations, DeadLetter, QueueOptions};

use bytes::Bytes;

/// The largest payload of a synchronous invocation, in bytes (6 MiB).
pub const MAX_SYNC_PAYLOAD_BYTES: usize = 6 * 1024 * 1024;

/// The largest payload of an asynchronous invocation, in bytes (1 MiB).
pub const MAX_ASYNC_PAYLOAD_BYTES: usize = 1024 * 1024;

/// Result of an invocation, as far as the function is concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The function answered.
    Answer(Bytes),
    /// The function, or its runtime, failed.
    Failed(FunctionError),
}

/// A function error, as reported with `X-Amz-Function-Error: Unhandled`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FunctionError {
    /// `errorType`.
    pub error_type: String,
    /// `errorMessage`.
    pub message: String,
    /// The whole payload, JSON.
    pub payload: Bytes,
}

impl FunctionError {
    /// Creates a failure that Lambda itself reports.
    pub(crate) fn new(error_type: &str, message: impl Into<String>) -> Self {
        let message = message.into();
        let payload = serde_json::json!({ "errorType": error_type, "errorMessage": message });
        Self {
            error_type: error_type.into(),
            payload: payload.to_string().into(),
            message,
        }
    }

    /// Creates a failure that the function reported.
    pub(crate) fn reported(payload: Bytes, header: Option<&str>, default_type: &str) -> Self {
        let value: serde_json::Value = serde_json::from_slice(&payload).unwrap_or_default();
        let text = |name: &str| value.get(name).and_then(|v| v.as_str()).map(str::to_owned);
        let error_type = text("errorType")
            .or_else(|| header.map(str::to_owned))
            .unwrap_or_else(|| default_type.to_owned());
        let message = text("errorMessage").unwrap_or_default();
        if value.is_object() {
            Self {
                error_type,
                message,
                payload,
            }
        } else {
            Self::new(&error_type, String::from_utf8_lossy(&payload))
        }
    }
}

/// One finished invocation.
#[derive(Debug, Clone)]
pub struct Invoked {
    /// Request id of the invocation.
    pub request_id: String,
    /// Result of the invocation.
    pub outcome: Outcome,
    /// The last 4 KiB of the function's output.
    pub log_tail: Vec<u8>,
    /// Duration without the cold start.
    pub duration: std::time::Duration,
    /// Duration of the cold start, if there was one.
    pub init: Option<std::time::Duration>,
    /// Maximum memory of the environment so far, where the system reports it.
    pub max_memory_bytes: Option<u64>,
}
