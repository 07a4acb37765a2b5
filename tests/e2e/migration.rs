//! The migration function's real bootstrap on the development server: every kind of source
//! to every kind of target, and what can come between.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, Result, ensure};
use branchline_core::git::HashKind;
use branchline_dev::faults::Service;
use branchline_dev::s3::store::{Precondition, PutOptions, Query};
use branchline_test_support::git;
use branchline_tests::environment::{
    LIFECYCLE, MIGRATION, Setup, TestEnvironment, UPDATE, built_programs,
};
use serde_json::{Value, json};

use branchline_test_support::git_server::{GitServer, Response};
use branchline_test_support::moto::Moto;
use branchline_test_support::repo::{Repo, history};

/// The bucket that everyone may read.
const BUCKET: &str = "mirrors";

/// A kind of remote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Https,
    CodeCommit,
    S3Dumb,
    S3Bundle,
    /// Files of a repository that a web server serves, which can only be read.
    Files,
}

impl Kind {
    /// Returns the name in the reference's table.
    fn title(self) -> &'static str {
        match self {
            Self::Https => "git server",
            Self::CodeCommit => "CodeCommit",
            Self::S3Dumb => "S3, `dumb`",
            Self::S3Bundle => "S3, `bundle`",
            Self::Files => "files at `https://`",
        }
    }
}

/// Each cell of the table: a test, what it mirrors from, and what to.
macro_rules! cells {
    ($($name:ident: $source:ident to $target:ident,)*) => {
        const CELLS: &[(&str, Kind, Kind)] =
            &[$((stringify!($name), Kind::$source, Kind::$target),)*];
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $name() -> Result<()> {
                cell(Kind::$source, Kind::$target).await
            }
        )*
    };
}

const TARGETS: [Kind; 4] = [Kind::Https, Kind::CodeCommit, Kind::S3Dumb, Kind::S3Bundle];
const SOURCES: [Kind; 5] = [
    Kind::Https,
    Kind::CodeCommit,
    Kind::S3Dumb,
    Kind::S3Bundle,
    Kind::Files,
];

cells! {
    https_to_https: Https to Https,
    https_to_codecommit: Https to CodeCommit,
    https_to_dumb: Https to S3Dumb,
    https_to_bundle: Https to S3Bundle,
    codecommit_to_https: CodeCommit to Https,
    codecommit_to_codecommit: CodeCommit to CodeCommit,
    codecommit_to_dumb: CodeCommit to S3Dumb,
    codecommit_to_bundle: CodeCommit to S3Bundle,
    dumb_to_https: S3Dumb to Https,
    dumb_to_codecommit: S3Dumb to CodeCommit,
    dumb_to_dumb: S3Dumb to S3Dumb,
    dumb_to_bundle: S3Dumb to S3Bundle,
    bundle_to_https: S3Bundle to Https,
    bundle_to_codecommit: S3Bundle to CodeCommit,
    bundle_to_dumb: S3Bundle to S3Dumb,
    bundle_to_bundle: S3Bundle to S3Bundle,
    files_to_https: Files to Https,
    files_to_codecommit: Files to CodeCommit,
    files_to_dumb: Files to S3Dumb,
    files_to_bundle: Files to S3Bundle,
}

#[test]
fn the_references_table_names_every_cell() {
    let mut table = super::reference::table(super::reference::REFERENCE, "### Tested combinations");
    for source in SOURCES {
        let mut row = table.remove(0);
        assert_eq!(row.remove(0), source.title(), "the kinds are in order");
        let cells = CELLS.iter().filter(|(_, from, _)| *from == source);
        let (names, targets): (Vec<_>, Vec<_>) = cells
            .map(|(name, _, to)| (format!("`{name}`"), *to))
            .unzip();
        assert_eq!(targets, TARGETS, "each target has a test");
        assert_eq!(row, names);
    }
    assert!(table.is_empty(), "no row is left: {table:?}");
}

async fn stage_with(setup: Setup) -> Result<TestEnvironment> {
    let stage = TestEnvironment::start(Setup {
        migration: Some(setup.migration.unwrap_or_default()),
        // What is pushed here is not to be archived.
        lifecycle: vec![("BRANCHES_EXCLUDE", "**".to_owned())],
        ..setup
    })
    .await?;
    stage.create_public_bucket(BUCKET)?;
    Ok(stage)
}

