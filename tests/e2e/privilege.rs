//! Least privilege: what each function asked of AWS in all of its flows, and about what, is
//! what the template grants it, no less and no more.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use branchline_core::git::HashKind;
use branchline_dev::s3::store::{Query, Versioning};
use branchline_test_support::git;
use branchline_test_support::moto::Moto;
use branchline_tests::environment::{
    LIFECYCLE, MIGRATION, PIPELINE, Setup, TestEnvironment, UPDATE,
};
use branchline_tests::iam_recorder::IamActionRecorder;
use branchline_tests::template::{Statement, Template};
use serde_json::{Value, json};

use super::migration::private;
use super::pull_requests::{break_pipeline, create, repository, with_results};
use branchline_test_support::git_server::GitServer;
use branchline_test_support::repo::{Repo, history};

/// The actions that IAM checks for an operation beside the one that the development
/// server's log names. Sources: the service authorization reference of S3, and the user
/// guide's "Required permissions for Amazon S3 API operations" (`UploadPartCopy` reads its
/// source); the API reference of `HeadObject` and `GetObject` (a key that is missing is
/// 404 only for who may list the bucket, and else 403).
const ALSO: [(&str, &[&str]); 3] = [
    ("UploadPartCopy", &["s3:GetObject"]),
    ("HeadObject", &["s3:ListBucket"]),
    ("GetObject", &["s3:ListBucket"]),
];

/// Granted actions that the development server cannot observe, with the reason.
const UNSEEN: [(&str, &str); 13] = [
    ("ec2:AssignPrivateIpAddresses", ATTACHES),
    ("ec2:CreateNetworkInterface", ATTACHES),
    ("ec2:DeleteNetworkInterface", ATTACHES),
    ("ec2:DescribeNetworkInterfaces", ATTACHES),
    ("ec2:DescribeSubnets", ATTACHES),
    ("ec2:UnassignPrivateIpAddresses", ATTACHES),
    ("kms:Decrypt", "S3 asks for the key in the caller's name"),
    (
        "kms:GenerateDataKey",
        "S3 asks for the key in the caller's name, for objects that name it: all do",
    ),
    ("logs:CreateLogStream", "Lambda does it by the role"),
    ("logs:PutLogEvents", "Lambda does it by the role"),
    ("sqs:SendMessage", "Lambda sends dead letters by the role"),
    ("xray:PutTelemetryRecords", "Lambda does it by the role"),
    ("xray:PutTraceSegments", "Lambda does it by the role"),
];

/// Reason of actions that attach a function to subnets.
const ATTACHES: &str = "Lambda does it by the role";

/// The key that everything is encrypted with.
const KEY: &str = "arn:aws:kms:us-east-1:123456789012:key/k";

/// The role of another account.
const ROLE: &str = "arn:aws:iam::444455556666:role/team/reader";

/// The bucket of mirrors.
const MIRRORS: &str = "mirrors";

/// An action as a function used it.
#[derive(Debug, Default)]
struct Use {
    /// True if any request succeeded.
    well: bool,
    /// Resources that requests named.
    resources: BTreeSet<String>,
}

/// Actions, as they were used.
type Used = BTreeMap<String, Use>;

/// Returns the actions that a function has used until now.
fn used(stage: &TestEnvironment, function: &str) -> Used {
    let principal = stage.server.lambda().principal_of(function);
    assert!(principal.is_some(), "{function} has a principal of its own");
    let mut used = Used::new();
    for line in stage.server.requests().lines() {
        if line.principal != principal {
            continue;
        }
        let also = ALSO.iter().filter(|(name, _)| *name == line.operation);
        let also = also.flat_map(|(_, actions)| actions.iter().copied());
        for action in also.chain([line.action.as_str()]) {
            let entry = used.entry(action.to_owned()).or_default();
            entry.well |= line.count > line.failed;
            entry
                .resources
                .extend(line.resources.iter().map(|resource| {
                    // A list is the bucket's.
                    let bucket = (action == "s3:ListBucket").then(|| resource.split('/').next());
                    bucket.flatten().unwrap_or(resource).to_owned()
                }));
        }
    }
    for (action, used) in &used {
        assert!(
            !used.resources.is_empty(),
            "{function}: {action} is about something"
        );
    }
    used
}

