//! Archives the tip of a branch as its artifact.

use std::sync::Arc;
use std::time::Instant;

use branchline_core::archive::large_files_over_git::GitLargeFiles;
use branchline_core::archive::{
    self, ArchiveDestination, ArchiveRequest, CodeCommitHistory, CodeCommitSubmodules, ExtraFile,
    History, LargeFiles, SubmoduleRepositories,
};
use branchline_core::git::object::{Commit, Signature};
use branchline_core::lfs::LfsStore;
use branchline_core::metrics::Metric;
use branchline_core::name::RepositoryName;
use branchline_core::storage::spool::SpoolConfig;
use branchline_core::storage::{ObjectMetadata, Precondition, PutOptions};
use branchline_core::{Error, ErrorKind, Result};
use serde_json::json;

use super::read_ahead::ArchiveBase;
use super::{Attempt, reuse};
use crate::artifact::{self, ArtifactIdentity, Provenance, S3Location};
use crate::config::PipelineSource;
use crate::lfs::LfsServices;
use crate::request::ArtifactAnswer;

impl Attempt<'_> {
    /// Archives `commit` as the object at `location`, for the pipelines with these hashes.
    #[expect(
        clippy::too_many_arguments,
        reason = "each is read once, in this one place"
    )]
    pub(super) async fn build(
        &self,
        commit: &Commit,
        location: &S3Location,
        identity: &ArtifactIdentity,
        precondition: Precondition,
        provenance: Provenance,
        pipelines: Option<&str>,
        base: ArchiveBase,
    ) -> Result<ArtifactAnswer> {
        let context = self.context;
        let config = &context.config;
        if config.source == PipelineSource::CodeCommit {
            return self
                .write_marker(
                    commit,
                    location,
                    identity,
                    precondition,
                    provenance,
                    pipelines,
                )
                .await;
        }
        let mut extra_files = Vec::new();
        if config.commit_info {
            extra_files.push(commit_info(commit, self.repository(), &self.task.label())?);
        }
        let over_git = self.over_git(commit, location)?;
        let large_files = over_git.clone().map(|files| files as Arc<dyn LargeFiles>);
        let request = ArchiveRequest {
            prefix: config.prefix.clone(),
            extra_files,
            concurrency: config.concurrency as usize,
            deadline: Some(self.deadline),
            large_files,
            method: config.read_method,
            over_git,
            history: self.history(),
            export_ignore: config.export_ignore,
            lfs: self.lfs(self.repository())?,
            submodules: self.submodules(),
            previous: base.previous,
            head_start: base.head_start,
            ..ArchiveRequest::new(commit.clone())
        };
        let destination = ArchiveDestination {
            bucket: location.bucket.clone(),
            key: location.key.clone(),
            options: PutOptions {
                metadata: ObjectMetadata {
                    content_type: Some("application/zip".to_owned()),
                    user: identity.metadata(commit, provenance, pipelines),
                    ..ObjectMetadata::default()
                },
                precondition,
                kms_key_id: config.kms_key_id.clone(),
            },
            files_metadata: Some(artifact::FILES.to_owned()),
            record_metadata: Some(reuse::RECORD.to_owned()),
        };
        let begin = Instant::now();
        let built = archive::build(
            &*context.codecommit,
            self.repository(),
            &context.store,
            &request,
            &destination,
        )
        .await?;
        let summary = built.summary;
        let duration_ms = u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX);
        context.metrics.add(Metric::Archives, 1);
        context
            .metrics
            .add(Metric::ArchiveBytes, summary.size_bytes);
        context.metrics.add(Metric::ArchiveDuration, duration_ms);
        tracing::info!(
            repository.name = %self.repository(),
            branch.name = %self.branch(),
            commit.id = %commit.id,
            artifact.key = %location.key,
            artifact.version_id = built.written.version_id.as_deref(),
            size_bytes = summary.size_bytes,
            files = summary.files,
            reused_files = summary.reused_files,
            requests = summary.requests,
            by_git = built.by_git,
            held_bytes = summary.peak_held_bytes,
            duration_ms,
            "archived"
        );
        let artifact = ArtifactAnswer {
            bucket: location.bucket.to_string(),
            key: location.key.to_string(),
            version_id: built.written.version_id.map(String::from),
            etag: built.written.etag.to_string(),
            size_bytes: summary.size_bytes,
            files: Some(summary.files),
        };
        context.announce_artifact(self.task, commit.id.into(), &artifact);
        Ok(artifact)
    }

    /// Returns the store of a repository's LFS objects, if archives contain them.
    fn lfs(&self, repository: &RepositoryName) -> Result<Option<Arc<dyn LfsStore>>> {
        let Some(location) = &self.context.config.lfs else {
            return Ok(None);
        };
        let services = LfsServices {
            store: &self.context.store,
            http: self.context.git.as_ref().map(|git| &git.http),
        };
        location.open(repository, &services).map(Some)
    }

    /// Returns the repositories of submodules, if archives contain these.
    fn submodules(&self) -> Option<Arc<dyn SubmoduleRepositories>> {
        let context = self.context;
        if !context.config.submodules {
            return None;
        }
        let service = Arc::clone(&context.codecommit);
        let repository = self.repository().clone();
        let submodules = CodeCommitSubmodules::new(service, repository, context.git.clone());
        let submodules = match context.config.lfs.clone() {
            Some(location) => {
                let store = Arc::clone(&context.store);
                let http = context.git.as_ref().map(|git| git.http.clone());
                submodules.with_lfs(move |repository| {
                    let services = LfsServices {
                        store: &store,
                        http: http.as_ref(),
                    };
                    location.open(repository, &services)
                })
            }
            None => submodules,
        };
        Some(Arc::new(submodules))
    }

    /// Returns the refs and the history of the repository.
    pub(super) fn history(&self) -> Option<Arc<dyn History>> {
        let git = self.context.git.clone()?;
        let history = CodeCommitHistory::new(git, self.repository().clone());
        Some(Arc::new(history))
    }

    /// Returns the commit by git, for files that the API refuses and for whole commits, with a
    /// temporary object near the artifact for packs that do not fit into memory.
    fn over_git(
        &self,
        commit: &Commit,
        location: &S3Location,
    ) -> Result<Option<Arc<GitLargeFiles>>> {
        let Some(git) = self.context.git_access(self.repository()) else {
            return Ok(None);
        };
        let spool = SpoolConfig {
            store: Arc::clone(&self.context.store),
            bucket: location.bucket.clone(),
            key: location.temporary_key()?,
            options: PutOptions {
                kms_key_id: self.context.config.kms_key_id.clone(),
                ..PutOptions::default()
            },
        };
        let repository = self.repository().clone();
        let files = GitLargeFiles::new(git, repository, commit.id.into(), spool);
        Ok(Some(Arc::new(files)))
    }
}

