//! Exit statuses.

use std::process::ExitCode;

/// Result of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    /// Everything succeeded.
    Done,
    /// Failed; the reason is on standard error.
    Failed,
    /// The arguments are not valid.
    Usage,
    /// Partly done; the same command resumes.
    Partial,
    /// The user interrupted.
    Interrupted,
    /// A program that did the work failed with this status, and printed the reason.
    FailedChild(u8),
}

impl ExitStatus {
    /// Returns the number that the process exits with.
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Partial => 3,
            Self::Interrupted => 130,
            Self::FailedChild(code) => code,
        }
    }

    /// Passes on the exit status of a program that did the work.
    pub(crate) fn of_child(code: u8) -> Self {
        if code == 0 {
            Self::Done
        } else {
            Self::FailedChild(code)
        }
    }
}

impl From<ExitStatus> for ExitCode {
    fn from(status: ExitStatus) -> Self {
        status.code().into()
    }
}
