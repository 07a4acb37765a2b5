//! Front ends that do not know `connect`: git behind a program that hides it.

use std::os::unix::fs::PermissionsExt as _;

use anyhow::Result;
use branchline_test_support::git;

use super::environment::{Terminal, url};

/// Starts a terminal whose helper does not offer `connect`.
async fn terminal() -> Result<Terminal> {
    let terminal = Terminal::start().await?;
    let helper = terminal.path("bin/git-remote-s3");
    let script = "#!/bin/sh\nbranchline --as git-remote-s3 \"$@\" | sed -u '/^connect$/d'\n";
    std::fs::remove_file(&helper)?;
    std::fs::write(&helper, script)?;
    std::fs::set_permissions(&helper, std::fs::Permissions::from_mode(0o755))?;
    Ok(terminal)
}

#[tokio::test]
async fn list_fetch_and_push_carry_clones_fetches_and_pushes() -> Result<()> {
    let terminal = terminal().await?;
    terminal.repository("work", 12)?;
    for layout in ["bundle", "dumb"] {
        let url = url(layout);
        terminal.init_remote(layout, &url).await?;
        terminal
            .git(&["-C", "work", "push", "--mirror", &url])
            .await?
            .done();
        terminal
            .git(&["clone", "--mirror", &url, layout])
            .await?
            .done();
        let refs = ["for-each-ref", "--format=%(refname) %(objectname)"];
        let expected = git::git(&terminal.path("work"), refs)?;
        assert_eq!(git::git(&terminal.path(layout), refs)?, expected);
        git::git(
            &terminal.path(layout),
            ["fsck", "--strict", "--no-dangling"],
        )?;
        let head = git::git(&terminal.path(layout), ["symbolic-ref", "HEAD"])?;
        assert_eq!(head, "refs/heads/main", "{layout}");

        git::commit(&terminal.path("work"), &[("new", "new")], "new")?;
        terminal.push(&url, &["main"]).await?.done();
        terminal.git(&["-C", layout, "fetch"]).await?.done();
        assert_eq!(
            git::git(&terminal.path(layout), refs)?,
            git::git(&terminal.path("work"), refs)?
        );
        let listed = terminal.git(&["ls-remote", "--symref", &url]).await?.done();
        assert!(
            listed.starts_with("ref: refs/heads/main\tHEAD\n"),
            "{listed}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn what_is_rejected_is_told_in_gits_words() -> Result<()> {
    let terminal = terminal().await?;
    terminal.repository("work", 6)?;
    let url = url("r");
    let push = ["-C", "work", "push", &url];
    let refused = async |refspec: &str| -> Result<String> {
        let arguments = [&push[..], &[refspec]].concat();
        Ok(terminal.git(&arguments).await?.failed(1))
    };
    terminal
        .git(&[&push[..], &["main", "side", "v1"]].concat())
        .await?
        .done();
    let said = refused(":main").await?;
    assert!(said.contains("`HEAD` of the remote names"), "{said}");
    terminal
        .git(&["-C", "work", "commit", "--amend", "--message=x"])
        .await?
        .done();
    let said = refused("main").await?;
    assert!(said.contains("non-fast-forward"), "{said}");
    terminal
        .git(&[&push[..], &["+main"]].concat())
        .await?
        .done();
    terminal
        .git(&[&push[..], &[":side"]].concat())
        .await?
        .done();
    let said = refused("main:refs/tags/v1").await?;
    assert!(said.contains("already exists"), "{said}");
    let listed = terminal.git(&["ls-remote", &url]).await?.done();
    assert_eq!(listed.lines().count(), 3, "{listed}");
    Ok(())
}

#[tokio::test]
async fn a_shallow_clone_does_not_replace_history() -> Result<()> {
    let terminal = terminal().await?;
    terminal.repository("work", 6)?;
    let url = url("r");
    terminal.push(&url, &["main"]).await?.done();
    let work = format!("file://{}", terminal.path("work").display());
    terminal
        .git(&["clone", "--depth", "1", &work, "shallow"])
        .await?
        .done();
    git::commit(&terminal.path("shallow"), &[("new", "new")], "new")?;
    // The remote has what the clone lacks.
    terminal
        .git(&["-C", "shallow", "push", &url, "main"])
        .await?
        .done();
    // Another one has not.
    let other = super::environment::url("other");
    let said = terminal
        .git(&["-C", "shallow", "push", &other, "main"])
        .await?
        .failed(1);
    assert!(said.contains("git fetch --unshallow"), "{said}");
    assert_eq!(terminal.git(&["ls-remote", &other]).await?.done(), "");
    terminal.git(&["clone", &url, "clone"]).await?.done();
    git::git(&terminal.path("clone"), ["fsck", "--strict"])?;
    let count = git::git(&terminal.path("clone"), ["rev-list", "--count", "main"])?;
    let expected = git::git(&terminal.path("work"), ["rev-list", "--count", "main"])?;
    assert_eq!(count.parse::<usize>()?, expected.parse::<usize>()? + 1);
    Ok(())
}