/// Path of the file that `ARCHIVE_COMMIT_INFO` adds.
const COMMIT_INFO_PATH: &str = "commit_info.json";

/// Encodes the commit in the format of `GetCommit`, with `branchName` and `RepositoryName`.
fn commit_info(commit: &Commit, repository: &RepositoryName, branch: &str) -> Result<ExtraFile> {
    let signature = |signature: &Signature| {
        json!({
            "name": signature.name,
            "email": signature.email,
            "date": signature.date,
        })
    };
    let parents: Vec<_> = commit.parents.iter().map(ToString::to_string).collect();
    let info = json!({
        "commitId": commit.id.to_string(),
        "treeId": commit.tree.to_string(),
        "parents": parents,
        "message": commit.message,
        "author": signature(&commit.author),
        "committer": signature(&commit.committer),
        "additionalData": commit.extra_headers,
        "branchName": branch,
        "RepositoryName": repository.as_str(),
    });
    let mut bytes = serde_json::to_vec_pretty(&info).map_err(|error| {
        Error::new(ErrorKind::Internal, "the commit cannot be encoded as JSON").with_source(error)
    })?;
    bytes.push(b'\n');
    Ok(ExtraFile {
        path: COMMIT_INFO_PATH.to_owned(),
        bytes: bytes.into(),
        executable: false,
    })
}