async fn stage() -> Result<TestEnvironment> {
    stage_with(Setup::default()).await
}

fn repository() -> Repo {
    let repo = Repo::with_history(HashKind::Sha1, 30, 10);
    repo.git(&["update-ref", "refs/heads/feature/ü", "main~3"]);
    repo.git(&["symbolic-ref", "HEAD", "refs/heads/side"]);
    repo
}

fn grow(repo: &Repo) {
    repo.input(&["fast-import", "--quiet", "--force"], &history(30, 10, 10));
    repo.git(&["tag", "-d", "light"]);
    repo.git(&["update-ref", "refs/heads/feature/new", "main~1"]);
}

/// Runs git, which asks a server that runs on this very runtime.
async fn ask(mut command: Command) -> Result<String> {
    tokio::task::spawn_blocking(move || git::run(&mut command)).await?
}

/// Source of refs and objects, which only git fills.
struct Origin {
    kind: Kind,
    repo: Repo,
    server: GitServer,
}

impl Origin {
    fn new(kind: Kind) -> Self {
        let repo = repository();
        let server = GitServer::new(&repo);
        Self { kind, repo, server }
    }

    fn url(&self, stage: &TestEnvironment) -> String {
        match self.kind {
            Kind::Https => self.server.url(),
            Kind::CodeCommit => "codecommit://from".to_owned(),
            Kind::S3Dumb => format!("s3://{BUCKET}/from.git"),
            Kind::S3Bundle => format!("s3://{BUCKET}/from"),
            Kind::Files => format!("{}/{BUCKET}/from.git", stage.server.endpoint()),
        }
    }

    /// Has the place hold what the repository holds.
    async fn publish(&self, stage: &TestEnvironment) -> Result<()> {
        match self.kind {
            Kind::Https => Ok(()),
            Kind::CodeCommit => {
                if stage.refs("from").is_err() {
                    stage.create_repository("from").await?;
                }
                stage.push(&self.repo.path, "from", &["--mirror"]).await
            }
            Kind::S3Dumb | Kind::Files => {
                self.repo.git(&["repack", "-adq"]);
                self.repo.git(&["update-server-info"]);
                for folder in ["", "info", "objects/info", "objects/pack"] {
                    upload(stage, &self.repo.path, folder)?;
                }
                Ok(())
            }
            Kind::S3Bundle => bundle(stage, &self.repo),
        }
    }
}

/// Puts the files of a repository's folder into the bucket.
fn upload(stage: &TestEnvironment, repository: &Path, folder: &str) -> Result<()> {
    for entry in std::fs::read_dir(repository.join(folder))? {
        let entry = entry?;
        if !entry.file_type()?.is_file() {
            continue;
        }
        let name = entry.file_name();
        let name = name.to_str().context("git's names are plain")?;
        let key = Path::new("from.git").join(folder).join(name);
        let key = key.to_str().context("it was text")?;
        let bytes = std::fs::read(entry.path())?;
        let put = stage
            .server
            .store()
            .put(BUCKET, key, &bytes, PutOptions::default());
        put.map_err(|error| anyhow::anyhow!("{error}"))?;
    }
    Ok(())
}

/// Puts a bundle of each ref into the bucket, as git makes them, and takes others away.
fn bundle(stage: &TestEnvironment, repo: &Repo) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("b");
    let file = file.to_str().context("it is plain")?;
    let put = |key: &str, bytes: &[u8]| -> Result<()> {
        let store = stage.server.store();
        let put = store.put(BUCKET, key, bytes, PutOptions::default());
        put.map(drop).map_err(|error| anyhow::anyhow!("{error}"))
    };
    let mut wanted = BTreeSet::from(["from/HEAD".to_owned()]);
    for line in repo.refs().lines() {
        let (id, name) = line.split_once(' ').context("id and name")?;
        repo.git(&["bundle", "create", "-q", file, name]);
        let key = format!("from/{name}/{id}.bundle");
        put(&key, &std::fs::read(file)?)?;
        wanted.insert(key);
    }
    put("from/HEAD", repo.git(&["symbolic-ref", "HEAD"]).as_bytes())?;
    for key in keys(stage, "from/")? {
        if !wanted.contains(&key) {
            let bucket = stage.server.store().bucket(BUCKET)?;
            bucket.delete(&key, None, &Precondition::default())?;
        }
    }
    Ok(())
}