/// Returns true if a policy's `pattern` matches `resource`: `*` is any text, `?` any letter.
fn covers(pattern: &str, resource: &str) -> bool {
    let mut letters = pattern.chars();
    match letters.next() {
        None => resource.is_empty(),
        Some('*') => {
            let starts = resource.char_indices().map(|(at, _)| at);
            starts
                .chain([resource.len()])
                .any(|at| covers(letters.as_str(), &resource[at..]))
        }
        Some(letter) => {
            let mut others = resource.chars();
            let other = others.next();
            other.is_some_and(|other| letter == '?' || letter == other)
                && covers(letters.as_str(), others.as_str())
        }
    }
}

#[test]
fn resources_are_compared_as_iam_does() {
    for (pattern, resource, wanted) in [
        ("arn:aws:s3:::b/*", "arn:aws:s3:::b/a/b", true),
        ("arn:aws:s3:::b/*", "arn:aws:s3:::b", false),
        ("arn:aws:s3:::b", "arn:aws:s3:::b/a", false),
        ("*.pack-??", "a.pack-0f", true),
        ("*.pack-??", "a.pack-0f.zip", false),
        ("*.pack-??", "a.pack-0", false),
    ] {
        assert_eq!(covers(pattern, resource), wanted, "{pattern}: {resource}");
    }
}

/// Returns the actions that a stack with these parameters grants to a function.
fn granted(
    stage: &TestEnvironment,
    logical: &str,
    parameters: &[(&str, &str)],
) -> Result<Vec<Statement>> {
    let template = Template::load()?;
    let account = stage.server.account();
    let deployment = template.resolve(parameters)?;
    let deployment = deployment.at(&account.id, &account.region);
    deployment
        .named("UpdateFunction", UPDATE)
        .statements(logical)
}

fn grants(statements: &[Statement], action: &str, resource: &str) -> bool {
    statements.iter().any(|statement| {
        statement.actions.iter().any(|one| one == action)
            && statement.resources.iter().any(|one| covers(one, resource))
    })
}

/// Fails where less is granted than was used.
fn all_is_granted(function: &str, statements: &[Statement], used: &Used) {
    for (action, used) in used {
        for resource in &used.resources {
            assert!(
                grants(statements, action, resource),
                "{function} used {action} on {resource}: no statement grants it"
            );
        }
    }
}

/// Fails where more is granted than was used: an action, or an action on something.
fn all_was_used(function: &str, statements: &[Statement], used: &Used) {
    let unseen = |action: &&String| UNSEEN.iter().any(|(name, _)| name == action);
    for statement in statements {
        for action in statement.actions.iter().filter(|action| !unseen(action)) {
            let used = used.get(action).filter(|used| used.well);
            for pattern in &statement.resources {
                let is_meant = |resource: &String| covers(pattern, resource);
                assert!(
                    used.is_some_and(|used| used.resources.iter().any(is_meant)),
                    "{function} may {action} on {pattern}, which no flow did: {used:?}"
                );
            }
        }
    }
}

fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut noise = Vec::with_capacity(bytes + 8);
    while noise.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        noise.extend(state.to_le_bytes());
    }
    noise
}

fn break_uploads(stage: &TestEnvironment) {
    for rule in ["s3/UploadPart:error", "events:lose,rate=1.0"] {
        let rule = rule.parse().expect("the rule is well formed");
        stage.server.faults().add(rule);
    }
}

/// Fails where an object that a function wrote does not name the key: S3 asks KMS only for
/// those that do.
fn all_are_encrypted(stage: &TestEnvironment, bucket: &str) -> Result<()> {
    let store = stage.server.store();
    let page = store.bucket(bucket)?.list(&Query {
        limit: 10_000,
        ..Query::default()
    });
    ensure!(!page.versions.is_empty(), "there are objects in {bucket}");
    for version in page.versions {
        let (head, _) = store.get_bytes(bucket, &version.key, None)?;
        let key = head.attributes.encryption.and_then(|how| how.kms_key_id);
        assert_eq!(key.as_deref(), Some(KEY), "{bucket}/{}", version.key);
    }
    Ok(())
}

async fn push(stage: &TestEnvironment, work: &Path, refspecs: &[&str]) -> Result<()> {
    stage.push(work, "demo", refspecs).await?;
    stage.wait_until_idle().await?;
    let letters = stage.server.queue().dead_letters();
    ensure!(letters.is_empty(), "no event failed: {letters:?}");
    Ok(())
}

async fn demo(setup: Setup) -> Result<(TestEnvironment, tempfile::TempDir)> {
    let stage = TestEnvironment::start(setup).await?;
    let work = tempfile::tempdir()?;
    git::init(work.path())?;
    git::commit(work.path(), &[("a.txt", "1")], "First")?;
    Ok((stage, work))
}

