//! Variables that a pipeline may declare (`PIPELINE_VARIABLES`).

use branchline_core::git::escaped_excerpt;
use branchline_core::{Error, ErrorKind, Result};

/// Variable of a pipeline execution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PipelineVariable {
    /// `REPOSITORY_NAME`
    RepositoryName,
    /// `BRANCH_NAME`
    BranchName,
    /// `COMMIT_ID`
    CommitId,
    /// `DESCRIBE`: the nearest tag, as `git describe --tags --always`.
    Describe,
    /// `TAG_NAME`: a tag of the commit.
    TagName,
    /// `COMMIT_MESSAGE`: the message on one line.
    CommitMessage,
    /// `COMMITTER_DATE`: the date of the commit, as ISO 8601.
    CommitterDate,
    /// `CHANGED_PATHS`: the paths that the commit changes.
    ChangedPaths,
}

/// All variables by name.
const VARIABLES: [(&str, PipelineVariable); 8] = [
    ("REPOSITORY_NAME", PipelineVariable::RepositoryName),
    ("BRANCH_NAME", PipelineVariable::BranchName),
    ("COMMIT_ID", PipelineVariable::CommitId),
    ("DESCRIBE", PipelineVariable::Describe),
    ("TAG_NAME", PipelineVariable::TagName),
    ("COMMIT_MESSAGE", PipelineVariable::CommitMessage),
    ("COMMITTER_DATE", PipelineVariable::CommitterDate),
    ("CHANGED_PATHS", PipelineVariable::ChangedPaths),
];

/// Number of variables that `true` stands for.
const COMMON_VARIABLES: usize = 3;

impl PipelineVariable {
    /// Parses `true`, `false` or a list of names.
    pub(crate) fn parse_list(text: &str) -> Result<Vec<Self>> {
        let names = VARIABLES.map(|(name, _)| name);
        match text {
            "true" => return Self::parse_list(&names[..COMMON_VARIABLES].join(",")),
            "false" => return Ok(Vec::new()),
            _ => {}
        }
        let mut variables = Vec::new();
        for name in text.split(',').map(str::trim) {
            let known = VARIABLES.iter().find(|(known, _)| *known == name);
            let Some((_, variable)) = known else {
                let shown = escaped_excerpt(name.as_bytes());
                return Err(Error::new(
                    ErrorKind::Config,
                    format!(
                        "`{shown}` is not `true`, `false`, or one of {}",
                        names.join(", ")
                    ),
                ));
            };
            if !variables.contains(variable) {
                variables.push(*variable);
            }
        }
        Ok(variables)
    }

    /// Returns the name that a pipeline declares.
    pub(crate) fn name(self) -> &'static str {
        let mut all = VARIABLES.iter();
        let found = all.find(|(_, variable)| *variable == self);
        found.expect("because all variables are in the list").0
    }

    /// Returns whether the value is in the commit itself.
    pub(crate) fn needs_commit(self) -> bool {
        matches!(
            self,
            Self::CommitMessage | Self::CommitterDate | Self::ChangedPaths
        )
    }
}