/// The keys below a prefix.
fn keys(stage: &TestEnvironment, prefix: &str) -> Result<Vec<String>> {
    let page = stage.server.store().bucket(BUCKET)?.list(&Query {
        prefix: prefix.to_owned(),
        limit: 1000,
        ..Query::default()
    });
    ensure!(page.next.is_none(), "there is one page");
    Ok(page.versions.into_iter().map(|object| object.key).collect())
}

/// A repository of all bundles below `to/`, each verified and put in by git.
fn unbundle(stage: &TestEnvironment, folder: &Path) -> Result<PathBuf> {
    let place = folder.join("unbundled.git");
    git::git(folder, ["init", "-q", "--bare", "unbundled.git"])?;
    for key in keys(stage, "to/refs/")? {
        let (name, id) = key["to/".len()..]
            .rsplit_once('/')
            .context("a ref's folder")?;
        let id = id.strip_suffix(".bundle").context("a bundle and no lock")?;
        let (_, bytes) = stage.server.store().get_bytes(BUCKET, &key, None)?;
        std::fs::write(place.join("b"), bytes)?;
        git::git(&place, ["bundle", "verify", "-q", "b"])?;
        git::git(&place, ["bundle", "unbundle", "b"])?;
        git::git(&place, ["update-ref", name, id, &"0".repeat(40)])?;
    }
    Ok(place)
}

/// Target of refs and objects.
struct To {
    kind: Kind,
    repo: Repo,
    server: GitServer,
}

impl To {
    fn new(kind: Kind) -> Self {
        let repo = Repo::new(HashKind::Sha1);
        let server = GitServer::new(&repo);
        Self { kind, repo, server }
    }

    fn url(&self) -> String {
        match self.kind {
            Kind::Https => self.server.url(),
            Kind::CodeCommit => "codecommit://to".to_owned(),
            Kind::S3Dumb => format!("s3://{BUCKET}/to.git"),
            Kind::S3Bundle => format!("s3://{BUCKET}/to"),
            Kind::Files => unreachable!("because files are a source only"),
        }
    }

    fn mapping(&self, from: &str) -> Value {
        let mut mapping = json!({
            "source": from, "target": self.url(), "refs": ["refs/*"], "prune": true,
        });
        match self.kind {
            Kind::Https | Kind::Files => {}
            Kind::CodeCommit => mapping["create"] = json!(true),
            Kind::S3Dumb => mapping["layout"] = json!("dumb"),
            Kind::S3Bundle => mapping["layout"] = json!("bundle"),
        }
        mapping
    }

    /// Makes sure that it is a sound repository with these refs, and with their objects.
    async fn check(&self, stage: &TestEnvironment, wanted: &Repo) -> Result<()> {
        let folder = tempfile::tempdir()?;
        let place = match self.kind {
            Kind::Https | Kind::Files => self.repo.path.clone(),
            Kind::CodeCommit => {
                let place = stage.server.codecommit().repository_dir("to");
                place.context("the repository is created")?
            }
            Kind::S3Dumb => {
                let mut clone = git::command(folder.path());
                let url = format!("{}/{BUCKET}/to.git", stage.server.endpoint());
                clone.args(["clone", "--quiet", "--mirror", &url, "clone.git"]);
                ask(clone).await?;
                folder.path().join("clone.git")
            }
            Kind::S3Bundle => unbundle(stage, folder.path())?,
        };
        let fsck = ["fsck", "--full", "--strict", "--no-dangling"];
        assert_eq!(git::git(&place, fsck)?, "", "git fsck finds nothing");
        let refs = ["for-each-ref", "--format=%(objectname) %(refname)"];
        assert_eq!(git::git(&place, refs)?, wanted.refs(), "the refs are equal");
        let objects = ["rev-list", "--objects", "--no-object-names", "--all"];
        let listed = git::git(&place, objects)?;
        let mut listed: Vec<_> = listed.lines().map(str::to_owned).collect();
        listed.sort();
        assert_eq!(listed, wanted.objects(), "the objects are equal");
        Ok(())
    }
}

