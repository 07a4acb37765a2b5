//! Conversion of the SDK's errors to [`Error`], as far as all services share it. Codes of
//! one service are converted in that service's `client` module.

use std::error::Error as StdError;
use std::fmt;

use aws_credential_types::provider::error::CredentialsError;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::{ConnectorError, SdkError};
use aws_smithy_types::error::metadata::ProvideErrorMetadata;

use crate::error::{Error, ErrorKind};

/// Codes of throttled requests, in addition to HTTP status 429.
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

/// Codes of failures of the service, some of which have status 400.
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

/// Codes that refuse the request's signature.
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

/// A request, as error messages describe it.
#[derive(Debug, Clone)]
pub(crate) struct ApiCall {
    /// Name of the service, `CodeCommit`.
    pub(crate) service: &'static str,
    /// Name of the operation, `GetBranch`.
    pub(crate) operation: &'static str,
    /// Permission that allows the operation, `codecommit:GetBranch`.
    pub(crate) permission: &'static str,
    /// Object of the operation, "branch `x` of repository `r`".
    pub(crate) subject: String,
    /// Resource that the permission must be granted on, an ARN or words.
    pub(crate) resource: String,
}

/// Stage at which a request failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FailureStage {
    /// Before sending: credentials are missing or unusable.
    Credentials,
    /// Before sending.
    Construction,
    /// In transit: no answer, or only a part of one.
    Transport,
    /// The service answered with an error.
    Refused,
    /// The service answered, and the answer is unreadable.
    Unreadable,
}

/// Parts of an SDK error.
#[derive(Debug)]
pub(crate) struct SdkFailure {
    stage: FailureStage,
    status: Option<u16>,
    code: Option<String>,
    request_id: Option<String>,
    bucket_region: Option<String>,
    /// Failure of the request that was to provide the credentials, if this crate made that request.
    credentials: Option<(ErrorKind, Option<String>)>,
    cause: Cause,
}

/// Cause of an error as text. The SDK's own errors contain the raw answer, which must not be
/// logged.
#[derive(Debug)]
struct Cause {
    text: String,
    /// The request has no credentials, or the service does not accept them.
    is_about_credentials: bool,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl StdError for Cause {}

/// Returns whether a request failed because it has no credentials, or because the service does
/// not accept them, so that signing in again may help.
pub fn is_credentials_failure(error: &Error) -> bool {
    let mut next = StdError::source(error);
    while let Some(error) = next {
        if let Some(cause) = error.downcast_ref::<Cause>() {
            return cause.is_about_credentials;
        }
        if error.is::<CredentialsError>() {
            return is_missing_credentials(error);
        }
        next = error.source();
    }
    false
}

impl SdkFailure {
    /// Splits an SDK error into its parts.
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
            _ if is_missing_credentials(error) => FailureStage::Credentials,
            SdkError::ConstructionFailure(_) => FailureStage::Construction,
            SdkError::ServiceError(_) if code.is_some() => FailureStage::Refused,
            SdkError::ServiceError(_) => stage_without_code(status),
            // The body is in memory only when it is complete.
            SdkError::ResponseError(answer) if answer.raw().body().bytes().is_some() => {
                stage_without_code(status)
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
            bucket_region: bucket_region(status, header("x-amz-bucket-region"), &cause),
            credentials: own_failure(error),
            cause: Cause {
                text: cause,
                is_about_credentials: stage == FailureStage::Credentials
                    || code.is_some_and(|code| CREDENTIALS.contains(&code)),
            },
        }
    }

    /// Returns the AWS code, empty if there is none.
    pub(crate) fn code(&self) -> &str {
        self.code.as_deref().unwrap_or_default()
    }

    /// Returns whether the service's message contains `text`.
    #[cfg(feature = "s3")]
    pub(crate) fn mentions(&self, text: &str) -> bool {
        self.cause.text.contains(text)
    }

    /// Returns the HTTP status of the answer, 0 if there is none.
    pub(crate) fn status(&self) -> u16 {
        self.status.unwrap_or_default()
    }

    /// Returns the region of the bucket, if S3 answered that the request went to another one.
    #[cfg(feature = "s3")]
    pub(crate) fn bucket_region(&self) -> Option<&str> {
        self.bucket_region.as_deref()
    }

    /// Makes an error with a kind and message chosen by the service's module.
    pub(crate) fn into_error(self, kind: ErrorKind, message: impl Into<String>) -> Error {
        Error::new(kind, message)
            .with_aws(self.code.as_deref(), self.request_id.as_deref())
            .with_source(self.cause)
    }

