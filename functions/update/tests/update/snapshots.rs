//! Effects and messages as a reader sees them: objects, executions, errors.

use std::fmt::Write as _;

use branchline_update::Config;
use insta::assert_snapshot;

use crate::fixture::*;

#[tokio::test]
async fn a_moved_branch_becomes_one_object_and_one_pinned_execution() {
    let fixture = UpdateFixture::new(&[("PIPELINE_VARIABLES", "true")]);
    let tip = fixture.push("feature/login", "hello");
    fixture.results(moved("feature/login", tip)).await;

    let zip = fixture.latest("demo/feature/login.zip");
    let executions = fixture.executions();
    let mut effects = String::new();
    for execution in &executions {
        let request = &execution.request;
        writeln!(effects, "start {}", request.pipeline).expect("because a string grows");
        if let Some(source) = &request.source {
            let key = source.object_key.as_deref().unwrap_or("-");
            let pinned = source.object_version_id.as_deref() == zip.id.as_deref();
            writeln!(
                effects,
                "  {} reads {key}, pinned: {pinned}",
                source.action_name
            )
            .expect("because a string grows");
        }
        for (name, value) in &request.variables {
            writeln!(effects, "  {name} = {value}").expect("because a string grows");
        }
    }
    for name in zip.tags.keys() {
        writeln!(effects, "tag {name}").expect("because a string grows");
    }
    for (name, value) in &zip.metadata.user {
        let value = match name.as_str() {
            // The record differs between versions of the program.
            "branchline-listing" => "..",
            // The time when the repository was first seen.
            "branchline-since" => "TIME",
            _ => value,
        };
        writeln!(effects, "metadata {name} = {value}").expect("because a string grows");
    }
    assert_snapshot!(effects, @r"
    start deploy
      Source reads demo/feature/login.zip, pinned: true
      REPOSITORY_NAME = demo
      BRANCH_NAME = feature/login
      COMMIT_ID = 97bdaf55b8d3a7cf10f4d580a725dd89203eab11
    tag branchline-execution
    tag branchline-pipeline
    metadata branchline-branch = feature/login
    metadata branchline-commit = 97bdaf55b8d3a7cf10f4d580a725dd89203eab11
    metadata branchline-files = 3
    metadata branchline-listing = ..
    metadata branchline-repository = demo
    metadata branchline-settings = 8c3602f41e9b6aaa
    metadata branchline-since = TIME
    metadata codepipeline-artifact-revision-summary = 97bdaf5 Say hello
    ");
}

/// Each message names the setting, the rule and the value that breaks it.
#[test]
fn invalid_settings_are_explained() {
    let mut messages = String::new();
    for (name, value) in [
        ("ARTIFACT_BUCKET", "a/b"),
        ("ARTIFACT_KEY", "{branch}/{what}.zip"),
        ("ARTIFACT_KEY", "../x.zip"),
        ("ARCHIVE_PREFIX", "/etc/"),
        ("ARCHIVE_COMMIT_INFO", "yes"),
        ("ARCHIVE_SOURCE", "ssh"),
        ("BRANCHES_INCLUDE", "a[b"),
        ("PIPELINE_NAME", "a/b"),
        ("TRIGGERS", "{}"),
        ("PIPELINE_PIN", "latest"),
        ("PIPELINE_MISSING", "create"),
        ("CUSTOM_DATA", "all"),
        ("EXISTING_BRANCHES", "skip"),
        ("KMS_KEY_ID", "arn:aws:s3:eu-west-1:111122223333:key/k"),
        ("CODECOMMIT_CONCURRENCY", "0"),
    ] {
        let settings = [("ARTIFACT_BUCKET", "artifacts"), (name, value)];
        let error = Config::read(&settings.into_iter().collect()).expect_err(name);
        writeln!(messages, "{}", error.report()).expect("because a string grows");
    }
    assert_snapshot!(messages, @r"
    `ARTIFACT_BUCKET` is not valid: `a/b` is not a valid bucket name: only letters, digits, `.`, `_` and `-` are allowed
    `ARTIFACT_KEY` is not valid: `{branch}/{what}.zip` has a placeholder other than `{repository}`, `{branch}`, `{tag}`, `{ref}`, `{commit}`, `{account}`, `{region}`
    `ARTIFACT_KEY` is not valid: `../x.zip` is not a valid object key: `.` and `..` are not allowed as path segments
    `ARCHIVE_PREFIX` is not valid: `/etc/` must be a relative path
    `ARCHIVE_COMMIT_INFO` is not valid: `yes`: it must be `true` or `false`
    `ARCHIVE_SOURCE` is not valid: `ssh` is not `auto`, `api` or `git`
    `BRANCHES_INCLUDE` is not valid: `a[b` is not a valid glob: a `[` has no `]`
    `PIPELINE_NAME` is not valid: `a/b` is not a valid pipeline name: only letters, digits, `.`, `@`, `_` and `-` are allowed
    `TRIGGERS` is not valid: the list of pipelines: invalid type: map, expected a sequence at line 1 column 0
    `PIPELINE_PIN` is not valid: `latest` is not `key-and-version`, `version` or `none`
    `PIPELINE_MISSING` is not valid: `create` is not `fail` or `skip`
    `CUSTOM_DATA` is not valid: `all` is not `own`, `ignore` or `trust`
    `EXISTING_BRANCHES` is not valid: `skip` is not `archive`, `start` or `ignore`
    `KMS_KEY_ID` is not valid: `arn:aws:s3:eu-west-1:111122223333:key/k` is not a valid KMS key: an ARN of KMS is `arn:aws:kms:<region>:<account>:key/<id>` or `..:alias/<name>`
    `CODECOMMIT_CONCURRENCY` is not valid: `0`: it must be a number from 1 to 1000
    ");
}
