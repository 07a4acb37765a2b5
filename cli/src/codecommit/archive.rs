//! `git archive --remote=codecommit://..`, made over CodeCommit's API.

use std::sync::Arc;

use branchline_core::Result;
use branchline_core::archive::CodeCommitArchives;
use branchline_core::archive::large_files_over_git::GitAccess;
use branchline_core::aws::{Aws, AwsOverrides, git_http};
use branchline_core::codecommit::client::SdkCodeCommit;
use branchline_core::codecommit::git_credential_source::CodeCommitCredentials;
use branchline_core::git::date::LocalTime;
use branchline_core::retry::{RetryPolicy, Retrying};

use super::location::Location;
use crate::connection::http_settings;
use crate::invocation::Invocation;

/// Maximum number of concurrent requests to CodeCommit.
const CONCURRENT_REQUESTS: usize = 8;
/// Memory in bytes for a commit with files that the API does not serve; a quarter is for its pack.
const GIT_MEMORY_BYTES: usize = 2 << 30;

/// Opens the archives of a repository. Makes no request.
pub(super) async fn open(
    invocation: &Invocation,
    location: &Location,
    now: LocalTime,
) -> Result<CodeCommitArchives> {
    let http = http_settings(invocation)?;
    let aws = Aws::load(AwsOverrides {
        region: Some(location.region.clone()),
        profile: location.url.profile.clone(),
        http: http.clone(),
        ..AwsOverrides::default()
    })
    .await?;
    let service = SdkCodeCommit::new(&aws);
    let access = GitAccess {
        service: Arc::new(Retrying::new(
            service,
            RetryPolicy::new(CONCURRENT_REQUESTS),
        )),
        http: git_http(&http)?,
        credentials: Arc::new(CodeCommitCredentials::new(&aws)),
        clone_url: Some(location.server.clone()),
        memory_bytes: GIT_MEMORY_BYTES,
        costs: Arc::default(),
    };
    let repository = location.url.repository.clone();
    Ok(CodeCommitArchives::new(access, repository, now))
}
