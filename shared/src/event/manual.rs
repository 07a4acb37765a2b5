//! Manual requests and the schedule.

use serde_json::{Map, Value};

use super::{Request, invalid_field, unknown_shape};
use crate::error::{Error, Result};
use crate::git::escaped_excerpt;
use crate::name::{BranchName, CommitId, RepositoryName, TagName};

/// Parses `{"schedule":true}` with an optional `plan`, or `{"repository":".."}` with an optional
/// `branch`, `branch` and `commit`, `tag`, or `commit`; beside one of these, `again`.
pub(super) fn parse(object: &Map<String, Value>) -> Result<Request> {
    const KNOWN: [&str; 7] = [
        "schedule",
        "plan",
        "repository",
        "branch",
        "tag",
        "commit",
        "again",
    ];
    if let Some(field) = object.keys().find(|key| !KNOWN.contains(&key.as_str())) {
        let field = escaped_excerpt(field.as_bytes());
        return Err(unknown_shape(&format!("field `{field}` is unknown")));
    }
    if let Some(schedule) = object.get("schedule") {
        if schedule != &Value::Bool(true) {
            return Err(invalid_field("schedule", "it must be `true`"));
        }
        let plan = flag(object, "plan")?;
        if object.keys().any(|key| key != "schedule" && key != "plan") {
            return Err(invalid_field("schedule", "only `plan` may be beside it"));
        }
        return Ok(Request::Schedule { plan });
    }
    if object.contains_key("plan") {
        return Err(invalid_field("plan", "it requires the field `schedule`"));
    }
    let Some(repository) = text(object, "repository", RepositoryName::new)? else {
        return Err(unknown_shape("field `repository` is missing"));
    };
    let branch = text(object, "branch", |name| {
        BranchName::new(name.strip_prefix("refs/heads/").unwrap_or(name))
    })?;
    let commit = text(object, "commit", CommitId::new)?;
    let tag = text(object, "tag", |name| {
        TagName::new(name.strip_prefix("refs/tags/").unwrap_or(name))
    })?;
    let again = flag(object, "again")?;
    match (branch, tag, commit) {
        (Some(branch), None, commit) => Ok(Request::Branch {
            repository,
            branch,
            commit,
            again,
        }),
        (None, Some(tag), None) => Ok(Request::Tag {
            repository,
            tag,
            again,
        }),
        (None, None, Some(commit)) => Ok(Request::Commit {
            repository,
            commit,
            again,
        }),
        (None, None, None) if object.contains_key("again") => Err(invalid_field(
            "again",
            "it requires the field `branch`, `tag` or `commit`",
        )),
        (None, None, None) => Ok(Request::Repository(repository)),
        (Some(_), Some(_), _) => Err(invalid_field("tag", "it cannot be beside `branch`")),
        (None, Some(_), Some(_)) => Err(invalid_field("commit", "it cannot be beside `tag`")),
    }
}

fn flag(object: &Map<String, Value>, field: &str) -> Result<bool> {
    match object.get(field) {
        None => Ok(false),
        Some(Value::Bool(flag)) => Ok(*flag),
        Some(_) => Err(invalid_field(field, "it must be `true` or `false`")),
    }
}

fn text<T>(
    object: &Map<String, Value>,
    field: &str,
    read: impl FnOnce(&str) -> Result<T>,
) -> Result<Option<T>> {
    match object.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => match read(text) {
            Ok(value) => Ok(Some(value)),
            Err(error) => {
                let error: Error = error;
                Err(invalid_field(field, error))
            }
        },
        Some(_) => Err(invalid_field(field, "it must be a string")),
    }
}
