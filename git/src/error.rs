//! The error of this package.
//!
//! An [`Error`] is either a [`Failure`] that this package found, with a kind to decide by, or
//! an [`ExternalError`]: an error of code that the caller passed in (storage behind
//! [`PackBytes`](crate::pack::PackBytes), a stream, a credential source), which travels
//! through this package unchanged.

use std::error::Error as StdError;
use std::fmt;

/// A result whose error is [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of any type.
pub type BoxError = Box<dyn StdError + Send + Sync>;

/// The reason for a failure, as far as a caller decides by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// Received bytes contradict their format or each other.
    Corrupt,
    /// The caller's input, or a setting of the server, does not allow the operation.
    Config,
    /// An object or a repository is missing.
    NotFound,
    /// The server refuses the credentials, or asks for some.
    AccessDenied,
    /// The server asks for fewer requests.
    Throttled,
    /// An object or a pack exceeds a limit.
    FileTooLarge,
    /// A ref or a pack was changed by someone else in between.
    Conflict,
    /// The connection failed, or the server did.
    Transport,
    /// This package was called in a way that its documentation excludes.
    Internal,
    /// A kind of the caller's own errors that has no meaning here.
    Other,
}

/// A failure of git's formats or protocols.
///
/// `Display` is the message alone, without its cause.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A failure that this package found.
    #[error(transparent)]
    Failure(Box<Failure>),
    /// An error of code that the caller passed in.
    #[error(transparent)]
    External(Box<ExternalError>),
}

/// A failure that this package found.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// The reason to decide by.
    pub kind: ErrorKind,
    /// Names the thing that failed, what was expected and what was found.
    pub message: String,
    /// Advice to the reader.
    pub hint: Option<String>,
    /// The code of the server's own error, as in `AccessDeniedException`.
    pub server_code: Option<String>,
    /// The server's id of the failed request.
    pub request_id: Option<String>,
    /// The cause.
    pub source: Option<BoxError>,
}

/// An error of code that the caller passed in.
#[derive(Debug)]
pub struct ExternalError {
    /// The reason to decide by, as the caller classified it.
    pub kind: ErrorKind,
    /// The steps of this package that failed with it, innermost first.
    pub context: Vec<String>,
    /// Advice to the reader.
    pub hint: Option<String>,
    /// The caller's error.
    pub error: BoxError,
}

impl fmt::Display for ExternalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for context in self.context.iter().rev() {
            write!(f, "{context}: ")?;
        }
        self.error.fmt(f)
    }
}

impl StdError for ExternalError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        // `Display` shows the error itself, so that the next level is its cause.
        self.error.source()
    }
}

impl Error {
    /// Creates a failure whose `message` names the thing that failed.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self::Failure(Box::new(Failure {
            kind,
            message: message.into(),
            hint: None,
            server_code: None,
            request_id: None,
            source: None,
        }))
    }

    /// Wraps an error of the caller's own code.
    pub fn external(kind: ErrorKind, error: impl Into<BoxError>) -> Self {
        Self::External(Box::new(ExternalError {
            kind,
            context: Vec::new(),
            hint: None,
            error: error.into(),
        }))
    }

    /// Returns the reason to decide by.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Failure(failure) => failure.kind,
            Self::External(external) => external.kind,
        }
    }

    /// Prefixes the message with the step that failed: `context: message`.
    #[must_use]
    pub fn context(mut self, context: impl fmt::Display) -> Self {
        match &mut self {
            Self::Failure(failure) => failure.message = format!("{context}: {}", failure.message),
            Self::External(external) => external.context.push(context.to_string()),
        }
        self
    }

    /// Adds advice to the reader.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        match &mut self {
            Self::Failure(failure) => failure.hint = Some(hint.into()),
            Self::External(external) => external.hint = Some(hint.into()),
        }
        self
    }

    /// Returns the advice to the reader.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Failure(failure) => failure.hint.as_deref(),
            Self::External(external) => external.hint.as_deref(),
        }
    }

    /// Adds the cause to a failure of this package.
    #[must_use]
    pub fn with_source(self, source: impl Into<BoxError>) -> Self {
        self.change(|failure| failure.source = Some(source.into()))
    }

    /// Adds the server's own code and request id to a failure of this package.
    #[must_use]
    pub(crate) fn with_server(self, code: Option<&str>, request_id: Option<&str>) -> Self {
        self.change(|failure| {
            failure.server_code = code.map(str::to_owned);
            failure.request_id = request_id.map(str::to_owned);
        })
    }

    fn change(mut self, change: impl FnOnce(&mut Failure)) -> Self {
        if let Self::Failure(failure) = &mut self {
            change(failure);
        }
        self
    }

    /// Returns message, causes and hint on one line.
    pub fn report(&self) -> String {
        use fmt::Write as _;
        let mut text = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            let _ = write!(text, ": {error}");
            cause = error.source();
        }
        if let Some(hint) = self.hint() {
            let _ = write!(text, "; hint: {hint}");
        }
        text
    }
}

/// Creates the error for bytes that contradict their format.
pub(crate) fn corrupt(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Corrupt, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_has_message_cause_and_hint_once_each() {
        let error = Error::new(ErrorKind::Corrupt, "pack 12")
            .with_source(std::io::Error::other("short read"))
            .with_hint("fetch it again")
            .context("reading 34");
        assert_eq!(
            error.report(),
            "reading 34: pack 12: short read; hint: fetch it again"
        );
        assert_eq!(error.to_string(), "reading 34: pack 12");
    }

    #[test]
    fn an_external_error_keeps_its_kind_and_its_message() {
        let error = Error::external(ErrorKind::NotFound, std::io::Error::other("no such key"))
            .context("reading 34");
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert_eq!(error.report(), "reading 34: no such key");
        let error = error.with_hint("check the key");
        assert_eq!(
            error.report(),
            "reading 34: no such key; hint: check the key"
        );
    }
}
