//! Variables of a pipeline execution.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use branchline_core::archive::{DescribeOptions, History, describe, strict_iso_date, tag_of};
use branchline_core::codecommit::differences_up_to;
use branchline_core::git::object::Commit;
use branchline_core::name::CommitId;
use branchline_core::{Error, ErrorKind, Result};

use super::Attempt;
use super::pull::short_name;
use crate::ref_kind::RefKind;
use crate::variable::PipelineVariable;

/// Maximum length of a value, in characters (CodePipeline API reference, `PipelineVariable`).
const MAX_VALUE_CHARS: usize = 1000;

/// Maximum number of differences that are read for `CHANGED_PATHS`, because more do not fit.
const MAX_CHANGED_PATHS: usize = 500;

/// Value of `CHANGED_PATHS` that stands for any path.
const ANY_PATH: &str = "*";

/// Number of digits of `DESCRIBE` where no tag is found.
const ABBREVIATED_DIGITS: usize = 7;

impl Attempt<'_> {
    /// Returns the variables that the settings name. One without a value is left out, so that the
    /// pipeline's default is in force.
    pub(super) async fn variables(&self, tip: CommitId) -> Result<Vec<(String, String)>> {
        let wanted = &self.context.config.variables;
        let codecommit = &self.context.codecommit;
        let commit = if wanted.iter().any(|variable| variable.needs_commit()) {
            Some(codecommit.get_commit(self.repository(), tip).await?)
        } else {
            None
        };
        let history = self.history();
        let mut variables = Vec::new();
        for variable in wanted {
            let value = match (variable, &commit) {
                (PipelineVariable::RepositoryName, _) => self.repository().to_string(),
                (PipelineVariable::BranchName, _) => {
                    variables.extend(self.ref_variables());
                    continue;
                }
                (PipelineVariable::CommitId, _) => tip.to_string(),
                (PipelineVariable::Describe, _) => described(history.as_ref(), tip).await?,
                (PipelineVariable::TagName, _) if matches!(self.task.kind, RefKind::Tag(_)) => {
                    self.tag_name()
                }
                (PipelineVariable::TagName, _) => match &history {
                    Some(history) => tag_of(&**history, tip.object_id())
                        .await?
                        .unwrap_or_default(),
                    None => String::new(),
                },
                (PipelineVariable::CommitMessage, Some(commit)) => one_line(&commit.message),
                (PipelineVariable::CommitterDate, Some(commit)) => {
                    strict_iso_date(&commit.committer.date).unwrap_or_default()
                }
                (PipelineVariable::ChangedPaths, Some(commit)) => {
                    self.changed_paths(commit).await?
                }
                (_, None) => {
                    let message = "the commit of a variable was not read";
                    return Err(Error::new(ErrorKind::Internal, message));
                }
            };
            if !value.is_empty() {
                let value = value.chars().take(MAX_VALUE_CHARS).collect();
                variables.push((variable.name().to_owned(), value));
            }
        }
        Ok(variables)
    }

    /// Returns the variables that name what was archived: branch, tag, or pull request.
    fn ref_variables(&self) -> Vec<(String, String)> {
        let named = |name: &str, value: String| (name.to_owned(), value);
        match &self.task.kind {
            RefKind::Branch => {
                let name = PipelineVariable::BranchName.name();
                vec![named(name, self.branch().to_string())]
            }
            RefKind::Tag(_) => {
                let is_listed = self
                    .context
                    .config
                    .variables
                    .contains(&PipelineVariable::TagName);
                let name = PipelineVariable::TagName.name();
                Vec::from_iter((!is_listed).then(|| named(name, self.tag_name())))
            }
            RefKind::Commit(_) => Vec::new(),
            RefKind::PullRequest { id, .. } => {
                let mut variables = vec![named("PULL_REQUEST_ID", id.to_string())];
                if let Some(pull) = self.pull.get() {
                    let target = &pull.target;
                    let base = target.merge_base.unwrap_or(target.destination_commit);
                    variables.extend([
                        named(
                            PipelineVariable::BranchName.name(),
                            short_name(&target.source),
                        ),
                        named("DESTINATION_BRANCH_NAME", short_name(&target.destination)),
                        named("MERGE_BASE", base.to_string()),
                    ]);
                }
                variables
            }
        }
    }

    fn tag_name(&self) -> String {
        match &self.task.kind {
            RefKind::Tag(tag) => tag.to_string(),
            _ => String::new(),
        }
    }

    /// Lists the paths that the commit changes against its first parent, or [`ANY_PATH`].
    async fn changed_paths(&self, commit: &Commit) -> Result<String> {
        let Some(&parent) = commit.parents.first() else {
            return Ok(ANY_PATH.to_owned());
        };
        let requests = AtomicU64::new(0);
        let differences = differences_up_to(
            &*self.context.codecommit,
            self.repository(),
            parent.into(),
            commit.id.into(),
            MAX_CHANGED_PATHS,
            &requests,
        );
        let Some(differences) = differences.await? else {
            return Ok(ANY_PATH.to_owned());
        };
        let sides = differences.iter().flat_map(|one| [&one.before, &one.after]);
        let mut paths: Vec<&str> = sides.flatten().map(|side| side.path.as_str()).collect();
        paths.sort_unstable();
        paths.dedup();
        Ok(joined(&paths))
    }
}

/// Joins paths by commas; [`ANY_PATH`] if they do not fit, or one has a comma or a line end.
fn joined(paths: &[&str]) -> String {
    let list = paths.join(",");
    let is_clear = |path: &&str| !path.contains([',', '\n', '\r']);
    if list.chars().count() > MAX_VALUE_CHARS || !paths.iter().all(is_clear) {
        return ANY_PATH.to_owned();
    }
    list
}

/// Describes a commit by the nearest tag, or by the start of its id.
async fn described(history: Option<&Arc<dyn History>>, tip: CommitId) -> Result<String> {
    let options = DescribeOptions {
        tags: true,
        ..DescribeOptions::default()
    };
    let described = match history {
        Some(history) => describe(&**history, tip.object_id(), &options).await?,
        None => None,
    };
    Ok(described.unwrap_or_else(|| {
        let id = tip.object_id();
        id.to_hex_with_len(ABBREVIATED_DIGITS).to_string()
    }))
}

/// Joins the lines of a message by spaces, because the value of a variable is one line.
fn one_line(message: &str) -> String {
    let lines = message
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty());
    lines.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_do_not_fit_are_any_path() {
        assert_eq!(joined(&["a", "b/c d"]), "a,b/c d");
        assert_eq!(joined(&["a,b"]), ANY_PATH);
        let long = "x".repeat(MAX_VALUE_CHARS);
        assert_eq!(joined(&[&long]), long);
        assert_eq!(joined(&["a", &long]), ANY_PATH);
    }

    #[test]
    fn a_message_becomes_one_line() {
        assert_eq!(
            one_line("Fix it\n\nBecause \r\nof that.\n"),
            "Fix it Because of that."
        );
    }
}
