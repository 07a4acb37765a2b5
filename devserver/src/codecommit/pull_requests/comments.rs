//! The operations on comments.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::super::input::{Input, object_id, path, wrong_type};
use super::super::{CodeCommitService, Repository};
use super::model::{Comment, Place, PullRequest};
use super::requests::{check_repeated, is_of, paged, token};
use crate::aws_json::{ApiError, ApiResult};

/// Maximum length of a comment (CodeCommit user guide, "Quotas").
const MAX_CONTENT_CHARS: usize = 10_240;

/// Events of comments on pull requests.
const CREATED: &str = "commentOnPullRequestCreated";
const UPDATED: &str = "commentOnPullRequestUpdated";
const DELETED: &str = "commentOnPullRequestDeleted";

impl CodeCommitService {
    pub(super) async fn post_comment(&self, input: Input<'_>, principal_arn: &str) -> ApiResult {
        let pull_request = self.pull_request(input)?;
        let repository = self.check_associated(input, &pull_request)?;
        let content = content(input)?.to_owned();
        let token = token(input, principal_arn)?;
        let place = place(&repository, input).await?;
        let mut is_new = true;
        let (pull_request, comment) =
            self.0.pull_requests.update_one(pull_request.id, |found| {
                if let Some(now) = &token
                    && let Some(earlier) =
                        found.comments.iter().find(|c| is_of(c.token.as_ref(), now))
                {
                    check_repeated(earlier.token.as_ref(), now)?;
                    is_new = false;
                    return Ok(earlier.clone());
                }
                let comment = add(found, principal_arn, content, None, token, place);
                Ok(comment)
            })?;
        if is_new {
            self.notify_comment(&pull_request, &comment, principal_arn, CREATED);
        }
        let mut output = comment.place.json(&pull_request);
        output["comment"] = comment.json();
        Ok(output)
    }

    pub(super) fn post_comment_reply(&self, input: Input<'_>, principal_arn: &str) -> ApiResult {
        let replied = comment_id(input, "inReplyTo")?;
        let content = content(input)?.to_owned();
        let token = token(input, principal_arn)?;
        let mut is_new = true;
        let id = self.pull_request_of_comment(replied)?;
        let (pull_request, comment) = self.0.pull_requests.update_one(id, |found| {
            if let Some(now) = &token
                && let Some(earlier) = found.comments.iter().find(|c| is_of(c.token.as_ref(), now))
            {
                check_repeated(earlier.token.as_ref(), now)?;
                is_new = false;
                return Ok(earlier.clone());
            }
            let parent = found.comment(replied).ok_or_else(|| no_comment(replied))?;
            let (parent, place) = (parent.id.clone(), parent.place.clone());
            let replied = Some(parent);
            Ok(add(found, principal_arn, content, replied, token, place))
        })?;
        if is_new {
            self.notify_comment(&pull_request, &comment, principal_arn, CREATED);
        }
        Ok(json!({ "comment": comment.json() }))
    }

    /// Replaces the content of a comment; only its author may.
    pub(super) fn update_comment(&self, input: Input<'_>, principal_arn: &str) -> ApiResult {
        let new = content(input)?.to_owned();
        self.change_comment(input, principal_arn, UPDATED, |comment| {
            if comment.author_arn != principal_arn {
                return Err(ApiError::new(
                    "CommentNotCreatedByCallerException",
                    "You cannot modify or delete this comment. Only comment authors can modify or \
                     delete their comments",
                ));
            }
            comment.content = Some(new);
            Ok(())
        })
    }

    /// Deletes the content of a comment; its place stays.
    pub(super) fn delete_comment_content(
        &self,
        input: Input<'_>,
        principal_arn: &str,
    ) -> ApiResult {
        self.change_comment(input, principal_arn, DELETED, |comment| {
            comment.content = None;
            Ok(())
        })
    }

