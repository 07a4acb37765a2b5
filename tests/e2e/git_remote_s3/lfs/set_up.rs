//! `git-lfs-s3 install`, `enable-debug` and `disable-debug`, and `branchline lfs install`.

use anyhow::Result;

use super::super::environment::{Outcome, Terminal, url};
use super::{commit, git_in, repository, terminal, try_git_in};

async fn run(terminal: &Terminal, at: &str, program: &str, words: &[&str]) -> Result<Outcome> {
    let mut command = terminal.command(program, words);
    command.current_dir(terminal.path(at));
    terminal.wait_for(command).await
}

#[tokio::test]
async fn install_has_the_keys_words_and_statuses_of_awslabs_program() -> Result<()> {
    let Some(terminal) = terminal().await? else {
        return Ok(());
    };
    let url = format!("s3://profile@{}/a b", &url("r")["s3://".len()..]);
    repository(&terminal, "work", &url).await?;
    git_in(
        &terminal,
        "work",
        &["remote", "add", "other", "https://host/r.git"],
    )
    .await?;
    let alias = "https://lfs-alias.git-remote-s3.test/repositories/team/r/a%20b";
    let agent = async |words: &[&str]| run(&terminal, "work", "git-lfs-s3", words).await;

    for (words, status, part) in [
        (&["install", "--remote"][..], 2, "--remote NAME"),
        (&["install", "--remote", ""], 2, "--remote NAME"),
        (&["install", "--all"], 2, "--remote NAME"),
        (
            &["install", "--remote", "absent"],
            1,
            "remote `absent` is not configured",
        ),
        (&["install", "--remote", "other"], 1, "not an s3 remote"),
    ] {
        let said = agent(words).await?.failed(status);
        assert!(said.contains(part), "{words:?}: {said}");
    }
    let said = agent(&["install", "--remote", "origin"]).await?.done();
    assert!(
        said.contains("git-lfs-s3 installed for remote 'origin'") && said.contains(alias),
        "{said}"
    );
    for (key, value) in [
        ("remote.origin.lfsurl", alias),
        ("lfs.customtransfer.git-lfs-s3.path", "git-lfs-s3"),
        (
            &format!("lfs.{alias}.standalonetransferagent"),
            "git-lfs-s3",
        ),
    ] {
        let found = git_in(&terminal, "work", &["config", "--local", "--get-all", key]).await?;
        assert_eq!(found, value, "{key}");
    }
    // Again, as the only agent.
    agent(&["install", "--remote=origin"]).await?.done();
    let said = agent(&["install"]).await?;
    assert!(
        said.stderr.contains("warning") && said.stderr.contains("--remote"),
        "{said:?}"
    );
    assert!(said.done().contains("git-lfs-s3 installed"));
    let unscoped = ["config", "--get", "lfs.standalonetransferagent"];
    try_git_in(&terminal, "work", &unscoped).await?.failed(1);

    git_in(
        &terminal,
        "work",
        &["config", "lfs.standalonetransferagent", "x"],
    )
    .await?;
    let said = agent(&["install", "--remote", "origin"]).await?;
    assert!(
        said.stderr
            .contains("warning: `lfs.standalonetransferagent`"),
        "{said:?}"
    );
    let elsewhere = "https://user:secret@host/lfs";
    git_in(
        &terminal,
        "work",
        &["config", "remote.origin.lfsurl", elsewhere],
    )
    .await?;
    let said = agent(&["install", "--remote", "origin"]).await?.failed(1);
    assert!(
        said.contains("already set to `https://host/lfs`") && !said.contains("secret"),
        "{said}"
    );
    let found = git_in(&terminal, "work", &["config", "remote.origin.lfsurl"]).await?;
    assert_eq!(found, elsewhere, "it is not changed");

    for words in [&["--version"][..], &["--help"], &["nonsense"]] {
        let ended = agent(words).await?;
        assert!(ended.stdout.contains("usage: git-lfs-s3"), "{ended:?}");
        assert_eq!(ended.status, Some(1), "{ended:?}");
    }
    for words in [
        &["install"][..],
        &["enable-debug"],
        &["install", "--remote", "o"],
    ] {
        let said = run(&terminal, ".", "git-lfs-s3", words).await?.failed(1);
        assert!(said.contains("not a git repository"), "{said}");
    }
    Ok(())
}

