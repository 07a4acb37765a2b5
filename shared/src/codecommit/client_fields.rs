//! Calls that concern a repository, and members of their answers that must be there.

use crate::aws::{ApiCall, corrupt};
use crate::error::Result;
use crate::name::RepositoryName;

pub(super) fn of_repository(
    operation: &'static str,
    permission: &'static str,
    repository: &RepositoryName,
) -> ApiCall {
    ApiCall {
        service: "CodeCommit",
        operation,
        permission,
        subject: format!("repository `{repository}`"),
        resource: format!("`arn:aws:codecommit:<region>:<account>:{repository}`"),
    }
}

pub(super) fn required<T>(
    call: &impl Fn() -> ApiCall,
    member: &str,
    value: Option<T>,
) -> Result<T> {
    value.ok_or_else(|| corrupt(&call(), format!("no `{member}`")))
}

pub(super) fn parse<T>(
    call: &impl Fn() -> ApiCall,
    member: &str,
    text: Option<String>,
    new: impl Fn(&str) -> Result<T>,
) -> Result<T> {
    let text = required(call, member, text)?;
    new(&text).map_err(|error| corrupt(&call(), format!("`{member}`: {error}")))
}
