//! Reports of the migration function's real bootstrap: answers, logs and metrics of mappings that are
//! complete although something is missing, was forced or refused, and of those that ran out of time.

use std::collections::BTreeSet;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use branchline_core::git::HashKind;
use branchline_dev::faults::Rule;
use branchline_dev::s3::store::Query;
use branchline_test_support::git_server::{GitServer, Response};
use branchline_test_support::lfs_server::{LfsServer, oid};
use branchline_test_support::repo::Repo;
use branchline_tests::environment::{
    LIFECYCLE, MIGRATION, Setup, TestEnvironment, UPDATE, built_programs,
};
use serde_json::{Value, json};

/// The bucket of the mirrors.
const BUCKET: &str = "mirrors";

/// Starts the functions, of which migration logs in JSON.
async fn stage(folder: &Path, setup: Setup) -> Result<TestEnvironment> {
    let programs = built_programs();
    for name in [UPDATE, LIFECYCLE] {
        symlink(programs.join(name), folder.join(name))?;
    }
    let script = format!(
        "#!/bin/sh\nAWS_LAMBDA_LOG_FORMAT=JSON exec '{}'\n",
        programs.join(MIGRATION).display()
    );
    let path = folder.join(MIGRATION);
    std::fs::write(&path, script)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
    let stage = TestEnvironment::start(Setup {
        migration: Some(setup.migration.unwrap_or_default()),
        lifecycle: vec![("BRANCHES_EXCLUDE", "**".to_owned())],
        bootstraps: folder.to_owned(),
        ..setup
    })
    .await?;
    stage.create_public_bucket(BUCKET)?;
    Ok(stage)
}

async fn call(stage: &TestEnvironment, mapping: &Value) -> Result<Value> {
    let event = json!({ "mappings": [mapping] });
    let answer = stage.call(MIGRATION, &event).await;
    let answer = answer.map_err(|error| anyhow!("{error}"))?;
    Ok(answer["mappings"][0].clone())
}

/// The lines that migration has logged.
fn log(stage: &TestEnvironment) -> Result<Vec<Value>> {
    let path = stage.server.data().join("lambda/logs/migration.log");
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let lines = text.lines().map(serde_json::from_str);
    Ok(lines.collect::<Result<_, _>>()?)
}

/// The messages of warnings in the log.
fn warnings(stage: &TestEnvironment) -> Result<Vec<String>> {
    let lines = log(stage)?.into_iter();
    let warnings = lines.filter(|line| line["level"] == "WARN");
    let messages = warnings.filter_map(|line| Some(line["message"].as_str()?.to_owned()));
    Ok(messages.collect())
}

/// Values of a metric, one for each invocation.
fn metric(stage: &TestEnvironment, name: &str) -> Result<Vec<u64>> {
    let lines = log(stage)?.into_iter();
    let metrics = lines.filter(|line| line["_aws"].is_object());
    Ok(metrics.filter_map(|line| line[name].as_u64()).collect())
}

/// Serves a repository, and sends clients of LFS to another server.
fn serve(repo: &Repo, lfs: &LfsServer) -> GitServer {
    let base = lfs.base();
    GitServer::with(repo, move |seen| {
        if seen.target.contains("/info/lfs/") {
            Response::Redirect(307, format!("{base}{}", seen.target))
        } else {
            Response::Git
        }
    })
}

/// Adds a commit with pointers to LFS objects.
fn point(repo: &Repo, contents: &[Vec<u8>]) {
    let mut stream =
        String::from("commit refs/heads/main\ncommitter C <c@x> 1600000000 +0000\ndata 0\n");
    for (number, content) in contents.iter().enumerate() {
        let pointer = format!(
            "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize {}\n",
            oid(content),
            content.len()
        );
        let length = pointer.len();
        let file = format!("M 100644 inline large-{number}\ndata {length}\n{pointer}\n");
        stream += &file;
    }
    repo.input(&["fast-import", "--quiet", "--force"], stream.as_bytes());
}

