//! Buckets of other regions, and buckets whose policy demands a header of encryption.

use anyhow::{Context as _, Result, anyhow, ensure};
use branchline_core::git::HashKind;
use branchline_dev::s3::policy::Policy;
use branchline_test_support::git_server::GitServer;
use branchline_test_support::repo::{Repo, history};
use branchline_tests::environment::{MIGRATION, Setup, TestEnvironment};
use serde_json::{Value, json};

const BUCKET: &str = "mirrors";

async fn stage(variables: &[(&'static str, &str)]) -> Result<TestEnvironment> {
    let variables = variables.iter();
    TestEnvironment::start(Setup {
        migration: Some(
            variables
                .map(|(name, value)| (*name, (*value).to_owned()))
                .collect(),
        ),
        lifecycle: vec![("BRANCHES_EXCLUDE", "**".to_owned())],
        ..Setup::default()
    })
    .await
}

async fn call(stage: &TestEnvironment, mapping: &Value) -> Result<Value> {
    let event = json!({ "mappings": [mapping] });
    let answer = stage.call(MIGRATION, &event).await;
    answer.map_err(|error| anyhow!("{error}"))
}

/// Mirrors a repository into each layout of the bucket and back, fresh and grown.
async fn there_and_back(stage: &TestEnvironment, scheme: &str, layouts: &[&str]) -> Result<()> {
    let repo = Repo::with_history(HashKind::Sha1, 12, 5);
    let from = GitServer::new(&repo);
    for round in 0..2 {
        for layout in layouts {
            let at = format!("{scheme}://{BUCKET}/{layout}");
            let there = json!({
                "source": from.url(), "target": at, "layout": layout, "refs": ["refs/*"],
            });
            let answer = call(stage, &there).await?;
            ensure!(answer["status"] == "complete", "{answer}");
            let copy = Repo::new(HashKind::Sha1);
            let to = GitServer::new(&copy);
            let answer = call(
                stage,
                &json!({"source": at, "target": to.url(), "refs": ["refs/*"]}),
            )
            .await?;
            ensure!(answer["status"] == "complete", "{answer}");
            assert_eq!(copy.refs(), repo.refs(), "{layout}, round {round}");
            copy.fsck();
        }
        repo.input(&["fast-import", "--quiet", "--force"], &history(12, 3, 5));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_of_another_region_is_followed() -> Result<()> {
    let stage = stage(&[]).await?;
    let elsewhere = "eu-west-1";
    assert_ne!(stage.server.account().region, elsewhere);
    let store = stage.server.store();
    store.create_bucket(BUCKET, elsewhere)?;
    there_and_back(&stage, "s3", &["dumb", "loose", "bundle"]).await
}

/// Makes a policy that denies writes without this header of encryption.
fn demand(sse: &str) -> Policy {
    let statement = json!({ "Statement": {
        "Effect": "Deny", "Principal": "*", "Action": "s3:PutObject",
        "Resource": format!("arn:aws:s3:::{BUCKET}/*"),
        "Condition": {"StringNotEquals": {"s3:x-amz-server-side-encryption": sse}},
    }});
    Policy::parse(&statement.to_string()).expect("because the statement is supported")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_demands_a_header_of_encryption_is_satisfied_by_every_object() -> Result<()> {
    for sse in ["AES256", "aws:kms"] {
        // With little memory, packs are staged in the bucket, in parts.
        let stage = stage(&[("SSE", sse), ("MIGRATION_MEMORY_MIB", "32")]).await?;
        stage.create_public_bucket(BUCKET)?;
        let store = stage.server.store();
        store.set_policy(BUCKET, Some(demand(sse)));
        there_and_back(&stage, "s3", &["dumb", "loose", "bundle"]).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_header_of_encryption_is_an_error_that_names_the_setting() -> Result<()> {
    let stage = stage(&[]).await?;
    stage.create_public_bucket(BUCKET)?;
    let store = stage.server.store();
    store.set_policy(BUCKET, Some(demand("AES256")));
    let repo = Repo::with_history(HashKind::Sha1, 3, 2);
    let from = GitServer::new(&repo);
    for layout in ["dumb", "bundle"] {
        let target = format!("s3://{BUCKET}/{layout}");
        let mapping = json!({"source": from.url(), "target": target, "layout": layout});
        let error = call(&stage, &mapping).await;
        let error = error.err().context("the policy denies the write")?;
        let text = error.to_string();
        ensure!(text.contains("branchline.AccessDenied"), "{text}");
        ensure!(text.contains("`SSE`"), "{text}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denied_deletion_is_named_in_the_answer() -> Result<()> {
    let stage = stage(&[]).await?;
    stage.create_public_bucket(BUCKET)?;
    let denied = json!({ "Statement": {
        "Effect": "Deny", "Principal": "*", "Action": "s3:DeleteObject",
        "Resource": format!("arn:aws:s3:::{BUCKET}/*.bundle"),
    }});
    let denied = Policy::parse(&denied.to_string()).map_err(|why| anyhow::anyhow!(why))?;
    stage.server.store().set_policy(BUCKET, Some(denied));
    let repo = Repo::with_history(HashKind::Sha1, 3, 2);
    let from = GitServer::new(&repo);
    let mapping = json!({
        "source": from.url(), "target": format!("s3://{BUCKET}/x"), "layout": "bundle",
    });
    let answer = call(&stage, &mapping).await?;
    ensure!(answer["mappings"][0].get("warnings").is_none(), "{answer}");
    repo.input(&["fast-import", "--quiet", "--force"], &history(3, 2, 2));
    let answer = call(&stage, &mapping).await?;
    ensure!(answer["status"] == "complete", "{answer}");
    let warnings = answer["mappings"][0]["warnings"].to_string();
    ensure!(warnings.contains("`s3:DeleteObject`"), "{answer}");
    Ok(())
}
