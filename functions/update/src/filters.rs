//! Pipelines that `TRIGGERS` starts, chosen by filters.

use branchline_core::filter::{
    PathMatch, PipelineTrigger, PullRequestEvent, PushFilter, parse_triggers,
};
use branchline_core::name::{BranchName, PipelineName, RepositoryName};
use branchline_core::{Error, ErrorKind, Result};
use sha2::{Digest as _, Sha256};

use crate::key_template::{KeyTemplate, TemplateValues};
use crate::ref_kind::RefKind;

/// Maximum number of pipelines for one artifact: their hashes fit into the value of one tag.
const MAX_PIPELINES: usize = 28;

/// Number of hexadecimal digits of a pipeline's hash, and of the digest of all filters.
const HASH_DIGITS: usize = 8;

/// Pipelines with their filters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PipelineFilters {
    list: Vec<PipelineFilter>,
    digest: String,
}

/// One pipeline with its filters.
#[derive(Debug, Clone, PartialEq, Eq)]
struct PipelineFilter {
    trigger: PipelineTrigger,
    name: KeyTemplate,
}

/// Pipeline to start, and the source action to pin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StartTarget {
    pub(crate) pipeline: PipelineName,
    pub(crate) source_action: String,
    /// Short hash of the pipeline's name, by which an artifact's metadata name the pipeline.
    pub(crate) pipeline_hash: String,
    /// Name in the tags of the artifact: the pipeline's name, with `:closed` for the start at the
    /// end of a pull request, which differs from the start at its beginning.
    pub(crate) tag_name: String,
}

impl StartTarget {
    pub(crate) fn new(pipeline: PipelineName, source_action: &str) -> Self {
        Self {
            pipeline_hash: short_hash(pipeline.as_str()),
            tag_name: pipeline.to_string(),
            pipeline,
            source_action: source_action.to_owned(),
        }
    }

    /// Returns the start of the same pipeline at the end of a pull request.
    pub(crate) fn at_end(&self) -> Self {
        let tag_name = format!("{}:closed", self.pipeline);
        Self {
            pipeline_hash: short_hash(&tag_name),
            tag_name,
            ..self.clone()
        }
    }
}

/// Pipeline that a push starts, depending on the paths that it changes.
#[derive(Debug, Clone)]
pub(crate) struct Candidate<'a> {
    pub(crate) target: StartTarget,
    pub(crate) paths: PathMatch<'a>,
}

impl PipelineFilters {
    /// Parses `TRIGGERS`; the error names the field.
    pub fn parse(json: &str) -> Result<Self> {
        let triggers = parse_triggers(json)?.into_iter().enumerate();
        let list = triggers.map(|(at, trigger)| {
            let name = KeyTemplate::parse_pipeline_name(&trigger.pipeline).map_err(|error| {
                Error::new(ErrorKind::Config, format!("`[{at}].pipeline`: {error}"))
            })?;
            Ok(PipelineFilter { trigger, name })
        });
        Ok(Self {
            list: list.collect::<Result<_>>()?,
            digest: short_hash(json),
        })
    }

    /// Returns a short hash of all filters.
    pub(crate) fn digest(&self) -> &str {
        &self.digest
    }

    /// Returns whether any filter has file paths, so that the changes of a push are read.
    pub(crate) fn any_file_paths(&self) -> bool {
        let mut filters = self.list.iter().flat_map(|filter| &filter.trigger.push);
        filters.any(|filter| {
            matches!(
                filter,
                PushFilter::Branches {
                    file_paths: Some(_),
                    ..
                }
            )
        })
    }

    /// Returns whether an event of this `kind` can start a pipeline. A commit is named only by
    /// hand, and is archived without a pipeline.
    pub(crate) fn can_start(
        &self,
        repository: &RepositoryName,
        branch: &BranchName,
        kind: &RefKind,
    ) -> bool {
        match kind {
            RefKind::Branch => self.can_start_branch(repository, branch),
            RefKind::Tag(tag) => self
                .list
                .iter()
                .any(|filter| filter.trigger.matches_tag(repository, tag.as_str())),
            RefKind::Commit(_) => true,
            RefKind::PullRequest { .. } => self.serve_pull_requests(repository),
        }
    }

