//! Least privilege: what each function asked of AWS in all of its flows is what the
//! template grants it, no less and no more.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use branchline_core::git::HashKind;
use branchline_dev::s3::store::Versioning;
use branchline_tests::git;
use branchline_tests::stage::{LIFECYCLE, MIGRATION, PIPELINE, Setup, Stage, UPDATE};
use branchline_tests::template::{Statement, Template};
use serde_json::{Value, json};

use super::repo::{Repo, history};
use super::server::Server as GitServer;

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

/// What the template grants and the development server cannot see, with the reason.
const UNSEEN: [(&str, &str); 9] = [
    ("kms:Decrypt", "S3 asks for the key in the caller's name"),
    (
        "kms:GenerateDataKey",
        "S3 asks for the key in the caller's name",
    ),
    ("logs:CreateLogStream", "Lambda does it by the role"),
    ("logs:PutLogEvents", "Lambda does it by the role"),
    ("secretsmanager:GetSecretValue", "served by moto only"),
    ("sqs:SendMessage", "Lambda sends dead letters by the role"),
    ("ssm:GetParameter", "served by moto only"),
    ("xray:PutTelemetryRecords", "Lambda does it by the role"),
    ("xray:PutTraceSegments", "Lambda does it by the role"),
];

/// The bucket of mirrors.
const MIRRORS: &str = "mirrors";

/// Actions, with whether AWS ever answered well.
type Used = BTreeMap<String, bool>;

/// What a function asked for so far.
fn used(stage: &Stage, function: &str) -> Used {
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
            *used.entry(action.to_owned()).or_default() |= line.count > line.failed;
        }
    }
    used
}

/// The resources of this test that a function needs an action on.
fn resources(stage: &Stage, function: &str, action: &str) -> Vec<String> {
    let account = stage.server.account();
    let (region, id) = (&account.region, &account.id);
    let objects: &[&str] = match (function, action) {
        (UPDATE, "s3:DeleteObject") => &[
            "artifacts/demo/gone.zip",
            "artifacts/demo/main.zip.pack-0123456789abcdef",
        ],
        (UPDATE, "s3:DeleteObjectVersion") => &["artifacts/demo/main.zip.pack-0123456789abcdef"],
        (UPDATE, "s3:ListBucket" | "s3:GetBucketVersioning") => &["artifacts"],
        (UPDATE, _) => &["artifacts/demo/main.zip"],
        (_, "s3:ListBucket") => &[MIRRORS],
        _ => &["mirrors/demo.git/info/refs"],
    };
    match action.split_once(':') {
        _ if action == "codecommit:ListRepositories" => vec!["*".to_owned()],
        Some(("codecommit", _)) => vec![format!("arn:aws:codecommit:{region}:{id}:demo")],
        Some(("codepipeline", _)) => vec![format!("arn:aws:codepipeline:{region}:{id}:{PIPELINE}")],
        Some(("lambda", _)) => vec![account.function_arn(UPDATE)],
        _ => {
            let arn = |place: &&str| format!("arn:aws:s3:::{place}");
            objects.iter().map(arn).collect()
        }
    }
}

/// Whether a resource of a policy stands for this one: `*` for any text, `?` for a letter.
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