/// Archives that are small and large, of files that the API does not serve, into a
/// versioned bucket, and one that fails.
async fn archives() -> Result<(TestEnvironment, Used)> {
    let (stage, work) = demo(Setup {
        update: vec![("KMS_KEY_ID", KEY.to_owned())],
        update_memory_mib: Some(192),
        ..Setup::default()
    })
    .await?;
    let work = work.path();
    stage.create_repository("demo").await?;
    push(&stage, work, &["main"]).await?;
    // The pack does not fit into a quarter of 96 MiB: it is put aside in the bucket.
    std::fs::write(work.join("film"), noise(28 << 20))?;
    git::commit(work, &[], "A film")?;
    push(&stage, work, &["main"]).await?;
    assert_eq!(stage.executions().len(), 2, "both pushes are archived");
    all_are_encrypted(&stage, "artifacts")?;

    // Parts of the archive fail, and not those of the pack.
    std::fs::remove_file(work.join("film"))?;
    for name in ["one", "two"] {
        std::fs::write(work.join(name), noise(5 << 20))?;
    }
    git::commit(work, &[("a.txt", "2")], "Third")?;
    break_uploads(&stage);
    push(&stage, work, &["main"]).await?;
    let event = json!({"repository": "demo", "branch": "main"});
    let failed = stage.update(&event).await;
    assert!(failed.is_err(), "no part can be uploaded: {failed:?}");
    let used = used(&stage, UPDATE);
    Ok((stage, used))
}

/// Artifacts without versions, whose branch goes.
async fn deletions() -> Result<(TestEnvironment, Used)> {
    let (stage, work) = demo(Setup {
        update: vec![
            ("ARTIFACT_BUCKET", "plain".to_owned()),
            ("DELETE_ARTIFACTS", "true".to_owned()),
            ("PIPELINE_PIN", "none".to_owned()),
        ],
        update_memory_mib: Some(192),
        ..Setup::default()
    })
    .await?;
    stage.create_public_bucket("plain")?;
    stage.create_repository("demo").await?;
    push(&stage, work.path(), &["main", "main:gone"]).await?;
    push(&stage, work.path(), &[":gone"]).await?;
    // Its pack is put aside, and removed where there are no versions.
    std::fs::write(work.path().join("film"), noise(28 << 20))?;
    git::commit(work.path(), &[], "A film")?;
    push(&stage, work.path(), &["main"]).await?;
    let answer = stage.update(&json!({"schedule": true})).await;
    let answer = answer.map_err(|error| anyhow::anyhow!("{error}"))?;
    assert!(answer.to_string().contains("deleted"), "{answer}");
    let used = used(&stage, UPDATE);
    Ok((stage, used))
}

/// Results of pipelines on a pull request, and events on a bus.
async fn results() -> Result<(TestEnvironment, Used)> {
    let settings = [("EVENT_BUS_NAME", "default"), ("KMS_KEY_ID", KEY)];
    let stage = with_results(&settings).await?;
    let work = tempfile::tempdir()?;
    let work = work.path();
    repository(&stage, work).await?;
    create(&stage).await?;
    for content in ["3", "4", "5"] {
        if content == "5" {
            break_pipeline(&stage)?;
        }
        git::commit(work, &[("b.txt", content)], content)?;
        push(&stage, work, &["main:pull/1"]).await?;
    }
    let used = used(&stage, UPDATE);
    Ok((stage, used))
}

/// Filters of changed files, of tags and of pull requests.
const TRIGGERS: &str = r#"[{"pipeline": "deploy", "gitConfiguration": {"sourceActionName": "Source",
    "push": [{"branches": {"includes": ["**"]}, "filePaths": {"includes": ["**"]}},
             {"tags": {"includes": ["v*"]}}],
    "pullRequest": [{}]}}]"#;

