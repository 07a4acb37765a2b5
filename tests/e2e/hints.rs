//! Failures of a mapping, and the remedy that each error names.

use anyhow::{Context as _, Result, ensure};
use branchline_core::git::HashKind;
use branchline_dev::s3::policy::Policy;
use branchline_dev::s3::store::PutOptions;
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

    for (mapping, policy, kind, remedies) in [
        (
            json!({"source": from, "target": "codecommit://missing"}),
            None,
            "NotFound",
            &["`missing`", "`\"create\": true`"][..],
        ),
        (
            json!({"source": "codecommit://missing", "target": to, "layout": "dumb"}),
            None,
            "NotFound",
            &["`missing`", "check its name"],
        ),
        (
            json!({"source": format!("s3://{BUCKET}/missing"), "target": to, "layout": "dumb"}),
            None,
            "NotFound",
            &["s3://mirrors/missing", "check the bucket and the prefix"],
        ),
        (
            json!({"source": from, "target": to}),
            None,
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
            None,
            "NotFound",
            &["bucket `no-such-bucket` does not exist", "check its name"],
        ),
        (
            json!({"source": "demo", "target": to, "layout": "dumb"}),
            None,
            "InvalidEvent",
            &["`mappings[0].source`", "`codecommit://demo`"],
        ),
        (
            json!({"source": "ssh://git@git.example.com/x.git", "target": to, "layout": "dumb"}),
            None,
            "InvalidEvent",
            &["ssh", "`https://` URL", "`credentials`"],
        ),
        (
            json!({"source": "git@git.example.com:x.git", "target": to, "layout": "dumb"}),
            None,
            "InvalidEvent",
            &["ssh", "`https://` URL", "`credentials`"],
        ),
        (
            json!({"source": "https://u:p@git.example.com/x.git", "target": to, "layout": "dumb"}),
            None,
            "InvalidEvent",
            &["a user and password in a URL", "`credentials`"],
        ),
        (
            json!({"source": "http://169.254.169.254/x.git", "target": to, "layout": "dumb"}),
            None,
            "Config",
            &["169.254.169.254", "the URL of a git server"],
        ),
        (
            json!({"source": from, "target": to, "layout": "dumb"}),
            Some("s3:*"),
            "AccessDenied",
            &["grant `s3:", "arn:aws:s3:::mirrors", "`MirrorBucket`"],
        ),
        (
            json!({"source": from, "target": to, "layout": "dumb"}),
            Some("s3:ListBucket"),
            "AccessDenied",
            &["`s3:ListBucket`", "S3 answers 403 for a missing object"],
        ),
        (
            json!({"source": from, "target": to, "layout": "bundle"}),
            Some("s3:DeleteObject"),
            "AccessDenied",
            &[
                "their lock remains",
                "grant `s3:DeleteObject`",
                "`MirrorBucket`",
            ],
        ),
        (
            json!({"source": other.url(), "target": bundle, "refs": ["refs/heads/main"]}),
            None,
            "Rejected",
            &["refs/heads/main", "protected", "git-s3 unprotect"],
        ),
    ] {
        store.set_policy(BUCKET, policy.map(deny));
        let (found, text) = failure(&stage, &mapping).await?;
        store.set_policy(BUCKET, None);
        for remedy in remedies {
            ensure!(
                text.contains(remedy),
                "{mapping}: `{remedy}` is not in `{text}`"
            );
        }
        let expected = format!("branchline.{kind}");
        // A rejected ref has a kind of its own or is a conflict.
        let also = if kind == "Rejected" {
            "branchline.Conflict"
        } else {
            &expected
        };
        ensure!(
            found == expected || found == also,
            "{mapping}: {found}: {text}"
        );
    }
    Ok(())
}
