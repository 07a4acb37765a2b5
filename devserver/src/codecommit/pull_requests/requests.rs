//! The operations on pull requests as a whole.

use branchline_core::name::BranchName;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::super::input::{Input, wrong_type};
use super::super::merge::merge_base;
use super::super::{CodeCommitService, Repository, page};
use super::already_closed;
use super::model::{PullRequest, Token};
use super::notices::Notice;
use crate::aws_json::{ApiError, ApiResult};

/// Maximum length of a title.
const MAX_TITLE_CHARS: usize = 150;

/// Maximum length of a description.
const MAX_DESCRIPTION_CHARS: usize = 10_240;

/// Maximum length of a `clientRequestToken`; AWS names none.
const MAX_TOKEN_CHARS: usize = 64;

/// Maximum number of open pull requests of a repository.
const MAX_OPEN: usize = 1000;

/// Ids or events on a page, unless the caller wants fewer.
const PAGE: usize = 100;

/// The event types of `DescribePullRequestEvents`.
const EVENT_TYPES: [&str; 9] = [
    "PULL_REQUEST_CREATED",
    "PULL_REQUEST_STATUS_CHANGED",
    "PULL_REQUEST_SOURCE_REFERENCE_UPDATED",
    "PULL_REQUEST_MERGE_STATE_CHANGED",
    "PULL_REQUEST_APPROVAL_RULE_CREATED",
    "PULL_REQUEST_APPROVAL_RULE_UPDATED",
    "PULL_REQUEST_APPROVAL_RULE_DELETED",
    "PULL_REQUEST_APPROVAL_RULE_OVERRIDDEN",
    "PULL_REQUEST_APPROVAL_STATE_CHANGED",
];

impl CodeCommitService {
    pub(super) async fn create_pull_request(
        &self,
        input: Input<'_>,
        principal_arn: &str,
    ) -> ApiResult {
        let title = title(input)?;
        let description = description(input)?;
        let target = target(input)?;
        let repository = self.named(target)?;
        let token = token(input, principal_arn)?;
        // No push may come between reading the tips and keeping the pull request.
        let _refs = repository.refs_lock.lock().await;
        let source = branch(target, "sourceReference")?.ok_or_else(|| {
            ApiError::new(
                "ReferenceNameRequiredException",
                "sourceReference is required",
            )
        })?;
        let destination = match branch(target, "destinationReference")? {
            Some(branch) => branch,
            None => repository
                .default_branch()
                .and_then(|name| BranchName::new(&name).ok())
                .ok_or_else(|| no_reference("of the default branch"))?,
        };
        if source == destination {
            return Err(ApiError::new(
                "SourceAndDestinationAreSameException",
                "The source branch and the destination branch for the pull request are the same. \
                 You must specify different branches for the source and destination",
            ));
        }
        let source_commit = tip(&repository, &source).await?;
        let destination_commit = tip(&repository, &destination).await?;
        let base = merge_base(&repository, &destination_commit, &source_commit).await?;
        let repository_id = repository.metadata().id;
        let now_ms = Timestamp::now().as_millisecond();
        let made = self.0.pull_requests.add(|id, all| {
            if let Some(token) = &token
                && let Some(earlier) = all
                    .values()
                    .find(|found| is_of(found.token.as_ref(), token))
            {
                check_repeated(earlier.token.as_ref(), token)?;
                return Ok(earlier.clone());
            }
            let of_repository = all
                .values()
                .filter(|one| one.repository_id == repository_id);
            if of_repository.filter(|one| one.is_open).count() >= MAX_OPEN {
                return Err(ApiError::new(
                    "MaximumOpenPullRequestsExceededException",
                    format!("A repository can have at most {MAX_OPEN} open pull requests"),
                ));
            }
            let mut made = PullRequest {
                id,
                title: title.to_owned(),
                description: description.map(str::to_owned),
                is_open: true,
                author_arn: principal_arn.to_owned(),
                created_ms: now_ms,
                activity_ms: now_ms,
                repository: repository.name.clone(),
                repository_id: repository_id.clone(),
                source_reference: source.to_ref().to_string(),
                destination_reference: destination.to_ref().to_string(),
                source_commit: source_commit.clone(),
                destination_commit: destination_commit.clone(),
                merge_base: base.clone(),
                merge: None,
                revision_id: new_revision_id(),
                token: token.clone(),
                approvals: Vec::new(),
                history: Vec::new(),
                comments: Vec::new(),
            };
            let metadata = super::model::prune(json!({
                "repositoryName": made.repository,
                "sourceCommitId": made.source_commit,
                "destinationCommitId": made.destination_commit,
                "mergeBase": made.merge_base,
            }));
            let metadata = ("pullRequestCreatedEventMetadata", metadata);
            made.record(now_ms, "PULL_REQUEST_CREATED", principal_arn, metadata);
            Ok(made)
        })?;
        // A repeated request returns the pull request as it is now, without an event.
        if made.created_ms == now_ms && made.history.len() == 1 {
            self.notify(&made, principal_arn, Notice::Created);
        }
        Ok(json!({ "pullRequest": made.json() }))
    }