/// Branches, tags and pull requests that filters choose, whose later events are lost.
async fn filtered() -> Result<(TestEnvironment, Used)> {
    let (stage, work) = demo(Setup {
        update: vec![
            ("TRIGGERS", TRIGGERS.to_owned()),
            ("PIPELINE_NAME", String::new()),
            ("KMS_KEY_ID", KEY.to_owned()),
            ("EXISTING_BRANCHES", "archive".to_owned()),
        ],
        lifecycle: vec![("TRIGGERS", TRIGGERS.to_owned())],
        ..Setup::default()
    })
    .await?;
    let work = work.path();
    stage.create_repository("demo").await?;
    push(&stage, work, &["main"]).await?;
    git::commit(work, &[("b.txt", "1")], "Second")?;
    push(&stage, work, &["main:feature", "main:refs/tags/v1"]).await?;
    let lost = "events:lose,rate=1.0".parse();
    stage.server.faults().add(lost.expect("it is well formed"));
    push(&stage, work, &["main:refs/tags/v2"]).await?;
    let target = json!({ "repositoryName": "demo", "sourceReference": "feature" });
    let input = json!({ "title": "Second", "targets": [target] });
    stage.codecommit("CreatePullRequest", input).await?;
    let close = json!({ "pullRequestId": "1", "pullRequestStatus": "CLOSED" });
    for outcome in ["uploaded", "deleted"] {
        if outcome == "deleted" {
            stage
                .codecommit("UpdatePullRequestStatus", close.clone())
                .await?;
        }
        let answer = stage.update(&json!({"schedule": true})).await;
        let answer = answer.map_err(|error| anyhow::anyhow!("{error}"))?;
        let results = answer["results"].as_array().into_iter().flatten();
        let pull = results.clone().find(|result| result["branch"] == "pull/1");
        let found = pull.map(|result| &result["outcome"]);
        ensure!(found == Some(&json!(outcome)), "{outcome}: {answer}");
    }
    let used = used(&stage, UPDATE);
    Ok((stage, used))
}

/// Replaces the bucket `from` by `to` in the used resources.
fn in_bucket(used: Used, from: &str, to: &str) -> Used {
    let (from, to) = (format!("arn:aws:s3:::{from}"), format!("arn:aws:s3:::{to}"));
    let moved = used.into_iter().map(|(action, mut used)| {
        used.resources = used
            .resources
            .iter()
            .map(|arn| arn.replace(&from, &to))
            .collect();
        (action, used)
    });
    moved.collect()
}