    fn change_comment(
        &self,
        input: Input<'_>,
        principal_arn: &str,
        event: &str,
        change: impl FnOnce(&mut Comment) -> Result<(), ApiError>,
    ) -> ApiResult {
        let id = comment_id(input, "commentId")?;
        let pull_request = self.pull_request_of_comment(id)?;
        let (pull_request, comment) = self.0.pull_requests.update_one(pull_request, |found| {
            let mut comments = found.comments.iter_mut();
            let comment = comments.find(|comment| comment.id == id);
            let comment = comment.ok_or_else(|| no_comment(id))?;
            if comment.content.is_none() {
                return Err(deleted(id));
            }
            change(comment)?;
            comment.modified_ms = Timestamp::now().as_millisecond();
            let comment = comment.clone();
            found.activity_ms = comment.modified_ms;
            Ok(comment)
        })?;
        self.notify_comment(&pull_request, &comment, principal_arn, event);
        Ok(json!({ "comment": comment.json() }))
    }

    pub(super) fn get_comment(&self, input: Input<'_>) -> ApiResult {
        let id = comment_id(input, "commentId")?;
        let pull_request = self.pull_request_of_comment(id)?;
        let found = self.0.pull_requests.read(|all| {
            let found = all.get(&pull_request)?.comment(id)?;
            Some(found.clone())
        });
        let found = found.ok_or_else(|| no_comment(id))?;
        if found.content.is_none() {
            return Err(deleted(id));
        }
        Ok(json!({ "comment": found.json() }))
    }

    /// Returns comments grouped by their place, the oldest first.
    pub(super) fn get_comments(&self, input: Input<'_>) -> ApiResult {
        let pull_request = self.pull_request(input)?;
        if input.text("repositoryName")?.is_some() {
            self.check_associated(input, &pull_request)?;
        }
        let commit = |member: &str| -> Result<Option<String>, ApiError> {
            let given = input.text(member)?;
            given
                .map(|id| object_id(id, "InvalidCommitIdException"))
                .transpose()
        };
        let (before, after) = (commit("beforeCommitId")?, commit("afterCommitId")?);
        let mut groups: Vec<(&Place, Vec<Value>)> = Vec::new();
        for comment in &pull_request.comments {
            let place = &comment.place;
            if before.as_ref().is_some_and(|id| *id != place.before_commit)
                || after.as_ref().is_some_and(|id| *id != place.after_commit)
            {
                continue;
            }
            match groups.iter_mut().find(|(known, _)| *known == place) {
                Some((_, comments)) => comments.push(comment.json()),
                None => groups.push((place, vec![comment.json()])),
            }
        }
        let groups: Vec<Value> = groups
            .into_iter()
            .map(|(place, comments)| {
                let mut group = place.json(&pull_request);
                group["comments"] = comments.into();
                group
            })
            .collect();
        paged(input, "commentsForPullRequestData", &groups)
    }

    fn pull_request_of_comment(&self, id: &str) -> Result<u64, ApiError> {
        let found = self.0.pull_requests.read(|all| {
            let mut all = all.values();
            all.find(|found| found.comment(id).is_some())
                .map(|found| found.id)
        });
        found.ok_or_else(|| no_comment(id))
    }
}

fn add(
    found: &mut PullRequest,
    author_arn: &str,
    content: String,
    in_reply_to: Option<String>,
    token: Option<super::model::Token>,
    place: Place,
) -> Comment {
    let now_ms = Timestamp::now().as_millisecond();
    let comment = Comment {
        id: format!("{}:{}", uuid::Uuid::new_v4(), uuid::Uuid::new_v4()),
        author_arn: author_arn.to_owned(),
        content: Some(content),
        in_reply_to,
        created_ms: now_ms,
        modified_ms: now_ms,
        token,
        place,
    };
    found.activity_ms = now_ms;
    found.comments.push(comment.clone());
    comment
}

fn content(input: Input<'_>) -> Result<&str, ApiError> {
    let content = input.required("content", "CommentContentRequiredException")?;
    if content.chars().count() > MAX_CONTENT_CHARS {
        return Err(ApiError::new(
            "CommentContentSizeLimitExceededException",
            format!("The comment has more than {MAX_CONTENT_CHARS} characters"),
        ));
    }
    Ok(content)
}