    pub(super) fn get_pull_request(&self, input: Input<'_>) -> ApiResult {
        Ok(json!({ "pullRequest": self.pull_request(input)?.json() }))
    }

    /// Lists ids, the newest first.
    pub(super) fn list_pull_requests(&self, input: Input<'_>) -> ApiResult {
        let repository = self.named(input)?;
        let status = input.text("pullRequestStatus")?;
        if status.is_some_and(|status| !matches!(status, "OPEN" | "CLOSED")) {
            return Err(invalid_status());
        }
        let author = input.text("authorArn")?;
        if author.is_some_and(|arn| !arn.starts_with("arn:")) {
            return Err(ApiError::new(
                "InvalidAuthorArnException",
                "authorArn is not an ARN",
            ));
        }
        let repository_id = repository.metadata().id;
        let ids: Vec<Value> = self.0.pull_requests.read(|all| {
            let wanted = all.values().rev().filter(|found| {
                found.repository_id == repository_id
                    && status.is_none_or(|status| status == found.status())
                    && author.is_none_or(|author| author == found.author_arn)
            });
            wanted.map(|found| found.id.to_string().into()).collect()
        });
        paged(input, "pullRequestIds", &ids)
    }

    pub(super) fn update_pull_request_title(&self, input: Input<'_>) -> ApiResult {
        let title = title(input)?.to_owned();
        self.change_open(input, |found| found.title = title)
    }

    pub(super) fn update_pull_request_description(&self, input: Input<'_>) -> ApiResult {
        let description = description(input)?.ok_or_else(|| {
            ApiError::new("InvalidDescriptionException", "description is required")
        })?;
        let description = Some(description.to_owned()).filter(|text| !text.is_empty());
        self.change_open(input, |found| found.description = description)
    }

    fn change_open(&self, input: Input<'_>, change: impl FnOnce(&mut PullRequest)) -> ApiResult {
        let id = Self::pull_request_id(input)?;
        let (changed, ()) = self.0.pull_requests.update_one(id, |found| {
            if !found.is_open {
                return Err(already_closed(found));
            }
            change(found);
            found.activity_ms = Timestamp::now().as_millisecond();
            Ok(())
        })?;
        Ok(json!({ "pullRequest": changed.json() }))
    }

    /// Closes a pull request; it cannot be opened again.
    pub(super) fn update_pull_request_status(
        &self,
        input: Input<'_>,
        principal_arn: &str,
    ) -> ApiResult {
        let id = Self::pull_request_id(input)?;
        let status = input.required("pullRequestStatus", "PullRequestStatusRequiredException")?;
        if !matches!(status, "OPEN" | "CLOSED") {
            return Err(invalid_status());
        }
        let (changed, ()) = self.0.pull_requests.update_one(id, |found| {
            if !found.is_open || status == "OPEN" {
                return Err(ApiError::new(
                    "InvalidPullRequestStatusUpdateException",
                    "The pull request status update is not valid. The only valid update is from \
                     OPEN to CLOSED",
                ));
            }
            found.close(Timestamp::now().as_millisecond(), principal_arn, None);
            Ok(())
        })?;
        self.notify(&changed, principal_arn, Notice::StatusChanged);
        Ok(json!({ "pullRequest": changed.json() }))
    }

    /// Returns the history, the newest event first.
    pub(super) fn describe_pull_request_events(&self, input: Input<'_>) -> ApiResult {
        let found = self.pull_request(input)?;
        let kind = input.text("pullRequestEventType")?;
        if kind.is_some_and(|kind| !EVENT_TYPES.contains(&kind)) {
            return Err(ApiError::new(
                "InvalidPullRequestEventTypeException",
                format!(
                    "pullRequestEventType must be one of {}",
                    EVENT_TYPES.join(", ")
                ),
            ));
        }
        let actor = input.text("actorArn")?;
        let entries = found.history.iter().rev().filter(|entry| {
            kind.is_none_or(|kind| kind == entry.kind)
                && actor.is_none_or(|actor| actor == entry.actor_arn)
        });
        let entries: Vec<Value> = entries.map(|entry| entry.json(found.id)).collect();
        paged(input, "pullRequestEvents", &entries)
    }
}

/// Returns a revision id as the service makes them: 64 hexadecimal digits.
pub(super) fn new_revision_id() -> String {
    format!(
        "{}{}",
        uuid::Uuid::new_v4().simple(),
        uuid::Uuid::new_v4().simple()
    )
}

/// Returns one page of `all` under `member`.
pub(super) fn paged(input: Input<'_>, member: &str, all: &[Value]) -> ApiResult {
    let size = match input.integer("maxResults")? {
        None => PAGE,
        Some(size) => usize::try_from(size)
            .ok()
            .filter(|size| (1..=500).contains(size))
            .ok_or_else(|| {
                ApiError::new("InvalidMaxResultsException", "maxResults must be 1 to 500")
            })?,
    };
    let start = match input.text("nextToken")? {
        None => 0,
        Some(token) => page::parse::<usize>(token)?,
    };
    let end = start.saturating_add(size).min(all.len());
    let shown = all.get(start..end).ok_or_else(page::invalid)?;
    let mut output = json!({ member: shown });
    if end < all.len() {
        output["nextToken"] = page::token(&end)?.into();
    }
    Ok(output)
}

