//! Reading an operation's input: members by name, with the error that CodeCommit gives
//! for each that is missing or malformed.

use branchline_core::git::escaped_excerpt;
use branchline_core::name::{BranchName, RepositoryName};
use serde_json::{Map, Value};

use super::objects::is_object_id;
use crate::aws_json::ApiError;

/// Members of a request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Input<'a>(pub(crate) &'a Map<String, Value>);

/// Creates the error for a member whose type differs from the model.
pub(crate) fn wrong_type(member: &str, expected: &str) -> ApiError {
    ApiError::new(
        "SerializationException",
        format!("the member {member} must be {expected}"),
    )
}

impl<'a> Input<'a> {
    /// Returns a text; `None` when it is absent or null.
    pub(crate) fn text(self, member: &str) -> Result<Option<&'a str>, ApiError> {
        match self.0.get(member) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(wrong_type(member, "a string")),
        }
    }

    /// Returns a required, non-empty text, else the error `code`.
    pub(crate) fn required(self, member: &str, code: &str) -> Result<&'a str, ApiError> {
        self.text(member)?
            .filter(|text| !text.is_empty())
            .ok_or_else(|| ApiError::new(code, format!("{member} is required")))
    }

    /// Returns a list; `None` when it is absent or null.
    pub(crate) fn list(self, member: &str) -> Result<Option<&'a [Value]>, ApiError> {
        match self.0.get(member) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Array(list)) => Ok(Some(list)),
            Some(_) => Err(wrong_type(member, "a list")),
        }
    }

    /// Returns a list of texts; `None` when it is absent or null.
    pub(crate) fn texts(self, member: &str) -> Result<Option<Vec<&'a str>>, ApiError> {
        let Some(list) = self.list(member)? else {
            return Ok(None);
        };
        let texts: Option<Vec<&str>> = list.iter().map(Value::as_str).collect();
        texts
            .map(Some)
            .ok_or_else(|| wrong_type(member, "a list of strings"))
    }

    /// Returns a whole number; `None` when it is absent or null.
    pub(crate) fn integer(self, member: &str) -> Result<Option<i64>, ApiError> {
        match self.0.get(member) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => value
                .as_i64()
                .map(Some)
                .ok_or_else(|| wrong_type(member, "an integer")),
        }
    }

    /// Returns `repositoryName`, required and valid.
    pub(crate) fn repository_name(self) -> Result<RepositoryName, ApiError> {
        let name = self.required("repositoryName", "RepositoryNameRequiredException")?;
        repository_name(name)
    }

    /// Returns `branchName` (or the like), required and valid.
    pub(crate) fn branch_name(self, member: &str) -> Result<BranchName, ApiError> {
        let name = self.required(member, "BranchNameRequiredException")?;
        BranchName::new(name)
            .map_err(|error| ApiError::new("InvalidBranchNameException", error.to_string()))
    }

    /// Returns `commitId`, required and 40 hexadecimal digits.
    pub(crate) fn commit_id(self) -> Result<String, ApiError> {
        object_id(
            self.required("commitId", "CommitIdRequiredException")?,
            "InvalidCommitIdException",
        )
    }
}

/// Checks a repository name, else `InvalidRepositoryNameException`.
pub(crate) fn repository_name(name: &str) -> Result<RepositoryName, ApiError> {
    RepositoryName::new(name)
        .map_err(|error| ApiError::new("InvalidRepositoryNameException", error.to_string()))
}

/// Checks for 40 hexadecimal digits in lower case, else the error `code`.
pub(crate) fn object_id(text: &str, code: &str) -> Result<String, ApiError> {
    if is_object_id(text) {
        return Ok(text.to_ascii_lowercase());
    }
    let shown = escaped_excerpt(text.as_bytes());
    Err(ApiError::new(
        code,
        format!("{shown} is not a full object id of 40 hexadecimal digits"),
    ))
}

/// Normalises a path: no slashes at its ends; the root is empty.
///
/// At most 4096 characters and 20 folders deep, without `.`, `..` and empty parts.
pub(crate) fn path(text: &str, file: bool) -> Result<&str, ApiError> {
    let trimmed = text.strip_prefix('/').unwrap_or(text);
    let trimmed = trimmed.strip_suffix('/').unwrap_or(trimmed);
    if trimmed.is_empty() {
        return Ok("");
    }
    let invalid = |rule: &str| {
        let shown = escaped_excerpt(text.as_bytes());
        Err(ApiError::new(
            "InvalidPathException",
            format!("The path {shown} is not valid: {rule}"),
        ))
    };
    if text.chars().count() > 4096 {
        return invalid("it has more than 4096 characters");
    }
    if trimmed.contains('\0') {
        return invalid("it contains a null character");
    }
    let parts = trimmed.split('/');
    if parts.clone().any(|part| matches!(part, "" | "." | "..")) {
        return invalid("it must not contain empty parts, `.` or `..`");
    }
    if parts.count() - usize::from(file) > 20 {
        return invalid("it is more than 20 directories deep");
    }
    Ok(trimmed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slashes_at_both_ends_of_a_path_are_ignored() {
        for (text, meant) in [
            ("", ""),
            ("/", ""),
            ("/a/b", "a/b"),
            ("a/b/", "a/b"),
            ("a", "a"),
        ] {
            assert_eq!(path(text, false).unwrap(), meant);
        }
    }

    #[test]
    fn paths_that_climb_or_are_too_deep_are_refused() {
        let deep = vec!["d"; 21].join("/");
        for text in [
            "a//b",
            "..",
            "a/../b",
            "./a",
            "a/.",
            "a\0b",
            &deep,
            &"x".repeat(4097),
        ] {
            let error = path(text, false).unwrap_err();
            assert_eq!(error.code, "InvalidPathException", "{text:?}");
        }
        assert!(
            path(&deep, true).is_ok(),
            "a file 20 directories deep is the limit"
        );
        assert!(path(&vec!["d"; 22].join("/"), true).is_err());
    }
}
