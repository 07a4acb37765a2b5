//! git's and git-lfs's commands on a remote in S3.

use anyhow::Result;

use super::super::environment::{BUCKET, url};
use super::{
    commit, content, delete, downloads, git_in, lfs_keys, repository, terminal, try_git_in,
};

/// Size of an object that is sent in two parts.
const LARGE: usize = 6 << 20;

/// "LFS files are there after a clone, with no second step."
#[tokio::test]
async fn a_clone_has_its_lfs_files_with_no_second_step() -> Result<()> {
    let Some(terminal) = terminal().await? else {
        return Ok(());
    };
    let url = url("r");
    repository(&terminal, "work", &url).await?;
    let ids = commit(&terminal, "work", &[("a.bin", 1000), ("b.bin", LARGE)]).await?;
    // Nothing was set up before the push, either.
    git_in(&terminal, "work", &["push", "origin", "main"]).await?;
    let mut expected: Vec<_> = ids.iter().map(|id| format!("team/r/lfs/{id}")).collect();
    expected.sort();
    assert_eq!(
        lfs_keys(&terminal, "team/r"),
        expected,
        "the keys are awslabs'"
    );

    terminal.git(&["clone", &url, "clone"]).await?.done();
    for (name, size) in [("a.bin", 1000), ("b.bin", LARGE)] {
        let found = std::fs::read(terminal.path("clone").join(name))?;
        assert!(found == content(&format!("work/{name}"), size), "{name}");
    }
    git_in(&terminal, "clone", &["lfs", "fsck"]).await?;
    let alias = "https://lfs-alias.git-remote-s3.test/repositories/team/r";
    for (key, value) in [
        ("remote.origin.lfsurl", alias),
        ("lfs.customtransfer.git-lfs-s3.path", "git-lfs-s3"),
        (
            &format!("lfs.{alias}.standalonetransferagent"),
            "git-lfs-s3",
        ),
    ] {
        let found = git_in(&terminal, "clone", &["config", "--local", key]).await?;
        assert_eq!(found, value, "{key}");
    }
    // An agent for all remotes would take the objects of other remotes.
    let key = ["config", "lfs.standalonetransferagent"];
    try_git_in(&terminal, "clone", &key).await?.failed(1);

    for (name, option) in [
        ("shallow", "--depth=1"),
        ("partial", "--filter=blob:none"),
        ("renamed", "--origin=upstream"),
    ] {
        terminal.git(&["clone", option, &url, name]).await?.done();
        let found = std::fs::read(terminal.path(name).join("a.bin"))?;
        assert!(found == content("work/a.bin", 1000), "{name}");
    }

    // With an archive beside each ref.
    let zip = format!("s3+zip://{BUCKET}/team/zip");
    git_in(&terminal, "work", &["remote", "add", "zip", &zip]).await?;
    git_in(&terminal, "work", &["push", "--quiet", "zip", "main"]).await?;
    assert_eq!(lfs_keys(&terminal, "team/zip").len(), 2);
    terminal.git(&["clone", &zip, "zip"]).await?.done();
    let found = std::fs::read(terminal.path("zip/a.bin"))?;
    assert!(found == content("work/a.bin", 1000));
    Ok(())
}

#[tokio::test]
async fn fetch_pull_checkout_worktrees_and_transfers_of_everything_work() -> Result<()> {
    let Some(terminal) = terminal().await? else {
        return Ok(());
    };
    let url = url("r");
    repository(&terminal, "work", &url).await?;
    commit(&terminal, "work", &[("a.bin", 1000)]).await?;
    git_in(&terminal, "work", &["push", "--quiet", "origin", "main"]).await?;
    terminal.git(&["clone", &url, "clone"]).await?.done();
    let file = |at: &str, name: &str| std::fs::read(terminal.path(at).join(name));

    commit(&terminal, "work", &[("a.bin", 2000), ("b.bin", 10)]).await?;
    git_in(&terminal, "work", &["push", "--quiet", "origin", "main"]).await?;
    git_in(&terminal, "clone", &["pull", "--quiet"]).await?;
    assert!(file("clone", "a.bin")? == content("work/a.bin", 2000));
    git_in(&terminal, "clone", &["checkout", "--quiet", "HEAD~1"]).await?;
    assert!(file("clone", "a.bin")? == content("work/a.bin", 1000));

    // A worktree has the files, and pushes.
    let add = [
        "worktree",
        "add",
        "--quiet",
        "-b",
        "side",
        "../tree",
        "origin/main",
    ];
    git_in(&terminal, "clone", &add).await?;
    assert!(file("tree", "b.bin")? == content("work/b.bin", 10));
    let ids = commit(&terminal, "tree", &[("c.bin", 300)]).await?;
    git_in(&terminal, "tree", &["push", "--quiet", "origin", "side"]).await?;
    let key = format!("team/r/lfs/{}", ids[0]);
    assert!(lfs_keys(&terminal, "team/r").contains(&key));

    // The repository of another user has only what it checked out.
    terminal.git(&["clone", &url, "other"]).await?.done();
    git_in(&terminal, "other", &["lfs", "fetch", "--all"]).await?;
    let stored = super::files(&terminal.path("other/.git/lfs/objects"));
    assert_eq!(stored.len(), 4, "{stored:?}");
    git_in(&terminal, "other", &["lfs", "fsck"]).await?;

    // Everything that one clone has can be pushed again.
    let before = lfs_keys(&terminal, "team/r");
    for key in &before {
        delete(&terminal, key)?;
    }
    git_in(&terminal, "other", &["branch", "side", "origin/side"]).await?;
    git_in(&terminal, "other", &["lfs", "push", "--all", "origin"]).await?;
    assert_eq!(lfs_keys(&terminal, "team/r"), before);
    // By the URL in place of the remote's name.
    std::fs::remove_dir_all(terminal.path("other/.git/lfs"))?;
    terminal.run("branchline", &["install"]).await?.done();
    git_in(&terminal, "other", &["lfs", "fetch", "--all", &url]).await?;
    let stored = super::files(&terminal.path("other/.git/lfs/objects"));
    assert_eq!(stored.len(), 4, "{stored:?}");
    Ok(())
}

