//! `GetDifferences` over the AWS SDK.

use aws_sdk_codecommit::Client;
use aws_sdk_codecommit::types::BlobMetadata;

use super::client_error::convert_in;
use super::client_fields::{of_repository, parse, required};
use super::{Difference, DifferenceSide, Page};
use crate::aws::{ApiCall, corrupt};
use crate::error::Result;
use crate::git::escaped_excerpt;
use crate::git::object::EntryMode;
use crate::name::{CommitId, RepositoryName};

/// Requests one page. The service's page size is kept, because its maximum is not documented.
pub(super) async fn get_differences(
    client: &Client,
    repository: &RepositoryName,
    before: CommitId,
    after: CommitId,
    next: Option<&str>,
) -> Result<Page<Difference>> {
    let call = || ApiCall {
        subject: format!(
            "the differences between commits {before} and {after} of repository `{repository}`"
        ),
        ..of_repository("GetDifferences", "codecommit:GetDifferences", repository)
    };
    let answer = client
        .get_differences()
        .repository_name(repository.as_str())
        .before_commit_specifier(before.to_string())
        .after_commit_specifier(after.to_string())
        .set_next_token(next.map(str::to_owned))
        .send()
        .await
        .map_err(|error| convert_in(&error, &call(), repository))?;
    let items = answer
        .differences
        .unwrap_or_default()
        .into_iter()
        .map(|difference| {
            let (before, after) = (difference.before_blob, difference.after_blob);
            if before.is_none() && after.is_none() {
                return Err(corrupt(&call(), "a difference without a blob"));
            }
            Ok(Difference {
                before: before.map(|blob| side(&call, blob)).transpose()?,
                after: after.map(|blob| side(&call, blob)).transpose()?,
            })
        })
        .collect::<Result<_>>()?;
    Ok(Page {
        items,
        next: answer.next_token.filter(|token| !token.is_empty()),
    })
}

fn side(call: &impl Fn() -> ApiCall, blob: BlobMetadata) -> Result<DifferenceSide> {
    let path = required(call, "path", blob.path)?;
    let mode = match blob.mode.as_deref() {
        Some("100644") => EntryMode::Blob,
        Some("100755") => EntryMode::BlobExecutable,
        Some("120000") => EntryMode::Link,
        Some("160000") => EntryMode::Commit,
        mode => {
            let path = escaped_excerpt(path.as_bytes());
            let mode = escaped_excerpt(mode.unwrap_or("no mode").as_bytes());
            return Err(corrupt(&call(), format!("`{path}` has the mode `{mode}`")));
        }
    };
    // The id of a submodule's commit is sent as `blobId` too.
    let id = parse(call, "blobId", blob.blob_id, CommitId::new)?.object_id();
    Ok(DifferenceSide { path, mode, id })
}
