//! `branchline doctor stack`: each finding, made for real.

use anyhow::Result;
use branchline_tests::environment::{PIPELINE, Setup, TestEnvironment, pipeline};
use serde_json::{Value, json};

use super::Console;

/// The problems of a report, in their order.
fn problems(report: &Value) -> Vec<&str> {
    let findings = report["findings"].as_array().into_iter().flatten();
    findings
        .map(|finding| {
            for part in ["message", "effect", "remedy"] {
                let text = finding[part].as_str().unwrap_or_default();
                assert!(!text.is_empty(), "{part}: {finding}");
            }
            finding["problem"].as_str().unwrap_or_default()
        })
        .collect()
}

async fn examined(console: &Console) -> Result<(Option<i32>, Vec<String>)> {
    let (status, report) = console.json(&["doctor", "stack"]).await?;
    let problems = problems(&report);
    Ok((status, problems.into_iter().map(str::to_owned).collect()))
}

/// Changes the declaration of the pipeline.
fn change_pipeline(stage: &TestEnvironment, change: impl FnOnce(&mut Value)) -> Result<()> {
    let mut input = pipeline(PIPELINE, "key/of/no/object.zip");
    change(&mut input["pipeline"]);
    stage.pipelines("UpdatePipeline", &input).map(drop)
}

/// The configuration of the source action.
fn source(pipeline: &mut Value) -> &mut Value {
    &mut pipeline["stages"][0]["actions"][0]["configuration"]
}

/// A change of a pipeline's declaration.
type Change = fn(&mut Value);

