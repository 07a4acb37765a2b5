//! Adapters between the services, which each depend only on a small trait of another.

use async_trait::async_trait;
use branchline_core::codecommit::TriggerSet;
use http::{Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde_json::Value;

use super::body::ServerBody;
use super::dispatch::{HttpService, JsonService};
use crate::aws_json::ApiResult;
use crate::codecommit::{CodeCommitService, TriggerTest, TriggerTester};
use crate::delivery::{Delivery, TestEvent, TriggerSource};
use crate::git_http::GitHttp;
use crate::pipeline::{Artifact, ArtifactError, Artifacts, Commits, SourceCommit};
use crate::s3::store::{Error as StoreError, Versioning};
use crate::s3::{S3Service, Store};

impl TriggerSource for CodeCommitService {
    fn triggers(&self, repository: &str) -> Option<TriggerSet> {
        CodeCommitService::triggers(self, repository)
    }

    fn repository_id(&self, repository: &str) -> Option<String> {
        CodeCommitService::repository_id(self, repository)
    }
}

#[async_trait]
impl TriggerTester for Delivery {
    async fn test(&self, test: &TriggerTest) -> Result<(), String> {
        Delivery::test(
            self,
            &TestEvent {
                repository: &test.repository,
                principal_arn: &test.principal_arn,
                configuration_id: &test.configuration_id,
                trigger: &test.trigger,
                reference: &test.reference,
                commit: &test.commit,
            },
        )
    }
}

#[async_trait]
impl JsonService for CodeCommitService {
    async fn call(&self, operation: &str, input: Value, principal_arn: &str) -> ApiResult {
        CodeCommitService::call(self, operation, input, principal_arn).await
    }

    fn repository_of(&self, input: &Value) -> Option<String> {
        let id = ["pullRequestId", "commentId", "inReplyTo"]
            .into_iter()
            .find_map(|member| input[member].as_str())?;
        CodeCommitService::repository_of(self, id)
    }
}

#[async_trait]
impl HttpService for GitHttp {
    async fn call(&self, request: Request<Incoming>) -> Response<ServerBody> {
        let response = GitHttp::call(self, request).await;
        response.map(|body| body.map_err(Into::into).boxed_unsync())
    }
}

#[async_trait]
impl HttpService for S3Service {
    async fn call(&self, request: Request<Incoming>) -> Response<ServerBody> {
        S3Service::call(self, request).await
    }
}

#[async_trait]
impl Artifacts for Store {
    async fn is_versioned(&self, bucket: &str) -> Result<bool, ArtifactError> {
        let found = self
            .bucket(bucket)
            .map_err(|error| why(bucket, "", &error))?;
        Ok(found.versioning() == Versioning::Enabled)
    }

    async fn get(
        &self,
        bucket: &str,
        key: &str,
        version_id: Option<&str>,
    ) -> Result<Artifact, ArtifactError> {
        let store = self.clone();
        let (bucket, key) = (bucket.to_owned(), key.to_owned());
        let version_id = version_id.map(str::to_owned);
        let read = tokio::task::spawn_blocking(move || {
            store
                .get_bytes(&bucket, &key, version_id.as_deref())
                .map_err(|error| {
                    let version = version_id.map(|id| format!("?versionId={id}"));
                    why(
                        &bucket,
                        &format!("/{key}{}", version.unwrap_or_default()),
                        &error,
                    )
                })
        });
        let (head, bytes) = read
            .await
            .map_err(|error| ArtifactError(error.to_string()))??;
        Ok(Artifact {
            bytes,
            version_id: head.version_id,
            etag: head.etag,
            last_modified: head.last_modified,
            metadata: head.attributes.user,
        })
    }
}

#[async_trait]
impl Commits for CodeCommitService {
    async fn find(&self, repository: &str, specifier: &str) -> Result<SourceCommit, ArtifactError> {
        let found = self.commit(repository, specifier).await;
        let (commit_id, message) = found.map_err(|error| ArtifactError(error.message))?;
        Ok(SourceCommit { commit_id, message })
    }
}

fn why(bucket: &str, rest: &str, error: &StoreError) -> ArtifactError {
    ArtifactError(format!("s3://{bucket}{rest} cannot be read: {error}"))
}
