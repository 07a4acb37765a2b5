//! Migrations shared with the script that AWS documents for them
//! (`incremental-repo-migration.py`): each completes what the other started.
//!
//! The script is not in this repository because of its licence. A driver of plain git, written
//! from the known behaviour of the script, replaces it. The tests run the script itself too if
//! `BRANCHLINE_MIGRATION_SCRIPT` is the command that starts it, such as
//! `/tmp/venv/bin/python /tmp/incremental-repo-migration.py` (it needs `GitPython`).

use anyhow::{Result, bail};
use serde_json::json;

use super::batches_environment::{BatchEnvironment, TEMPORARY, empty, import, linear, merged};
use super::batches_peer::{Finish, Run, Script, scripts, tags_of};
use branchline_test_support::repo::Repo;

/// Makes histories, each with a batch size.
fn histories() -> Vec<(Repo, u64)> {
    vec![(linear(25), 10), (merged(), 4), (merged(), 6)]
}

#[test]
fn the_driver_tags_the_commits_that_the_script_is_known_to_tag() -> Result<()> {
    for (commits, most, expected) in [
        (3, 10, &[3][..]),
        (10, 10, &[10]),
        (11, 10, &[1, 11]),
        (20, 10, &[9, 20]),
        (21, 10, &[10, 21]),
        (22, 10, &[1, 11, 22]),
        (25, 10, &[3, 14, 25]),
        (45, 10, &[1, 12, 23, 34, 45]),
        (100, 20, &[16, 37, 58, 79, 100]),
    ] {
        let repo = linear(commits);
        let all = repo.git(&["rev-list", "--reverse", "main"]);
        let all: Vec<&str> = all.lines().collect();
        let expected: Vec<String> = (1..)
            .zip(expected)
            .map(|(number, at)| format!("{} {TEMPORARY}{number}", all[at - 1]))
            .collect();
        assert_eq!(tags_of(&repo.path, most)?, expected, "{commits} by {most}");
    }
    let repo = merged();
    let names = [
        ("m1", "main~9"),
        ("m5", "main~5"),
        ("s4", "side"),
        ("M1", "main~4"),
        ("m9", "main"),
        ("r2", "rel"),
    ];
    for (most, expected) in [
        (3, &["m1", "m5", "s4", "M1", "m9", "r2"][..]),
        (4, &["m1", "m5", "s4", "M1", "m9", "r2"]),
        (5, &["m5", "M1", "m9", "r2"]),
        (6, &["m5", "s4", "m9", "r2"]),
    ] {
        let tags = tags_of(&repo.path, most)?;
        let found: Vec<&str> = tags
            .iter()
            .filter_map(|line| {
                let id = line.split(' ').next()?;
                let known = names
                    .iter()
                    .find(|(_, at)| repo.git(&["rev-parse", at]) == id);
                Some(known?.0)
            })
            .collect();
        assert_eq!(found, expected, "batches of {most}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_migration_stopped_at_any_push_is_completed() -> Result<()> {
    for (source, commits) in histories() {
        let environment = BatchEnvironment::new(source).await?;
        for script in scripts() {
            let mut stopped = 0;
            loop {
                let target = format!("began-{}-{stopped}", matches!(script, Script::Driver));
                let run = Run::new(&environment, &script, &target, commits).await?;
                let finish = run.run(Some(stopped)).await?;
                if finish == Finish::Success {
                    break;
                }
                assert_eq!(
                    finish,
                    Finish::Stopped,
                    "before push {stopped} of {script:?}"
                );
                assert_eq!(environment.finish(&target, commits).await?, 1);
                environment.check(&target)?;
                stopped += 1;
            }
            let tags = tags_of(&environment.source.path, commits)?.len();
            assert!(
                stopped > tags,
                "the script must be stopped at each push: {stopped}"
            );
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_stopped_at_any_batch_is_completed_by_the_script() -> Result<()> {
    for (source, commits) in histories() {
        let tags = tags_of(&source.path, commits)?;
        let environment = BatchEnvironment::new(source).await?;
        for script in scripts() {
            for stopped in 0..=tags.len() {
                let target = format!("begun-{}-{stopped}", matches!(script, Script::Driver));
                environment.stop_after(stopped);
                let Err(error) = environment.migrate(&target, commits).await else {
                    assert_eq!(stopped, tags.len(), "the refs must be the last batch");
                    environment.check(&target)?;
                    environment.go_on();
                    break;
                };
                assert_eq!(error["errorType"], "branchline.AccessDenied", "{error}");
                assert_eq!(
                    environment.temporary(&target)?,
                    tags[..stopped],
                    "the tags must be the script's"
                );
                let run = Run::new(&environment, &script, &target, commits).await?;
                assert_eq!(run.run(None).await?, Finish::Success);
                environment.check(&target)?;
                environment.go_on();
            }
        }
    }
    Ok(())
}

/// Parts of batches have tags of their own, which the script deletes with its tags.
#[tokio::test(flavor = "multi_thread")]
async fn tags_of_batch_parts_are_deleted_when_the_script_completes() -> Result<()> {
    let source = empty();
    let table: Vec<(usize, &str, Vec<usize>)> = (1..=12)
        .map(|n| (n, "main", (1..n).last().into_iter().collect()))
        .collect();
    import(&source, &table, 30_000);
    source.git(&["tag", "light", "main~1"]);
    let environment = BatchEnvironment::new(source).await?;
    for (at, script) in scripts().iter().enumerate() {
        for clean in [false, true] {
            let target = format!("bytes-{at}-{clean}");
            environment.stop_after(6);
            let batch = json!({ "commits": 5, "bytes": 60_000 });
            let stopped = environment
                .call(&environment.mapping(&target), &batch)
                .await;
            stopped.expect_err("the source sends no more packs");
            environment.go_on();
            let tags = environment.temporary(&target)?;
            assert!(
                tags.iter().any(|tag| tag.contains("migration_part_")),
                "a batch must be split in halves: {tags:?}"
            );
            let run = Run::new(&environment, script, &target, 5).await?;
            if clean {
                run.clean().await?;
                assert_eq!(
                    environment.stage.refs(&target)?,
                    "",
                    "`-c` removes all of them"
                );
            } else {
                assert_eq!(run.run(None).await?, Finish::Success);
                environment.check(&target)?;
            }
        }
    }
    Ok(())
}

/// A repository without tags: the script cannot continue after its temporary tags.
#[tokio::test(flavor = "multi_thread")]
async fn a_script_migration_that_cannot_continue_is_completed() -> Result<()> {
    let source = linear(25);
    source.git(&["tag", "-d", "light"]);
    let all = tags_of(&source.path, 10)?;
    let environment = BatchEnvironment::new(source).await?;
    for (at, script) in scripts().iter().enumerate() {
        let target = format!("dead-{at}");
        let run = Run::new(&environment, script, &target, 10).await?;
        let pushes = all.len() + usize::from(matches!(script, Script::Driver));
        if let Script::Real(_) = script {
            // The first run pushes all tags; the next ones find no tag to push.
            assert_eq!(run.run(Some(pushes)).await?, Finish::Stopped);
            for _ in 0..2 {
                assert_eq!(
                    run.run(None).await?,
                    Finish::Failure,
                    "the script cannot continue"
                );
            }
        } else {
            assert_eq!(run.run(Some(pushes)).await?, Finish::Stopped);
        }
        assert_eq!(
            environment.temporary(&target)?,
            all,
            "the script's tags must be left"
        );
        let answer = environment.migrate(&target, 10).await;
        let answer = answer.map_err(|error| anyhow::anyhow!("{error}"))?;
        assert_eq!(answer["status"], "complete", "{answer}");
        assert_eq!(answer["objects"], 0, "no object is missing: {answer}");
        environment.check(&target)?;
    }
    Ok(())
}

/// The script's `-c` with nothing to clean is a bare `git push`.
#[tokio::test(flavor = "multi_thread")]
async fn cleaning_without_temporary_tags_changes_nothing() -> Result<()> {
    let environment = BatchEnvironment::new(linear(25)).await?;
    for (at, script) in scripts().iter().enumerate() {
        let target = format!("clean-{at}");
        let run = Run::new(&environment, script, &target, 10).await?;
        run.clean().await?;
        let mut mapping = environment.mapping(&target);
        mapping["clean"] = json!(true);
        let before = (
            environment.stage.refs(&target)?,
            environment.push_requests(),
        );
        let answer = environment.call(&mapping, &json!(null)).await;
        let Ok(answer) = answer else {
            bail!("there is nothing to be done: {answer:?}");
        };
        assert_eq!(answer["status"], "complete");
        assert_eq!(answer["refs"]["deleted"], 0);
        assert_eq!(environment.stage.refs(&target)?, before.0);
        assert_eq!(
            environment.push_requests(),
            before.1 + 1,
            "only the refs are read"
        );
        assert_eq!(environment.finish(&target, 10).await?, 1);
        environment.check(&target)?;
    }
    Ok(())
}
