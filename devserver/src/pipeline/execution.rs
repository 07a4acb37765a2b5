//! The source stage of an execution: fetches the artifact and reads it, or fails with a reason.

use std::io::Cursor;

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::artifact::{ArtifactError, Artifacts};
use super::model::{Action, Execution, FetchedSource, Pipeline};

/// Maximum number of entries in a source's zip.
const MAX_ENTRIES: usize = 100_000;

/// Fetches every source of `pipeline` as `execution` pins it.
///
/// Errors: a sentence for `statusSummary`, with the artifacts that were fetched before.
pub(super) async fn fetch_sources(
    pipeline: &Pipeline,
    execution: &Execution,
    artifacts: &dyn Artifacts,
) -> (Vec<FetchedSource>, Result<(), String>) {
    let mut fetched = Vec::new();
    for action in pipeline.sources() {
        match fetch(&action, execution, artifacts).await {
            Ok(source) => fetched.push(source),
            Err(why) => {
                return (
                    fetched,
                    Err(format!("source action {}: {why}", action.name)),
                );
            }
        }
    }
    (fetched, Ok(()))
}

async fn fetch(
    action: &Action<'_>,
    execution: &Execution,
    artifacts: &dyn Artifacts,
) -> Result<FetchedSource, String> {
    if action.provider != "S3" {
        return Err(format!(
            "the development server carries out S3 sources only, not {}",
            action.provider
        ));
    }
    let pinned = |revision_type: &str| {
        execution
            .overrides
            .iter()
            .find(|given| given.action_name == action.name && given.revision_type == revision_type)
            .map(|given| given.revision_value.clone())
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