    /// Makes the error by the codes and statuses that all services share.
    pub(crate) fn into_common_error(self, call: &ApiCall) -> Error {
        let ApiCall {
            service,
            operation,
            permission,
            subject,
            resource,
        } = call;
        match (self.stage, self.common_kind()) {
            (FailureStage::Credentials, kind) => {
                let hint = self.credentials.as_ref().and_then(|(_, hint)| hint.clone());
                let hint = hint.unwrap_or_else(|| {
                    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or run with a role".to_owned()
                });
                self.into_error(
                    kind,
                    format!("no usable AWS credentials for `{operation}` of {subject}"),
                )
                .with_hint(hint)
            }
            (_, ErrorKind::AccessDenied) if CREDENTIALS.contains(&self.code()) => self
                .into_error(
                    ErrorKind::AccessDenied,
                    format!(
                        "{service} does not accept the credentials of `{operation}` of {subject}"
                    ),
                )
                .with_hint("check the access key, the session token's age and the clock"),
            (_, kind @ ErrorKind::AccessDenied) => self
                .into_error(kind, format!("`{permission}` on {subject} is not allowed"))
                .with_hint(format!(
                    "grant `{permission}` on {resource} to the caller's role"
                )),
            (_, kind @ ErrorKind::Throttled) => self.into_error(
                kind,
                format!("{service} throttled `{operation}` of {subject}"),
            ),
            (FailureStage::Refused, kind @ ErrorKind::Transport) => self.into_error(
                kind,
                format!("{service} failed in `{operation}` of {subject}"),
            ),
            (_, kind @ ErrorKind::Transport) => self.into_error(
                kind,
                format!("`{operation}` of {subject} got no complete answer"),
            ),
            (_, kind @ ErrorKind::NotFound) => {
                self.into_error(kind, format!("{subject} does not exist"))
            }
            (_, kind @ ErrorKind::Conflict) => {
                self.into_error(kind, format!("{subject} was changed by someone else"))
            }
            (_, kind @ ErrorKind::Corrupt) => self.into_error(
                kind,
                format!("the answer to `{operation}` of {subject} is unreadable"),
            ),
            (_, kind) => self.into_error(
                kind,
                format!("{service} refused `{operation}` of {subject}"),
            ),
        }
    }

    fn common_kind(&self) -> ErrorKind {
        match self.stage {
            FailureStage::Credentials => {
                let own = self.credentials.as_ref();
                return own.map_or(ErrorKind::Config, |(kind, _)| *kind);
            }
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

/// Returns the region to which S3 redirects: the header's, or that in the message of
/// `AuthorizationHeaderMalformed`. The answer to HEAD has no body.
fn bucket_region(status: Option<u16>, header: Option<String>, message: &str) -> Option<String> {
    if !matches!(status, Some(301 | 307 | 400)) {
        return None;
    }
    let expected = || {
        let (_, rest) = message.split_once("expecting '")?;
        Some(rest.split_once('\'')?.0.to_owned())
    };
    // The region becomes a part of the endpoint's name.
    let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    header
        .or_else(expected)
        .filter(|region| (1..=40).contains(&region.len()) && region.chars().all(legal))
}

/// Formats an error and its causes on one line. The SDK's own `DisplayErrorContext` is not
/// used, because it adds the whole answer, with the contents of files.
fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        // Left out where a layer only repeats its cause.
        let line = error.to_string();
        if !text.ends_with(&line) {
            text = format!("{text}: {line}");
        }
        next = error.source();
    }
    text
}

/// Returns the stage of a complete answer without a code: a proxy's page, or the empty body
/// of an answer to HEAD. These statuses are sufficient without a code.
fn stage_without_code(status: Option<u16>) -> FailureStage {
    match status {
        Some(301 | 307 | 401 | 403 | 404 | 405 | 409 | 412 | 416 | 429 | 500..) => {
            FailureStage::Refused
        }
        _ => FailureStage::Unreadable,
    }
}

/// Returns whether credentials are missing, misconfigured or expired. A provider that failed in
/// transit does not count, because a retry can succeed.
fn is_missing_credentials(error: &(dyn StdError + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<CredentialsError>() {
            return match error {
                CredentialsError::CredentialsNotLoaded(_)
                | CredentialsError::InvalidConfiguration(_) => true,
                CredentialsError::ProviderError(_) => !failed_in_transit(error),
                _ => false,
            };
        }
        next = error.source();
    }
    false
}

/// Returns kind and remedy of the error of this crate that is among the causes.
fn own_failure(error: &(dyn StdError + 'static)) -> Option<(ErrorKind, Option<String>)> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(own) = error.downcast_ref::<Error>() {
            return Some((own.kind(), own.hint().map(str::to_owned)));
        }
        next = error.source();
    }
    None
}

/// Returns whether a provider of credentials failed because its service was not reached.
fn failed_in_transit(error: &(dyn StdError + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        // Credentials of a role come from a request of this crate, which has its own errors.
        let own = error.downcast_ref::<Error>().map(Error::kind);
        if error.is::<ConnectorError>()
            || matches!(own, Some(ErrorKind::Transport | ErrorKind::Throttled))
        {
            return true;
        }
        next = error.source();
    }
    false
}

/// Makes the error for an answer with a missing or impossible value.
#[cfg(any(
    feature = "codecommit",
    feature = "codepipeline",
    feature = "roles",
    feature = "s3"
))]
pub(crate) fn corrupt(call: &ApiCall, defect: impl fmt::Display) -> Error {
    Error::new(
        ErrorKind::Corrupt,
        format!(
            "the answer to `{}` of {} is unreadable: {defect}",
            call.operation, call.subject
        ),
    )
}
