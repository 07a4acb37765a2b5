//! The source stage of an execution: fetches the artifact and reads it, or finds the commit, or
//! fails with a reason.

use std::io::Cursor;
use std::sync::Arc;

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::artifact::{ArtifactError, Artifacts, Commits};
use super::model::{Action, Execution, FetchedCommit, FetchedSource, Pipeline, SourceFailure};

/// Maximum number of entries in a source's zip.
const MAX_ENTRIES: usize = 100_000;

/// Places that source actions read.
pub struct Sources {
    /// Objects of S3.
    pub artifacts: Arc<dyn Artifacts>,
    /// Commits of CodeCommit.
    pub commits: Arc<dyn Commits>,
}

/// Sources that were read, and the failure that ended the stage.
#[derive(Debug, Default)]
pub(super) struct Fetched {
    pub(super) sources: Vec<FetchedSource>,
    pub(super) commits: Vec<FetchedCommit>,
    pub(super) failure: Option<SourceFailure>,
}

/// Fetches every source of `pipeline` as `execution` pins it, until one fails.
pub(super) async fn fetch_sources(
    pipeline: &Pipeline,
    execution: &Execution,
    sources: &Sources,
) -> Fetched {
    let mut fetched = Fetched::default();
    for action in pipeline.sources() {
        let read = match action.provider {
            "S3" => fetch(&action, execution, sources.artifacts.as_ref())
                .await
                .map(|source| fetched.sources.push(source)),
            "CodeCommit" => find_commit(&action, execution, sources.commits.as_ref())
                .await
                .map(|commit| fetched.commits.push(commit)),
            other => Err(format!(
                "the development server carries out S3 and CodeCommit sources only, not {other}"
            )),
        };
        if let Err(message) = read {
            fetched.failure = Some(SourceFailure {
                action: action.name.to_owned(),
                message,
            });
            return fetched;
        }
    }
    fetched
}

/// Finds the commit of a CodeCommit source: the pinned one, or the tip of the branch.
async fn find_commit(
    action: &Action<'_>,
    execution: &Execution,
    commits: &dyn Commits,
) -> Result<FetchedCommit, String> {
    let configured = |member: &str| {
        action
            .configuration
            .get(member)
            .copied()
            .unwrap_or_default()
    };
    let (repository, branch) = (configured("RepositoryName"), configured("BranchName"));
    let pinned = execution.pinned(action.name, "COMMIT_ID");
    let reason = |ArtifactError(why): ArtifactError| why;
    let found = match pinned {
        Some(commit) => commits.find(repository, commit).await,
        None => {
            commits
                .find(repository, &format!("refs/heads/{branch}"))
                .await
        }
    };
    let found = found.map_err(reason)?;
    Ok(FetchedCommit {
        action: action.name.to_owned(),
        repository: repository.to_owned(),
        branch: branch.to_owned(),
        commit_id: found.commit_id,
        message: found.message,
    })
}

async fn fetch(
    action: &Action<'_>,
    execution: &Execution,
    artifacts: &dyn Artifacts,
) -> Result<FetchedSource, String> {
    let pinned = |revision_type: &str| {
        let pinned = execution.pinned(action.name, revision_type);
        pinned.map(str::to_owned)
    };
    let configured = |member: &str| {
        let value = action.configuration.get(member).copied();
        value.unwrap_or_default().to_owned()
    };
    let bucket = configured("S3Bucket");
    let key = pinned("S3_OBJECT_KEY").unwrap_or_else(|| configured("S3ObjectKey"));
    let version = pinned("S3_OBJECT_VERSION_ID");
    let reason = |ArtifactError(why): ArtifactError| why;
    if !artifacts.is_versioned(&bucket).await.map_err(reason)? {
        return Err(format!(
            "the bucket {bucket} is not versioned; turn versioning on: an S3 source reads versions"
        ));
    }
    let artifact = artifacts
        .get(&bucket, &key, version.as_deref())
        .await
        .map_err(reason)?;
    let bytes = artifact.bytes.clone();
    let (sha256, entries) = tokio::task::spawn_blocking(move || read_zip(&bytes))
        .await
        .map_err(|error| error.to_string())?
        .map_err(|why| format!("s3://{bucket}/{key} is not a readable zip: {why}"))?;
    Ok(FetchedSource {
        action: action.name.to_owned(),
        bucket,
        key,
        version_id: artifact.version_id,
        etag: artifact.etag,
        size_bytes: artifact.bytes.len() as u64,
        sha256,
        entries,
        revision_summary: artifact
            .metadata
            .get("codepipeline-artifact-revision-summary")
            .cloned(),
        last_modified: artifact.last_modified,
    })
}

/// Reads every entry to its end, so that each checksum is verified.
fn read_zip(bytes: &Bytes) -> Result<(String, usize), String> {
    let sha256 = hex::encode(Sha256::digest(bytes));
    let mut archive =
        zip::ZipArchive::new(Cursor::new(bytes.clone())).map_err(|error| error.to_string())?;
    if archive.len() > MAX_ENTRIES {
        return Err(format!(
            "it has {} entries; the most is {MAX_ENTRIES}",
            archive.len()
        ));
    }
    for at in 0..archive.len() {
        let mut entry = archive
            .by_index(at)
            .map_err(|error| format!("entry {at}: {error}"))?;
        let name = match entry.name() {
            Ok(name) => name.into_owned(),
            Err(error) => return Err(format!("the name of entry {at}: {error}")),
        };
        std::io::copy(&mut entry, &mut std::io::sink())
            .map_err(|error| format!("entry {name}: {error}"))?;
    }
    Ok((sha256, archive.len()))
}