/// "The answer counts and names it (`missing`), a metric and an alarm report it."
#[tokio::test(flavor = "multi_thread")]
async fn missing_lfs_objects_are_in_the_answer_and_in_the_metric() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let stage = stage(folder.path(), Setup::default()).await?;
    let repo = Repo::new(HashKind::Sha1);
    let contents: Vec<Vec<u8>> = (0..3).map(|n| vec![b'a' + n; 100]).collect();
    point(&repo, &contents);
    let lfs = LfsServer::new(&[&contents[0]]);
    let server = serve(&repo, &lfs);
    let mapping = json!({
        "source": server.url(), "target": format!("s3://{BUCKET}/x"), "layout": "dumb",
    });
    let mut missing: Vec<String> = contents[1..].iter().map(|content| oid(content)).collect();
    missing.sort();
    for objects in [1, 0] {
        let answer = call(&stage, &mapping).await?;
        assert_eq!(answer["status"], "complete", "{answer}");
        let counts = &answer["lfs"];
        assert_eq!(
            (&counts["objects"], &counts["missing"]),
            (&json!(objects), &json!(2))
        );
        assert_eq!(counts["missing_oids"], json!(missing), "{answer}");
    }
    lfs.put(&oid(&contents[1]), &contents[1]);
    lfs.put(&oid(&contents[2]), &contents[2]);
    let answer = call(&stage, &mapping).await?;
    assert_eq!(answer["lfs"]["objects"], 2, "{answer}");
    // Nothing is missing any more.
    assert_eq!(metric(&stage, "MissingLfsObjects")?, [2, 2]);

    // CodeCommit has no place for them.
    let target = "codecommit://demo";
    let mapping = json!({ "source": server.url(), "target": target, "create": true });
    let answer = call(&stage, &mapping).await?;
    assert_eq!(
        (&answer["lfs"]["left_out"], &answer["lfs"]["missing"]),
        (&json!(3), &json!(0))
    );
    let mut all: Vec<String> = contents.iter().map(|content| oid(content)).collect();
    all.sort();
    assert_eq!(answer["lfs"]["left_out_oids"], json!(all), "{answer}");
    assert_eq!(metric(&stage, "MissingLfsObjects")?, [2, 2]);
    Ok(())
}

/// "The log names both ids of each, and `warnings` in the answer of the first 20."
#[tokio::test(flavor = "multi_thread")]
async fn the_log_names_both_ids_of_every_forced_ref() -> Result<()> {
    const REFS: usize = 27;
    let folder = tempfile::tempdir()?;
    let stage = stage(folder.path(), Setup::default()).await?;
    let repo = Repo::with_history(HashKind::Sha1, 6, 2);
    let server = GitServer::new(&repo);
    let (old, new) = (repo.id("main~1").to_string(), repo.id("main~2").to_string());
    let set_all = |id: &str| {
        for number in 0..REFS {
            repo.git(&["update-ref", &format!("refs/heads/b/{number:02}"), id]);
        }
    };
    set_all(&old);
    let mapping = json!({
        "source": server.url(), "target": format!("s3://{BUCKET}/x"), "layout": "dumb",
        "refs": ["refs/heads/b/*"],
    });
    call(&stage, &mapping).await?;
    set_all(&new);
    let answer = call(&stage, &mapping).await?;
    assert_eq!(answer["status"], "complete", "{answer}");
    assert_eq!(answer["refs"]["forced"], REFS, "{answer}");
    let answered = answer["warnings"].as_array().context("it warns")?;
    assert_eq!(answered.len(), 21, "{answer}");
    assert_eq!(answered[20], "and 7 more refs like these");
    let logged = warnings(&stage)?;
    for number in 0..REFS {
        let name = format!("`refs/heads/b/{number:02}`");
        let lines: Vec<_> = logged.iter().filter(|line| line.contains(&name)).collect();
        let [line] = lines.as_slice() else {
            panic!("{name} is logged once: {logged:?}");
        };
        assert!(line.contains(&old) && line.contains(&new), "{line}");
    }
    Ok(())
}

/// "Names that git does not allow, in the list of a server, are left out and named in `warnings`."
#[tokio::test(flavor = "multi_thread")]
async fn a_mapping_with_illegal_ref_names_is_complete_and_names_them() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let stage = stage(folder.path(), Setup::default()).await?;
    let repo = Repo::with_history(HashKind::Sha1, 6, 2);
    let id = repo.id("main");
    let lines = [
        format!("{id} HEAD symref-target:refs/heads/main\n"),
        format!("{id} refs/heads/main\n"),
        format!("{id} refs/heads/a.lock\n"),
        format!("{id} refs/heads/../up\n"),
    ];
    let lines = lines
        .iter()
        .map(|line| format!("{:04x}{line}", line.len() + 4));
    let listed: String = lines.chain(["0000".to_owned()]).collect();
    let server = GitServer::with(&repo, move |seen| {
        let is_list = seen.body.windows(15).any(|word| word == b"command=ls-refs");
        if is_list {
            Response::Bytes(listed.clone().into_bytes())
        } else {
            Response::Git
        }
    });
    let mapping = json!({
        "source": server.url(), "target": format!("s3://{BUCKET}/x"), "layout": "dumb",
    });
    let answer = call(&stage, &mapping).await?;
    assert_eq!(answer["status"], "complete", "{answer}");
    assert_eq!(answer["refs"]["created"], 1, "{answer}");
    let told = answer["warnings"].to_string();
    let logged = warnings(&stage)?.join("\n");
    for text in [&told, &logged] {
        assert!(
            text.contains("lists 2 refs under names that git does not allow"),
            "{text}"
        );
        assert!(
            text.contains("refs/heads/a.lock") && text.contains("refs/heads/../up"),
            "{text}"
        );
    }
    Ok(())
}

