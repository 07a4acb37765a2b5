//! Failures of transfers: the message, and the state that is left.

use anyhow::Result;
use branchline_dev::s3::policy::Policy;
use branchline_test_support::lfs_server::oid;

use super::super::environment::{BUCKET, url};
use super::super::full_disk::SmallDisk;
use super::{
    commit, content, delete, downloads, fault, files, git_in, lfs_keys, put, repository, terminal,
    try_git_in,
};

#[tokio::test]
async fn a_missing_object_is_named_with_the_commit_and_the_path_that_need_it() -> Result<()> {
    let Some(terminal) = terminal().await? else {
        return Ok(());
    };
    let url = url("r");
    repository(&terminal, "work", &url).await?;
    let ids = commit(&terminal, "work", &[("a.bin", 1000)]).await?;
    let needed_by = git_in(&terminal, "work", &["rev-parse", "HEAD"]).await?;
    commit(&terminal, "work", &[("b.bin", 1000)]).await?;
    git_in(&terminal, "work", &["push", "--quiet", "origin", "main"]).await?;
    delete(&terminal, &format!("team/r/lfs/{}", ids[0]))?;
    let said = terminal.git(&["clone", &url, "clone"]).await?.failed(128);
    let needed = format!(
        "s3://{BUCKET}/team/r/lfs does not have LFS object {}; commit {needed_by} needs it for \
         `a.bin`",
        ids[0]
    );
    assert!(said.contains(&needed), "{said}");
    assert!(
        said.contains("hint: push it by `git lfs push --all <remote>`"),
        "{said}"
    );
    // The other file arrived, and a push of the object completes the clone.
    git_in(&terminal, "work", &["lfs", "push", "--all", "origin"]).await?;
    git_in(&terminal, "clone", &["restore", "--source=HEAD", ":/"]).await?;
    let found = std::fs::read(terminal.path("clone/a.bin"))?;
    assert!(found == content("work/a.bin", 1000));
    Ok(())
}

#[tokio::test]
async fn content_that_does_not_match_its_id_is_neither_sent_nor_kept() -> Result<()> {
    let Some(terminal) = terminal().await? else {
        return Ok(());
    };
    let url = url("r");
    repository(&terminal, "work", &url).await?;
    for size in [1000, 6 << 20] {
        let ids = commit(&terminal, "work", &[("a.bin", size)]).await?;
        git_in(&terminal, "work", &["push", "--quiet", "origin", "main"]).await?;
        let key = format!("team/r/lfs/{}", ids[0]);
        for wrong in [content("other", size), content("work/a.bin", size - 1)] {
            put(&terminal, &key, &wrong)?;
            let _ = std::fs::remove_dir_all(terminal.path("clone"));
            let said = terminal.git(&["clone", &url, "clone"]).await?.failed(128);
            assert!(said.contains(&ids[0]), "{said}");
            let lfs = terminal.path("clone/.git/lfs");
            let left = [downloads(&lfs), files(&lfs.join("objects"))].concat();
            assert!(left.is_empty(), "{left:?}");
        }
        delete(&terminal, &key)?;
        // The local object is damaged, too.
        let (first, second) = (&ids[0][..2], &ids[0][2..4]);
        let local = format!("work/.git/lfs/objects/{first}/{second}/{}", ids[0]);
        std::fs::write(terminal.path(&local), content("other", size))?;
        let push = ["lfs", "push", "--object-id", "origin", &ids[0]];
        let said = try_git_in(&terminal, "work", &push).await?;
        assert_ne!(said.status, Some(0), "{said:?}");
        assert!(said.stderr.contains("SHA-256"), "{said:?}");
        assert!(!lfs_keys(&terminal, "team/r").contains(&key));
    }
    let uploads = terminal.server().store().uploads(BUCKET);
    assert!(uploads.is_ok_and(|uploads| uploads.is_empty()));
    Ok(())
}

#[tokio::test]
async fn a_key_that_starts_with_an_id_is_not_the_object() -> Result<()> {
    let Some(terminal) = terminal().await? else {
        return Ok(());
    };
    let url = url("r");
    repository(&terminal, "work", &url).await?;
    let id = oid(&content("work/a.bin", 1000));
    put(&terminal, &format!("team/r/lfs/{id}0"), b"other")?;
    commit(&terminal, "work", &[("a.bin", 1000)]).await?;
    git_in(&terminal, "work", &["push", "--quiet", "origin", "main"]).await?;
    let keys = lfs_keys(&terminal, "team/r");
    assert!(keys.contains(&format!("team/r/lfs/{id}")), "{keys:?}");
    // A part of the object, which another program left, is replaced.
    put(&terminal, &format!("team/r/lfs/{id}"), b"part")?;
    git_in(&terminal, "work", &["lfs", "push", "--all", "origin"]).await?;
    terminal
        .git(&["clone", "--quiet", &url, "clone"])
        .await?
        .done();
    Ok(())
}

