//! Kinds of what is archived, and the names that stand for them.

use branchline_core::Result;
use branchline_core::filter::PullRequestEvent;
use branchline_core::name::{BranchName, CommitId, PullRequestId, TagName};

/// Kind of the reference that a task is about.
///
/// A task has a name for every kind, which takes the place of a branch's name in keys and in names
/// of pipelines: `main`, `tag/v1.0`, `commit/<id>`, `pull/12`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum RefKind {
    /// A branch.
    Branch,
    /// A tag.
    Tag(TagName),
    /// A commit, which no branch need contain.
    Commit(CommitId),
    /// The source of a pull request.
    PullRequest {
        /// Number of the pull request.
        id: PullRequestId,
        /// The change that the event names.
        event: PullRequestEvent,
    },
}

/// Kind of what has names of its own beside the branches of a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NamedKind {
    /// Tags.
    Tag,
    /// Pull requests.
    PullRequest,
}

impl NamedKind {
    /// Returns the start of the names that stand for things of the kind
    /// ([`RefKind::placeholder_branch`]).
    pub(crate) fn folder_of_names(self) -> &'static str {
        match self {
            Self::Tag => "tag/",
            Self::PullRequest => "pull/",
        }
    }

    /// Returns the start of what replaces `{ref}` ([`RefKind::path`]).
    pub(crate) fn folder_of_refs(self) -> &'static str {
        match self {
            Self::Tag => "tags/",
            Self::PullRequest => "pull/",
        }
    }

    /// Returns the start of what replaces `{tag}` ([`RefKind::tag_or`]).
    pub(crate) fn folder_of_tags(self) -> &'static str {
        match self {
            Self::Tag => "",
            Self::PullRequest => "pull/",
        }
    }
}

impl RefKind {
    /// Returns a name in place of a branch's, for what is not a branch.
    pub(crate) fn placeholder_branch(&self) -> Result<BranchName> {
        match self {
            Self::Tag(tag) => BranchName::new(&format!("tag/{tag}")),
            Self::Commit(commit) => BranchName::new(&format!("commit/{commit}")),
            Self::PullRequest { id, .. } => BranchName::new(&format!("pull/{id}")),
            Self::Branch => BranchName::new("branch"),
        }
    }

    /// Returns the text of `{ref}` for something whose name is `name`.
    pub(crate) fn path(&self, name: &str) -> String {
        match self {
            Self::Branch => format!("heads/{name}"),
            Self::Tag(tag) => format!("tags/{tag}"),
            Self::Commit(_) | Self::PullRequest { .. } => name.to_owned(),
        }
    }

    /// Returns the text of `{tag}` for something whose name is `name`.
    pub(crate) fn tag_or<'a>(&'a self, name: &'a str) -> &'a str {
        match self {
            Self::Tag(tag) => tag.as_str(),
            Self::Branch | Self::Commit(_) | Self::PullRequest { .. } => name,
        }
    }

    /// Returns the name in answers: short for a branch, and full for anything else.
    pub(crate) fn label(&self, name: &BranchName) -> String {
        match self {
            Self::Branch | Self::Commit(_) | Self::PullRequest { .. } => name.to_string(),
            Self::Tag(tag) => tag.to_ref().to_string(),
        }
    }

    /// Returns the event of a pull request.
    pub(crate) fn pull_request_event(&self) -> Option<PullRequestEvent> {
        match self {
            Self::PullRequest { event, .. } => Some(*event),
            Self::Branch | Self::Tag(_) | Self::Commit(_) => None,
        }
    }

    /// Returns the noun of the kind.
    pub(crate) fn noun(&self) -> &'static str {
        match self {
            Self::Branch => "branch",
            Self::Tag(_) => "tag",
            Self::Commit(_) => "commit",
            Self::PullRequest { .. } => "pull request",
        }
    }
}