#[test]
fn every_exception_is_granted_and_has_a_reason() -> Result<()> {
    let template = Template::load()?;
    let secret = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:git-*";
    let parameter = "arn:aws:ssm:eu-central-1:123456789012:parameter/git/*";
    let everything = template.resolve(&[
        ("KmsKeyId", KEY),
        ("MirrorKmsKeyId", KEY),
        ("CredentialsSecretArn", secret),
        ("CredentialsParameterArn", parameter),
        ("MigrationSubnetIds", "subnet-01234567"),
        ("MigrationSecurityGroupIds", "sg-01234567"),
    ])?;
    let statements = everything.statements("MigrationFunction")?;
    for (action, reason) in UNSEEN {
        let mut actions = statements.iter().flat_map(|one| &one.actions);
        assert!(actions.any(|one| one == action), "{action} is granted");
        assert!(!reason.is_empty(), "{action}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn update_may_do_what_its_flows_do_and_no_more() -> Result<()> {
    let with = |delete: &'static str| {
        [
            ("ArtifactBucket", "artifacts"),
            ("PipelineName", PIPELINE),
            ("DeleteArtifacts", delete),
            ("KmsKeyId", KEY),
        ]
    };
    let (stage, mut all) = archives().await?;
    let statements = granted(&stage, "UpdateFunction", &with("false"))?;
    all_is_granted(UPDATE, &statements, &all);
    // Packs are removed all the same.
    let pack = "arn:aws:s3:::artifacts/demo/main.zip.pack-0123456789abcdef";
    for action in ["s3:DeleteObject", "s3:DeleteObjectVersion"] {
        let used = all.get(action);
        let mut resources = used.iter().flat_map(|used| &used.resources);
        assert!(resources.all(|arn| arn.contains(".pack-")), "{used:?}");
        assert!(grants(&statements, action, pack), "{action} of packs");
        let artifact = "arn:aws:s3:::artifacts/demo/main.zip";
        assert!(
            !grants(&statements, action, artifact),
            "{action}: a stack that keeps artifacts"
        );
    }
    drop(stage);
    let (stage, more) = deletions().await?;
    let statements = granted(&stage, "UpdateFunction", &with("true"))?;
    let more = in_bucket(more, "plain", "artifacts");
    all_is_granted(UPDATE, &statements, &more);
    for (action, used) in more {
        let entry = all.entry(action).or_default();
        entry.well |= used.well;
        entry.resources.extend(used.resources);
    }
    all_is_granted(UPDATE, &statements, &all);
    drop(stage);
    let (stage, more) = results().await?;
    let comments_only = [
        ("PullRequestComment", "true"),
        ("PipelineVariables", "true"),
    ];
    let statements = [&with("true")[..], &comments_only].concat();
    let statements = granted(&stage, "UpdateFunction", &statements)?;
    let repository = "arn:aws:codecommit:us-east-1:123456789012:demo";
    for (action, expected) in [
        ("codecommit:PostCommentForPullRequest", true),
        ("codecommit:UpdatePullRequestApprovalState", false),
    ] {
        assert_eq!(
            grants(&statements, action, repository),
            expected,
            "{action}"
        );
    }
    let everything = [
        ("PullRequestComment", "true"),
        ("PullRequestApproval", "true"),
        ("PipelineVariables", "true"),
        ("EventBusName", "default"),
    ];
    let statements = [&with("true")[..], &everything].concat();
    let statements = granted(&stage, "UpdateFunction", &statements)?;
    all_is_granted(UPDATE, &statements, &more);
    for (action, used) in more {
        let entry = all.entry(action).or_default();
        entry.well |= used.well;
        entry.resources.extend(used.resources);
    }
    all_was_used(UPDATE, &statements, &all);
    drop(stage);
    let (stage, more) = filtered().await?;
    let filters = [
        ("ArtifactBucket", "artifacts"),
        ("KmsKeyId", KEY),
        ("Triggers", TRIGGERS),
        ("PipelineNamePattern", PIPELINE),
    ];
    let statements = granted(&stage, "UpdateFunction", &filters)?;
    all_is_granted(UPDATE, &statements, &more);
    for (action, used) in more {
        let entry = all.entry(action).or_default();
        entry.well |= used.well;
        entry.resources.extend(used.resources);
    }
    all_was_used(UPDATE, &statements, &all);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn lifecycle_may_do_what_its_flows_do_and_no_more() -> Result<()> {
    let (stage, work) = demo(Setup::default()).await?;
    stage.create_repository("demo").await?;
    push(&stage, work.path(), &["main", "main:gone"]).await?;
    push(&stage, work.path(), &[":gone"]).await?;
    let rule = "events:lose,rate=1.0";
    stage
        .server
        .faults()
        .add(rule.parse().expect("it is well formed"));
    push(&stage, work.path(), &["main:late"]).await?;
    let answer = stage.call(LIFECYCLE, &json!({"schedule": true})).await;
    let answer = answer.map_err(|error| anyhow::anyhow!("{error}"))?;
    assert_eq!(answer["repositories"][0]["created"], json!(["late"]));
    let used = used(&stage, LIFECYCLE);
    let statements = granted(&stage, "LifecycleFunction", &[])?;
    all_is_granted(LIFECYCLE, &statements, &used);
    all_was_used(LIFECYCLE, &statements, &used);
    Ok(())
}

async fn mirror(
    stage: &TestEnvironment,
    source: &str,
    target: &str,
    layout: Option<&str>,
) -> Result<()> {
    let mut mapping = json!({
        "source": source, "target": target, "refs": ["refs/*"], "prune": true,
        "create": target.starts_with("codecommit:"),
    });
    if let Some(layout) = layout {
        mapping["layout"] = json!(layout);
    }
    let event = json!({ "mappings": [mapping] });
    let answer: Result<Value, Value> = stage.call(MIGRATION, &event).await;
    let answer = answer.map_err(|error| anyhow::anyhow!("{source} to {target}: {error}"))?;
    ensure!(answer["status"] == "complete", "{answer}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn migration_may_do_what_its_flows_do_and_no_more() -> Result<()> {
    // Without it all but the logins is compared.
    let moto = Moto::start()?;
    let recorder = match &moto {
        Some(moto) => Some(IamActionRecorder::start(&moto.address().to_string())?),
        None => None,
    };
    let mut variables = vec![
        ("MIGRATION_MEMORY_MIB", "32".to_owned()),
        ("KMS_KEY_ID", KEY.to_owned()),
        ("ASSUME_ROLE_ARNS", ROLE.to_owned()),
        ("EVENT_BUS_NAME", "default".to_owned()),
    ];
    if let Some(recorder) = &recorder {
        variables.push(("AWS_ENDPOINT_URL_SECRETS_MANAGER", recorder.endpoint()));
        variables.push(("AWS_ENDPOINT_URL_SSM", recorder.endpoint()));
    }
    let stage = TestEnvironment::start(Setup {
        migration: Some(variables),
        lifecycle: vec![("BRANCHES_EXCLUDE", "**".to_owned())],
        ..Setup::default()
    })
    .await?;
    stage.create_public_bucket(MIRRORS)?;
    let repo = Repo::with_history(HashKind::Sha1, 30, 10);
    let mut film = b"commit refs/heads/film\ncommitter C <c@x> 1600000000 +0000\ndata 0\n".to_vec();
    let bytes = noise(20 << 20);
    film.extend(format!("M 100644 inline film\ndata {}\n", bytes.len()).bytes());
    film.extend(bytes);
    film.push(b'\n');
    repo.input(&["fast-import", "--quiet"], &film);
    let server = GitServer::new(&repo);
    let back = Repo::new(HashKind::Sha1);
    let back_server = GitServer::new(&back);
    let at = |layout: &str| format!("s3://{MIRRORS}/{layout}.git");
    for round in 0..2 {
        mirror(&stage, &server.url(), "codecommit://demo", None).await?;
        for layout in ["dumb", "bundle", "loose"] {
            mirror(&stage, "codecommit://demo", &at(layout), Some(layout)).await?;
            mirror(&stage, &at(layout), &back_server.url(), None).await?;
            assert_eq!(back.refs(), repo.refs(), "{layout}, round {round}");
        }
        // Growth, a ref that goes, and from now on versions.
        repo.input(&["fast-import", "--quiet", "--force"], &history(30, 10, 10));
        repo.git(&["tag", "-d", if round == 0 { "light" } else { "nested" }]);
        let bucket = stage.server.store().bucket(MIRRORS)?;
        bucket.set_versioning(Versioning::Enabled)?;
    }
    let clean = json!({ "mappings": [{
        "source": server.url(), "target": "codecommit://demo", "clean": true,
    }]});
    let answer = stage.call(MIGRATION, &clean).await;
    answer.map_err(|error| anyhow::anyhow!("clean: {error}"))?;
    // The pack is put aside in the versioned bucket, too.
    mirror(&stage, &server.url(), &at("later"), Some("dumb")).await?;
    all_are_encrypted(&stage, MIRRORS)?;
    // A private server, with a secret and with a parameter.
    let private_server = private(&repo);
    let login = json!({
        "host": private_server.address().to_string(), "username": "user", "password": "hunter2",
    });
    let kept = moto
        .as_ref()
        .map(|moto| moto.keep("git/login", &login.to_string()));
    let kept = kept.transpose()?.map_or_else(Vec::new, Vec::from);
    for (number, arn) in kept.iter().enumerate() {
        let event = json!({ "mappings": [{
            "source": private_server.url(), "target": at(&format!("private-{number}")),
            "layout": "dumb", "credentials": arn,
        }]});
        let answer = stage.call(MIGRATION, &event).await;
        let answer = answer.map_err(|error| anyhow::anyhow!("{arn}: {error}"))?;
        ensure!(answer["status"] == "complete", "{answer}");
    }
    // A role of another account reads the source; the function's own writes.
    let event = json!({ "mappings": [{
        "source": "codecommit://demo", "target": at("foreign"), "layout": "dumb",
        "roleArn": {"source": ROLE},
    }]});
    let answer = stage.call(MIGRATION, &event).await;
    answer.map_err(|error| anyhow::anyhow!("with a role: {error}"))?;
    break_uploads(&stage);
    let failed = mirror(&stage, &server.url(), &at("broken"), Some("bundle")).await;
    failed.err().context("no part can be uploaded")?;

    let mut used = used(&stage, MIGRATION);
    let asked = recorder.map_or_else(Vec::new, |recorder| recorder.seen());
    assert!(asked.iter().all(|one| one.well), "{asked:?}");
    for one in asked {
        let entry = used.entry(one.action).or_default();
        entry.well = true;
        entry.resources.insert(one.resource);
    }
    let logins = [
        (
            "CredentialsSecretArn",
            "arn:aws:secretsmanager:us-east-1:123456789012:secret:git/*",
        ),
        (
            "CredentialsParameterArn",
            "arn:aws:ssm:us-east-1:123456789012:parameter/git/*",
        ),
    ];
    let mut parameters = vec![
        ("MigrationAccess", "create"),
        ("MirrorBucket", MIRRORS),
        ("MirrorKmsKeyId", KEY),
        ("AssumeRoleArns", ROLE),
        ("EventBusName", "default"),
    ];
    parameters.extend(logins.iter().take(kept.len()));
    let statements = granted(&stage, "MigrationFunction", &parameters)?;
    all_is_granted(MIGRATION, &statements, &used);
    all_was_used(MIGRATION, &statements, &used);
    Ok(())
}
