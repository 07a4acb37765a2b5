//! SDK clients over moto's S3 and CodePipeline, when `BRANCHLINE_VENV` names a
//! Python environment that has `moto_server`.

use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use aws_sdk_codepipeline::types as pipeline_types;
use aws_sdk_s3::types::{
    BucketLocationConstraint, BucketVersioningStatus, CreateBucketConfiguration,
    VersioningConfiguration,
};
use branchline_core::aws::{AccessKey, Aws};
use branchline_core::name::{BucketName, PipelineName};
use branchline_core::pipeline::Pipelines;
use branchline_core::pipeline::client::SdkPipelines;
use branchline_core::storage::client::SdkObjectStore;
use branchline_core::storage::{MIN_PART_BYTES, ObjectStore};
use branchline_core::testkit::conformance::{PipelinesSetup, StoreSetup, object_store, pipelines};
use branchline_test_support::moto::Moto;

/// moto, a configuration of clients for it, and the number of names that were given.
struct Account {
    moto: Moto,
    aws: Aws,
    count: AtomicUsize,
}

impl Account {
    /// Starts moto; `None` without a Python environment.
    fn start() -> Option<Self> {
        let moto = Moto::start().unwrap()?;
        let key = AccessKey {
            id: "AKIDEXAMPLE".into(),
            secret: "secret".into(),
            session_token: None,
        };
        Some(Self {
            aws: Aws::fixed("eu-west-1", &moto.endpoint(), &key),
            moto,
            count: AtomicUsize::new(0),
        })
    }

    fn next(&self) -> usize {
        self.count.fetch_add(1, Ordering::SeqCst)
    }
}

struct MotoStore {
    account: Account,
    store: SdkObjectStore,
    client: aws_sdk_s3::Client,
}

#[async_trait]
impl StoreSetup for MotoStore {
    fn store(&self) -> &dyn ObjectStore {
        &self.store
    }

    async fn bucket(&self, versioned: bool) -> BucketName {
        let bucket = BucketName::new(&format!("bucket-{}", self.account.next())).unwrap();
        let region = CreateBucketConfiguration::builder()
            .location_constraint(BucketLocationConstraint::EuWest1)
            .build();
        self.client
            .create_bucket()
            .bucket(bucket.as_str())
            .create_bucket_configuration(region)
            .send()
            .await
            .unwrap();
        if versioned {
            let enabled = VersioningConfiguration::builder()
                .status(BucketVersioningStatus::Enabled)
                .build();
            self.client
                .put_bucket_versioning()
                .bucket(bucket.as_str())
                .versioning_configuration(enabled)
                .send()
                .await
                .unwrap();
        }
        bucket
    }

    fn min_part_bytes(&self) -> usize {
        MIN_PART_BYTES
    }

    fn skipped(&self) -> &[&str] {
        &[
            // moto answers with the root element `GetBucketVersioningResponse`.
            "a_bucket_with_versions_is_versioned",
            "a_bucket_without_versions_is_not_versioned",
            // moto checks only If-None-Match on completion.
            "a_completion_with_a_stale_etag_is_refused",
            // moto fails with status 500 for a missing upload.
            "an_aborted_upload_refuses_parts_and_completion",
            "a_part_of_an_unknown_upload_is_refused",
        ]
    }
}

#[tokio::test]
async fn s3_over_moto_conforms() {
    let Some(account) = Account::start() else {
        return;
    };
    let config = aws_sdk_s3::config::Builder::from(account.aws.sdk())
        .force_path_style(true)
        .build();
    object_store(&MotoStore {
        store: SdkObjectStore::new(&account.aws),
        client: aws_sdk_s3::Client::from_conf(config),
        account,
    })
    .await;
}

struct MotoPipelines {
    account: Account,
    pipelines: SdkPipelines,
    client: aws_sdk_codepipeline::Client,
}

#[async_trait]
impl PipelinesSetup for MotoPipelines {
    fn pipelines(&self) -> &dyn Pipelines {
        &self.pipelines
    }

    async fn pipeline(&self) -> PipelineName {
        use pipeline_types::{
            ActionCategory, ActionDeclaration, ActionOwner, ActionTypeId, ArtifactStore,
            ArtifactStoreType, PipelineDeclaration, StageDeclaration,
        };
        let name = PipelineName::new(&format!("pipeline-{}", self.account.next())).unwrap();
        let stage = |name: &str, category: ActionCategory, provider: &str| {
            let kind = ActionTypeId::builder()
                .category(category)
                .owner(ActionOwner::Aws)
                .provider(provider)
                .version("1")
                .build()
                .unwrap();
            let action = ActionDeclaration::builder()
                .name(name)
                .action_type_id(kind)
                .configuration("AllowOverrideForS3ObjectKey", "true")
                .build()
                .unwrap();
            let stage = StageDeclaration::builder().name(name).actions(action);
            stage.build().unwrap()
        };
        let store = ArtifactStore::builder()
            .r#type(ArtifactStoreType::S3)
            .location("artifacts")
            .build()
            .unwrap();
        let declaration = PipelineDeclaration::builder()
            .name(name.as_str())
            .role_arn("arn:aws:iam::123456789012:role/pipeline")
            .artifact_store(store)
            .stages(stage("Source", ActionCategory::Source, "S3"))
            .stages(stage("Build", ActionCategory::Build, "CodeBuild"))
            .build()
            .unwrap();
        self.client
            .create_pipeline()
            .pipeline(declaration)
            .send()
            .await
            .unwrap();
        name
    }

    fn skipped(&self) -> &[&str] {
        // moto ignores the token and the source revisions.
        &[
            "one_token_starts_one_execution",
            "an_unknown_source_action_is_refused",
        ]
    }

    async fn executions(&self, pipeline: &PipelineName) -> Vec<String> {
        let answer = self
            .client
            .list_pipeline_executions()
            .pipeline_name(pipeline.as_str())
            .send()
            .await
            .unwrap();
        let executions = answer.pipeline_execution_summaries.unwrap_or_default();
        let ids = executions.into_iter().map(|e| e.pipeline_execution_id);
        ids.map(Option::unwrap).collect()
    }
}

/// Creates the role that `CreatePipeline` requires, by IAM's query API, because a client
/// crate for one request is too large.
async fn create_pipeline_role(moto: &Moto) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let trust = "%7B%22Statement%22%3A%5B%7B%22Effect%22%3A%22Allow%22%2C%22Principal%22%3A%7B\
                 %22Service%22%3A%22codepipeline.amazonaws.com%22%7D%2C%22Action%22%3A\
                 %22sts%3AAssumeRole%22%7D%5D%7D";
    let body = format!(
        "Action=CreateRole&Version=2010-05-08&RoleName=pipeline&AssumeRolePolicyDocument={trust}"
    );
    let request = format!(
        "POST / HTTP/1.1\r\nHost: iam.amazonaws.com\r\nConnection: close\r\n\
         Authorization: AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20260101/us-east-1/iam/\
         aws4_request, SignedHeaders=host, Signature=0\r\n\
         Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut stream = tokio::net::TcpStream::connect(moto.address())
        .await
        .unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.contains(" 200 "), "{answer}");
}

#[tokio::test]
async fn codepipeline_over_moto_conforms() {
    let Some(account) = Account::start() else {
        return;
    };
    create_pipeline_role(&account.moto).await;
    pipelines(&MotoPipelines {
        pipelines: SdkPipelines::new(&account.aws),
        client: aws_sdk_codepipeline::Client::new(account.aws.sdk()),
        account,
    })
    .await;
}
