//! Pipelines and their filters, parsed from JSON.
//!
//! Limits and combinations are those of CodePipeline (API reference, `GitConfiguration`,
//! `GitPushFilter`, `GitPullRequestFilter`; user guide, "Filter triggers on code push or pull
//! requests"), so that a configuration that is accepted here is one of a pipeline, too.

use std::ops::RangeInclusive;

use serde::Deserialize;

use super::criteria::{Criteria, PathMatch};
use super::glob::Glob;
use crate::error::{Error, ErrorKind, Result};
use crate::git::{escaped_excerpt, foreign_message};
use crate::name::RepositoryName;
use crate::pattern::RepositoryPatterns;

/// Allowed number of filters for pushes, and of filters for pull requests.
const FILTER_COUNT: RangeInclusive<usize> = 1..=3;

/// Allowed number of patterns in `includes`, and in `excludes`.
const PATTERN_COUNT: RangeInclusive<usize> = 1..=8;

/// Allowed number of events of a filter for pull requests.
const EVENT_COUNT: RangeInclusive<usize> = 1..=3;

/// Allowed number of pipelines in a list.
const PIPELINE_COUNT: RangeInclusive<usize> = 1..=100;

/// Allowed number of patterns of repositories.
const REPOSITORY_COUNT: RangeInclusive<usize> = 1..=100;

/// Longest name of a source action.
const MAX_ACTION_CHARS: usize = 100;

/// Pipeline, the repositories that it serves, and its filters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PipelineTrigger {
    /// Name of the pipeline, which may have placeholders.
    pub pipeline: String,
    /// Repositories whose changes start the pipeline.
    pub repositories: RepositoryPatterns,
    /// Name of the source action whose revision is set.
    pub source_action: String,
    /// Filters for pushes, of which one must match.
    pub push: Vec<PushFilter>,
    /// Filters for pull requests, of which one must match.
    pub pull_request: Vec<PullRequestFilter>,
}

/// Filter for pushes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PushFilter {
    /// Of tags.
    Tags(Criteria),
    /// Of branches.
    Branches {
        /// Names of branches.
        branches: Criteria,
        /// Paths of which a push must change one.
        file_paths: Option<Criteria>,
    },
}

/// Filter for pull requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullRequestFilter {
    /// Events that start the pipeline.
    pub events: Vec<PullRequestEvent>,
    /// Names of destination branches.
    pub branches: Option<Criteria>,
    /// Paths of which the pull request must change one.
    pub file_paths: Option<Criteria>,
}

/// Event of a pull request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum PullRequestEvent {
    /// The pull request was created.
    Open,
    /// The source branch of a pull request moved.
    Updated,
    /// It was merged, or closed without a merge.
    Closed,
}

impl PullRequestEvent {
    /// All events, which a filter without `events` means.
    const ALL: [Self; 3] = [Self::Open, Self::Updated, Self::Closed];
}

impl PipelineTrigger {
    /// Returns whether pushes of tags can start the pipeline.
    pub fn has_tag_filter(&self, repository: &RepositoryName) -> bool {
        let mut push = self.push.iter();
        self.repositories.matches(repository)
            && push.any(|filter| matches!(filter, PushFilter::Tags(_)))
    }

    /// Returns whether a push of this tag starts the pipeline.
    pub fn matches_tag(&self, repository: &RepositoryName, tag: &str) -> bool {
        let is_of_tag = |filter: &PushFilter| match filter {
            PushFilter::Tags(tags) => tags.matches(tag),
            PushFilter::Branches { .. } => false,
        };
        self.repositories.matches(repository) && self.push.iter().any(is_of_tag)
    }

