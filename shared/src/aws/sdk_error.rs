//! What the SDK's errors say, in plain words: the part of the conversion to
//! [`Error`] that all services share. What a code means for one service is in that
//! service's `client` module.

use std::error::Error as StdError;
use std::fmt;

use aws_credential_types::provider::error::CredentialsError;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;

use crate::error::{Error, ErrorKind};

/// Codes by which services ask for fewer requests, beside HTTP status 429.
const THROTTLING: &[&str] = &[
    "BandwidthLimitExceeded",
    "LimitExceededException",
    "PriorRequestNotComplete",
    "ProvisionedThroughputExceededException",
    "RequestLimitExceeded",
    "RequestThrottled",
    "RequestThrottledException",
    "SlowDown",
    "ThrottledException",
    "Throttling",
    "ThrottlingException",
    "TooManyRequests",
    "TooManyRequestsException",
];

/// Codes of failures of the service, some of which come with status 400.
const FAILING: &[&str] = &[
    "InternalError",
    "InternalFailure",
    "InternalServerError",
    "InternalServerException",
    "RequestTimeout",
    "RequestTimeoutException",
    "ServiceException",
    "ServiceUnavailable",
    "ServiceUnavailableException",
];

/// Codes that refuse the request's signature, not what it asks for.
const CREDENTIALS: &[&str] = &[
    "ExpiredToken",
    "ExpiredTokenException",
    "IncompleteSignature",
    "IncompleteSignatureException",
    "InvalidAccessKeyId",
    "InvalidClientTokenId",
    "InvalidSignatureException",
    "InvalidToken",
    "MissingAuthenticationToken",
    "MissingAuthenticationTokenException",
    "RequestExpired",
    "RequestTimeTooSkewed",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException",
];

/// The request that failed, for the message.
#[derive(Debug, Clone)]
pub(crate) struct ApiCall {
    /// The service as people call it, `CodeCommit`.
    pub(crate) service: &'static str,
    /// The operation, `GetBranch`.
    pub(crate) operation: &'static str,
    /// What it is allowed by, `codecommit:GetBranch`.
    pub(crate) permission: &'static str,
    /// What it is about, "branch `x` of repository `r`".
    pub(crate) subject: String,
    /// On what the permission must be granted, an ARN or words.
    pub(crate) resource: String,
}

/// How far a request came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FailureStage {
    /// It was not sent: no credentials, or none that can be used.
    Credentials,
    /// It was not sent.
    Construction,
    /// Nothing, or only a part of the answer came back.
    Transport,
    /// The service answered with an error.
    Refused,
    /// The service answered, and we could not read it.
    Unreadable,
}

/// An SDK error taken apart.
#[derive(Debug)]
pub(crate) struct SdkFailure {
    stage: FailureStage,
    status: Option<u16>,
    code: Option<String>,
    request_id: Option<String>,
    cause: Cause,
}

/// The cause of an error as text: the SDK's own errors carry the raw answer, which has no
/// place in a log.
#[derive(Debug)]
struct Cause(String);

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl StdError for Cause {}

impl SdkFailure {
    /// Takes an SDK error apart.
    pub(crate) fn of<E>(error: &SdkError<E, HttpResponse>) -> Self
    where
        E: StdError + ProvideErrorMetadata + 'static,
    {
        let response = error.raw_response();
        let header = |name: &str| {
            let value = response?.headers().get(name)?;
            Some(value.to_owned())
        };
        let status = response.map(|response| response.status().as_u16());
        let code = error.code().filter(|code| !code.is_empty());
        let stage = match error {
            _ if is_credentials(error) => FailureStage::Credentials,
            SdkError::ConstructionFailure(_) => FailureStage::Construction,
            SdkError::ServiceError(_) if code.is_some() => FailureStage::Refused,
            SdkError::ServiceError(_) => unnamed(status),
            // The body is in memory only when all of it came.
            SdkError::ResponseError(answer) if answer.raw().body().bytes().is_some() => {
                unnamed(status)
            }
            _ => FailureStage::Transport,
        };
        let cause = match (stage, error.message()) {
            (FailureStage::Refused, Some(message)) => message.to_owned(),
            (FailureStage::Refused, None) => format!("HTTP status {}", status.unwrap_or_default()),
            _ => chain(error),
        };
        Self {
            stage,
            status,
            code: code.map(str::to_owned),
            request_id: header("x-amzn-requestid").or_else(|| header("x-amz-request-id")),
            cause: Cause(cause),
        }
    }

    /// The AWS code, empty when there is none.
    pub(crate) fn code(&self) -> &str {
        self.code.as_deref().unwrap_or_default()
    }

    /// The HTTP status of the answer, 0 when none came.
    pub(crate) fn status(&self) -> u16 {
        self.status.unwrap_or_default()
    }

