//! A bucket of artifacts that two accounts share.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use branchline_core::function::FunctionArn;
use branchline_core::lambda::{FunctionContext as _, InvocationError};
use branchline_core::name::{BucketName, ObjectKey};
use branchline_core::pattern::BranchPatterns;
use branchline_core::storage::{ObjectMetadata, ObjectStore as _, PutOptions};
use branchline_core::testkit::{MemoryCodeCommit, MemoryPipelines, MemoryStore};
use bytes::Bytes;
use serde_json::json;

use super::BRANCHES;
use super::repository_model::{self, repository};

/// The account of the functions.
pub(crate) const OWN_ACCOUNT: &str = "111122223333";
/// The account of foreign artifacts.
pub(crate) const OTHER_ACCOUNT: &str = "444455556666";

/// The bucket of the artifacts of two accounts.
pub(crate) struct SharedBucket {
    store: Arc<MemoryStore>,
    bucket: BucketName,
}

impl SharedBucket {
    /// Makes a bucket with artifacts of the other account for these branches.
    pub(crate) async fn new(foreign: &BTreeSet<&str>) -> Self {
        let bucket = BucketName::new("artifacts").unwrap();
        let store = Arc::new(MemoryStore::new());
        store.create_bucket(&bucket, true);
        let origin = format!("{}/{OTHER_ACCOUNT}", repository_model::REGION);
        for branch in foreign {
            let user = [
                ("branchline-repository", repository().to_string()),
                ("branchline-branch", (*branch).to_owned()),
                ("branchline-commit", "theirs".to_owned()),
                ("branchline-origin", origin.clone()),
            ];
            let options = PutOptions {
                metadata: ObjectMetadata {
                    user: user.map(|(name, value)| (name.to_owned(), value)).into(),
                    ..ObjectMetadata::default()
                },
                ..PutOptions::default()
            };
            let key = ObjectKey::new(&format!("{}/{branch}.zip", repository())).unwrap();
            store
                .put(&bucket, &key, Bytes::from_static(b"theirs"), &options)
                .await
                .unwrap();
        }
        Self { store, bucket }
    }

    /// Runs the schedule of an account's update function, which deletes artifacts.
    pub(crate) async fn schedule(
        &self,
        service: Arc<MemoryCodeCommit>,
        account: &str,
        branches: &BranchPatterns,
    ) -> Result<(), InvocationError> {
        let settings = [
            ("ARTIFACT_BUCKET", "artifacts"),
            ("DELETE_ARTIFACTS", "true"),
        ];
        let mut config = branchline_update::Config::read(&settings.into_iter().collect()).unwrap();
        config.branches = branches.clone();
        let pipelines = Arc::new(MemoryPipelines::new());
        let store = Arc::clone(&self.store);
        let update = branchline_update::Context::new(config, service, store, pipelines);
        let region = repository_model::REGION;
        let arn = format!("arn:aws:lambda:{region}:{account}:function:update");
        update.record_function(&FunctionArn::new(&arn).unwrap());
        let deadline = Instant::now() + Duration::from_secs(1_000_000);
        let event = json!({"schedule": true});
        branchline_update::handle(Arc::new(update), event, deadline)
            .await
            .map(drop)
    }

    /// The commits of the artifacts by their branches.
    pub(crate) fn archived(&self) -> BTreeMap<&'static str, String> {
        let commit = |branch: &&'static str| {
            let key = format!("{}/{branch}.zip", repository());
            let versions = self.store.versions(&self.bucket, &key);
            let last = versions.last().filter(|version| version.body.is_some())?;
            let commit = last.metadata.user.get("branchline-commit")?;
            Some((*branch, commit.clone()))
        };
        BRANCHES.iter().filter_map(commit).collect()
    }
}