/// `created`, `updated`, `deleted`, `unchanged` of the only mapping, which is complete.
fn counts(answer: &Value) -> [u64; 4] {
    assert_eq!(answer["status"], "complete", "{answer}");
    let refs = &answer["mappings"][0]["refs"];
    assert_eq!(refs["rejected"], 0, "{answer}");
    ["created", "updated", "deleted", "unchanged"].map(|name| refs[name].as_u64().unwrap_or(99))
}

async fn call(stage: &TestEnvironment, mapping: &Value) -> Result<Value> {
    let answer = stage
        .call(MIGRATION, &json!({ "mappings": [mapping] }))
        .await;
    answer.map_err(|error| anyhow::anyhow!("migration failed: {error}"))
}

async fn cell(source: Kind, target: Kind) -> Result<()> {
    let stage = stage().await?;
    let (from, to) = (Origin::new(source), To::new(target));
    from.publish(&stage).await?;
    let mapping = to.mapping(&from.url(&stage));
    let first = call(&stage, &mapping).await?;
    let all = from.repo.refs().lines().count() as u64;
    assert_eq!(counts(&first), [all, 0, 0, 0]);
    let did = &first["mappings"][0];
    assert_eq!(did["source"], json!(from.url(&stage)));
    assert_eq!(did["target"], json!(to.url()));
    assert_eq!(did["objects"], json!(from.repo.objects().len()));
    ensure!(
        did["bytes"].as_u64() > Some(1000),
        "packs have bytes: {did}"
    );
    to.check(&stage, &from.repo).await?;
    let reads_s3 = matches!(source, Kind::S3Dumb | Kind::S3Bundle);
    if !reads_s3 && target == Kind::S3Dumb {
        let requests = stage.requests_of(MIGRATION, Service::S3);
        assert!(requests <= 12, "{requests} requests to S3");
    }

    grow(&from.repo);
    from.publish(&stage).await?;
    let second = call(&stage, &mapping).await?;
    // `feature/new`; both branches; `light`; the rest.
    assert_eq!(counts(&second), [1, 2, 1, 4]);
    to.check(&stage, &from.repo).await?;

    let before = stage.requests_of(MIGRATION, Service::S3);
    let third = call(&stage, &mapping).await?;
    assert_eq!(counts(&third), [0, 0, 0, all]);
    assert_eq!(third["mappings"][0]["objects"], 0, "nothing is sent");
    if !reads_s3 {
        let requests = stage.requests_of(MIGRATION, Service::S3) - before;
        assert!(requests <= 4, "{requests} requests to S3");
    }
    stage.server.shutdown().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_is_created_only_on_request() -> Result<()> {
    let stage = stage().await?;
    let repo = repository();
    let server = GitServer::new(&repo);
    let mut mapping = json!({ "source": server.url(), "target": "codecommit://demo" });
    let event = json!({ "mappings": [mapping] });
    let error = stage.call(MIGRATION, &event).await;
    let error = error.expect_err("there is no repository");
    assert_eq!(error["errorType"], "branchline.NotFound", "{error}");
    assert!(stage.refs("demo").is_err(), "none was made");
    mapping["create"] = json!(true);
    // All branches and tags, unless others are named.
    assert_eq!(counts(&call(&stage, &mapping).await?)[0], 6);
    let described = json!({ "repositoryName": "demo" });
    let described = stage.codecommit("GetRepository", described).await?;
    let metadata = &described["repositoryMetadata"];
    assert_eq!(metadata["defaultBranch"], "side", "{metadata}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn refs_missing_at_the_source_are_deleted_only_with_prune() -> Result<()> {
    let stage = stage().await?;
    let repo = repository();
    let (server, to) = (GitServer::new(&repo), To::new(Kind::S3Dumb));
    let mut mapping = to.mapping(&server.url());
    mapping["prune"] = json!(false);
    call(&stage, &mapping).await?;
    repo.git(&["tag", "-d", "light"]);
    let before = repo.refs().lines().count() as u64;
    assert_eq!(counts(&call(&stage, &mapping).await?), [0, 0, 0, before]);
    mapping["prune"] = json!(true);
    assert_eq!(counts(&call(&stage, &mapping).await?), [0, 0, 1, before]);
    to.check(&stage, &repo).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_reported_in_the_servers_words_and_the_others_are_pushed() -> Result<()> {
    let stage = stage().await?;
    let repo = repository();
    let (server, to) = (GitServer::new(&repo), To::new(Kind::Https));
    let hook = to.repo.path.join("hooks/update");
    std::fs::create_dir_all(to.repo.path.join("hooks"))?;
    std::fs::write(&hook, "#!/bin/sh\ntest \"$1\" != refs/heads/side\n")?;
    std::fs::set_permissions(&hook, std::fs::Permissions::from_mode(0o755))?;
    let event = json!({ "mappings": [to.mapping(&server.url())] });
    let error = stage.call(MIGRATION, &event).await;
    let error = error.expect_err("a ref is refused");
    assert_eq!(error["errorType"], "branchline.Rejected", "{error}");
    let message = error["errorMessage"].as_str().unwrap_or_default();
    let words = "the target refused 1 refs: `refs/heads/side`: hook declined";
    assert!(message.contains(words), "{message}");
    let others = |refs: String| {
        let lines = refs.lines().map(str::to_owned);
        lines
            .filter(|line| !line.ends_with("/side"))
            .collect::<Vec<_>>()
    };
    assert_eq!(others(to.repo.refs()), others(repo.refs()));
    std::fs::remove_file(&hook)?;
    let mapping = &event["mappings"][0];
    assert_eq!(
        counts(&call(&stage, mapping).await?)[0],
        1,
        "the rest follows"
    );
    to.check(&stage, &repo).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trigger_carries_the_mapping_and_each_push_is_mirrored() -> Result<()> {
    let stage = stage().await?;
    stage.create_repository("demo").await?;
    let to = To::new(Kind::S3Dumb);
    let request = json!({ "mappings": [to.mapping("codecommit://demo")] });
    let trigger = json!({
        "name": "mirror",
        "destinationArn": stage.server.account().function_arn(MIGRATION),
        "customData": request.to_string(),
        "branches": [],
        "events": ["all"],
    });
    let input = json!({ "repositoryName": "demo", "triggers": [trigger] });
    stage.codecommit("PutRepositoryTriggers", input).await?;
    let repo = repository();
    for _ in 0..2 {
        stage.push(&repo.path, "demo", &["--mirror"]).await?;
        stage.wait_until_idle().await?;
        let letters = stage.server.queue().dead_letters();
        assert!(letters.is_empty(), "no event failed: {letters:?}");
        to.check(&stage, &repo).await?;
        repo.input(&["fast-import", "--quiet", "--force"], &history(30, 5, 10));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_mappings_are_completed_by_lambdas_retry() -> Result<()> {
    let stage = stage().await?;
    let (good, late) = (repository(), repository());
    let refused = AtomicUsize::new(0);
    let late_server = GitServer::with(&late, move |seen| {
        // The rule is asked twice for each request.
        if seen.target.contains("info/refs") && refused.fetch_add(1, Ordering::SeqCst) < 2 {
            return Response::Fixed(403, "text/plain", b"not yet".to_vec());
        }
        Response::Git
    });
    let good_server = GitServer::new(&good);
    let to = To::new(Kind::S3Dumb);
    let mut other = to.mapping(&good_server.url());
    other["target"] = json!(format!("s3://{BUCKET}/good.git"));
    let event = json!({ "mappings": [to.mapping(&late_server.url()), other] });
    let payload = event.to_string().into_bytes().into();
    stage.server.queue().submit(MIGRATION, &payload)?;
    stage.wait_until_idle().await?;
    let asked = late_server.requests();
    let refs = asked
        .iter()
        .filter(|seen| seen.target.contains("info/refs"));
    assert_eq!(
        refs.count(),
        2,
        "refused at first, and then asked again by Lambda"
    );
    assert!(stage.server.queue().dead_letters().is_empty());
    to.check(&stage, &late).await?;
    let asked = good_server.requests();
    let packs = asked.iter().filter(|seen| {
        let text = String::from_utf8_lossy(&seen.body);
        seen.method == "POST" && text.contains("want ")
    });
    assert_eq!(packs.count(), 1, "what had gone well is not done again");
    Ok(())
}

/// Authorization that the private server expects: `user` and `hunter2`.
const BASIC: &str = "Basic dXNlcjpodW50ZXIy";

/// A server that wants a user and a password.
pub(super) fn private(repo: &Repo) -> GitServer {
    GitServer::with(repo, |seen| {
        if seen.headers.get("authorization").map(String::as_str) == Some(BASIC) {
            Response::Git
        } else {
            Response::Fixed(401, "text/plain", b"who are you?".to_vec())
        }
    })
}

/// Bootstraps of which that of migration logs all there is.
fn talkative(folder: &Path) -> Result<()> {
    let programs = built_programs();
    for name in [UPDATE, LIFECYCLE] {
        symlink(programs.join(name), folder.join(name))?;
    }
    let path = folder.join(MIGRATION);
    let mut script = std::fs::File::create(&path)?;
    write!(
        script,
        "#!/bin/sh\nAWS_LAMBDA_LOG_FORMAT=JSON AWS_LAMBDA_LOG_LEVEL=TRACE exec '{}'\n",
        programs.join(MIGRATION).display()
    )?;
    script.set_permissions(std::fs::Permissions::from_mode(0o755))?;
    Ok(())
}

fn log(stage: &TestEnvironment) -> Result<String> {
    let path = stage.server.data().join("lambda/logs/migration.log");
    std::fs::read_to_string(&path).with_context(|| path.display().to_string())
}

/// "A password in a URL is refused, and never logged or returned."
#[tokio::test(flavor = "multi_thread")]
async fn a_password_in_a_url_is_refused_and_never_logged() -> Result<()> {
    let programs = tempfile::tempdir()?;
    talkative(programs.path())?;
    let stage = stage_with(Setup {
        bootstraps: programs.path().to_owned(),
        ..Setup::default()
    })
    .await?;
    let repo = repository();
    let server = private(&repo);
    let to = To::new(Kind::S3Dumb);
    let plain = server.url();
    let with = |user: &str| plain.replace("http://", &format!("http://{user}@"));
    let mut logged = String::new();
    for (url, kind, hint) in [
        (plain.clone(), "AccessDenied", "provide credentials"),
        (with("user:hunter2"), "InvalidEvent", "`credentials`"),
        (with("hunter2"), "InvalidEvent", "`credentials`"),
    ] {
        let event = json!({ "mappings": [to.mapping(&url)] });
        let error = stage.call(MIGRATION, &event).await;
        let error = error.expect_err("the server lets nobody in without a password");
        assert_eq!(error["errorType"], format!("branchline.{kind}"), "{error}");
        assert!(error.to_string().contains(hint), "{error}");
        logged += &error.to_string();
    }
    assert!(
        server
            .requests()
            .iter()
            .all(|seen| !seen.headers.contains_key("authorization")),
        "a refused password is not sent"
    );
    let no_list = json!({ "mappings": with("user:hunter2") });
    let error = stage.call(MIGRATION, &no_list).await;
    logged += &error.expect_err("the mappings are not a list").to_string();
    // A target that the function cannot read: nothing of it is repeated.
    let bad = json!({ "mappings": [to.mapping("https://user:hunter2@/r.git?x=hunter2")] });
    let error = stage.call(MIGRATION, &bad).await;
    logged += &error.expect_err("the text is not a URL").to_string();
    logged += &log(&stage)?;
    assert!(logged.contains(&plain), "the log names the target");
    for secret in ["hunter", "dXNlcjpodW50ZXI"] {
        assert!(!logged.contains(secret), "`{secret}` is logged: {logged}");
    }
    Ok(())
}

/// "A secret goes to the host that it names, and to no other."
#[tokio::test(flavor = "multi_thread")]
async fn a_private_server_is_logged_in_to_with_a_secret() -> Result<()> {
    let Some(moto) = Moto::start()? else {
        return Ok(());
    };
    let programs = tempfile::tempdir()?;
    talkative(programs.path())?;
    let endpoint = moto.endpoint();
    let stage = stage_with(Setup {
        bootstraps: programs.path().to_owned(),
        migration: Some(vec![
            ("AWS_ENDPOINT_URL_SECRETS_MANAGER", endpoint.clone()),
            ("AWS_ENDPOINT_URL_SSM", endpoint),
        ]),
        ..Setup::default()
    })
    .await?;
    let repo = repository();
    let server = private(&repo);
    let login = json!({
        "host": server.address().to_string(), "username": "user", "password": "hunter2",
    });
    let [secret, parameter] = moto.keep("git/login", &login.to_string())?;
    let [bare, _] = moto.keep("bare/login", "user:hunter2")?;
    // A server that accepts every password, so that it would learn one that it is sent.
    let evil = GitServer::new(&repo);
    for (arn, source, message) in [
        (&secret, &evil, "is for the host"),
        (&bare, &server, "is not a JSON object with `host`"),
    ] {
        let mut mapping = To::new(Kind::Https).mapping(&source.url());
        mapping["credentials"] = json!(arn);
        let event = json!({ "mappings": [mapping] });
        let error = stage.call(MIGRATION, &event).await;
        let error = error.expect_err("the secret does not fit the server");
        assert_eq!(error["errorType"], "branchline.Config", "{error}");
        assert!(error.to_string().contains(message), "{error}");
        assert!(
            error.to_string().contains(&source.address().to_string()),
            "{error}"
        );
        assert!(!error.to_string().contains("hunter2"), "{error}");
        assert_eq!(
            source.requests().len(),
            0,
            "a wrong secret opens no connection"
        );
    }
    for arn in [&secret, &parameter] {
        let to = To::new(Kind::Https);
        let mut mapping = to.mapping(&server.url());
        mapping["credentials"] = json!(arn);
        let answer = call(&stage, &mapping).await?;
        to.check(&stage, &repo).await?;
        assert!(!answer.to_string().contains("hunter2"));

        mapping["credentials"] = json!(arn.replace("login", "nobody"));
        let event = json!({ "mappings": [mapping] });
        let error = stage.call(MIGRATION, &event).await;
        let error = error.expect_err("there is no such secret");
        assert_eq!(error["errorType"], "branchline.NotFound", "{error}");
        assert!(error.to_string().contains("/nobody"), "{error}");
    }
    let log = log(&stage)?;
    assert!(!log.contains("hunter2") && !log.contains("dXNlcjpodW50ZXIy"));
    Ok(())
}

/// Memory of the function without `MIGRATION_MEMORY_MIB`, in MiB: the program, the TLS roots
/// and buffers of connections. A pack held as a whole would exceed the sum.
const BASE_MIB: u64 = 32;

/// A repository of one commit with 60 files of 1 MiB that no one can compress.
fn large() -> Repo {
    let repo = Repo::new(HashKind::Sha1);
    let mut stream =
        b"commit refs/heads/main\ncommitter C <c@x> 1600000000 +0000\ndata 0\n".to_vec();
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    for file in 0..60 {
        stream.extend(format!("M 100644 inline f{file}\ndata {}\n", 1 << 20).bytes());
        for _ in 0..(1 << 20) / 8 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            stream.extend(state.to_le_bytes());
        }
        stream.push(b'\n');
    }
    repo.input(&["fast-import", "--quiet"], &stream);
    repo
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_stays_within_what_is_allowed() -> Result<()> {
    let stage = stage_with(Setup {
        migration: Some(vec![("MIGRATION_MEMORY_MIB", "32".to_owned())]),
        timeout: std::time::Duration::from_mins(10),
        ..Setup::default()
    })
    .await?;
    let repo = large();
    let server = GitServer::new(&repo);
    let (bucket, https) = (To::new(Kind::S3Dumb), To::new(Kind::Https));
    for (to, from) in [(&bucket, server.url()), (&https, bucket.url())] {
        let event = json!({ "mappings": [to.mapping(&from)] });
        let run = stage.invoke(MIGRATION, &event).await?;
        to.check(&stage, &repo)
            .await
            .with_context(|| format!("{:?}", run.outcome))?;
        let peak = run.max_memory_bytes.context("the system tells it")? >> 20;
        eprintln!("{:?}: {peak} MiB at most", to.kind);
        assert!(peak <= 32 + BASE_MIB, "{peak} MiB for a pack of 60 MiB");
    }
    Ok(())
}
