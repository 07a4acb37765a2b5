//! [`Functions`] over the AWS SDK.

use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_lambda::Client;
use aws_sdk_lambda::types::InvocationType;
use aws_smithy_types::Blob;
use aws_smithy_types::timeout::TimeoutConfig;
use bytes::Bytes;

use super::{FunctionArn, Functions, Invocation};
use crate::aws::{ApiCall, Aws, SdkFailure};
use crate::error::{Error, ErrorKind, Result};

/// Maximum time until a function answers: longer than Lambda lets one run.
const RUN_TIMEOUT: Duration = Duration::from_mins(16);

/// AWS Lambda of one account and region.
#[derive(Debug, Clone)]
pub struct SdkFunctions {
    pub(super) client: Client,
}

impl SdkFunctions {
    /// Makes a client.
    pub fn new(aws: &Aws) -> Self {
        let config = aws_sdk_lambda::config::Builder::from(aws.sdk())
            .interceptor(aws.idle_timeout())
            .build();
        Self {
            client: Client::from_conf(config),
        }
    }

    /// Runs a function with `payload`, a JSON text, and waits for its answer. Is not retried,
    /// because a run may do more than an earlier one whose answer was lost.
    ///
    /// # Errors
    /// `NotFound` for a missing function; the failure of a run is part of the answer.
    pub async fn invoke(&self, function: &FunctionArn, payload: Bytes) -> Result<Invocation> {
        let timeouts = TimeoutConfig::builder().read_timeout(RUN_TIMEOUT).build();
        let config = aws_sdk_lambda::config::Builder::new().timeout_config(timeouts);
        let answer = self
            .client
            .invoke()
            .function_name(function.as_str())
            .invocation_type(InvocationType::RequestResponse)
            .payload(Blob::new(payload))
            .customize()
            .config_override(config)
            .send()
            .await
            .map_err(|error| convert(SdkFailure::of(&error), &invocation_of(function)))?;
        let payload = answer.payload.map(Blob::into_inner).unwrap_or_default();
        Ok(Invocation {
            payload: payload.into(),
            has_failed: answer.function_error.is_some(),
        })
    }
}

fn invocation_of(function: &FunctionArn) -> ApiCall {
    ApiCall {
        service: "Lambda",
        operation: "Invoke",
        permission: "lambda:InvokeFunction",
        subject: format!("function `{function}`"),
        resource: format!("`{function}`"),
    }
}

#[async_trait]
impl Functions for SdkFunctions {
    async fn invoke_async(&self, function: &FunctionArn, payload: Bytes) -> Result<()> {
        self.client
            .invoke()
            .function_name(function.as_str())
            .invocation_type(InvocationType::Event)
            .payload(Blob::new(payload))
            .send()
            .await
            .map_err(|error| convert(SdkFailure::of(&error), &invocation_of(function)))?;
        Ok(())
    }
}

/// Converts Lambda's errors (API reference, `Invoke`).
pub(super) fn convert(failure: SdkFailure, call: &ApiCall) -> Error {
    let subject = &call.subject;
    match failure.code() {
        "ResourceNotFoundException" => failure
            .into_error(ErrorKind::NotFound, format!("{subject} does not exist"))
            .with_hint("check UPDATE_FUNCTION_ARN, its version or alias, and the region"),
        "KMSAccessDeniedException" => failure
            .into_error(
                ErrorKind::AccessDenied,
                format!("the KMS key of {subject} cannot be used"),
            )
            .with_hint("grant `kms:Decrypt` on the function's key to the function's role"),
        "ResourceNotReadyException" | "ResourceConflictException" => {
            failure.into_error(ErrorKind::Transport, format!("{subject} is not ready yet"))
        }
        _ => failure.into_common_error(call),
    }
}