    /// Returns whether a tag of the repository can start a pipeline.
    pub(crate) fn serve_tags(&self, repository: &RepositoryName) -> bool {
        let mut list = self.list.iter();
        list.any(|filter| filter.trigger.has_tag_filter(repository))
    }

    /// Returns whether a pull request in the repository can start a pipeline.
    pub(crate) fn serve_pull_requests(&self, repository: &RepositoryName) -> bool {
        self.list.iter().any(|filter| {
            let trigger = &filter.trigger;
            trigger.repositories.matches(repository) && !trigger.pull_request.is_empty()
        })
    }

    /// Returns whether a push to the branch can start a pipeline.
    pub(crate) fn can_start_branch(
        &self,
        repository: &RepositoryName,
        branch: &BranchName,
    ) -> bool {
        self.list.iter().any(|filter| {
            filter.trigger.match_branch(repository, branch.as_str()) != PathMatch::Never
        })
    }

    /// Returns each pipeline once that a push of the branch or tag in `values` can start.
    pub(crate) fn candidates_of_ref(
        &self,
        values: &TemplateValues<'_>,
    ) -> Result<Vec<Candidate<'_>>> {
        let branch = values.branch.as_str();
        let repository = values.repository;
        self.candidates(values, |trigger| match values.kind {
            RefKind::Branch => trigger.match_branch(repository, branch),
            RefKind::Tag(tag) if trigger.matches_tag(repository, tag.as_str()) => PathMatch::Always,
            RefKind::Tag(_) | RefKind::Commit(_) | RefKind::PullRequest { .. } => PathMatch::Never,
        })
    }

    /// Returns the pipelines that an event of a pull request into the branch `destination` can
    /// start, each once; of any event without `event`.
    pub(crate) fn candidates_of_pull_request(
        &self,
        values: &TemplateValues<'_>,
        destination: &str,
        event: Option<PullRequestEvent>,
    ) -> Result<Vec<Candidate<'_>>> {
        self.candidates(values, |trigger| {
            trigger.match_pull_request(values.repository, destination, event)
        })
    }

    fn candidates<'a>(
        &'a self,
        values: &TemplateValues<'_>,
        decide: impl Fn(&'a PipelineTrigger) -> PathMatch<'a>,
    ) -> Result<Vec<Candidate<'a>>> {
        let mut candidates: Vec<Candidate<'a>> = Vec::new();
        for filter in &self.list {
            let paths = decide(&filter.trigger);
            if paths == PathMatch::Never {
                continue;
            }
            let pipeline = filter.name.pipeline_name(values)?;
            let mut earlier = candidates.iter_mut();
            match earlier.find(|candidate| candidate.target.pipeline == pipeline) {
                Some(candidate) => candidate.paths = combine(&candidate.paths, paths),
                None => candidates.push(Candidate {
                    target: StartTarget::new(pipeline, &filter.trigger.source_action),
                    paths,
                }),
            }
        }
        if candidates.len() > MAX_PIPELINES {
            return Err(Error::new(
                ErrorKind::Config,
                format!(
                    "`TRIGGERS` has {} pipelines for `{}` of repository `{}`, and an artifact can \
                     have {MAX_PIPELINES}",
                    candidates.len(),
                    values.branch,
                    values.repository
                ),
            )
            .with_hint("narrow the filters, or put several jobs into one pipeline"));
        }
        Ok(candidates)
    }
}

/// Combines the decisions of two filters over one pipeline: one filter suffices.
fn combine<'a>(one: &PathMatch<'a>, other: PathMatch<'a>) -> PathMatch<'a> {
    match (one, other) {
        (PathMatch::Always, _) | (_, PathMatch::Always) => PathMatch::Always,
        (PathMatch::Never, other) => other,
        (one, PathMatch::Never) => one.clone(),
        (PathMatch::Paths(one), PathMatch::Paths(other)) => {
            PathMatch::Paths(one.iter().copied().chain(other).collect())
        }
    }
}

fn short_hash(text: &str) -> String {
    let mut digits = hex::encode(Sha256::digest(text));
    digits.truncate(HASH_DIGITS);
    digits
}
