//! `branchline lfs verify` and `branchline lfs repair`.

use anyhow::Result;
use branchline_core::git::HashKind;
use branchline_test_support::lfs_server::LfsServer;
use branchline_test_support::repo::Repo;
use serde_json::Value;

use super::super::environment::{Outcome, Terminal, url};
use super::stores::serve;
use super::{commit, content, delete, git_in, lfs_keys, put, repository, terminal};

async fn lfs(terminal: &Terminal, at: &str, words: &[&str]) -> Result<Outcome> {
    let words = [&["lfs"], words].concat();
    let mut command = terminal.command("branchline", &words);
    command.current_dir(terminal.path(at));
    terminal.wait_for(command).await
}

/// "LFS objects that are missing are found, and copied from elsewhere."
#[tokio::test]
async fn missing_and_wrong_objects_are_found_and_repaired() -> Result<()> {
    let Some(terminal) = terminal().await? else {
        return Ok(());
    };
    for layout in ["bundle", "dumb"] {
        let (url, work) = (url(layout), format!("work-{layout}"));
        terminal.init_remote(layout, &url).await?;
        repository(&terminal, &work, &url).await?;
        let ids = commit(&terminal, &work, &[("a.bin", 1000), ("b.bin", 2000)]).await?;
        let needed_by = git_in(&terminal, &work, &["rev-parse", "HEAD"]).await?;
        commit(&terminal, &work, &[("a.bin", 3000)]).await?;
        git_in(&terminal, &work, &["push", "--quiet", "origin", "main"]).await?;
        let said = lfs(&terminal, &work, &["verify", &url]).await?;
        assert_eq!(said.clone().done(), "");
        assert_eq!(said.stderr, "3 LFS objects: 0 missing, 0 wrong\n");

        let keys = lfs_keys(&terminal, &format!("team/{layout}"));
        let key = |id: &String| keys.iter().find(|key| key.ends_with(id.as_str()));
        let (first, second) = (key(&ids[0]).cloned(), key(&ids[1]).cloned());
        let (first, second) = (first.unwrap_or_default(), second.unwrap_or_default());
        delete(&terminal, &first)?;
        put(&terminal, &second, &content("wrong", 2000))?;
        let said = lfs(&terminal, &work, &["verify", "origin"]).await?;
        assert_eq!(said.status, Some(1), "{said:?}");
        let expected = format!(
            "missing {} (1000 bytes), needed by commit {needed_by} for `a.bin`\n",
            ids[0]
        );
        assert_eq!(said.stdout, expected);
        let words = ["verify", "--content", "--json", &url];
        let said = lfs(&terminal, ".", &words).await?;
        assert_eq!(said.status, Some(1), "{said:?}");
        let report: Value = serde_json::from_str(&said.stdout)?;
        assert_eq!(report["objects"], 3, "{report}");
        assert_eq!(report["missing"][0]["oid"], ids[0].as_str(), "{report}");
        assert_eq!(report["wrong"][0]["oid"], ids[1].as_str(), "{report}");
        assert_eq!(report["wrong"][0]["path"], "b.bin", "{report}");

        // From the repository in which the command runs.
        let said = lfs(&terminal, &work, &["repair", "--content", "origin"]).await?;
        assert_eq!(
            said.stderr,
            "3 LFS objects: 2 repaired, 0 missing, 0 wrong\n"
        );
        said.done();
        lfs(&terminal, ".", &["verify", "--content", &url])
            .await?
            .done();
        assert_eq!(lfs_keys(&terminal, &format!("team/{layout}")), keys);
    }
    Ok(())
}

#[tokio::test]
async fn objects_are_repaired_from_another_remote() -> Result<()> {
    let Some(terminal) = terminal().await? else {
        return Ok(());
    };
    let (url, copy) = (url("r"), url("copy"));
    repository(&terminal, "work", &url).await?;
    let ids = commit(&terminal, "work", &[("a.bin", 1000), ("b.bin", 6 << 20)]).await?;
    git_in(&terminal, "work", &["push", "--quiet", "origin", "main"]).await?;
    git_in(&terminal, "work", &["remote", "add", "copy", &copy]).await?;
    git_in(&terminal, "work", &["push", "--quiet", "copy", "main"]).await?;
    git_in(&terminal, "work", &["lfs", "push", "--all", "copy"]).await?;
    for id in &ids {
        delete(&terminal, &format!("team/r/lfs/{id}"))?;
    }
    let said = lfs(&terminal, "work", &["repair", "origin", "--from", "copy"]).await?;
    assert!(said.stderr.contains("2 repaired"), "{said:?}");
    said.done();

    // A git server that has one of the two.
    for id in &ids {
        delete(&terminal, &format!("team/r/lfs/{id}"))?;
    }
    let bytes = content("work/a.bin", 1000);
    let (repo, server) = (Repo::new(HashKind::Sha1), LfsServer::new(&[&bytes]));
    let git_server = serve(&repo, &server);
    let words = ["repair", &url, "--from", &git_server.url()];
    let said = lfs(&terminal, ".", &words).await?;
    assert_eq!(said.status, Some(3), "{said:?}");
    assert!(
        said.stdout.starts_with(&format!("missing {}", ids[1])),
        "{said:?}"
    );
    assert_eq!(
        lfs_keys(&terminal, "team/r"),
        [format!("team/r/lfs/{}", ids[0])]
    );
    let said = lfs(&terminal, ".", &words).await?;
    assert_eq!(said.status, Some(1), "nothing more is there: {said:?}");
    // The path of a repository.
    let words = ["repair", &url, "--from", "work"];
    lfs(&terminal, ".", &words).await?.done();
    Ok(())
}

#[tokio::test]
async fn repositories_that_cannot_be_checked_are_refused() -> Result<()> {
    let Some(terminal) = terminal().await? else {
        return Ok(());
    };
    repository(&terminal, "work", "https://host/r.git").await?;
    for (words, part) in [
        (&["verify", "/srv/r.git"][..], "/srv/r.git"),
        (&["verify", "codecommit://r"], "not one of S3"),
        (
            &["repair", "origin"],
            "cannot be copied to https://host/r.git/lfs",
        ),
        (&["verify", "absent"], "absent"),
        (&["verify", "s3://no-such-bucket/x"], "does not exist"),
        (&["verify", &url("nothing")], "does not exist"),
        (
            &["repair", &url("nothing"), "--from", "absent"],
            "does not exist",
        ),
    ] {
        let said = lfs(&terminal, "work", words).await?.failed(1);
        assert!(said.contains(part), "{words:?}: {said}");
    }
    Ok(())
}
