//! Failures of a mapping, and the remedy that each error names.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use branchline_core::git::HashKind;
use branchline_dev::s3::policy::Policy;
use branchline_dev::s3::store::PutOptions;
use branchline_test_support::git;
use branchline_test_support::git_server::GitServer;
use branchline_test_support::repo::Repo;
use branchline_tests::environment::{MIGRATION, Setup, TestEnvironment};
use serde_json::{Value, json};

/// The bucket of the mirrors.
const BUCKET: &str = "mirrors";

/// Makes a policy of one statement that denies an action on the bucket and its objects.
fn deny(action: &str) -> Policy {
    let statement = json!({ "Statement": {
        "Effect": "Deny", "Principal": "*", "Action": action,
        "Resource": [format!("arn:aws:s3:::{BUCKET}"), format!("arn:aws:s3:::{BUCKET}/*")],
    }});
    Policy::parse(&statement.to_string()).expect("because the statement is supported")
}

/// Condition outside the request that makes a mapping fail.
#[derive(Debug, Clone, Copy)]
enum Obstacle {
    Nothing,
    /// An action on the bucket that is denied.
    Denied(&'static str),
    /// A lock in the bucket whose owner renews it. The function would wait for it until the run is
    /// out of time; the command line waits for twice the lifetime of locks, which is a second here.
    Lock(&'static str),
}

/// Sends one mapping that fails, and returns the kind and the text of its error.
async fn failure(stage: &TestEnvironment, mapping: &Value) -> Result<(String, String)> {
    let event = json!({ "mappings": [mapping] });
    let error = stage.call(MIGRATION, &event).await.err();
    let error = error.with_context(|| format!("{mapping} has an error"))?;
    let kind = error["errorType"].as_str().context("an error has a kind")?;
    let text = error["errorMessage"]
        .as_str()
        .context("an error has a text")?;
    Ok((kind.to_owned(), text.to_owned()))
}

/// Runs one mapping at the command line while another client renews a lock, and returns the kind
/// and the text of the error.
async fn failure_of_locked(
    stage: &TestEnvironment,
    mapping: &Value,
    lock: &str,
) -> Result<(String, String)> {
    let home = tempfile::tempdir()?;
    let mut command = stage.branchline(home.path());
    command
        .args(["mirror", "--json", "--file", "-"])
        .env("GIT_REMOTE_S3_LOCK_TTL_SECONDS", "1");
    let input = format!("{mapping}\n");
    let run = tokio::task::spawn_blocking(move || git::output(&mut command, input.as_bytes()));
    let renew = async {
        let store = stage.server.store();
        loop {
            let put = store.put(BUCKET, lock, b"", PutOptions::default());
            put.expect("because the bucket is there");
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    };
    let output = tokio::select! {
        output = run => output??,
        () = renew => unreachable!("because it ends with the mirror"),
    };
    let stdout = String::from_utf8(output.stdout)?;
    let events = stdout.lines().map(serde_json::from_str::<Value>);
    let events = events.collect::<Result<Vec<_>, _>>()?;
    let result = events.iter().find(|event| event["event"] == "result");
    let result = result.with_context(|| format!("{mapping} has a result: {stdout}"))?;
    let kind = result["error_kind"].as_str();
    let kind = kind.with_context(|| format!("{mapping} has an error: {result}"))?;
    let text = result["error"].as_str().context("an error has a text")?;
    Ok((format!("branchline.{kind}"), text.to_owned()))
}

/// "An error names the remedy."
#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::too_many_lines, reason = "it is one table")]
async fn an_error_names_the_remedy() -> Result<()> {
    let stage = TestEnvironment::start(Setup {
        migration: Some(Vec::new()),
        lifecycle: vec![("BRANCHES_EXCLUDE", "**".to_owned())],
        ..Setup::default()
    })
    .await?;
    stage.create_public_bucket(BUCKET)?;
    let repo = Repo::with_history(HashKind::Sha1, 5, 2);
    let server = GitServer::new(&repo);
    let from = server.url();
    let to = format!("s3://{BUCKET}/new");
    let locked = format!("s3://{BUCKET}/locked");
    let store = stage.server.store();

    let bundle = format!("s3://{BUCKET}/bundle");
    let event = json!({ "mappings": [
        {"source": from, "target": bundle, "layout": "bundle", "refs": ["refs/heads/main"]},
    ]});
    stage
        .call(MIGRATION, &event)
        .await
        .map_err(|error| anyhow::anyhow!("{error}"))?;
    let protect = "bundle/refs/heads/main/PROTECTED#";
    store.put(BUCKET, protect, b"", PutOptions::default())?;
    let rewound = Repo::with_history(HashKind::Sha1, 3, 1);
    let other = GitServer::new(&rewound);

    for (mapping, obstacle, kind, remedies) in [
        (
            json!({"source": from, "target": "codecommit://missing"}),
            Obstacle::Nothing,
            "NotFound",
            &["`missing`", "`\"create\": true`"][..],
        ),
        (
            json!({"source": "codecommit://missing", "target": to, "layout": "dumb"}),
            Obstacle::Nothing,
            "NotFound",
            &["`missing`", "check its name"],
        ),
        (
            json!({"source": format!("s3://{BUCKET}/missing"), "target": to, "layout": "dumb"}),
            Obstacle::Nothing,
            "NotFound",
            &["s3://mirrors/missing", "check the bucket and the prefix"],
        ),
        (
            json!({"source": from, "target": to}),
            Obstacle::Nothing,
            "NotFound",
            &[
                "s3://mirrors/new",
                "`layout`",
                "`dumb`",
                "`bundle`",
                "`loose`",
            ],
        ),
        (
            json!({"source": from, "target": "s3://no-such-bucket/x", "layout": "dumb"}),
            Obstacle::Nothing,
            "NotFound",
            &["bucket `no-such-bucket` does not exist", "check its name"],
        ),
        (
            json!({"source": "demo", "target": to, "layout": "dumb"}),
            Obstacle::Nothing,
            "InvalidEvent",
            &["`mappings[0].source`", "`codecommit://demo`"],
        ),
        (
            json!({"source": "ssh://git@git.example.com/x.git", "target": to, "layout": "dumb"}),
            Obstacle::Nothing,
            "InvalidEvent",
            &["ssh", "`https://` URL", "`credentials`"],
        ),
        (
            json!({"source": "git@git.example.com:x.git", "target": to, "layout": "dumb"}),
            Obstacle::Nothing,
            "InvalidEvent",
            &["ssh", "`https://` URL", "`credentials`"],
        ),
        (
            json!({"source": "https://u:p@git.example.com/x.git", "target": to, "layout": "dumb"}),
            Obstacle::Nothing,
            "InvalidEvent",
            &["a user and password in a URL", "`credentials`"],
        ),
        (
            json!({"source": "http://169.254.169.254/x.git", "target": to, "layout": "dumb"}),
            Obstacle::Nothing,
            "Config",
            &["169.254.169.254", "the URL of a git server"],
        ),
        (
            json!({"source": from, "target": to, "layout": "dumb"}),
            Obstacle::Denied("s3:*"),
            "AccessDenied",
            &["grant `s3:", "arn:aws:s3:::mirrors", "`MirrorBucket`"],
        ),
        (
            json!({"source": from, "target": to, "layout": "dumb"}),
            Obstacle::Denied("s3:ListBucket"),
            "AccessDenied",
            &["`s3:ListBucket`", "S3 answers 403 for a missing object"],
        ),
        (
            json!({"source": from, "target": to, "layout": "bundle"}),
            Obstacle::Denied("s3:DeleteObject"),
            "AccessDenied",
            &[
                "their lock remains",
                "grant `s3:DeleteObject`",
                "`MirrorBucket`",
            ],
        ),
        (
            json!({"source": other.url(), "target": bundle, "refs": ["refs/heads/main"]}),
            Obstacle::Nothing,
            "Rejected",
            &["refs/heads/main", "protected", "git-s3 unprotect"],
        ),
        (
            json!({"source": from, "target": locked, "layout": "bundle", "refs": ["refs/heads/main"]}),
            Obstacle::Lock("locked/refs/heads/main/LOCK#.lock"),
            "Conflict",
            &[
                "locked/refs/heads/main/LOCK#.lock",
                "seconds old",
                "older than 1 seconds",
                "is taken over",
                "--fix=locks",
            ],
        ),
    ] {
        let (found, text) = match obstacle {
            Obstacle::Nothing => failure(&stage, &mapping).await?,
            Obstacle::Denied(action) => {
                store.set_policy(BUCKET, Some(deny(action)));
                let failed = failure(&stage, &mapping).await?;
                store.set_policy(BUCKET, None);
                failed
            }
            Obstacle::Lock(key) => failure_of_locked(&stage, &mapping, key).await?,
        };
        for remedy in remedies {
            ensure!(
                text.contains(remedy),
                "{mapping}: `{remedy}` is not in `{text}`"
            );
        }
        let expected = format!("branchline.{kind}");
        ensure!(found == expected, "{mapping}: {found}: {text}");
    }
    Ok(())
}
