//! Long histories pushed to CodeCommit in batches, by the migration function's real bootstrap.

use std::fmt::Write as _;

use anyhow::{Context as _, Result, ensure};
use branchline_core::git::HashKind;
use branchline_test_support::git;
use serde_json::{Value, json};

use super::batches_environment::{BatchEnvironment, empty, import, linear, merged};
use branchline_test_support::repo::Repo;

/// Returns `created`, `updated`, `deleted`, `unchanged` of a complete mapping.
fn counts(answer: &Value) -> [u64; 4] {
    assert_eq!(answer["status"], "complete", "{answer}");
    let refs = &answer["refs"];
    assert_eq!(refs["rejected"], 0, "{answer}");
    ["created", "updated", "deleted", "unchanged"].map(|name| refs[name].as_u64().unwrap_or(99))
}

async fn call(environment: &BatchEnvironment, mapping: &Value, batch: &Value) -> Result<Value> {
    let answer = environment.call(mapping, batch).await;
    answer.map_err(|error| anyhow::anyhow!("migration failed: {error}"))
}

/// "Long histories go to CodeCommit in batches, each a push under a temporary tag"
#[tokio::test(flavor = "multi_thread")]
async fn each_batch_is_a_push_and_no_tag_is_left() -> Result<()> {
    let environment = BatchEnvironment::new(linear(45)).await?;
    for filters in ["true", "false"] {
        environment
            .source
            .git(&["config", "uploadpack.allowFilter", filters]);
        let target = format!("filters-{filters}");
        let before = (
            environment.push_requests(),
            environment.server.requests().len(),
        );
        let answer = call(
            &environment,
            &environment.mapping(&target),
            &json!({ "commits": 10 }),
        )
        .await?;
        assert_eq!(counts(&answer), [2, 0, 0, 0]);
        let objects = environment.source.objects().len();
        assert_eq!(
            answer["objects"],
            json!(objects),
            "each object must be sent once"
        );
        environment.check(&target)?;
        // Reading refs, five tags, and the refs, with which the tags are deleted.
        let pushes = environment.push_requests() - before.0;
        // The second target may have been opened early, at its predicted URL, before
        // GetRepository reported it missing.
        let guessed = u64::from(filters == "false");
        assert!((7..=7 + guessed).contains(&pushes), "{pushes} requests");
        // Refs in two requests, the history once, a pack for each batch, and one for `light`,
        // which is not the end of a batch.
        assert_eq!(
            environment.server.requests().len() - before.1,
            2 + 1 + 5 + 1
        );

        let before = environment.push_requests();
        let answer = call(
            &environment,
            &environment.mapping(&target),
            &json!({ "commits": 10 }),
        )
        .await?;
        assert_eq!(counts(&answer), [0, 0, 0, 2]);
        assert_eq!(
            environment.push_requests() - before,
            1,
            "without a difference only the refs are read"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn merges_tags_of_all_kinds_and_notes_are_migrated() -> Result<()> {
    let environment = BatchEnvironment::new(merged()).await?;
    environment
        .source
        .git(&["symbolic-ref", "HEAD", "refs/heads/rel"]);
    for commits in [1, 3, 6, 100] {
        let target = format!("by-{commits}");
        let mut mapping = environment.mapping(&target);
        mapping["refs"] = json!(["refs/heads/*", "refs/tags/*"]);
        let batch = json!({ "commits": commits });
        let answer = call(&environment, &mapping, &batch).await?;
        assert_eq!(counts(&answer), [8, 0, 0, 0]);
        environment.check(&target)?;
        mapping["refs"] = json!(["refs/*"]);
        let answer = call(&environment, &mapping, &batch).await?;
        assert_eq!(counts(&answer), [1, 0, 0, 8], "notes on request");
        environment.check_refs(&target, &["refs/"])?;
        let input = json!({ "repositoryName": target });
        let described = environment.stage.codecommit("GetRepository", input).await?;
        assert_eq!(described["repositoryMetadata"]["defaultBranch"], "rel");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_history_that_only_a_tag_reaches_is_pushed_in_batches() -> Result<()> {
    let source = linear(40);
    source.git(&["tag", "-a", "old", "-m", "old", "main"]);
    source.git(&["update-ref", "refs/heads/main", "main~38"]);
    let environment = BatchEnvironment::new(source).await?;
    environment.stop_after(2);
    let stopped = environment.migrate("target", 10).await;
    stopped.expect_err("the source sends no more packs");
    assert_eq!(
        environment.temporary("target")?.len(),
        2,
        "the first tag is of a batch of `main`"
    );
    environment.go_on();
    assert_eq!(environment.finish("target", 10).await?, 1);
    environment.check("target")
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_stay_within_their_bytes() -> Result<()> {
    let source = empty();
    let table: Vec<(usize, &str, Vec<usize>)> = (1..=12)
        .map(|n| (n, "main", (1..n).last().into_iter().collect()))
        .collect();
    import(&source, &table, 40_000);
    source.git(&["tag", "-a", "v1", "-m", "one", "main~2"]);
    let environment = BatchEnvironment::new(source).await?;
    for filters in ["true", "false"] {
        environment
            .source
            .git(&["config", "uploadpack.allowFilter", filters]);
        // One batch by its commits, several, and a single commit that is too large.
        for (commits, bytes) in [(100, 100_000), (5, 100_000), (5, 10)] {
            let target = format!("bytes-{filters}-{commits}-{bytes}");
            let batch = json!({ "commits": commits, "bytes": bytes });
            let before = environment.push_requests();
            let answer = call(&environment, &environment.mapping(&target), &batch).await?;
            assert_eq!(counts(&answer), [2, 0, 0, 0]);
            environment.check(&target)?;
            let pushes = environment.push_requests() - before;
            assert!(pushes > 1 + 4, "batches must be split: {pushes} requests");
        }
    }
    Ok(())
}

/// "at most 4000 references a push"
#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_refs_are_pushed_four_thousand_at_a_time() -> Result<()> {
    const MANY: usize = 4100;
    let environment = BatchEnvironment::new(linear(12)).await?;
    let source = &environment.source;
    let tip = source.git(&["rev-parse", "main"]);
    let mut create = String::new();
    for n in 0..MANY {
        writeln!(create, "create refs/heads/x/{n:04} {tip}")?;
    }
    source.input(&["update-ref", "--stdin"], create.as_bytes());
    let mut mapping = environment.mapping("target");
    let batch = json!({ "commits": 5 });
    let before = environment.push_requests();
    let answer = call(&environment, &mapping, &batch).await?;
    assert_eq!(counts(&answer), [MANY as u64 + 2, 0, 0, 0]);
    environment.check("target")?;
    // Reading refs, the batches at 1, 6 and 12, and two pushes of refs.
    assert_eq!(environment.push_requests() - before, 1 + 3 + 2);

    // A ref that conflicts with others and is deleted in an earlier push.
    let gone = create.replace("create", "delete");
    source.input(&["update-ref", "--stdin"], gone.as_bytes());
    let mut other = String::new();
    for n in 0..MANY {
        writeln!(other, "create refs/heads/x/{n:04}/y {tip}")?;
    }
    source.input(&["update-ref", "--stdin"], other.as_bytes());
    mapping["prune"] = json!(true);
    let before = environment.push_requests();
    let answer = call(&environment, &mapping, &batch).await?;
    assert_eq!(counts(&answer), [MANY as u64, 0, MANY as u64, 2]);
    environment.check("target")?;
    // Reading refs, two pushes of deletions, and two of creations.
    assert_eq!(environment.push_requests() - before, 1 + 2 + 2);

    source.input(
        &["update-ref", "--stdin"],
        other.replace("create", "delete").as_bytes(),
    );
    let answer = call(&environment, &mapping, &batch).await?;
    assert_eq!(counts(&answer), [0, 0, MANY as u64, 2]);
    environment.check("target")
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_temporary_tags_are_deleted_four_thousand_at_a_time() -> Result<()> {
    const MANY: u64 = 4100;
    let environment = BatchEnvironment::new(linear(12)).await?;
    environment.stage.create_repository("target").await?;
    environment
        .stage
        .push(&environment.source.path, "target", &["main", "light"])
        .await?;
    let place = environment
        .stage
        .server
        .codecommit()
        .repository_dir("target");
    let place = place.context("the repository is missing")?;
    let target = Repo {
        dir: None,
        path: place,
        hash: HashKind::Sha1,
    };
    let tip = environment.source.git(&["rev-parse", "main"]);
    let mut create = String::new();
    for n in 1..=MANY {
        writeln!(create, "create refs/tags/codecommit_migration_{n} {tip}")?;
    }
    target.input(&["update-ref", "--stdin"], create.as_bytes());
    let mut mapping = environment.mapping("target");
    mapping["clean"] = json!(true);
    let before = environment.push_requests();
    let answer = call(&environment, &mapping, &json!(null)).await?;
    assert_eq!(counts(&answer), [0, 0, MANY, 0]);
    assert_eq!(environment.push_requests() - before, 1 + 2);
    environment.check("target")?;

    target.input(&["update-ref", "--stdin"], create.as_bytes());
    let answer = call(&environment, &environment.mapping("target"), &json!(null)).await?;
    assert_eq!(
        counts(&answer),
        [0, 0, 0, 2],
        "they are not refs of the source"
    );
    environment.check("target")
}

/// Objects reachable from other refs of the target are not sent again.
#[tokio::test(flavor = "multi_thread")]
async fn a_target_with_a_part_of_the_history_receives_the_rest() -> Result<()> {
    let source = merged();
    // Objects of such tags are sent even if the target has them.
    source.git(&["tag", "-d", "tree", "blob"]);
    let environment = BatchEnvironment::new(source).await?;
    let source = &environment.source;
    for (at, there) in [
        ("part-1", &["main~2:refs/heads/theirs"][..]),
        ("part-2", &["side:refs/heads/side", "main~8:refs/tags/old"]),
        ("part-3", &["v1:refs/tags/v1"]),
    ] {
        environment.stage.create_repository(at).await?;
        environment.stage.push(&source.path, at, there).await?;
        let before = environment.stage.refs(at)?;
        let had = environment.stage.server.codecommit().repository_dir(at);
        let objects = ["rev-list", "--objects", "--no-object-names", "--all"];
        let had = git::git(&had.context("the repository is missing")?, objects)?;
        let answer = call(
            &environment,
            &environment.mapping(at),
            &json!({ "commits": 3 }),
        )
        .await?;
        let branches_and_tags = [
            "rev-list",
            "--objects",
            "--no-object-names",
            "--branches",
            "--tags",
        ];
        let all = source.git(&branches_and_tags);
        let lacked = all.lines().filter(|id| !had.contains(id)).count();
        assert_eq!(
            answer["objects"],
            json!(lacked),
            "{at}: only missing objects may be sent"
        );
        assert!(environment.temporary(at)?.is_empty());
        for line in before.lines() {
            assert!(environment.stage.refs(at)?.contains(line), "{line} stays");
        }
        for line in source.refs().lines().filter(|line| !line.contains("notes")) {
            assert!(environment.stage.refs(at)?.contains(line), "{line} came");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_without_commits_or_branches_is_not_a_failure() -> Result<()> {
    // An empty source, then one with only a tag of a blob.
    let environment = BatchEnvironment::new(empty()).await?;
    let answer = call(
        &environment,
        &environment.mapping("none"),
        &json!({ "commits": 3 }),
    )
    .await?;
    assert_eq!(counts(&answer), [0, 0, 0, 0]);
    assert_eq!(
        environment.stage.refs("none")?,
        "",
        "the repository must be created"
    );
    let blob = environment
        .source
        .input(&["hash-object", "-w", "--stdin"], b"x");
    let blob = String::from_utf8(blob)?;
    environment.source.git(&["tag", "blob", blob.trim()]);
    environment
        .source
        .git(&["tag", "-a", "said", "-m", "said", blob.trim()]);
    let answer = call(
        &environment,
        &environment.mapping("none"),
        &json!({ "commits": 3 }),
    )
    .await?;
    assert_eq!(counts(&answer), [2, 0, 0, 0]);
    environment.check("none")
}

/// `HEAD` may name a commit instead of a branch, or a missing branch.
#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_does_not_name_a_branch_leaves_the_default_branch_unchanged() -> Result<()> {
    let environment = BatchEnvironment::new(merged()).await?;
    let tip = environment.source.git(&["rev-parse", "main~3"]);
    let head = environment.source.path.join("HEAD");
    for (target, text) in [
        ("detached", format!("{tip}\n")),
        ("unborn", "ref: refs/heads/nowhere\n".to_owned()),
    ] {
        std::fs::write(&head, text)?;
        let answer = call(
            &environment,
            &environment.mapping(target),
            &json!({ "commits": 3 }),
        )
        .await?;
        assert_eq!(counts(&answer), [8, 0, 0, 0]);
        environment.check(target)?;
        let input = json!({ "repositoryName": target });
        let described = environment.stage.codecommit("GetRepository", input).await?;
        let branch = &described["repositoryMetadata"]["defaultBranch"];
        assert_ne!(branch, "nowhere", "the default branch must exist");
    }
    Ok(())
}

/// A branch rewritten during a migration is migrated as it is at the next attempt.
#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_is_rewritten_meanwhile_is_read_again() -> Result<()> {
    let source = linear(25);
    source.git(&["tag", "-d", "light"]);
    let environment = BatchEnvironment::new(source).await?;
    environment.stop_after(1);
    environment
        .migrate("target", 10)
        .await
        .expect_err("the source stops");
    assert_eq!(environment.temporary("target")?.len(), 1);
    let source = &environment.source;
    let tree = source.git(&["rev-parse", "main^{tree}"]);
    let new = source.git(&["commit-tree", "-m", "new", "-p", "main~24", &tree]);
    source.git(&["update-ref", "refs/heads/main", &new]);
    source.git(&["reflog", "expire", "--expire=now", "--all"]);
    source.git(&["repack", "-adq"]);
    source.git(&["prune", "--expire=now"]);
    environment.go_on();
    assert_eq!(environment.finish("target", 10).await?, 1);
    ensure!(environment.stage.refs("target")? == format!("{new} refs/heads/main"));
    environment.check("target")
}
