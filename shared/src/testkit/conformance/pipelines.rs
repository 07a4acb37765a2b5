//! Cases that every [`Pipelines`] passes.

use async_trait::async_trait;

use super::{assert_fails, run_cases};
use crate::error::ErrorKind;
use crate::name::PipelineName;
use crate::pipeline::{Pipelines, SourceRevision, StartRequest};

/// A service under test, and its pipelines.
#[async_trait]
pub trait PipelinesSetup: Send + Sync {
    /// Returns the service under test.
    fn pipelines(&self) -> &dyn Pipelines;

    /// Creates a pipeline whose S3 source action `Source` allows the override of its
    /// object key.
    async fn pipeline(&self) -> PipelineName;

    /// Returns the ids of a pipeline's executions, in any order.
    async fn executions(&self, pipeline: &PipelineName) -> Vec<String>;

    /// Returns the cases that the service is known to fail.
    fn skipped(&self) -> &[&str] {
        &[]
    }
}

/// Runs the suite.
pub async fn pipelines(setup: &dyn PipelinesSetup) {
    run_cases!(
        setup,
        setup.skipped(),
        [
            an_execution_is_started,
            one_token_starts_one_execution,
            a_missing_pipeline_is_not_found,
            an_unknown_source_action_is_refused,
            a_declaration_has_the_source_action_and_its_configuration,
            the_state_of_an_execution_is_read_by_its_id,
        ]
    );
}

fn request(pipeline: &PipelineName, token: &str) -> StartRequest {
    StartRequest {
        pipeline: pipeline.clone(),
        client_request_token: token.into(),
        source: Some(SourceRevision {
            action_name: "Source".into(),
            object_key: Some("repo/main.zip".into()),
            object_version_id: Some("3HL4kqtJvjVBH40Nrjfkd".into()),
            commit_id: None,
        }),
        variables: Vec::new(),
    }
}

async fn an_execution_is_started(setup: &dyn PipelinesSetup) {
    let pipeline = setup.pipeline().await;
    let id = setup.pipelines().start(&request(&pipeline, "a")).await;
    let id = id.expect("the pipeline starts");
    assert_eq!(setup.executions(&pipeline).await, [id]);
}

async fn one_token_starts_one_execution(setup: &dyn PipelinesSetup) {
    let (pipeline, other) = (setup.pipeline().await, setup.pipeline().await);
    let mut ids = Vec::new();
    for (pipeline, token) in [
        (&pipeline, "a"),
        (&pipeline, "a"),
        (&pipeline, "b"),
        (&other, "a"),
    ] {
        let id = setup.pipelines().start(&request(pipeline, token)).await;
        ids.push(id.expect("the pipeline starts"));
    }
    assert_eq!(ids[0], ids[1], "the same token, the same execution");
    assert_ne!(ids[1], ids[2], "each token starts an execution");
    assert_eq!(setup.executions(&pipeline).await.len(), 2);
    assert_eq!(setup.executions(&other).await.len(), 1);
}

async fn a_missing_pipeline_is_not_found(setup: &dyn PipelinesSetup) {
    let missing = PipelineName::new("no-such-pipeline").expect("a legal name");
    let started = setup.pipelines().start(&request(&missing, "a")).await;
    assert_fails(started, ErrorKind::NotFound, "no-such-pipeline");
}

async fn an_unknown_source_action_is_refused(setup: &dyn PipelinesSetup) {
    let pipeline = setup.pipeline().await;
    let mut request = request(&pipeline, "a");
    if let Some(source) = &mut request.source {
        source.action_name = "NoSuchAction".into();
    }
    let started = setup.pipelines().start(&request).await;
    assert_fails(started, ErrorKind::Config, pipeline.as_str());
    assert!(setup.executions(&pipeline).await.is_empty());
}

async fn a_declaration_has_the_source_action_and_its_configuration(setup: &dyn PipelinesSetup) {
    let pipeline = setup.pipeline().await;
    let declaration = setup.pipelines().declaration(&pipeline).await;
    let declaration = declaration.expect("the pipeline is there");
    let [source] = declaration.sources.as_slice() else {
        panic!("there is one source action: {declaration:?}");
    };
    assert_eq!(source.name, "Source");
    assert_eq!(source.provider, "S3");
    let allowed = source.configuration.get("AllowOverrideForS3ObjectKey");
    assert_eq!(allowed.map(String::as_str), Some("true"));
    let missing = PipelineName::new("no-such-pipeline").expect("a legal name");
    let missing = setup.pipelines().declaration(&missing).await;
    assert_fails(missing, ErrorKind::NotFound, "no-such-pipeline");
}

async fn the_state_of_an_execution_is_read_by_its_id(setup: &dyn PipelinesSetup) {
    let pipeline = setup.pipeline().await;
    let id = setup.pipelines().start(&request(&pipeline, "a")).await;
    let id = id.expect("the pipeline starts");
    let state = setup.pipelines().execution_status(&pipeline, &id).await;
    let state = state.expect("the execution is there");
    assert!(!state.status.is_empty(), "{state:?}");
    let other = "00000000-0000-4000-8000-00000000ffff";
    let other = setup.pipelines().execution_status(&pipeline, other).await;
    assert_fails(other, ErrorKind::NotFound, pipeline.as_str());
}
