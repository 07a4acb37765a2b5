//! The one error of the core: a kind to decide by, a message that names the thing,
//! and a hint that says what to do.

use std::error::Error as StdError;
use std::fmt;

/// A result whose error is [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Declares [`ErrorKind`], the list of all kinds and their names from one list of variants.
macro_rules! error_kinds {
    ($(#[$attribute:meta])* pub enum ErrorKind { $($(#[$doc:meta])* $kind:ident,)+ }) => {
        $(#[$attribute])*
        pub enum ErrorKind {
            $($(#[$doc])* $kind,)+
        }

        impl ErrorKind {
            /// All kinds, in the order of their declaration.
            pub const ALL: [Self; [$(stringify!($kind)),+].len()] = [$(Self::$kind),+];

            /// Returns the kind's name, as in `errorType` after `branchline.`.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$kind => stringify!($kind),)+
                }
            }
        }
    };
}

error_kinds! {
    /// Kind of a failure, as far as a caller decides by it.
    ///
    /// The names are a contract: a function's failed answer carries
    /// `"errorType": "branchline.<name>"`.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
    pub enum ErrorKind {
        /// The event has no known shape, or a field of it is not valid.
        InvalidEvent,
        /// A setting is missing, malformed or contradicts what is there.
        Config,
        /// A repository, branch, commit, bucket, object or pipeline is not there.
        NotFound,
        /// The caller's role may not do this.
        AccessDenied,
        /// The service asked for fewer requests.
        Throttled,
        /// A file is larger than the service's API serves.
        FileTooLarge,
        /// Someone else changed the same thing in between.
        Conflict,
        /// A change was refused, by its receiver or by a rule of the request, and would be
        /// refused again.
        Rejected,
        /// The request did not arrive, or its answer did not; or the service failed (5xx).
        Transport,
        /// The received bytes contradict themselves or their format.
        Corrupt,
        /// There is not enough time left before the function's deadline.
        Deadline,
        /// A defect of branchline.
        Internal,
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A failure, with what a person needs to act on it.
///
/// `Display` prints the message alone; the cause is in [`StdError::source`], so that a
/// report can print each level once.
#[derive(Debug)]
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: ErrorKind,
    message: String,
    hint: Option<String>,
    aws_code: Option<String>,
    request_id: Option<String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// Creates an error whose message names the thing that it is about.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            message: message.into(),
            hint: None,
            aws_code: None,
            request_id: None,
            source: None,
        }))
    }

    /// Adds what the reader can do about it.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Adds the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Adds the AWS error code (`BranchDoesNotExistException`) and the request id.
    #[must_use]
    pub fn with_aws(mut self, code: Option<&str>, request_id: Option<&str>) -> Self {
        self.0.aws_code = code.map(str::to_owned);
        self.0.request_id = request_id.map(str::to_owned);
        self
    }

    /// Says what was being done: `context: message`.
    #[must_use]
    pub fn context(mut self, context: impl fmt::Display) -> Self {
        self.0.message = format!("{context}: {}", self.0.message);
        self
    }

    /// Returns the kind of this failure.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Returns the remedy for the reader.
    pub fn hint(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// The AWS error code, when a service gave one.
    pub fn aws_code(&self) -> Option<&str> {
        self.0.aws_code.as_deref()
    }

    /// Returns whether CodeCommit reported that the repository is missing.
    pub fn is_repository_missing(&self) -> bool {
        self.aws_code() == Some("RepositoryDoesNotExistException")
    }

    /// Returns whether CodeCommit reported that the branch, not its repository, is missing.
    pub fn is_branch_missing(&self) -> bool {
        self.aws_code() == Some("BranchDoesNotExistException")
    }

    /// Returns whether CodeCommit reported that a specifier, such as a tag, names no commit.
    pub fn is_commit_missing(&self) -> bool {
        matches!(
            self.aws_code(),
            Some("CommitDoesNotExistException" | "CommitIdDoesNotExistException")
        )
    }

    /// Returns whether CodeCommit reported that the pull request is missing.
    pub fn is_pull_request_missing(&self) -> bool {
        self.aws_code() == Some("PullRequestDoesNotExistException")
    }

    /// Returns whether CodePipeline reported that the pipeline is missing.
    pub fn is_pipeline_missing(&self) -> bool {
        self.aws_code() == Some("PipelineNotFoundException")
    }

    /// The AWS request id, when a service gave one.
    pub fn request_id(&self) -> Option<&str> {
        self.0.request_id.as_deref()
    }

    /// The whole story on one line: message, causes, AWS code, request id and hint.
    pub fn report(&self) -> String {
        use std::fmt::Write as _;
        let mut text = self.0.message.clone();
        let mut cause = self.source();
        while let Some(error) = cause {
            let _ = write!(text, ": {error}");
            cause = error.source();
        }
        if let Some(code) = &self.0.aws_code {
            let _ = write!(text, " ({code}");
            if let Some(id) = &self.0.request_id {
                let _ = write!(text, ", request {id}");
            }
            text.push(')');
        }
        if let Some(hint) = &self.0.hint {
            let _ = write!(text, "; hint: {hint}");
        }
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

/// Creates the error for bytes that contradict their format.
pub(crate) fn corrupt(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Corrupt, message)
}

impl From<branchline_git::Error> for Error {
    fn from(error: branchline_git::Error) -> Self {
        match error {
            branchline_git::Error::Failure(failure) => Self(Box::new(Inner {
                kind: from_git(failure.kind),
                message: failure.message,
                hint: failure.hint,
                aws_code: failure.server_code,
                request_id: failure.request_id,
                source: failure.source,
            })),
            branchline_git::Error::External(external) => {
                let error = external.error.downcast::<Self>().map_or_else(
                    // Only the core passes code to the git package that can fail.
                    |error| Self::new(from_git(external.kind), error.to_string()),
                    |error| *error,
                );
                external.context.into_iter().fold(error, Self::context)
            }
        }
    }
}

/// Lets an error of the core pass through the git package, which returns it unchanged.
impl From<Error> for branchline_git::Error {
    fn from(error: Error) -> Self {
        let hint = error.hint().map(str::to_owned);
        let external = Self::external(to_git(error.kind()), error);
        match hint {
            Some(hint) => external.with_hint(hint),
            None => external,
        }
    }
}

fn from_git(kind: branchline_git::ErrorKind) -> ErrorKind {
    use branchline_git::ErrorKind as Git;
    match kind {
        Git::Corrupt => ErrorKind::Corrupt,
        Git::Config => ErrorKind::Config,
        Git::NotFound => ErrorKind::NotFound,
        Git::AccessDenied => ErrorKind::AccessDenied,
        Git::Throttled => ErrorKind::Throttled,
        Git::FileTooLarge => ErrorKind::FileTooLarge,
        Git::Conflict => ErrorKind::Conflict,
        Git::Transport => ErrorKind::Transport,
        Git::Internal | Git::Other => ErrorKind::Internal,
    }
}

fn to_git(kind: ErrorKind) -> branchline_git::ErrorKind {
    use branchline_git::ErrorKind as Git;
    match kind {
        ErrorKind::Corrupt => Git::Corrupt,
        ErrorKind::Config => Git::Config,
        ErrorKind::NotFound => Git::NotFound,
        ErrorKind::AccessDenied => Git::AccessDenied,
        ErrorKind::Throttled => Git::Throttled,
        ErrorKind::FileTooLarge => Git::FileTooLarge,
        ErrorKind::Conflict => Git::Conflict,
        ErrorKind::Transport => Git::Transport,
        ErrorKind::Internal => Git::Internal,
        ErrorKind::InvalidEvent | ErrorKind::Rejected | ErrorKind::Deadline => Git::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_tells_message_cause_code_and_hint_once_each() {
        let error = Error::new(ErrorKind::NotFound, "branch `x` of `r`")
            .with_source(std::io::Error::other("socket closed"))
            .with_aws(Some("BranchDoesNotExistException"), Some("id-1"))
            .with_hint("push it first")
            .context("reading the tip");
        assert_eq!(
            error.report(),
            "reading the tip: branch `x` of `r`: socket closed \
             (BranchDoesNotExistException, request id-1); hint: push it first"
        );
        assert_eq!(error.to_string(), "reading the tip: branch `x` of `r`");
    }
}
