//! A finding: the problem, its effect, and the remedy.

use std::fmt;

use branchline_core::Error;
use branchline_core::pipeline::PipelineFinding;
use serde::Serialize;

use crate::failure::one_line;

/// Problem of a stack.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(super) struct Finding {
    /// Kind of the problem, such as `pipeline-polls`.
    pub(super) problem: &'static str,
    /// The problem, which names what has it.
    pub(super) message: String,
    /// Effect of the problem.
    pub(super) effect: String,
    /// Change that ends the problem.
    pub(super) remedy: String,
}

impl Finding {
    /// Makes the finding for something that cannot be read.
    pub(super) fn unreadable(error: &Error) -> Self {
        let remedy = error.hint().unwrap_or("try again, or check the cause");
        Self {
            problem: "unreadable",
            message: without_hint(error),
            effect: "it is not checked".to_owned(),
            remedy: remedy.to_owned(),
        }
    }

    /// Makes the finding for a setting that is not valid.
    pub(super) fn of_settings(error: &Error) -> Self {
        let remedy = error.hint().unwrap_or("correct the setting");
        Self {
            problem: "settings",
            message: without_hint(error),
            effect: "the function does not start, and each of its events fails".to_owned(),
            remedy: remedy.to_owned(),
        }
    }
}

/// Formats an error without its hint, which is the remedy of a finding.
fn without_hint(error: &Error) -> String {
    let report = one_line(error);
    match error.hint() {
        None => report,
        Some(hint) => {
            let hint = format!("; hint: {hint}");
            report.strip_suffix(&hint).unwrap_or(&report).to_owned()
        }
    }
}

impl From<&PipelineFinding> for Finding {
    fn from(finding: &PipelineFinding) -> Self {
        Self {
            problem: finding.problem.name(),
            message: finding.message.clone(),
            effect: finding.effect.to_owned(),
            remedy: finding.remedy.clone(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            problem,
            message,
            effect,
            remedy,
        } = self;
        write!(
            f,
            "{problem}: {message}\n  effect: {effect}\n  remedy: {remedy}"
        )
    }
}
