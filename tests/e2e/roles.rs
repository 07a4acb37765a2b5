//! Mappings whose sides are accessed in the name of a role, with the real function.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, anyhow, ensure};
use branchline_dev::faults::Service;
use branchline_test_support::git;
use branchline_tests::environment::{MIGRATION, Setup, TestEnvironment};
use serde_json::{Value, json};

const BUCKET: &str = "mirrors";
const READER: &str = "arn:aws:iam::444455556666:role/team/reader";
const WRITER: &str = "arn:aws:iam::777788889999:role/writer";
const READERS_SESSION: &str = "arn:aws:sts::444455556666:assumed-role/reader/branchline";
const WRITERS_SESSION: &str = "arn:aws:sts::777788889999:assumed-role/writer/branchline";

/// Starts migration, which may assume `allowed`, beside a repository `demo` with one commit.
async fn stage(allowed: &str) -> Result<TestEnvironment> {
    let stage = TestEnvironment::start(Setup {
        migration: Some(vec![("ASSUME_ROLE_ARNS", allowed.to_owned())]),
        lifecycle: vec![("BRANCHES_EXCLUDE", "**".to_owned())],
        ..Setup::default()
    })
    .await?;
    stage.create_public_bucket(BUCKET)?;
    stage.create_repository("demo").await?;
    let work = tempfile::tempdir()?;
    git::init(work.path())?;
    git::commit(work.path(), &[("a.txt", "1")], "First")?;
    stage.push(work.path(), "demo", &["main"]).await?;
    stage.wait_until_idle().await?;
    stage.server.requests().reset();
    Ok(stage)
}

fn mapping(prefix: &str, role: &Value) -> Value {
    let target = format!("s3://{BUCKET}/{prefix}");
    json!({
        "source": "codecommit://demo", "target": target, "layout": "dumb", "roleArn": role,
    })
}

/// The principals of the requests to a service since the last reset.
fn principals(stage: &TestEnvironment, service: Service) -> BTreeSet<String> {
    let lines = stage.server.requests().lines();
    let lines = lines.into_iter().filter(|line| line.service == service);
    lines
        .map(|line| line.principal.unwrap_or_else(|| "nobody".to_owned()))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_side_of_a_mapping_is_accessed_in_the_name_of_its_role() -> Result<()> {
    let stage = stage(&format!("{READER},arn:aws:iam::777788889999:role/*")).await?;
    let own = stage.server.lambda().principal_of(MIGRATION);
    let own = own.context("the function has a principal")?;
    for (prefix, role, reads, writes) in [
        (
            "source",
            json!({ "source": READER }),
            READERS_SESSION,
            own.as_str(),
        ),
        (
            "target",
            json!({ "target": WRITER }),
            own.as_str(),
            WRITERS_SESSION,
        ),
        (
            "each",
            json!({ "source": READER, "target": WRITER }),
            READERS_SESSION,
            WRITERS_SESSION,
        ),
        ("both", json!(WRITER), WRITERS_SESSION, WRITERS_SESSION),
    ] {
        stage.server.requests().reset();
        let event = json!({ "mappings": [mapping(prefix, &role)] });
        let answer = stage.call(MIGRATION, &event).await;
        let answer = answer.map_err(|error| anyhow!("{prefix}: {error}"))?;
        ensure!(answer["status"] == "complete", "{answer}");
        for (service, principal) in [
            (Service::CodeCommit, reads),
            (Service::Git, reads),
            (Service::S3, writes),
        ] {
            let seen = principals(&stage, service);
            assert_eq!(
                seen,
                BTreeSet::from([principal.to_owned()]),
                "{prefix}: {service:?}"
            );
        }
    }
    // The credentials of before are used again.
    let assumed = stage.server.requests().count(Service::Sts, "AssumeRole");
    assert_eq!(assumed, 0, "the last mapping found those of an earlier one");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_the_settings_do_not_allow_is_refused_before_any_request() -> Result<()> {
    let stage = stage(READER).await?;
    let event = json!({ "mappings": [
        mapping("refused", &json!({ "source": WRITER })),
        mapping("read", &json!({ "source": READER })),
    ]});
    let error = stage.call(MIGRATION, &event).await;
    let error = error.err().context("one mapping fails")?.to_string();
    for part in ["branchline.InvalidEvent", WRITER, "AssumeRoleArns"] {
        ensure!(error.contains(part), "{part}: {error}");
    }
    let requests = stage.server.requests();
    assert_eq!(
        requests.count(Service::Sts, "AssumeRole"),
        1,
        "the other one's"
    );
    let store = stage.server.store();
    assert!(store.get_bytes(BUCKET, "read/info/refs", None).is_ok());
    assert!(store.get_bytes(BUCKET, "refused/info/refs", None).is_err());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_does_not_trust_the_function_is_named_with_both_remedies() -> Result<()> {
    let stage = stage(&format!("{READER},{WRITER}")).await?;
    stage.server.account().close_role(WRITER);
    let event = json!({ "mappings": [
        mapping("denied", &json!({ "target": WRITER })),
        mapping("read", &json!({ "source": READER })),
    ]});
    let error = stage.call(MIGRATION, &event).await;
    let error = error.err().context("one mapping fails")?.to_string();
    for part in [
        "branchline.AccessDenied",
        WRITER,
        "`sts:AssumeRole`",
        "trust policy",
    ] {
        ensure!(error.contains(part), "{part}: {error}");
    }
    let requests = stage.server.requests();
    let assumed = requests.count(Service::Sts, "AssumeRole");
    assert_eq!(assumed, 2, "a denial is not retried");
    let store = stage.server.store();
    assert!(store.get_bytes(BUCKET, "read/info/refs", None).is_ok());
    assert!(store.get_bytes(BUCKET, "denied/info/refs", None).is_err());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_of_sts_is_retried() -> Result<()> {
    let stage = stage(READER).await?;
    for fault in [
        "sts/AssumeRole:throttle,nth=1",
        "sts/AssumeRole:error,nth=2",
    ] {
        let fault = fault.parse().map_err(|error| anyhow!("{fault}: {error}"))?;
        stage.server.faults().add(fault);
    }
    let event = json!({ "mappings": [mapping("retried", &json!({ "source": READER }))] });
    let answer = stage.call(MIGRATION, &event).await;
    let answer = answer.map_err(|error| anyhow!("{error}"))?;
    ensure!(answer["status"] == "complete", "{answer}");
    let assumed = stage.server.requests().count(Service::Sts, "AssumeRole");
    assert_eq!(assumed, 3, "throttled, failed, answered");
    Ok(())
}