/// What a stack with these parameters lets a function do.
fn granted(stage: &Stage, logical: &str, parameters: &[(&str, &str)]) -> Result<Vec<Statement>> {
    let template = Template::load()?;
    let account = stage.server.account();
    let deployment = template.deploy(parameters)?;
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
fn all_is_granted(stage: &Stage, function: &str, statements: &[Statement], used: &Used) {
    for action in used.keys() {
        for resource in resources(stage, function, action) {
            assert!(
                grants(statements, action, &resource),
                "{function} used {action} on {resource}: no statement grants it"
            );
        }
    }
}

/// Fails where more is granted than was used.
fn all_was_used(function: &str, statements: &[Statement], used: &Used) {
    let granted = statements.iter().flat_map(|one| &one.actions);
    let unseen = |action: &&String| UNSEEN.iter().any(|(name, _)| name == action);
    let unused: BTreeSet<_> = granted
        .filter(|action| used.get(*action) != Some(&true) && !unseen(action))
        .collect();
    assert!(
        unused.is_empty(),
        "{function} may do what no flow did: {unused:?}; it did {used:?}"
    );
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

fn break_uploads(stage: &Stage) {
    for rule in ["s3/UploadPart:error", "events:lose,rate=1.0"] {
        let rule = rule.parse().expect("the rule is well formed");
        stage.server.faults().add(rule);
    }
}

async fn push(stage: &Stage, work: &Path, refspecs: &[&str]) -> Result<()> {
    stage.push(work, "demo", refspecs).await?;
    stage.settle().await?;
    let letters = stage.server.queue().dead_letters();
    ensure!(letters.is_empty(), "no event failed: {letters:?}");
    Ok(())
}

async fn demo(setup: Setup) -> Result<(Stage, tempfile::TempDir)> {
    let stage = Stage::start(setup).await?;
    let work = tempfile::tempdir()?;
    git::init(work.path())?;
    git::commit(work.path(), &[("a.txt", "1")], "First")?;
    Ok((stage, work))
}

/// Archives that are small and large, of files that the API does not serve, into a
/// versioned bucket, and one that fails.
async fn archives() -> Result<(Stage, Used)> {
    let (stage, work) = demo(Setup {
        update_memory_mib: Some(128),
        ..Setup::default()
    })
    .await?;
    let work = work.path();
    stage.create_repository("demo").await?;
    push(&stage, work, &["main"]).await?;
    // The pack does not fit into a quarter of 64 MiB: it is put aside in the bucket.
    std::fs::write(work.join("film"), noise(20 << 20))?;
    git::commit(work, &[], "A film")?;
    push(&stage, work, &["main"]).await?;
    assert_eq!(stage.executions().len(), 2, "both pushes are archived");

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
async fn deletions() -> Result<(Stage, Used)> {
    let (stage, work) = demo(Setup {
        update: vec![
            ("ARTIFACT_BUCKET", "plain".to_owned()),
            ("DELETE_ARTIFACTS", "true".to_owned()),
            ("PIPELINE_PIN", "none".to_owned()),
        ],
        ..Setup::default()
    })
    .await?;
    stage.create_public_bucket("plain")?;
    stage.create_repository("demo").await?;
    push(&stage, work.path(), &["main", "main:gone"]).await?;
    push(&stage, work.path(), &[":gone"]).await?;
    let answer = stage.update(&json!({"schedule": true})).await;
    let answer = answer.map_err(|error| anyhow::anyhow!("{error}"))?;
    assert!(answer.to_string().contains("deleted"), "{answer}");
    let used = used(&stage, UPDATE);
    Ok((stage, used))
}

#[test]
fn every_exception_is_granted_and_has_a_reason() -> Result<()> {
    let template = Template::load()?;
    let secret = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:git-*";
    let parameter = "arn:aws:ssm:eu-central-1:123456789012:parameter/git/*";
    let everything = template.deploy(&[
        ("KmsKeyId", "arn:aws:kms:eu-central-1:123456789012:key/k"),
        ("CredentialsSecretArn", secret),
        ("CredentialsParameterArn", parameter),
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
            ("KmsKeyId", "arn:aws:kms:eu-central-1:123456789012:key/k"),
        ]
    };
    let (stage, mut all) = archives().await?;
    let statements = granted(&stage, "UpdateFunction", &with("false"))?;
    for action in all.keys() {
        for resource in resources(&stage, UPDATE, action) {
            // Packs are removed all the same.
            let wanted = !action.starts_with("s3:Delete") || resource.contains(".pack-");
            assert_eq!(
                grants(&statements, action, &resource),
                wanted,
                "{action} on {resource} of a stack that keeps artifacts"
            );
        }
    }
    drop(stage);
    let (stage, more) = deletions().await?;
    for (action, well) in more {
        *all.entry(action).or_default() |= well;
    }
    let statements = granted(&stage, "UpdateFunction", &with("true"))?;
    all_is_granted(&stage, UPDATE, &statements, &all);
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
    all_is_granted(&stage, LIFECYCLE, &statements, &used);
    all_was_used(LIFECYCLE, &statements, &used);
    Ok(())
}

async fn mirror(stage: &Stage, source: &str, target: &str, layout: Option<&str>) -> Result<()> {
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
    let stage = Stage::start(Setup {
        migration: Some(vec![("MIGRATION_MEMORY_MIB", "32".to_owned())]),
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
    // The pack is put aside in the versioned bucket, too.
    mirror(&stage, &server.url(), &at("later"), Some("dumb")).await?;
    break_uploads(&stage);
    let failed = mirror(&stage, &server.url(), &at("broken"), Some("bundle")).await;
    failed.err().context("no part can be uploaded")?;

    let used = used(&stage, MIGRATION);
    let statements = granted(
        &stage,
        "MigrationFunction",
        &[
            ("MigrationAccess", "create"),
            ("MirrorBucket", MIRRORS),
            ("KmsKeyId", "arn:aws:kms:eu-central-1:123456789012:key/k"),
            (
                "CredentialsSecretArn",
                "arn:aws:secretsmanager:eu-central-1:123456789012:secret:git-*",
            ),
            (
                "CredentialsParameterArn",
                "arn:aws:ssm:eu-central-1:123456789012:parameter/git/*",
            ),
        ],
    )?;
    all_is_granted(&stage, MIGRATION, &statements, &used);
    all_was_used(MIGRATION, &statements, &used);
    Ok(())
}