    /// Returns the decision over a push to this branch.
    pub fn match_branch(&self, repository: &RepositoryName, branch: &str) -> PathMatch<'_> {
        if !self.repositories.matches(repository) {
            return PathMatch::Never;
        }
        PathMatch::of_any(self.push.iter().filter_map(|filter| match filter {
            PushFilter::Branches {
                branches,
                file_paths,
            } if branches.matches(branch) => Some(file_paths.as_ref()),
            _ => None,
        }))
    }

    /// Returns the decision over an event of a pull request into the branch `destination`; over
    /// any event without `event`.
    pub fn match_pull_request(
        &self,
        repository: &RepositoryName,
        destination: &str,
        event: Option<PullRequestEvent>,
    ) -> PathMatch<'_> {
        if !self.repositories.matches(repository) {
            return PathMatch::Never;
        }
        let matching = self.pull_request.iter().filter(|filter| {
            event.is_none_or(|event| filter.events.contains(&event))
                && filter
                    .branches
                    .as_ref()
                    .is_none_or(|branches| branches.matches(destination))
        });
        PathMatch::of_any(matching.map(|filter| filter.file_paths.as_ref()))
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct TriggerFields {
    pipeline: String,
    repositories: Option<Vec<String>>,
    git_configuration: GitConfigurationFields,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct GitConfigurationFields {
    source_action_name: String,
    push: Option<Vec<PushFields>>,
    pull_request: Option<Vec<PullRequestFields>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PushFields {
    branches: Option<CriteriaFields>,
    file_paths: Option<CriteriaFields>,
    tags: Option<CriteriaFields>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PullRequestFields {
    events: Option<Vec<PullRequestEvent>>,
    branches: Option<CriteriaFields>,
    file_paths: Option<CriteriaFields>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct CriteriaFields {
    includes: Option<Vec<String>>,
    excludes: Option<Vec<String>>,
}

/// Parses a JSON list of pipelines and their filters.
///
/// # Errors
/// `Config`, naming the field, for JSON of another form, and for what CodePipeline refuses.
pub fn parse_triggers(json: &str) -> Result<Vec<PipelineTrigger>> {
    let mut json = serde_json::Deserializer::from_str(json);
    let fields: Vec<TriggerFields> =
        serde_path_to_error::deserialize(&mut json).map_err(|error| {
            let at = error.path().to_string();
            wrong(at.strip_prefix('.').unwrap_or(&at), error.inner())
        })?;
    json.end().map_err(|error| wrong(".", error))?;
    check_length(".", fields.len(), &PIPELINE_COUNT, "pipelines")?;
    let triggers = fields.into_iter().enumerate();
    triggers
        .map(|(at, fields)| trigger(&format!("[{at}]"), fields))
        .collect()
}

fn trigger(at: &str, fields: TriggerFields) -> Result<PipelineTrigger> {
    let git = fields.git_configuration;
    let git_at = format!("{at}.gitConfiguration");
    let action = git.source_action_name;
    let is_legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '@' | '_' | '-');
    if action.is_empty() || action.len() > MAX_ACTION_CHARS || !action.chars().all(is_legal) {
        return Err(wrong(
            &format!("{git_at}.sourceActionName"),
            "it must be the name of an action: 1 to 100 letters, digits, `.`, `@`, `_` and `-`",
        ));
    }
    if git.push.is_none() && git.pull_request.is_none() {
        return Err(wrong(&git_at, "it has neither `push` nor `pullRequest`")
            .with_hint("`\"push\": [{\"branches\": {\"includes\": [\"**\"]}}]` is every branch"));
    }
    Ok(PipelineTrigger {
        pipeline: fields.pipeline,
        repositories: repositories(&format!("{at}.repositories"), fields.repositories)?,
        source_action: action,
        push: filters(&format!("{git_at}.push"), git.push, push_filter)?,
        pull_request: filters(
            &format!("{git_at}.pullRequest"),
            git.pull_request,
            pull_request_filter,
        )?,
    })
}

fn repositories(at: &str, globs: Option<Vec<String>>) -> Result<RepositoryPatterns> {
    let Some(globs) = globs else {
        return Ok(RepositoryPatterns::default());
    };
    check_length(at, globs.len(), &REPOSITORY_COUNT, "patterns")?;
    for (nth, glob) in globs.iter().enumerate() {
        let is_one = !glob.trim().is_empty() && !glob.contains(',');
        let valid = if is_one {
            RepositoryPatterns::new(glob).map(drop)
        } else {
            Err(Error::new(
                ErrorKind::Config,
                "it must be one name or glob of repositories",
            ))
        };
        valid.map_err(|error| wrong(&format!("{at}[{nth}]"), error))?;
    }
    RepositoryPatterns::new(&globs.join(",")).map_err(|error| wrong(at, error))
}

fn filters<F, T>(
    at: &str,
    fields: Option<Vec<F>>,
    read: impl Fn(&str, F) -> Result<T>,
) -> Result<Vec<T>> {
    let Some(fields) = fields else {
        return Ok(Vec::new());
    };
    check_length(at, fields.len(), &FILTER_COUNT, "filters")?;
    let numbered = fields.into_iter().enumerate();
    numbered
        .map(|(nth, fields)| read(&format!("{at}[{nth}]"), fields))
        .collect()
}

fn push_filter(at: &str, fields: PushFields) -> Result<PushFilter> {
    let branches = criteria(at, "branches", fields.branches)?;
    let file_paths = criteria(at, "filePaths", fields.file_paths)?;
    let tags = criteria(at, "tags", fields.tags)?;
    match (branches, file_paths, tags) {
        (None, None, Some(tags)) => Ok(PushFilter::Tags(tags)),
        (Some(branches), file_paths, None) => Ok(PushFilter::Branches {
            branches,
            file_paths,
        }),
        (None, None, None) => Err(wrong(at, "it has neither `branches` nor `tags`")),
        (None, Some(_), None) => Err(wrong(at, "`filePaths` needs `branches` beside it")
            .with_hint("`\"branches\": {\"includes\": [\"**\"]}` is every branch")),
        (_, _, Some(_)) => Err(wrong(
            at,
            "a push is of a tag or of a branch: `tags` cannot be beside `branches` or `filePaths`",
        )
        .with_hint("put `tags` into a filter of its own; one filter of several suffices")),
    }
}

fn pull_request_filter(at: &str, fields: PullRequestFields) -> Result<PullRequestFilter> {
    let events = match fields.events {
        None => PullRequestEvent::ALL.to_vec(),
        Some(events) => {
            check_length(
                &format!("{at}.events"),
                events.len(),
                &EVENT_COUNT,
                "events",
            )?;
            events
        }
    };
    Ok(PullRequestFilter {
        events,
        branches: criteria(at, "branches", fields.branches)?,
        file_paths: criteria(at, "filePaths", fields.file_paths)?,
    })
}

fn criteria(at: &str, field: &str, fields: Option<CriteriaFields>) -> Result<Option<Criteria>> {
    let Some(fields) = fields else {
        return Ok(None);
    };
    let at = format!("{at}.{field}");
    if fields.includes.is_none() && fields.excludes.is_none() {
        return Err(wrong(&at, "it has neither `includes` nor `excludes`"));
    }
    Ok(Some(Criteria {
        includes: globs(&format!("{at}.includes"), fields.includes)?,
        excludes: globs(&format!("{at}.excludes"), fields.excludes)?,
    }))
}

fn globs(at: &str, patterns: Option<Vec<String>>) -> Result<Vec<Glob>> {
    let Some(patterns) = patterns else {
        return Ok(Vec::new());
    };
    check_length(at, patterns.len(), &PATTERN_COUNT, "patterns")?;
    let numbered = patterns.iter().enumerate();
    let globs = numbered.map(|(nth, pattern)| {
        Glob::new(pattern).map_err(|error| wrong(&format!("{at}[{nth}]"), error))
    });
    globs.collect()
}

fn check_length(
    at: &str,
    length: usize,
    allowed: &RangeInclusive<usize>,
    noun: &str,
) -> Result<()> {
    if allowed.contains(&length) {
        return Ok(());
    }
    Err(wrong(
        at,
        format!(
            "it has {length} {noun}, and must have {} to {}",
            allowed.start(),
            allowed.end()
        ),
    ))
}

fn wrong(at: &str, why: impl std::fmt::Display) -> Error {
    let why = foreign_message(why.to_string().as_bytes());
    let message = if matches!(at, "" | ".") {
        format!("the list of pipelines: {why}")
    } else {
        format!("`{}`: {why}", escaped_excerpt(at.as_bytes()))
    };
    Error::new(ErrorKind::Config, message)
}