/// "A branch that is not deleted because it is the default branch is counted in `rejected` and named in
/// `warnings`; the mapping does not fail."
#[tokio::test(flavor = "multi_thread")]
async fn a_git_server_that_keeps_its_default_branch_does_not_fail_the_mapping() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let stage = stage(folder.path(), Setup::default()).await?;
    let repo = Repo::with_history(HashKind::Sha1, 6, 2);
    let (copy, from) = (Repo::new(HashKind::Sha1), GitServer::new(&repo));
    copy.git(&["symbolic-ref", "HEAD", "refs/heads/main"]);
    let to = GitServer::new(&copy);
    let mapping = json!({ "source": from.url(), "target": to.url(), "prune": true });
    call(&stage, &mapping).await?;
    let main = repo.id("main").to_string();
    repo.git(&["update-ref", "refs/heads/trunk", &main]);
    repo.git(&["symbolic-ref", "HEAD", "refs/heads/trunk"]);
    repo.git(&["update-ref", "-d", "refs/heads/main"]);
    // Git's own default is `receive.denyDeleteCurrent=refuse`.
    for created in [1, 0] {
        let pushes = || {
            let requests = to.requests().into_iter();
            requests.filter(|seen| seen.method == "POST").count()
        };
        let before = pushes();
        let answer = call(&stage, &mapping).await?;
        assert_eq!(answer["status"], "complete", "{answer}");
        let refs = &answer["refs"];
        assert_eq!(
            (&refs["created"], &refs["deleted"], &refs["rejected"]),
            (&json!(created), &json!(0), &json!(1)),
            "{answer}"
        );
        let told = answer["warnings"].to_string();
        assert!(told.contains("`refs/heads/main` was not deleted"), "{told}");
        assert!(told.contains("make another one the default"), "{told}");
        assert!(pushes() - before <= 2, "a refusal is not tried again");
    }
    copy.fsck();
    Ok(())
}

/// A server's own `ERR` line is shown, and one that is definite is not tried again.
#[tokio::test(flavor = "multi_thread")]
async fn a_servers_error_line_is_shown_and_a_definite_one_is_not_tried_again() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let stage = stage(folder.path(), Setup::default()).await?;
    let repo = Repo::with_history(HashKind::Sha1, 2, 2);
    for (words, kind, tries) in [
        (
            "access denied or repository not exported: /x",
            "AccessDenied",
            1,
        ),
        ("Repository not found.", "NotFound", 1),
        ("come back after the maintenance", "Transport", 5),
    ] {
        let line = format!("ERR {words}\n");
        let body = format!("{:04x}{line}", line.len() + 4).into_bytes();
        let server = GitServer::with(&repo, move |_| Response::Bytes(body.clone()));
        let mapping = json!({
            "source": server.url(), "target": format!("s3://{BUCKET}/x"), "layout": "dumb",
        });
        let event = json!({ "mappings": [mapping] });
        let error = stage.call(MIGRATION, &event).await.err();
        let error = error.context("the server refuses")?;
        assert_eq!(error["errorType"], format!("branchline.{kind}"), "{error}");
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!(server.requests().len(), tries, "{words}");
    }
    Ok(())
}

/// The keys of locks in the bucket.
fn locks(stage: &TestEnvironment) -> Result<BTreeSet<String>> {
    let page = stage.server.store().bucket(BUCKET)?.list(&Query {
        limit: 10_000,
        ..Query::default()
    });
    let keys = page.versions.into_iter().map(|found| found.key);
    Ok(keys.filter(|key| key.contains("LOCK#")).collect())
}

/// "`incomplete` means that the function ran out of time, and holds no lock."
#[tokio::test(flavor = "multi_thread")]
async fn an_incomplete_run_holds_no_lock() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let stage = stage(
        folder.path(),
        Setup {
            migration: Some(vec![("DEADLINE_MARGIN_SECONDS", "4".to_owned())]),
            timeout: Duration::from_secs(6),
            ..Setup::default()
        },
    )
    .await?;
    let repo = Repo::with_history(HashKind::Sha1, 6, 2);
    for number in 0..60 {
        repo.git(&["update-ref", &format!("refs/heads/b/{number:02}"), "main~1"]);
    }
    let server = GitServer::new(&repo);
    let mapping = json!({
        "source": server.url(), "target": format!("s3://{BUCKET}/x"), "layout": "bundle",
    });
    let slow = "s3:latency,ms=400"
        .parse::<Rule>()
        .map_err(|why| anyhow!("{why}"))?;
    stage.server.faults().add(slow);
    let event = json!({ "mappings": [mapping] });
    let mut incomplete = 0;
    for _ in 0..12 {
        // Under load, the margin may not suffice: then the answer is an error.
        if let Ok(answer) = stage.call(MIGRATION, &event).await
            && answer["status"] == "incomplete"
        {
            incomplete += 1;
            let held = locks(&stage)?;
            ensure!(held.is_empty(), "{held:?}");
        }
        if incomplete == 2 {
            break;
        }
    }
    ensure!(
        incomplete > 0,
        "a run of two seconds ends before 61 refs are written"
    );
    Ok(())
}