#[tokio::test]
async fn transfers_need_no_permission_to_list_the_bucket() -> Result<()> {
    let Some(terminal) = terminal().await? else {
        return Ok(());
    };
    let url = url("r");
    repository(&terminal, "work", &url).await?;
    let ids = commit(&terminal, "work", &[("a.bin", 1000), ("b.bin", 6 << 20)]).await?;
    git_in(&terminal, "work", &["push", "--quiet", "origin", "main"]).await?;
    terminal
        .git(&["clone", "--quiet", &url, "clone"])
        .await?
        .done();
    for id in &ids {
        delete(&terminal, &format!("team/r/lfs/{id}"))?;
    }
    let deny = |action: &str, resource: &str| {
        let text = format!(
            r#"{{"Version":"2012-10-17","Statement":[{{"Effect":"Deny","Principal":"*","Action":"{action}","Resource":"arn:aws:s3:::{BUCKET}{resource}"}}]}}"#
        );
        Policy::parse(&text).map_err(|error| anyhow::anyhow!("{error}"))
    };
    let store = terminal.server().store().clone();
    store.set_policy(BUCKET, Some(deny("s3:ListBucket", "")?));
    git_in(&terminal, "work", &["lfs", "push", "--all", "origin"]).await?;
    assert_eq!(lfs_keys(&terminal, "team/r").len(), 2);
    std::fs::remove_dir_all(terminal.path("clone/.git/lfs"))?;
    git_in(&terminal, "clone", &["lfs", "fetch", "--all"]).await?;
    // A missing object looks like one that may not be read.
    delete(&terminal, &format!("team/r/lfs/{}", ids[0]))?;
    std::fs::remove_dir_all(terminal.path("clone/.git/lfs"))?;
    let said = try_git_in(&terminal, "clone", &["lfs", "fetch", "--all"]).await?;
    assert_ne!(said.status, Some(0), "{said:?}");
    let said = said.stderr;
    assert!(said.contains("or does not have it; commit "), "{said}");
    assert!(
        said.contains(&ids[0]) && said.contains("s3:ListBucket"),
        "{said}"
    );

    store.set_policy(BUCKET, Some(deny("s3:PutObject", "/*")?));
    let said = try_git_in(&terminal, "work", &["lfs", "push", "--all", "origin"]).await?;
    assert_ne!(said.status, Some(0), "{said:?}");
    let said = said.stderr;
    assert!(
        said.contains("s3:PutObject") || said.contains("AccessDenied"),
        "{said}"
    );
    Ok(())
}

#[tokio::test]
async fn failures_of_the_network_are_retried() -> Result<()> {
    let Some(terminal) = terminal().await? else {
        return Ok(());
    };
    let url = url("r");
    repository(&terminal, "work", &url).await?;
    commit(&terminal, "work", &[("a.bin", 1000), ("b.bin", 6 << 20)]).await?;
    git_in(&terminal, "work", &["push", "--quiet", "origin", "main"]).await?;
    for key in lfs_keys(&terminal, "team/r") {
        delete(&terminal, &key)?;
    }
    for rule in [
        "s3:drop,every=7",
        "s3:error,every=11",
        "s3:lose-answer,every=13",
    ] {
        fault(&terminal, rule)?;
    }
    git_in(&terminal, "work", &["lfs", "push", "--all", "origin"]).await?;
    terminal.server().faults().clear();
    assert_eq!(lfs_keys(&terminal, "team/r").len(), 2);
    terminal
        .git(&["clone", "--quiet", &url, "clone"])
        .await?
        .done();
    std::fs::remove_dir_all(terminal.path("clone/.git/lfs"))?;
    for rule in ["s3/GetObject:cut,every=3", "s3/GetObject:throttle,every=4"] {
        fault(&terminal, rule)?;
    }
    git_in(&terminal, "clone", &["lfs", "fetch", "--all"]).await?;
    git_in(&terminal, "clone", &["lfs", "fsck"]).await?;
    Ok(())
}

#[tokio::test]
async fn failures_of_the_whole_store_are_one_message_with_a_hint() -> Result<()> {
    let Some(mut terminal) = terminal().await? else {
        return Ok(());
    };
    let url = url("r");
    repository(&terminal, "work", &url).await?;
    commit(&terminal, "work", &[("a.bin", 1000)]).await?;
    git_in(&terminal, "work", &["push", "--quiet", "origin", "main"]).await?;
    let push = ["lfs", "push", "--all", "origin"];
    for (name, value, part) in [
        (
            "AWS_SECRET_ACCESS_KEY",
            Some("wrong"),
            "does not accept the credentials",
        ),
        ("AWS_ACCESS_KEY_ID", None, "no usable AWS credentials"),
    ] {
        terminal.set(name, value);
        let said = try_git_in(&terminal, "work", &push).await?;
        assert_ne!(said.status, Some(0), "{said:?}");
        assert!(
            said.stderr.contains(part) && said.stderr.contains("hint: "),
            "{said:?}"
        );
        assert!(!said.stderr.contains("wrong"), "{said:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_full_disk_is_reported_and_leaves_nothing() -> Result<()> {
    let Some(terminal) = terminal().await? else {
        return Ok(());
    };
    let url = url("r");
    repository(&terminal, "work", &url).await?;
    commit(&terminal, "work", &[("a.bin", 6 << 20)]).await?;
    git_in(&terminal, "work", &["push", "--quiet", "origin", "main"]).await?;
    let clone = ["clone", "--quiet", "--no-checkout", &url, "clone"];
    terminal.git(&clone).await?.done();
    let small = SmallDisk {
        mount_point: "clone/.git/lfs",
        size: "3m",
        listed: &["clone/.git/lfs/tmp", "clone/.git/lfs/incomplete"],
    };
    let fetch = ["-C", "clone", "lfs", "fetch"];
    let Some(fetched) = small.git(&terminal, &fetch).await? else {
        return Ok(());
    };
    assert_ne!(fetched.status, Some(0), "{fetched:?}");
    assert!(
        fetched.stderr.contains("No space left on device"),
        "{fetched:?}"
    );
    // git-lfs has files of its own there, with shorter names.
    let names = fetched
        .stdout
        .lines()
        .filter_map(|path| path.rsplit('/').next());
    let parts: Vec<&str> = names.filter(|name| name.len() >= 16).collect();
    assert!(parts.is_empty(), "no part of the object is left: {parts:?}");
    git_in(&terminal, "clone", &["lfs", "fetch"]).await?;
    Ok(())
}
