//! Manual requests and the schedule.

use serde_json::{Map, Value};

use super::{Request, invalid_field, unknown_shape};
use crate::error::{Error, Result};
use crate::name::{BranchName, CommitId, RepositoryName};

/// Parses `{"schedule":true}` with an optional `plan`, `{"repository":".."}` or
/// `{"repository":"..","branch":"..","commit":".."}`.
pub(super) fn parse(object: &Map<String, Value>) -> Result<Request> {
    const KNOWN: [&str; 5] = ["schedule", "plan", "repository", "branch", "commit"];
    if let Some(field) = object.keys().find(|key| !KNOWN.contains(&key.as_str())) {
        let field: String = field.chars().take(80).collect();
        return Err(unknown_shape(&format!(
            "field `{}` is unknown",
            field.escape_debug()
        )));
    }
    if let Some(schedule) = object.get("schedule") {
        if schedule != &Value::Bool(true) {
            return Err(invalid_field("schedule", "it must be `true`"));
        }
        let plan = match object.get("plan") {
            None => false,
            Some(Value::Bool(plan)) => *plan,
            Some(_) => return Err(invalid_field("plan", "it must be `true` or `false`")),
        };
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
    match (branch, commit) {
        (Some(branch), commit) => Ok(Request::Branch {
            repository,
            branch,
            commit,
        }),
        (None, None) => Ok(Request::Repository(repository)),
        (None, Some(_)) => Err(invalid_field("commit", "it requires the field `branch`")),
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
