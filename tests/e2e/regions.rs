//! Buckets of other regions, buckets behind access points, and buckets whose policy demands a header
//! of encryption.

use anyhow::{Context as _, Result, anyhow, ensure};
use branchline_core::git::HashKind;
use branchline_dev::faults::Service;
use branchline_dev::s3::policy::Policy;
use branchline_test_support::git;
use branchline_test_support::git_server::GitServer;
use branchline_test_support::repo::{Repo, history};
use branchline_tests::environment::{
    BUCKET as ARTIFACTS, MIGRATION, Setup, TestEnvironment, pipeline,
};
use serde_json::{Value, json};

use super::git_remote_s3::environment::{BUCKET as TERMINAL_BUCKET, Terminal};

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

/// Makes bytes that do not compress.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.flatten().take(length).collect()
}

/// Adds a commit of a file that does not compress, on a branch of its own.
fn add_noise(repo: &Repo, branch: &str, length: usize) {
    let mut stream = format!(
        "commit refs/heads/{branch}\ncommitter C <c@x> 1600000000 +0000\ndata 0\n\
         M 100644 inline noise\ndata {length}\n"
    )
    .into_bytes();
    stream.extend(noise(length));
    stream.push(b'\n');
    repo.input(&["fast-import", "--quiet", "--force"], &stream);
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

/// Makes a policy that denies writes to a bucket without this header of encryption.
fn demand(bucket: &str, sse: &str) -> Policy {
    let statement = json!({ "Statement": {
        "Effect": "Deny", "Principal": "*", "Action": "s3:PutObject",
        "Resource": format!("arn:aws:s3:::{bucket}/*"),
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
        store.set_policy(BUCKET, Some(demand(BUCKET, sse)));
        let layouts = ["dumb", "loose", "bundle"];
        there_and_back(&stage, "s3", &layouts).await?;
        // Above 5 MiB, packs are staged and objects are sent in parts.
        let repo = Repo::with_history(HashKind::Sha1, 3, 2);
        add_noise(&repo, "large", 6 << 20);
        let from = GitServer::new(&repo);
        for layout in layouts {
            let target = format!("s3://{BUCKET}/large-{layout}");
            let mapping = json!({"source": from.url(), "target": target, "layout": layout});
            let answer = call(&stage, &mapping).await?;
            ensure!(answer["status"] == "complete", "{answer}");
        }
        for operation in ["CreateMultipartUpload", "UploadPart", "UploadPartCopy"] {
            let count = stage.server.requests().count(Service::S3, operation);
            ensure!(count > 0, "{operation} was not requested");
        }
    }
    Ok(())
}

/// The archive in one request and in parts, and the marker in its place.
#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_demands_a_header_of_encryption_is_satisfied_by_update() -> Result<()> {
    for (sse, source) in [
        ("AES256", "s3"),
        ("aws:kms", "s3"),
        ("AES256", "codecommit"),
    ] {
        let stage = TestEnvironment::start(Setup {
            update: vec![
                ("SSE", sse.to_owned()),
                ("PIPELINE_SOURCE", source.to_owned()),
                ("PIPELINE_NAME", "of-{repository}".to_owned()),
            ],
            ..Setup::default()
        })
        .await?;
        let mut pipeline = pipeline("of-demo", "key/of/no/object.zip");
        if source == "codecommit" {
            let action = &mut pipeline["pipeline"]["stages"][0]["actions"][0];
            action["actionTypeId"]["provider"] = json!("CodeCommit");
            action["configuration"] = json!({
                "RepositoryName": "demo", "BranchName": "main", "PollForSourceChanges": "false",
            });
        }
        stage.pipelines("CreatePipeline", &pipeline)?;
        let store = stage.server.store();
        store.set_policy(ARTIFACTS, Some(demand(ARTIFACTS, sse)));
        stage.create_repository("demo").await?;
        let repo = Repo::with_history(HashKind::Sha1, 4, 3);
        add_noise(&repo, "large", 7 << 20);
        for branch in ["main", "large"] {
            let refspec = format!("refs/heads/{branch}");
            stage.push(&repo.path, "demo", &[&refspec]).await?;
            stage.wait_until_idle().await?;
        }
        let letters = stage.server.queue().dead_letters();
        ensure!(letters.is_empty(), "{sse}, {source}: {letters:?}");
        let executions = stage.executions();
        ensure!(executions.len() == 2, "{sse}, {source}: {executions:?}");
        let parts = stage.server.requests().count(Service::S3, "UploadPart");
        ensure!((parts > 0) == (source == "s3"), "{parts} parts");
    }
    Ok(())
}

/// "`remote.<name>.s3-sse`: encryption that each write requests."
#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_demands_a_header_of_encryption_is_satisfied_at_a_terminal() -> Result<()> {
    let mut terminal = Terminal::start().await?;
    terminal.repository("work", 6)?;
    let store = terminal.server().store().clone();
    let policy = |sse| store.set_policy(TERMINAL_BUCKET, Some(demand(TERMINAL_BUCKET, sse)));
    policy("AES256");
    let url = format!("s3://{TERMINAL_BUCKET}/team/work");
    let denied = terminal.push(&url, &["main"]).await?;
    ensure!(denied.status != Some(0), "{denied:?}");
    ensure!(denied.stderr.contains("`BRANCHLINE_SSE`"), "{denied:?}");

    // The settings of a remote.
    let git = |arguments: &[&str]| {
        let all = [&["-C", "work"], arguments].concat();
        terminal.command("git", &all)
    };
    for arguments in [
        &["remote", "add", "bucket", &url][..],
        &["config", "remote.bucket.s3-sse", "AES256"],
    ] {
        terminal.wait_for(git(arguments)).await?.done();
    }
    terminal.push("bucket", &["main", "v1"]).await?.done();
    let in_work = |program: &str, arguments: &[&str]| {
        let mut command = terminal.command(program, arguments);
        command.current_dir(terminal.path("work"));
        command
    };
    let protect = ["remote", "protect", "bucket", "main"];
    let protected = terminal.wait_for(in_work("branchline", &protect)).await?;
    protected.done();
    let keys = terminal.keys("team/work/");
    ensure!(
        keys.iter().any(|key| key.ends_with("PROTECTED#")),
        "{keys:?}"
    );
    let mirror = ["mirror", ".", "bucket", "--refs", "refs/heads/*"];
    terminal
        .wait_for(in_work("branchline", &mirror))
        .await?
        .done();

    // Those of the environment, for URLs, in each layout and with parts.
    policy("aws:kms");
    terminal.set("BRANCHLINE_SSE", Some("aws:kms"));
    add_noise_at(&terminal.path("work"), 6 << 20)?;
    for layout in ["bundle", "dumb", "loose"] {
        let target = format!("s3://{TERMINAL_BUCKET}/{layout}");
        let option = format!("--layout={layout}");
        let arguments = ["mirror", "work", &target, &option, "--verify"];
        terminal.run("branchline", &arguments).await?.done();
    }
    let dumb = format!("s3://{TERMINAL_BUCKET}/pushed");
    terminal.init_remote("dumb", &dumb).await?;
    terminal.push(&dumb, &["main"]).await?.done();
    terminal.set("BRANCHLINE_SSE", Some("aes"));
    let refused = terminal.push(&dumb, &["main"]).await?;
    ensure!(refused.stderr.contains("BRANCHLINE_SSE"), "{refused:?}");
    Ok(())
}

/// Adds a commit of a file that does not compress to a working tree.
fn add_noise_at(work: &std::path::Path, length: usize) -> Result<()> {
    std::fs::write(work.join("noise"), noise(length))?;
    git::git(work, ["add", "noise"])?;
    git::git(work, ["commit", "--quiet", "--message=noise"])?;
    Ok(())
}

/// "A bucket may [..] be named by the alias or the ARN of an access point."
#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_is_mirrored_to_by_the_alias_and_the_arn_of_an_access_point() -> Result<()> {
    let mut terminal = Terminal::start().await?;
    terminal.repository("work", 6)?;
    add_noise_at(&terminal.path("work"), 6 << 20)?;
    let account = terminal.server().account().clone();
    let store = terminal.server().store().clone();
    let alias = store.add_access_point("mirrors-ap", TERMINAL_BUCKET);
    let arn = format!(
        "arn:aws:s3:{}:{}:accesspoint/mirrors-ap",
        account.region, account.id
    );
    // The host of an access point resolves nowhere: the server is the proxy.
    let endpoint = terminal.variable("AWS_ENDPOINT_URL").to_owned();
    terminal.set("AWS_ENDPOINT_URL", Some("http://s3.example"));
    terminal.set("HTTP_PROXY", Some(&endpoint));
    for (place, name) in [(alias, "alias"), (arn, "arn")] {
        for layout in ["bundle", "dumb", "loose"] {
            let target = format!("s3://{place}/{name}/{layout}");
            let option = format!("--layout={layout}");
            let arguments = ["mirror", "work", &target, &option, "--verify"];
            let printed = terminal.run("branchline", &arguments).await?.done();
            ensure!(printed.contains("refs 4 created"), "{printed}");
            // Copied within the bucket, and read by its own name.
            git::commit(&terminal.path("work"), &[("more", layout)], name)?;
            terminal.run("branchline", &arguments).await?.done();
            let bucket = format!("s3://{TERMINAL_BUCKET}/{name}/{layout}");
            let back = format!("{name}-{layout}.git");
            let arguments = ["mirror", &bucket, &back, "--verify"];
            terminal.run("branchline", &arguments).await?.done();
        }
        let pushed = format!("s3://{place}/{name}/pushed");
        terminal.push(&pushed, &["main"]).await?.done();
        let clone = format!("{name}-clone");
        terminal.git(&["clone", &pushed, &clone]).await?.done();
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_header_of_encryption_is_an_error_that_names_the_setting() -> Result<()> {
    let stage = stage(&[]).await?;
    stage.create_public_bucket(BUCKET)?;
    let store = stage.server.store();
    store.set_policy(BUCKET, Some(demand(BUCKET, "AES256")));
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
