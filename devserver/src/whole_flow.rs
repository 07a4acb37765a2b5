//! Everything that a push or a pull request flows through: the three functions, the rules that call
//! them, and the buckets and the pipeline that they use.

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
    let settings = [
        ("ARTIFACT_BUCKET", ARTIFACTS.to_owned()),
        ("TRIGGERS", triggers().to_string()),
        ("PIPELINE_VARIABLES", "true".to_owned()),
        ("PULL_REQUEST_COMMENT", "true".to_owned()),
        ("PULL_REQUEST_APPROVAL", "true".to_owned()),
    ];
    let settings = settings.map(|(name, value)| (name.to_owned(), value));
    update.environment.extend(settings);
    let mut lifecycle = function(LIFECYCLE);
    let setting = "UPDATE_FUNCTION_ARN".to_owned();
    let destination = account.function_arn(UPDATE);
    lifecycle.environment.insert(setting, destination);
    // Because two writers of one repository's triggers would overwrite each other.
    lifecycle.reserved_concurrency = Some(1);
    vec![update, lifecycle, function(MIGRATION)]
}

/// Returns the value of `TRIGGERS`: the pipeline for every branch, and for every pull request that is
/// created or updated.
fn triggers() -> Value {
    json!([{
        "pipeline": PIPELINE,
        "gitConfiguration": {
            "sourceActionName": "Source",
            "push": [{ "branches": { "includes": ["**"] } }],
            "pullRequest": [{ "events": ["OPEN", "UPDATED"] }],
        },
    }])
}

/// Returns the rules that call lifecycle for new and deleted branches, and update for pull requests.
pub fn rules() -> Vec<EventRule> {
    let rule = |function: &str, events: &[&str]| EventRule {
        function: function.to_owned(),
        events: events.iter().map(|event| (*event).to_owned()).collect(),
    };
    vec![
        rule(LIFECYCLE, &["referenceCreated", "referenceDeleted"]),
        rule(
            UPDATE,
            &[
                "pullRequestCreated",
                "pullRequestSourceBranchUpdated",
                "pullRequestStatusChanged",
                "pullRequestMergeStatusUpdated",
            ],
        ),
    ]
}

/// Creates the buckets, the pipeline and the rule for its ends that a server does not have yet.
///
/// # Errors
/// A bucket, the pipeline or the rule cannot be created; the message names it.
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
    create_rule_of_ends(server)
}

/// Creates the rule that calls update at the end of an execution, which becomes a comment on the
/// pull request.
fn create_rule_of_ends(server: &Server) -> anyhow::Result<()> {
    const RULE: &str = "pipeline-ends";
    let call = |operation: &str, input: &Value| {
        let called = server.delivery().call(operation, input);
        called.map_err(|error| anyhow::anyhow!("rule `{RULE}`: {}", error.message))
    };
    let pattern = json!({
        "source": ["aws.codepipeline"],
        "detail-type": ["CodePipeline Pipeline Execution State Change"],
        "detail": { "state": ["SUCCEEDED", "FAILED", "STOPPED"], "pipeline": [PIPELINE] },
    });
    call(
        "PutRule",
        &json!({ "Name": RULE, "EventPattern": pattern.to_string() }),
    )?;
    let target = json!({ "Id": UPDATE, "Arn": server.account().function_arn(UPDATE) });
    let put = call("PutTargets", &json!({ "Rule": RULE, "Targets": [target] }))?;
    anyhow::ensure!(put["FailedEntryCount"] == 0, "rule `{RULE}`: {put}");
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
    let variables = [
        "REPOSITORY_NAME",
        "BRANCH_NAME",
        "COMMIT_ID",
        "TAG_NAME",
        "PULL_REQUEST_ID",
        "DESTINATION_BRANCH_NAME",
        "MERGE_BASE",
    ];
    let variables = variables.map(|name| json!({ "name": name, "defaultValue": "-" }));
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