async fn healthy(setup: Setup) -> Result<Console> {
    let console = Console::start(setup).await?;
    console.commit("1")?;
    console.push(&["main"]).await?;
    Ok(console)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_healthy_stack_has_no_findings() -> Result<()> {
    let console = healthy(Setup::default()).await?;
    let shown = console.run(&["doctor", "stack", "branchline"]).await?;
    assert_eq!(shown.done(), "stack update in us-east-1\nno problems\n");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_mistake_in_a_pipeline_is_found_with_its_effect_and_remedy() -> Result<()> {
    let console = healthy(Setup {
        update: vec![("PIPELINE_VARIABLES", "true".to_owned())],
        ..Setup::default()
    })
    .await?;
    let stage = &console.stage;
    let changes: [(&str, Change); 7] = [
        ("pipeline-polls", |pipeline| {
            source(pipeline)["PollForSourceChanges"] = "true".into();
        }),
        ("no-key-override", |pipeline| {
            source(pipeline)["AllowOverrideForS3ObjectKey"] = "false".into();
        }),
        ("other-bucket", |pipeline| {
            source(pipeline)["S3Bucket"] = "other".into();
        }),
        ("no-source-action", |pipeline| {
            pipeline["stages"][0]["actions"][0]["name"] = "Fetch".into();
        }),
        ("other-provider", |pipeline| {
            let action = &mut pipeline["stages"][0]["actions"][0];
            action["actionTypeId"]["provider"] = "CodeCommit".into();
            action["configuration"] = json!({ "RepositoryName": "demo", "BranchName": "main" });
        }),
        ("undeclared-variables", |pipeline| {
            pipeline["variables"] = json!([{ "name": "COMMIT_ID", "defaultValue": "-" }]);
        }),
        ("no-variables", |pipeline| {
            pipeline["pipelineType"] = "V1".into();
            pipeline["variables"] = json!([]);
        }),
    ];
    for (problem, change) in changes {
        change_pipeline(stage, change)?;
        assert_eq!(
            examined(&console).await?,
            (Some(1), vec![problem.to_owned()]),
            "{problem}"
        );
    }
    stage.pipelines("DeletePipeline", &json!({ "name": PIPELINE }))?;
    let shown = console.run(&["doctor", "stack"]).await?;
    assert_eq!(shown.status, Some(1));
    assert_eq!(
        shown.stdout,
        "stack update in us-east-1

pipeline-missing: pipeline `deploy` does not exist
  effect: its branches are archived and not started, and fail unless `PIPELINE_MISSING` is `skip`
  remedy: create the pipeline `deploy` in the functions' account and region, or correct \
         `PIPELINE_NAME`

1 problem
"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_that_reads_another_key_is_found() -> Result<()> {
    let console = Console::start(Setup {
        update: vec![("ARTIFACT_KEY", "source.zip".to_owned())],
        ..Setup::default()
    })
    .await?;
    console.commit("1")?;
    console.push(&["main"]).await?;
    let (_, problems) = examined(&console).await?;
    assert_eq!(problems, ["other-key"]);
    change_pipeline(&console.stage, |pipeline| {
        source(pipeline)["S3ObjectKey"] = "source.zip".into();
    })?;
    let (status, problems) = examined(&console).await?;
    assert_eq!((status, problems.len()), (Some(0), 0));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_policy_without_a_role_is_found() -> Result<()> {
    let console = healthy(Setup::default()).await?;
    let kms = console.stage.server.kms();
    let create = |input: &Value| {
        let created = kms.call("CreateKey", input);
        let created = created.map_err(|error| anyhow::anyhow!(error.message))?;
        let arn = created["KeyMetadata"]["Arn"].as_str().unwrap_or_default();
        anyhow::Ok(arn.to_owned())
    };
    let update = "arn:aws:iam::123456789012:role/update-role";
    let policy = json!({ "Statement": [{
        "Effect": "Allow",
        "Principal": { "AWS": update },
        "Action": ["kms:GenerateDataKey*"],
        "Resource": "*",
    }]});
    let own = create(&json!({ "Policy": policy.to_string() }))?;
    let default = create(&json!({}))?;
    let missing = "arn:aws:kms:us-east-1:123456789012:key/none".to_owned();
    for (key, messages) in [
        (
            own,
            &[
                "does not grant kms:Decrypt to role `arn:aws:iam::123456789012:role/pipeline`",
                "does not grant kms:Decrypt to role `arn:aws:iam::123456789012:role/update-role`",
            ][..],
        ),
        (default, &[]),
        (missing, &["does not exist"]),
    ] {
        let setting = format!("--env=KMS_KEY_ID={key}");
        let (_, report) = console.json(&["doctor", "stack", &setting]).await?;
        let found = problems(&report);
        assert_eq!(found, vec!["key-policy"; messages.len()], "{report}");
        for (at, message) in messages.iter().enumerate() {
            let text = report["findings"][at]["message"]
                .as_str()
                .unwrap_or_default();
            assert!(text.contains(message), "{text}");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_in_bucket_triggers_and_settings_are_found() -> Result<()> {
    let console = healthy(Setup::default()).await?;
    let gone = json!({
        "name": "old",
        "destinationArn": "arn:aws:lambda:us-east-1:123456789012:function:gone",
        "branches": [],
        "events": ["all"],
    });
    let put = json!({ "repositoryName": "demo", "triggers": [gone] });
    console
        .stage
        .codecommit("PutRepositoryTriggers", put)
        .await?;
    let (status, problems) = examined(&console).await?;
    assert_eq!(status, Some(1));
    assert_eq!(
        problems,
        ["trigger-of-missing-function", "branch-without-trigger"]
    );

    let plain = "plain";
    console.stage.create_public_bucket(plain)?;
    let with = |setting: &str| [format!("--env={setting}")];
    for (setting, problem) in [
        ("ARTIFACT_BUCKET=plain", "bucket-without-versions"),
        ("ARTIFACT_BUCKET=no-such-bucket", "bucket-missing"),
        ("PIPELINE_PIN=always", "settings"),
        (
            "UPDATE_FUNCTION_ARN=arn:aws:lambda:us-east-1:123456789012:function:gone",
            "missing-function",
        ),
    ] {
        let setting = with(setting);
        let arguments = ["doctor", "stack", "update", &setting[0]];
        let (status, report) = console.json(&arguments).await?;
        assert_eq!(status, Some(1), "{report}");
        let found = self::problems(&report);
        assert!(found.contains(&problem), "{setting:?}: {report}");
    }
    Ok(())
}