/// Reads `clientRequestToken`, with the parameters that it stands for.
pub(super) fn token(input: Input<'_>, principal_arn: &str) -> Result<Option<Token>, ApiError> {
    const MEMBER: &str = "clientRequestToken";
    let Some(token) = input.text(MEMBER)? else {
        return Ok(None);
    };
    if token.is_empty() {
        return Err(ApiError::new(
            "ClientRequestTokenRequiredException",
            "clientRequestToken is required",
        ));
    }
    if token.len() > MAX_TOKEN_CHARS || !token.chars().all(|c| c.is_ascii_graphic()) {
        return Err(ApiError::new(
            "InvalidClientRequestTokenException",
            format!("clientRequestToken must have 1 to {MAX_TOKEN_CHARS} printable characters"),
        ));
    }
    let mut parameters = input.0.clone();
    parameters.remove(MEMBER);
    Ok(Some(Token {
        text: token.to_owned(),
        principal_arn: principal_arn.to_owned(),
        parameters: parameters.into(),
    }))
}

/// Returns whether `earlier` is the token of `now`, whatever the parameters.
pub(super) fn is_of(earlier: Option<&Token>, now: &Token) -> bool {
    earlier.is_some_and(|earlier| {
        earlier.text == now.text && earlier.principal_arn == now.principal_arn
    })
}

/// Checks that a repeated token has its earlier parameters.
pub(super) fn check_repeated(earlier: Option<&Token>, now: &Token) -> Result<(), ApiError> {
    if earlier.is_some_and(|earlier| earlier.parameters == now.parameters) {
        return Ok(());
    }
    Err(ApiError::new(
        "IdempotencyParameterMismatchException",
        "The client request token is not valid. Either the token is not in a valid format, or \
         the token has been used in a previous request and cannot be reused",
    ))
}

fn title(input: Input<'_>) -> Result<&str, ApiError> {
    let title = input.required("title", "TitleRequiredException")?;
    if title.chars().count() > MAX_TITLE_CHARS {
        return Err(ApiError::new(
            "InvalidTitleException",
            format!("The title has more than {MAX_TITLE_CHARS} characters"),
        ));
    }
    Ok(title)
}

fn description(input: Input<'_>) -> Result<Option<&str>, ApiError> {
    let description = input.text("description")?;
    if description.is_some_and(|text| text.chars().count() > MAX_DESCRIPTION_CHARS) {
        return Err(ApiError::new(
            "InvalidDescriptionException",
            format!("The description has more than {MAX_DESCRIPTION_CHARS} characters"),
        ));
    }
    Ok(description)
}

/// Reads `targets`: exactly one.
fn target(input: Input<'_>) -> Result<Input<'_>, ApiError> {
    let targets = input.list("targets")?.filter(|targets| !targets.is_empty());
    let targets =
        targets.ok_or_else(|| ApiError::new("TargetsRequiredException", "targets is required"))?;
    let [target] = targets else {
        return Err(ApiError::new(
            "MultipleRepositoriesInPullRequestException",
            "You cannot include more than one repository in a pull request",
        ));
    };
    match target {
        Value::Object(members) => Ok(Input(members)),
        Value::Null => Err(ApiError::new(
            "TargetRequiredException",
            "A pull request target is required",
        )),
        _ => Err(wrong_type("targets", "a list of structures")),
    }
}

/// Reads the name of a branch, short or full.
fn branch(input: Input<'_>, member: &str) -> Result<Option<BranchName>, ApiError> {
    let Some(name) = input.text(member)?.filter(|name| !name.is_empty()) else {
        return Ok(None);
    };
    let short = match name.strip_prefix("refs/heads/") {
        Some(short) => short,
        None if name.starts_with("refs/") => {
            return Err(ApiError::new(
                "ReferenceTypeNotSupportedException",
                format!("{name} is not a branch"),
            ));
        }
        None => name,
    };
    BranchName::new(short)
        .map(Some)
        .map_err(|error| ApiError::new("InvalidReferenceNameException", error.to_string()))
}

async fn tip(repository: &Repository, branch: &BranchName) -> Result<String, ApiError> {
    let found = repository.commit_and_tree(branch.to_ref().as_str()).await?;
    let found = found.map(|(commit, _)| commit);
    found.ok_or_else(|| no_reference(branch.as_str()))
}

fn no_reference(what: &str) -> ApiError {
    ApiError::new(
        "ReferenceDoesNotExistException",
        format!("The reference {what} does not exist"),
    )
}

fn invalid_status() -> ApiError {
    ApiError::new(
        "InvalidPullRequestStatusException",
        "pullRequestStatus must be OPEN or CLOSED",
    )
}