/// Reads the id of a comment: two UUIDs.
fn comment_id<'a>(input: Input<'a>, member: &str) -> Result<&'a str, ApiError> {
    let id = input.required(member, "CommentIdRequiredException")?;
    let is_uuid = |text: &str| uuid::Uuid::parse_str(text).is_ok();
    if id
        .split_once(':')
        .is_some_and(|(one, other)| is_uuid(one) && is_uuid(other))
    {
        return Ok(id);
    }
    Err(ApiError::new(
        "InvalidCommentIdException",
        "The comment ID is not in a valid format. Make sure that you have provided the full \
         comment ID",
    ))
}

/// Reads the compared commits and the location.
async fn place(repository: &Repository, input: Input<'_>) -> Result<Place, ApiError> {
    let before = commit(repository, input, "beforeCommitId").await?;
    let after = commit(repository, input, "afterCommitId").await?;
    if before.0 == after.0 {
        return Err(ApiError::new(
            "BeforeCommitIdAndAfterCommitIdAreSameException",
            "The before commit ID and the after commit ID are the same, which is not valid",
        ));
    }
    let mut place = Place {
        before_commit: before.0,
        after_commit: after.0,
        before_blob: None,
        after_blob: None,
        location: None,
    };
    let location = match input.0.get("location") {
        None | Some(Value::Null) => return Ok(place),
        Some(Value::Object(members)) => members,
        Some(_) => return Err(wrong_type("location", "a structure")),
    };
    let (file, version) = check_location(location)?;
    place.before_blob = blob(repository, &before.1, file).await?;
    place.after_blob = blob(repository, &after.1, file).await?;
    let wanted = match version {
        "BEFORE" => &place.before_blob,
        _ => &place.after_blob,
    };
    if wanted.is_none() {
        return Err(ApiError::new(
            "PathDoesNotExistException",
            format!("Could not find path {file}"),
        ));
    }
    place.location = Some(location.clone().into());
    Ok(place)
}

/// Checks `location`; returns the path and the version of the file.
fn check_location(location: &Map<String, Value>) -> Result<(&str, &str), ApiError> {
    let location = Input(location);
    let file = location.required("filePath", "PathRequiredException")?;
    let file = path(file, true)?;
    let version = location.text("relativeFileVersion")?.unwrap_or("AFTER");
    if !matches!(version, "BEFORE" | "AFTER") {
        return Err(ApiError::new(
            "InvalidRelativeFileVersionEnumException",
            "relativeFileVersion must be BEFORE or AFTER",
        ));
    }
    if location
        .integer("filePosition")?
        .is_some_and(|line| line < 0)
    {
        return Err(ApiError::new(
            "InvalidFilePositionException",
            "filePosition must not be negative",
        ));
    }
    Ok((file, version))
}

/// Reads the id of a commit that exists; returns it and its tree.
async fn commit(
    repository: &Repository,
    input: Input<'_>,
    member: &str,
) -> Result<(String, String), ApiError> {
    let id = input.required(member, "CommitIdRequiredException")?;
    let id = object_id(id, "InvalidCommitIdException")?;
    let found = repository.commit_and_tree(&id).await?;
    found.ok_or_else(|| {
        ApiError::new(
            "CommitDoesNotExistException",
            format!("The commit {id} does not exist"),
        )
    })
}

async fn blob(repository: &Repository, root: &str, file: &str) -> Result<Option<String>, ApiError> {
    let (folder, name) = file.rsplit_once('/').unwrap_or(("", file));
    let Some((_, data)) = repository.folder(root, folder).await? else {
        return Ok(None);
    };
    let entries = super::super::tree::parse_tree(&data).map_err(ApiError::internal)?;
    let mut entries = entries.iter();
    let found = entries.find(|entry| entry.name == name.as_bytes());
    Ok(found.map(super::super::tree::Entry::id))
}

fn no_comment(id: &str) -> ApiError {
    ApiError::new(
        "CommentDoesNotExistException",
        format!("No comment exists with the ID {id}"),
    )
}

fn deleted(id: &str) -> ApiError {
    ApiError::new(
        "CommentDeletedException",
        format!("The comment {id} was deleted"),
    )
}