#[tokio::test]
async fn a_migrated_history_is_pushed_and_cloned() -> Result<()> {
    let Some(terminal) = terminal().await? else {
        return Ok(());
    };
    let url = url("r");
    terminal.repository("work", 4)?;
    let image = content("image", 5000);
    std::fs::write(terminal.path("work/image.png"), &image)?;
    git_in(&terminal, "work", &["add", "image.png"]).await?;
    git_in(&terminal, "work", &["commit", "--quiet", "--message=image"]).await?;
    git_in(&terminal, "work", &["remote", "add", "origin", &url]).await?;
    git_in(&terminal, "work", &["push", "--quiet", "origin", "main"]).await?;
    git_in(&terminal, "work", &["lfs", "install", "--local"]).await?;
    let migrate = [
        "lfs",
        "migrate",
        "import",
        "--everything",
        "--include=*.png",
        "--yes",
    ];
    git_in(&terminal, "work", &migrate).await?;
    git_in(
        &terminal,
        "work",
        &["push", "--quiet", "--force", "origin", "main"],
    )
    .await?;
    assert_eq!(lfs_keys(&terminal, "team/r").len(), 1);
    terminal.git(&["clone", &url, "clone"]).await?.done();
    assert!(std::fs::read(terminal.path("clone/image.png"))? == image);
    Ok(())
}

#[tokio::test]
async fn submodules_in_s3_have_their_lfs_files() -> Result<()> {
    let Some(terminal) = terminal().await? else {
        return Ok(());
    };
    let (inner, outer) = (url("inner"), url("outer"));
    repository(&terminal, "inner", &inner).await?;
    commit(&terminal, "inner", &[("in.bin", 700)]).await?;
    git_in(&terminal, "inner", &["push", "--quiet", "origin", "main"]).await?;
    repository(&terminal, "outer", &outer).await?;
    let add = ["submodule", "--quiet", "add", &inner, "sub"];
    git_in(&terminal, "outer", &add).await?;
    commit(&terminal, "outer", &[("out.bin", 800)]).await?;
    git_in(&terminal, "outer", &["push", "--quiet", "origin", "main"]).await?;

    let clone = ["clone", "--recurse-submodules", &outer, "clone"];
    terminal.git(&clone).await?.done();
    let read = |path: &str| std::fs::read(terminal.path("clone").join(path));
    assert!(read("out.bin")? == content("outer/out.bin", 800));
    assert!(read("sub/in.bin")? == content("inner/in.bin", 700));
    // A push from the submodule goes to its own repository.
    git_in(&terminal, "clone/sub", &["checkout", "--quiet", "main"]).await?;
    let ids = commit(&terminal, "clone/sub", &[("new.bin", 900)]).await?;
    git_in(
        &terminal,
        "clone/sub",
        &["push", "--quiet", "origin", "main"],
    )
    .await?;
    let keys = lfs_keys(&terminal, "team/inner");
    assert!(
        keys.contains(&format!("team/inner/lfs/{}", ids[0])),
        "{keys:?}"
    );
    Ok(())
}

#[tokio::test]
async fn many_agents_and_two_users_transfer_at_the_same_time() -> Result<()> {
    let Some(terminal) = terminal().await? else {
        return Ok(());
    };
    let url = url("r");
    repository(&terminal, "work", &url).await?;
    let names: Vec<_> = (0..60).map(|n| format!("{n}.bin")).collect();
    let sizes: Vec<_> = names.iter().map(|name| (name.as_str(), 10_000)).collect();
    let ids = commit(&terminal, "work", &sizes).await?;
    git_in(&terminal, "work", &["push", "--quiet", "origin", "main"]).await?;
    assert_eq!(lfs_keys(&terminal, "team/r").len(), ids.len());
    for user in ["one", "two"] {
        let skip = ["-c", "filter.lfs.smudge=", "-c", "filter.lfs.process="];
        let clone = [
            "-c",
            "filter.lfs.required=false",
            "clone",
            "--quiet",
            &url,
            user,
        ];
        terminal.git(&[&skip[..], &clone].concat()).await?.done();
    }
    let pull = ["-c", "lfs.concurrenttransfers=8", "lfs", "pull"];
    let both = tokio::join!(
        git_in(&terminal, "one", &pull),
        git_in(&terminal, "two", &pull)
    );
    let (_, _) = (both.0?, both.1?);
    for user in ["one", "two"] {
        for name in &names {
            let found = std::fs::read(terminal.path(user).join(name))?;
            assert!(
                found == content(&format!("work/{name}"), 10_000),
                "{user}: {name}"
            );
        }
        let left = downloads(&terminal.path(user).join(".git/lfs"));
        assert!(left.is_empty(), "{left:?}");
    }
    // Both push the same new objects.
    for key in lfs_keys(&terminal, "team/r") {
        delete(&terminal, &key)?;
    }
    let push = ["lfs", "push", "--all", "origin"];
    let both = tokio::join!(
        git_in(&terminal, "one", &push),
        git_in(&terminal, "two", &push)
    );
    let (_, _) = (both.0?, both.1?);
    assert_eq!(lfs_keys(&terminal, "team/r").len(), ids.len());
    Ok(())
}
