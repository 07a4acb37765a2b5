//! `protect`, `unprotect`, `delete-branch`, `set-head` and `gc`.

use anyhow::Result;
use branchline_test_support::git;
use serde_json::Value;

use super::doctor::Damaged;
use super::environment::{BUCKET, Terminal, url};

async fn remote(terminal: &Terminal, arguments: &[&str]) -> Result<Value> {
    let arguments = [&["remote"], arguments, &["--json"]].concat();
    let printed = terminal.run("branchline", &arguments).await?.done();
    Ok(serde_json::from_str(&printed)?)
}

async fn refused(terminal: &Terminal, arguments: &[&str]) -> Result<String> {
    let arguments = [&["remote"], arguments].concat();
    let said = terminal.run("branchline", &arguments).await?.failed(1);
    assert!(
        said.contains("hint: ") || said.contains("remove its protection"),
        "{said}"
    );
    Ok(said)
}

#[tokio::test]
async fn a_protected_branch_is_neither_forced_nor_deleted_until_it_is_unprotected() -> Result<()> {
    let damaged = Damaged::start().await?;
    let (terminal, url) = (&damaged.terminal, &url("r"));
    terminal.push(url, &["main", "side"]).await?.done();
    for result in ["protected", "unchanged"] {
        let report = remote(terminal, &["protect", url, "side"]).await?;
        assert_eq!(report["result"], result, "{report}");
        assert_eq!(report["ref"], "refs/heads/side", "{report}");
    }
    assert!(
        damaged
            .keys()
            .contains(&"refs/heads/side/PROTECTED#".to_owned())
    );
    let forced = terminal.push(url, &["+main~3:side"]).await?.failed(1);
    assert!(forced.contains("protected"), "{forced}");
    let said = refused(terminal, &["delete-branch", url, "side"]).await?;
    assert!(said.contains("protected"), "{said}");
    for result in ["unprotected", "unchanged"] {
        let report = remote(terminal, &["unprotect", url, "side"]).await?;
        assert_eq!(report["result"], result, "{report}");
    }
    let report = remote(terminal, &["delete-branch", url, "side"]).await?;
    assert_eq!(report["result"], "deleted", "{report}");
    assert!(!damaged.keys().iter().any(|key| key.contains("/side/")));
    for command in ["protect", "unprotect", "delete-branch", "set-head"] {
        let said = refused(terminal, &[command, url, "side"]).await?;
        assert!(
            said.contains("`refs/heads/side` does not exist"),
            "{command}: {said}"
        );
    }
    let said = refused(terminal, &["protect", url, "a..b"]).await?;
    assert!(said.contains("not a name of a branch"), "{said}");
    Ok(())
}

