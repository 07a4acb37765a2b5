//! Everything that a push flows through: the three functions, and the buckets and the pipeline
//! that they use.

use std::path::Path;

use serde_json::{Value, json};

use crate::account::Account;
use crate::delivery::EventRule;
use crate::lambda::FunctionConfig;
use crate::s3::store::{PublicAccess, Versioning};
use crate::server::Server;

/// Bucket of the artifacts, versioned.
pub const ARTIFACTS: &str = "artifacts";
/// Bucket for mirrors, which everyone may read.
pub const MIRRORS: &str = "mirrors";
/// Pipeline that is started on each artifact.
pub const PIPELINE: &str = "deploy";
/// Name of the stack that the tags of the functions name.
pub const STACK: &str = "branchline";

const UPDATE: &str = "update";
const LIFECYCLE: &str = "lifecycle";
const MIGRATION: &str = "migration";

/// Returns the three functions, whose bootstraps are in the folder `programs`.
pub fn functions(programs: &Path, account: &Account) -> Vec<FunctionConfig> {
    let function = |name: &str| FunctionConfig {
        stack: Some(STACK.to_owned()),
        ..FunctionConfig::new(name, programs.join(name))
    };
    let mut update = function(UPDATE);
    let settings = [("ARTIFACT_BUCKET", ARTIFACTS), ("PIPELINE_NAME", PIPELINE)];
    let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned()));
    update.environment.extend(settings);
    let mut lifecycle = function(LIFECYCLE);
    let setting = "UPDATE_FUNCTION_ARN".to_owned();
    let destination = account.function_arn(UPDATE);
    lifecycle.environment.insert(setting, destination);
    // Because two writers of one repository's triggers would overwrite each other.
    lifecycle.reserved_concurrency = Some(1);
    vec![update, lifecycle, function(MIGRATION)]
}

/// Returns the rule that tells lifecycle of new and deleted branches.
pub fn rule() -> EventRule {
    EventRule {
        function: LIFECYCLE.to_owned(),
        events: ["referenceCreated", "referenceDeleted"]
            .map(str::to_owned)
            .into(),
    }
}

/// Creates the buckets and the pipeline that a server does not have yet.
///
/// # Errors
/// A bucket or the pipeline cannot be created; the message names it.
pub fn create(server: &Server) -> anyhow::Result<()> {
    let (store, region) = (server.store(), &server.account().region);
    if store.bucket(ARTIFACTS).is_err() {
        let bucket = store.create_bucket(ARTIFACTS, region);
        let bucket = bucket.map_err(|error| anyhow::anyhow!("bucket `{ARTIFACTS}`: {error}"))?;
        let versioned = bucket.set_versioning(Versioning::Enabled);
        versioned.map_err(|error| anyhow::anyhow!("bucket `{ARTIFACTS}`: {error}"))?;
    }
    if store.bucket(MIRRORS).is_err() {
        let created = store.create_bucket(MIRRORS, region);
        created.map_err(|error| anyhow::anyhow!("bucket `{MIRRORS}`: {error}"))?;
    }
    store.set_public_access(MIRRORS, PublicAccess::ReadAndList);
    let call = |operation: &str, input: &Value| {
        let principal = &server.credentials().principal_arn;
        let called = server.pipelines().call(operation, input, principal);
        called.map_err(|error| anyhow::anyhow!("pipeline `{PIPELINE}`: {}", error.message))
    };
    let list = call("ListPipelines", &json!({}))?;
    let mut names = list["pipelines"].as_array().into_iter().flatten();
    if !names.any(|pipeline| pipeline["name"] == PIPELINE) {
        let role = format!("arn:aws:iam::{}:role/pipeline", server.account().id);
        call("CreatePipeline", &pipeline(PIPELINE, ARTIFACTS, &role))?;
    }
    Ok(())
}

/// Returns the input of `CreatePipeline` for a pipeline of type V2 that reads one object of
/// `bucket`, which is named and pinned when an execution is started.
pub fn pipeline(name: &str, bucket: &str, role_arn: &str) -> Value {
    let action = |name: &str, category: &str, provider: &str, configuration: Value| {
        json!({
            "name": name,
            "actionTypeId": {
                "category": category, "owner": "AWS", "provider": provider, "version": "1",
            },
            "configuration": configuration,
        })
    };
    let source = json!({
        "S3Bucket": bucket,
        "S3ObjectKey": "key/of/no/object.zip",
        "PollForSourceChanges": "false",
        "AllowOverrideForS3ObjectKey": "true",
    });
    let variables = ["REPOSITORY_NAME", "BRANCH_NAME", "COMMIT_ID"]
        .map(|name| json!({ "name": name, "defaultValue": "-" }));
    json!({ "pipeline": {
        "name": name,
        "roleArn": role_arn,
        "artifactStore": { "type": "S3", "location": bucket },
        "pipelineType": "V2",
        "variables": variables,
        "stages": [
            { "name": "Source", "actions": [action("Source", "Source", "S3", source)] },
            { "name": "Approve", "actions": [action("Approve", "Approval", "Manual", json!({}))] },
        ],
    }})
}