    /// Makes the error of a kind and message that the service's own table gave.
    pub(crate) fn into_error(self, kind: ErrorKind, message: impl Into<String>) -> Error {
        Error::new(kind, message)
            .with_aws(self.code.as_deref(), self.request_id.as_deref())
            .with_source(self.cause)
    }

    /// Makes the error that follows from what all services share.
    pub(crate) fn into_common_error(self, call: &ApiCall) -> Error {
        let ApiCall {
            service,
            operation,
            permission,
            subject,
            resource,
        } = call;
        match (self.stage, self.common_kind()) {
            (FailureStage::Credentials, kind) => self
                .into_error(kind, format!("no usable AWS credentials for `{operation}` of {subject}"))
                .with_hint("set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or run with a role"),
            (_, ErrorKind::AccessDenied) if CREDENTIALS.contains(&self.code()) => self
                .into_error(
                    ErrorKind::AccessDenied,
                    format!("{service} does not accept the credentials of `{operation}` of {subject}"),
                )
                .with_hint("check the access key, the session token's age and the clock"),
            (_, kind @ ErrorKind::AccessDenied) => self
                .into_error(kind, format!("`{permission}` on {subject} is not allowed"))
                .with_hint(format!("grant `{permission}` on {resource} to the caller's role")),
            (_, kind @ ErrorKind::Throttled) => {
                self.into_error(kind, format!("{service} throttled `{operation}` of {subject}"))
            }
            (FailureStage::Refused, kind @ ErrorKind::Transport) => {
                self.into_error(kind, format!("{service} failed in `{operation}` of {subject}"))
            }
            (_, kind @ ErrorKind::Transport) => {
                self.into_error(kind, format!("`{operation}` of {subject} got no whole answer"))
            }
            (_, kind @ ErrorKind::NotFound) => self.into_error(kind, format!("{subject} does not exist")),
            (_, kind @ ErrorKind::Conflict) => {
                self.into_error(kind, format!("{subject} was changed by someone else"))
            }
            (_, kind @ ErrorKind::Corrupt) => {
                self.into_error(kind, format!("the answer to `{operation}` of {subject} is unreadable"))
            }
            (_, kind) => self.into_error(kind, format!("{service} refused `{operation}` of {subject}")),
        }
    }

    fn common_kind(&self) -> ErrorKind {
        match self.stage {
            FailureStage::Credentials => return ErrorKind::Config,
            FailureStage::Construction => return ErrorKind::Internal,
            FailureStage::Transport => return ErrorKind::Transport,
            FailureStage::Unreadable => return ErrorKind::Corrupt,
            FailureStage::Refused => {}
        }
        let code = self.code();
        match self.status() {
            429 => ErrorKind::Throttled,
            _ if THROTTLING.contains(&code) => ErrorKind::Throttled,
            500.. => ErrorKind::Transport,
            _ if FAILING.contains(&code) => ErrorKind::Transport,
            401 | 403 => ErrorKind::AccessDenied,
            _ if code.starts_with("AccessDenied") || CREDENTIALS.contains(&code) => {
                ErrorKind::AccessDenied
            }
            404 => ErrorKind::NotFound,
            409 | 412 => ErrorKind::Conflict,
            _ => ErrorKind::Internal,
        }
    }
}

/// An error's causes on one line. Not the SDK's own `DisplayErrorContext`: that adds the
/// whole answer, with what is in the file that it carries.
fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        // Several layers only repeat their cause.
        let line = error.to_string();
        if !text.ends_with(&line) {
            text = format!("{text}: {line}");
        }
        next = error.source();
    }
    text
}

/// How far a request came whose whole answer names no code: a proxy's page, or the empty
/// body of an answer to HEAD. Some statuses say enough by themselves.
fn unnamed(status: Option<u16>) -> FailureStage {
    match status {
        Some(301 | 307 | 401 | 403 | 404 | 405 | 409 | 412 | 416 | 429 | 500..) => {
            FailureStage::Refused
        }
        _ => FailureStage::Unreadable,
    }
}

/// Whether no credentials could be had; a provider that failed on the way is not meant,
/// since trying again can help.
fn is_credentials(error: &(dyn StdError + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<CredentialsError>() {
            return matches!(
                error,
                CredentialsError::CredentialsNotLoaded(_)
                    | CredentialsError::InvalidConfiguration(_)
            );
        }
        next = error.source();
    }
    false
}

/// The error for an answer that lacks something or holds something impossible.
#[cfg(any(feature = "codecommit", feature = "codepipeline", feature = "s3"))]
pub(crate) fn corrupt(call: &ApiCall, what: impl fmt::Display) -> Error {
    Error::new(
        ErrorKind::Corrupt,
        format!(
            "the answer to `{}` of {} is unreadable: {what}",
            call.operation, call.subject
        ),
    )
}