#[tokio::test]
async fn the_branch_of_head_is_changed_and_only_then_deleted_in_each_layout() -> Result<()> {
    for layout in ["bundle", "dumb"] {
        let damaged = Damaged::start().await?;
        let (terminal, url) = (&damaged.terminal, &url("r"));
        let setting = format!("branchline.layout={layout}");
        let push = ["-C", "work", "-c", &setting, "push", url, "main", "side"];
        terminal.git(&push).await?.done();
        let said = refused(terminal, &["delete-branch", url, "main"]).await?;
        assert!(said.contains("set-head"), "{layout}: {said}");
        for result in ["head", "unchanged"] {
            let report = remote(terminal, &["set-head", url, "side"]).await?;
            assert_eq!(report["result"], result, "{layout}: {report}");
        }
        remote(terminal, &["delete-branch", url, "main"]).await?;
        terminal
            .git(&["clone", "--quiet", url, "clone"])
            .await?
            .done();
        let head = git::git(&terminal.path("clone"), ["symbolic-ref", "HEAD"])?;
        assert_eq!(head, "refs/heads/side", "{layout}");
        let doctor = damaged.doctor(&[], 0).await?;
        assert_eq!(doctor["layout"], layout);
        if layout == "dumb" {
            let said = refused(terminal, &["protect", url, "side"]).await?;
            assert!(said.contains("has no protected branches"), "{said}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn git_s3_deletes_a_branch_only_after_a_yes() -> Result<()> {
    let damaged = Damaged::start().await?;
    let terminal = &damaged.terminal;
    terminal.push(&url("r"), &["main", "side"]).await?.done();
    let add = ["-C", "work", "remote", "add", "origin", &url("r")];
    terminal.git(&add).await?.done();
    for (answer, is_left) in [(&b""[..], true), (b"y\n", true), (b"yes\n", false)] {
        let arguments = ["-C", "work", "s3", "delete-branch", "origin", "side"];
        let mut command = terminal.command("git", &arguments);
        let run = tokio::task::spawn_blocking(move || git::output(&mut command, answer));
        let output = run.await??;
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let keys = damaged.keys();
        let is_there = keys.iter().any(|key| key.contains("/side/"));
        assert_eq!(is_there, is_left, "{answer:?}: {keys:?}");
    }
    let again = [
        "-C",
        "work",
        "s3",
        "delete-branch",
        "--yes",
        "origin",
        "side",
    ];
    terminal.git(&again).await?.failed(1);
    Ok(())
}

#[tokio::test]
async fn packs_are_merged_into_one_and_leftovers_deleted() -> Result<()> {
    let damaged = Damaged::start().await?;
    let (terminal, url) = (&damaged.terminal, &url("r"));
    for expected in ["created", "unchanged"] {
        let report = remote(terminal, &["init", "--layout", "dumb", url]).await?;
        assert_eq!(report["result"], expected, "{report}");
    }
    for commit in ["main~3", "main~2", "main~1", "side", "main"] {
        let refspec = format!("{commit}:refs/heads/{}", commit.replace('~', "-"));
        terminal.push(url, &[&refspec]).await?.done();
    }
    remote(terminal, &["set-head", url, "main"]).await?;
    let expected = damaged.cloned("before").await?;
    damaged.put("objects/pack/tmp_pack_0123", b"left by a killed push")?;
    let report = remote(terminal, &["gc", url]).await?;
    assert_eq!(
        (&report["packs"], &report["leftovers"]),
        (&1.into(), &0.into()),
        "{report}"
    );
    assert!(report["merged_packs"].as_u64() > Some(1), "{report}");
    let report = remote(terminal, &["gc", "--all", url]).await?;
    assert_eq!(
        (&report["merged_packs"], &report["leftovers"]),
        (&0.into(), &1.into())
    );
    assert_eq!(damaged.cloned("after").await?, expected);
    // Over plain HTTP, too.
    let store = terminal.server().store();
    store.set_public_access(BUCKET, branchline_dev::s3::store::PublicAccess::ReadAndList);
    let over_http = format!("{}/{BUCKET}/team/r", terminal.server().endpoint());
    terminal
        .git(&["clone", "--quiet", &over_http, "over-http"])
        .await?
        .done();
    git::git(&terminal.path("over-http"), ["fsck", "--strict"])?;
    // And pushes go on.
    git::commit(&terminal.path("work"), &[("new", "new")], "new")?;
    terminal.push(url, &["main"]).await?.done();
    assert_eq!(
        damaged.doctor(&[], 0).await?["problems"],
        serde_json::json!([])
    );
    damaged.cloned("later").await.map(drop)
}

#[tokio::test]
async fn a_branch_that_is_pushed_and_deleted_again_and_again_stays_complete() -> Result<()> {
    let damaged = Damaged::start().await?;
    let (terminal, url) = (&damaged.terminal, &url("r"));
    terminal.init_remote("dumb", url).await?;
    terminal
        .push(url, &["main~3:refs/heads/main"])
        .await?
        .done();
    // The objects are sent again each time, and merged packs equal earlier ones.
    for round in 0..5 {
        terminal.push(url, &["main:refs/heads/side"]).await?.done();
        let expected = damaged.cloned(&format!("clone-{round}")).await?;
        assert!(expected.contains("refs/heads/side "), "{expected}");
        remote(terminal, &["gc", url]).await?;
        assert_eq!(damaged.cloned(&format!("merged-{round}")).await?, expected);
        remote(terminal, &["delete-branch", url, "side"]).await?;
    }
    Ok(())
}

#[tokio::test]
async fn packs_that_killed_pushes_left_beside_bundles_are_deleted() -> Result<()> {
    let damaged = Damaged::start().await?;
    let (terminal, url) = (&damaged.terminal, &url("r"));
    terminal.push(url, &["main"]).await?.done();
    damaged.put("branchline/incoming-0123", b"left by a killed push")?;
    let report = remote(terminal, &["gc", url]).await?;
    assert_eq!(
        report["leftovers"], 0,
        "it may be that of a running push: {report}"
    );
    for expected in [1, 0] {
        let report = remote(terminal, &["gc", "--all", url]).await?;
        assert_eq!(report["leftovers"], expected, "{report}");
    }
    damaged.cloned("clone").await.map(drop)
}