#[tokio::test]
async fn the_log_is_turned_on_and_off() -> Result<()> {
    let Some(terminal) = terminal().await? else {
        return Ok(());
    };
    repository(&terminal, "work", &url("r")).await?;
    let agent = async |words: &[&str]| run(&terminal, "work", "git-lfs-s3", words).await;
    let key = ["config", "--get-all", "lfs.customtransfer.git-lfs-s3.args"];
    for _ in 0..2 {
        agent(&["enable-debug"]).await?.done();
        assert_eq!(git_in(&terminal, "work", &key).await?, "debug");
    }
    let ids = commit(&terminal, "work", &[("a.bin", 1000)]).await?;
    git_in(&terminal, "work", &["push", "--quiet", "origin", "main"]).await?;
    let log = terminal.path("work/.git/lfs/tmp/git-lfs-s3.log");
    let text = std::fs::read_to_string(&log)?;
    assert!(text.contains(&format!("{} is complete", ids[0])), "{text}");
    assert!(
        !text.contains(terminal.variable("AWS_SECRET_ACCESS_KEY")),
        "{text}"
    );
    for _ in 0..2 {
        let said = agent(&["disable-debug"]).await?.done();
        assert!(said.contains("disabled"), "{said}");
        try_git_in(&terminal, "work", &key).await?.failed(1);
    }
    Ok(())
}

#[tokio::test]
async fn the_helper_sets_up_only_what_is_not_set() -> Result<()> {
    let Some(mut terminal) = terminal().await? else {
        return Ok(());
    };
    let url = url("r");
    terminal.repository("work", 3)?;
    terminal.push(&url, &["main"]).await?.done();
    let lfs_url = ["config", "--local", "--get", "remote.origin.lfsurl"];
    for (setting, set_up) in [
        ("branchline.layout=bundle", true),
        ("lfs.url=https://host/lfs", false),
        ("remote.origin.lfsurl=https://host/lfs", false),
        ("lfs.standalonetransferagent=other", false),
    ] {
        let _ = std::fs::remove_dir_all(terminal.path("clone"));
        let clone = ["-c", setting, "clone", "--quiet", &url, "clone"];
        terminal.git(&clone).await?.done();
        let found = try_git_in(&terminal, "clone", &lfs_url).await?;
        assert_eq!(found.status == Some(0), set_up, "{setting}: {found:?}");
    }
    // A repository that the helper cannot write to is fetched all the same.
    terminal
        .git(&["clone", "--quiet", &url, "locked"])
        .await?
        .done();
    for key in ["remote.origin.lfsurl", "lfs.customtransfer.git-lfs-s3.path"] {
        git_in(&terminal, "locked", &["config", "--unset", key]).await?;
    }
    std::fs::write(terminal.path("locked/.git/config.lock"), "")?;
    git_in(&terminal, "locked", &["fetch", "--quiet"]).await?;
    std::fs::remove_file(terminal.path("locked/.git/config.lock"))?;
    try_git_in(&terminal, "locked", &lfs_url).await?.failed(1);
    git_in(&terminal, "locked", &["fetch", "--quiet"]).await?;
    try_git_in(&terminal, "locked", &lfs_url).await?.done();
    // Without git-lfs nothing is set up.
    terminal.set("GIT_CONFIG_GLOBAL", Some("/dev/null"));
    terminal
        .git(&["clone", "--quiet", &url, "without"])
        .await?
        .done();
    try_git_in(&terminal, "without", &lfs_url).await?.failed(1);
    Ok(())
}

#[tokio::test]
async fn places_that_cannot_have_lfs_objects_are_refused() -> Result<()> {
    let Some(terminal) = terminal().await? else {
        return Ok(());
    };
    repository(&terminal, "work", &url("r")).await?;
    git_in(
        &terminal,
        "work",
        &["remote", "add", "hosted", "https://host/r.git"],
    )
    .await?;
    for (words, part) in [
        (
            &["--url", "s3://bucket/other", "--remote", "origin"][..],
            "is in S3 itself",
        ),
        (
            &["--url", "s3://bucket", "--remote", "hosted"],
            "has no prefix",
        ),
        (
            &["--url", "https://u:hunter2@host/m", "--remote", "hosted"],
            "without a user",
        ),
        (
            &["--url", "codecommit://r", "--remote", "hosted"],
            "cannot have LFS objects",
        ),
        (
            &["--url", "ftp://x", "--remote", "hosted"],
            "must start with",
        ),
        (
            &["--url", "s3://bucket/x", "--global"],
            "is not at a web server",
        ),
    ] {
        let words = [&["lfs", "install"], words].concat();
        let said = run(&terminal, "work", "branchline", &words)
            .await?
            .failed(1);
        assert!(said.contains(part), "{words:?}: {said}");
        assert!(!said.contains("hunter2"), "{said}");
    }
    let said = run(
        &terminal,
        "work",
        "branchline",
        &["lfs", "install", "--global"],
    )
    .await?;
    said.failed(2);
    // A profile in the URL is kept with the remote.
    let words = [
        "lfs",
        "install",
        "--remote",
        "hosted",
        "--url",
        "s3://me@bucket/x",
    ];
    run(&terminal, "work", "branchline", &words).await?.done();
    let profile = git_in(&terminal, "work", &["config", "remote.hosted.s3-profile"]).await?;
    assert_eq!(profile, "me");
    Ok(())
}
