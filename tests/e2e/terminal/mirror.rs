//! `branchline mirror SOURCE TARGET`: every pair of remotes, and what the options change.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;

use anyhow::Result;
use branchline_core::git::HashKind;
use branchline_dev::s3::store::{PublicAccess, PutOptions};
use branchline_test_support::git;
use branchline_test_support::git_server::{GitServer, Response};
use branchline_test_support::repo::Repo;
use branchline_tests::environment::built_programs;
use serde_json::Value;

use super::super::git_remote_s3::environment::{BUCKET, Outcome, Terminal};

/// Refs of a repository, as git prints them.
pub(super) fn refs(path: &std::path::Path) -> Result<String> {
    git::git(
        path,
        [
            "for-each-ref",
            "--format=%(objectname) %(refname)",
            "refs/heads",
            "refs/tags",
        ],
    )
}

async fn mirror(terminal: &Terminal, arguments: &[&str]) -> Result<Outcome> {
    terminal
        .run("branchline", &[&["mirror"], arguments].concat())
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lock_of_a_killed_client_is_taken_over_after_its_lifetime() -> Result<()> {
    const LOCK: &str = "locked/refs/heads/main/LOCK#.lock";
    let mut terminal = Terminal::start().await?;
    terminal.set("GIT_REMOTE_S3_LOCK_TTL_SECONDS", Some("1"));
    terminal.repository("work", 3)?;
    let target = format!("s3://{BUCKET}/locked");
    let store = terminal.server().store();
    store
        .put(BUCKET, LOCK, b"", PutOptions::default())
        .map_err(|error| anyhow::anyhow!("{error}"))?;
    let arguments = ["work", &target, "--layout=bundle"];
    let printed = mirror(&terminal, &arguments).await?.done();
    assert!(printed.contains("refs 3 created"), "{printed}");
    assert!(!terminal.keys("locked/").contains(&LOCK.to_owned()));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_remote_is_a_source_and_a_target() -> Result<()> {
    let mut terminal = Terminal::start().await?;
    let region = terminal.server().account().region.clone();
    terminal.set("AWS_REGION", Some(&region));
    terminal.repository("work", 8)?;
    let server = Repo::new(HashKind::Sha1);
    let http = GitServer::new(&server);
    let regional = format!("codecommit::{region}://other");
    let chain = [
        ("work".to_owned(), ""),
        (format!("s3://{BUCKET}/bundle"), "--layout=bundle"),
        (format!("s3://{BUCKET}/dumb"), "--layout=dumb"),
        ("codecommit://demo".to_owned(), "--create"),
        (regional, "--create"),
        (http.url(), ""),
        (format!("s3://{BUCKET}/loose"), "--layout=loose"),
        (format!("s3+zip://{BUCKET}/zip"), ""),
        ("last.git".to_owned(), ""),
    ];
    for pair in chain.windows(2) {
        let [(source, _), (target, option)] = pair else {
            unreachable!("because a window has two items");
        };
        let mut arguments = vec![source.as_str(), target, "--verify"];
        arguments.extend((!option.is_empty()).then_some(*option));
        let printed = mirror(&terminal, &arguments).await?.done();
        assert!(printed.contains("refs 4 created"), "{printed}");
        assert!(printed.contains("verified: 4 refs and "), "{printed}");
        let again = mirror(&terminal, &[source, target]).await?;
        assert!(
            again.clone().done().contains("refs 4 unchanged"),
            "{again:?}"
        );
        assert_eq!(again.stderr, "", "nothing else is printed into a pipe");
    }
    assert_eq!(
        refs(&terminal.path("last.git"))?,
        refs(&terminal.path("work"))?
    );
    git::git(&terminal.path("last.git"), ["fsck", "--full", "--strict"])?;
    assert_eq!(refs(&server.path)?, refs(&terminal.path("work"))?);
    let head = git::git(&terminal.path("last.git"), ["symbolic-ref", "HEAD"])?;
    assert_eq!(head, "refs/heads/main");
    Ok(())
}

/// "A mirror in a bucket behind a website or a CDN [..] can be a source."
#[tokio::test(flavor = "multi_thread")]
async fn files_of_a_web_server_are_a_source() -> Result<()> {
    let mut terminal = Terminal::start().await?;
    let region = terminal.server().account().region.clone();
    terminal.set("AWS_REGION", Some(&region));
    terminal.repository("work", 8)?;
    let public = PublicAccess::ReadAndList;
    terminal.server().store().set_public_access(BUCKET, public);
    let dumb = format!("s3://{BUCKET}/dumb");
    let website = format!("{}/{BUCKET}/dumb", terminal.server().endpoint());
    for created in [4, 0] {
        let arguments = ["work", &dumb, "--layout=dumb"];
        mirror(&terminal, &arguments).await?.done();
        for (target, option) in [
            ("codecommit://demo".to_owned(), "--create"),
            (format!("s3://{BUCKET}/bundle"), "--layout=bundle"),
        ] {
            let arguments = [website.as_str(), &target, option, "--verify"];
            let printed = mirror(&terminal, &arguments).await?.done();
            let refs = match created {
                0 => "refs 1 updated",
                _ => "refs 4 created",
            };
            assert!(printed.contains(refs), "{target}: {printed}");
            assert!(printed.contains("verified: 4 refs and "), "{printed}");
        }
        git::commit(&terminal.path("work"), &[("new.txt", "1")], "new")?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn options_plan_prune_force_and_select_as_in_an_event() -> Result<()> {
    let terminal = Terminal::start().await?;
    terminal.repository("work", 6)?;
    let work = terminal.path("work");
    let target = format!("s3://{BUCKET}/demo");
    let plan = mirror(&terminal, &["work", &target, "--plan"])
        .await?
        .done();
    assert!(plan.contains("refs would be 4 created"), "{plan}");
    assert!(plan.contains("  create refs/heads/main\n"), "{plan}");
    assert_eq!(
        terminal.keys("demo"),
        Vec::<String>::new(),
        "a plan writes nothing"
    );

    let selected = ["work", &target, "--refs", "refs/heads/main,refs/tags/*"];
    let printed = mirror(&terminal, &selected).await?.done();
    assert!(printed.contains("3 created"), "{printed}");
    mirror(&terminal, &["work", &target]).await?.done();

    git::git(&work, ["tag", "--delete", "light"])?;
    git::git(
        &work,
        [
            "commit",
            "--amend",
            "--allow-empty",
            "--quiet",
            "--message=else",
        ],
    )?;
    let rejected = mirror(&terminal, &["work", &target, "--no-force"]).await?;
    let message = rejected.clone().failed(1);
    assert!(message.contains("refs/heads/main"), "{message}");
    let unequal = mirror(&terminal, &["work", &target, "--verify"]).await?;
    assert_eq!(
        unequal.status,
        Some(1),
        "a ref of the target remains: {unequal:?}"
    );
    assert!(
        unequal
            .stdout
            .contains("refs/tags/light: missing at the source"),
        "{unequal:?}"
    );
    assert!(unequal.stderr.contains("was moved by force"), "{unequal:?}");
    let pruned = mirror(&terminal, &["work", &target, "--prune", "--verify"]).await?;
    assert!(pruned.clone().done().contains("1 deleted"), "{pruned:?}");
    mirror(&terminal, &["work", "again.git", "--quiet"])
        .await?
        .done();
    git::git(&terminal.path("again.git"), ["fsck"])?;

    git::init(&terminal.path("empty"))?;
    let kept = mirror(&terminal, &["empty", &target, "--prune"])
        .await?
        .failed(1);
    assert!(kept.contains("prune"), "{kept}");
    mirror(&terminal, &["empty", &target, "--prune=all"])
        .await?
        .done();
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn arguments_that_are_not_valid_name_the_remedy() -> Result<()> {
    let terminal = Terminal::start().await?;
    terminal.repository("work", 4)?;
    let s3 = format!("s3://{BUCKET}/demo");
    let bucket = format!("s3://{BUCKET}");
    for (arguments, status, part) in [
        (&["work"][..], 2, "<TARGET>"),
        (
            &["work", &s3, "--layout", "flat"],
            2,
            "[possible values: bundle, dumb, loose]",
        ),
        (&["work", &s3, "--jobs", "0"], 2, "--jobs"),
        (&["work", &s3, "--batch-commits", "0"], 2, "--batch-commits"),
        (
            &["work", &s3, "--refs", "main"],
            1,
            "`refs`: `main` is not a ref name",
        ),
        (&["git@host:a/b", &s3], 1, "https://"),
        (
            &["ssh://host/a", &s3],
            1,
            "`source`: the URL of a remote is not valid",
        ),
        (
            &["work", "s4://b/x"],
            1,
            "`target`: the URL of a remote is not valid",
        ),
        (&["work", &bucket], 1, "has no prefix"),
        (&["nowhere", &s3], 1, "`nowhere` is not a git repository"),
        (
            &["work", "codecommit://demo"],
            1,
            "no AWS region is configured; hint: set AWS_REGION",
        ),
        (
            &["work", "s3://b/{repository}"],
            1,
            "only used with `--all`",
        ),
        (
            &["--all", "codecommit://*", &s3],
            1,
            "must contain `{repository}`",
        ),
        (
            &["--all", "https://host/*", "s3://b/{repository}"],
            1,
            "`--file`",
        ),
        (
            &["--file", "missing.json"],
            1,
            "`missing.json` cannot be read",
        ),
    ] {
        let message = mirror(&terminal, arguments).await?.failed(status);
        assert!(message.contains(part), "{arguments:?}: {message}");
    }
    Ok(())
}

/// Serves a repository only with the user `me` and the password `secret word`.
fn private(repo: &Repo) -> GitServer {
    // me:secret word
    let expected = "Basic bWU6c2VjcmV0IHdvcmQ=";
    GitServer::with(repo, move |seen| match seen.headers.get("authorization") {
        Some(value) if value == expected => Response::Git,
        _ => Response::Fixed(401, "text/plain", b"who is it".to_vec()),
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_comes_from_gits_credential_helper_when_the_server_asks() -> Result<()> {
    let mut terminal = Terminal::start().await?;
    let repo = Repo::with_history(HashKind::Sha1, 5, 3);
    let server = private(&repo);
    terminal.set("GIT_TERMINAL_PROMPT", Some("0"));
    let target = format!("s3://{BUCKET}/demo");
    let refused = mirror(&terminal, &[&server.url(), &target])
        .await?
        .failed(1);
    assert!(
        refused.contains("requires a user and a password"),
        "{refused}"
    );
    assert!(
        refused.contains("git config credential.helper"),
        "{refused}"
    );

    let helper = terminal.path("helper");
    let log = terminal.path("verdicts");
    std::fs::write(
        &helper,
        format!(
            "#!/bin/sh\necho $1 >> '{}'\nif [ $1 = get ]; then\n\
             echo username=me; echo 'password=secret word'\nfi\n",
            log.display()
        ),
    )?;
    std::fs::set_permissions(&helper, std::fs::Permissions::from_mode(0o755))?;
    terminal.set("GIT_CONFIG_COUNT", Some("1"));
    terminal.set("GIT_CONFIG_KEY_0", Some("credential.helper"));
    terminal.set("GIT_CONFIG_VALUE_0", Some(&helper.display().to_string()));
    let done = mirror(&terminal, &[&server.url(), &target, "--verify"]).await?;
    assert!(!format!("{done:?}").contains("secret word"), "{done:?}");
    assert!(done.clone().done().contains("verified"), "{done:?}");
    assert_eq!(std::fs::read_to_string(&log)?, "get\nstore\n");
    // A user and a password in the URL need no helper.
    terminal.set("GIT_CONFIG_COUNT", None);
    let url = server.url().replace("http://", "http://me:secret%20word@");
    let done = mirror(&terminal, &[&url, "copy.git"]).await?;
    assert!(!format!("{done:?}").contains("secret"), "{done:?}");
    done.done();
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_mirror_says_how_to_go_on_and_goes_on() -> Result<()> {
    let terminal = Terminal::start().await?;
    let repo = Repo::with_history(HashKind::Sha1, 5, 3);
    let stalled = GitServer::with(&repo, |seen| {
        if seen.body.is_empty() {
            Response::Git
        } else {
            Response::Stall(4)
        }
    });
    let target = format!("s3://{BUCKET}/demo");
    let mut command =
        terminal.command("branchline", &["mirror", &stalled.url(), &target, "--json"]);
    command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .stdin(Stdio::null());
    let outcome = tokio::task::spawn_blocking(move || -> Result<_> {
        use std::io::{BufRead as _, BufReader};
        let mut child = command.spawn()?;
        let stdout = child.stdout.take().expect("it is piped");
        let mut lines = BufReader::new(stdout).lines();
        // The first event shows that the work has begun.
        let first = lines.next().expect("there is an event")?;
        let id = child.id().to_string();
        let killed = std::process::Command::new("kill")
            .args(["-INT", &id])
            .status()?;
        assert!(killed.success());
        drop(lines);
        let output = child.wait_with_output()?;
        Ok((first, output))
    })
    .await??;
    let (first, output) = outcome;
    let event: Value = serde_json::from_str(&first)?;
    assert_eq!(event["event"], "progress");
    assert_eq!(output.status.code(), Some(130));
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(
        message.contains("interrupted: the same command goes on"),
        "{message}"
    );
    let server = GitServer::new(&repo);
    mirror(&terminal, &[&server.url(), &target, "--verify"])
        .await?
        .done();
    Ok(())
}

/// The terminal's stderr is a terminal under `script` of util-linux.
#[tokio::test(flavor = "multi_thread")]
async fn progress_is_drawn_on_a_terminal_and_removed() -> Result<()> {
    let terminal = Terminal::start().await?;
    let repo = Repo::with_history(HashKind::Sha1, 5, 3);
    let slow = GitServer::with(&repo, |seen| {
        if !seen.body.is_empty() {
            // Longer than the time before the first line is drawn.
            std::thread::sleep(std::time::Duration::from_millis(300));
        }
        Response::Git
    });
    let program = built_programs().join("branchline");
    let line = format!(
        "'{}' mirror '{}' 's3://{BUCKET}/demo' > out",
        program.display(),
        slow.url()
    );
    let Ok(_) = std::process::Command::new("script")
        .arg("--version")
        .output()
    else {
        eprintln!("skipped: `script` is not installed");
        return Ok(());
    };
    let arguments = ["--quiet", "--return", "--command", &line, "typescript"];
    terminal.run("script", &arguments).await?.done();
    let shown = std::fs::read_to_string(terminal.path("typescript"))?;
    assert!(shown.contains(": reading both sides"), "{shown:?}");
    let last = shown.rfind("\u{1b}[J").expect("the lines are removed");
    let last_line = shown.rfind("s3://").expect("lines are drawn");
    assert!(last > last_line, "{shown:?}");
    let out = std::fs::read_to_string(terminal.path("out"))?;
    assert!(
        !out.contains('\u{1b}') && out.contains("created"),
        "{out:?}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_remote_of_the_repository_is_opened_with_its_settings_in_gits_configuration() -> Result<()>
{
    let mut terminal = Terminal::start().await?;
    terminal.repository("work", 4)?;
    let work = terminal.path("work");
    let endpoint = terminal.server().endpoint();
    let url = format!("s3://{BUCKET}/named");
    git::git(&work, ["remote", "add", "store", &url])?;
    git::git(&work, ["config", "remote.store.s3-endpoint", &endpoint])?;
    terminal.set("AWS_ENDPOINT_URL", None);
    for arguments in [
        &["mirror", ".", "store", "--verify"][..],
        &["archive", "store@main", "-o", "main.tar"],
    ] {
        let mut command = terminal.command("branchline", arguments);
        command.current_dir(&work);
        terminal.wait_for(command).await?.done();
    }
    assert!(!terminal.keys("named/refs/heads/main/").is_empty());
    let invalid = ["config", "remote.store.s3-path-style", "maybe"];
    git::git(&work, invalid)?;
    let mut command = terminal.command("branchline", &["mirror", ".", "store"]);
    command.current_dir(&work);
    let message = terminal.wait_for(command).await?.failed(1);
    assert!(
        message.contains("`remote.store.s3-path-style`"),
        "{message}"
    );
    Ok(())
}
