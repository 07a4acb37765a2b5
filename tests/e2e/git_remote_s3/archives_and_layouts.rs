//! Layouts, the cache, archives for pipelines, SHA-256, and submodules.

use std::os::unix::fs::MetadataExt as _;

use anyhow::Result;
use branchline_test_support::git;
use branchline_tests::compare::with_git_archive;

use super::environment::{BUCKET, Terminal, url};

#[tokio::test]
async fn the_layout_of_a_new_repository_is_configured_and_that_of_an_old_one_kept() -> Result<()> {
    let terminal = Terminal::start().await?;
    terminal.repository("work", 6)?;
    let dumb = url("dumb");
    let push = [
        "-C",
        "work",
        "-c",
        "branchline.layout=dumb",
        "push",
        &dumb,
        "main",
    ];
    terminal.git(&push).await?.done();
    let keys = terminal.keys("team/dumb/");
    assert!(keys.contains(&"team/dumb/info/refs".to_owned()), "{keys:?}");
    git::commit(&terminal.path("work"), &[("x", "x")], "x")?;
    terminal.push(&dumb, &["main"]).await?.done();
    let keys = terminal.keys("team/dumb/");
    assert!(!keys.iter().any(|key| key.ends_with(".bundle")), "{keys:?}");
    // Stock git reads it from the bucket without a helper.
    let store = terminal.server().store();
    store.set_public_access(BUCKET, branchline_dev::s3::store::PublicAccess::ReadAndList);
    let over_http = format!("{}/{BUCKET}/team/dumb", terminal.server().endpoint());
    terminal
        .git(&["clone", "--quiet", &over_http, "over-http"])
        .await?
        .done();
    git::git(&terminal.path("over-http"), ["fsck", "--strict"])?;

    let bundle = url("bundle");
    terminal.push(&bundle, &["main"]).await?.done();
    git::commit(&terminal.path("work"), &[("x", "y")], "y")?;
    let push = [
        "-C",
        "work",
        "-c",
        "branchline.layout=dumb",
        "push",
        &bundle,
        "main",
    ];
    terminal.git(&push).await?.done();
    let keys = terminal.keys("team/bundle/");
    assert!(
        !keys.contains(&"team/bundle/info/refs".to_owned()),
        "{keys:?}"
    );
    let init = ["remote", "init", "--layout", "dumb", &bundle];
    let said = terminal.run("branchline", &init).await?.failed(1);
    assert!(said.contains("in layout `bundle`"), "{said}");
    let init = ["remote", "init", "--layout", "dumb", &dumb];
    let said = terminal.run("branchline", &init).await?;
    assert!(said.stderr.contains("was not changed"), "{said:?}");
    said.done();
    Ok(())
}

#[tokio::test]
async fn a_fetch_with_nothing_new_takes_two_requests() -> Result<()> {
    let terminal = Terminal::start().await?;
    terminal.repository("work", 6)?;
    for layout in ["bundle", "dumb"] {
        let url = url(layout);
        let layout = format!("branchline.layout={layout}");
        terminal
            .git(&["-C", "work", "-c", &layout, "push", &url, "main"])
            .await?
            .done();
        terminal
            .git(&["clone", "--quiet", &url, &layout])
            .await?
            .done();
        for arguments in [&["-C", &layout, "fetch"][..], &["ls-remote", &url]] {
            let before = terminal.requests();
            terminal.git(arguments).await?.done();
            let requests = terminal.requests() - before;
            assert!(requests <= 2, "{layout} {arguments:?}: {requests} requests");
        }
    }
    Ok(())
}

#[tokio::test]
async fn packs_are_cached_within_the_limit_that_is_set() -> Result<()> {
    let mut terminal = Terminal::start().await?;
    terminal.repository("work", 30)?;
    let url = url("r");
    let cached = |terminal: &Terminal| {
        let entries = std::fs::read_dir(terminal.path("cache/branchline/packs"));
        entries.map_or(0, Iterator::count)
    };
    let cache = terminal.path("cache").display().to_string();
    terminal.set("XDG_CACHE_HOME", Some(&cache));
    terminal.set("BRANCHLINE_CACHE_MIB", Some("0"));
    terminal.push(&url, &["main"]).await?.done();
    terminal.git(&["clone", "--quiet", &url, "a"]).await?.done();
    assert_eq!(cached(&terminal), 0, "0 turns the cache off");
    terminal.set("BRANCHLINE_CACHE_MIB", None);
    terminal
        .git(&["clone", "--quiet", "--depth", "1", &url, "b"])
        .await?
        .done();
    git::commit(&terminal.path("work"), &[("x", "x")], "x")?;
    terminal.push(&url, &["main"]).await?.done();
    assert!(cached(&terminal) > 0, "packs are cached");
    let mode = std::fs::metadata(terminal.path("cache/branchline"))?.mode();
    assert_eq!(mode & 0o077, 0, "others have no access");
    Ok(())
}

#[tokio::test]
async fn a_zip_url_keeps_an_archive_of_each_branch() -> Result<()> {
    let terminal = Terminal::start().await?;
    terminal.repository("work", 6)?;
    let url = format!("s3+zip://{BUCKET}/team/zip");
    terminal.push(&url, &["main"]).await?.done();
    let store = terminal.server().store();
    let archive = store.get_bytes(BUCKET, "team/zip/refs/heads/main/repo.zip", None);
    let (_, archive) = archive.map_err(|error| anyhow::anyhow!("{error}"))?;
    let compared = with_git_archive(&archive, &terminal.path("work"), "main")?;
    assert!(compared.entries > 0);
    terminal
        .git(&["clone", "--quiet", &url, "clone"])
        .await?
        .done();
    Ok(())
}

#[tokio::test]
async fn sha256_repositories_work_and_do_not_mix_with_others() -> Result<()> {
    let terminal = Terminal::start().await?;
    terminal.repository("sha1", 3)?;
    terminal
        .git(&[
            "init",
            "--quiet",
            "--object-format=sha256",
            "-b",
            "main",
            "work",
        ])
        .await?
        .done();
    git::commit(&terminal.path("work"), &[("a", "a")], "a")?;
    for layout in ["bundle", "dumb"] {
        let url = url(layout);
        let setting = format!("branchline.layout={layout}");
        terminal
            .git(&["-C", "work", "-c", &setting, "push", &url, "main"])
            .await?
            .done();
        terminal
            .git(&["clone", "--quiet", &url, layout])
            .await?
            .done();
        let id = git::git(&terminal.path(layout), ["rev-parse", "main"])?;
        assert_eq!(id, git::git(&terminal.path("work"), ["rev-parse", "main"])?);
        let before = terminal.keys(&format!("team/{layout}/"));
        let pushed = terminal
            .git(&["-C", "sha1", "push", &url, "main:other"])
            .await?;
        assert_ne!(pushed.status, Some(0), "{pushed:?}");
        assert_eq!(terminal.keys(&format!("team/{layout}/")), before);
    }
    Ok(())
}

#[tokio::test]
async fn submodules_are_cloned_once_their_protocol_is_allowed() -> Result<()> {
    let terminal = Terminal::start().await?;
    terminal.repository("inner", 3)?;
    terminal.repository("outer", 3)?;
    let (inner, outer) = (url("inner"), url("outer"));
    terminal
        .git(&["-C", "inner", "push", &inner, "main"])
        .await?
        .done();
    let allow = "protocol.s3.allow=always";
    let add = [
        "-C",
        "outer",
        "-c",
        allow,
        "submodule",
        "add",
        &inner,
        "inner",
    ];
    terminal.git(&add).await?.done();
    git::git(&terminal.path("outer"), ["commit", "--message=submodule"])?;
    terminal
        .git(&["-C", "outer", "push", &outer, "main"])
        .await?
        .done();
    let clone = [
        "-c",
        allow,
        "clone",
        "--recurse-submodules",
        &outer,
        "clone",
    ];
    terminal.git(&clone).await?.done();
    assert!(terminal.path("clone/inner/.git").exists());
    git::git(&terminal.path("clone/inner"), ["rev-parse", "HEAD"])?;
    Ok(())
}

#[tokio::test]
async fn the_branch_that_is_checked_out_becomes_the_head_of_a_new_repository() -> Result<()> {
    let terminal = Terminal::start().await?;
    terminal.repository("work", 4)?;
    git::git(&terminal.path("work"), ["checkout", "--quiet", "side"])?;
    for layout in ["bundle", "dumb"] {
        let url = url(layout);
        let setting = format!("branchline.layout={layout}");
        let push = [
            "-C", "work", "-c", &setting, "push", &url, "main", "side", "v1",
        ];
        terminal.git(&push).await?.done();
        let listed = terminal
            .git(&["ls-remote", "--symref", &url, "HEAD"])
            .await?
            .done();
        assert!(
            listed.starts_with("ref: refs/heads/side\tHEAD\n"),
            "{layout}: {listed}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn archives_of_a_remote_equal_those_of_the_repository() -> Result<()> {
    let terminal = Terminal::start().await?;
    terminal.repository("work", 8)?;
    for layout in ["bundle", "dumb"] {
        let url = url(layout);
        let setting = format!("branchline.layout={layout}");
        terminal
            .git(&["-C", "work", "-c", &setting, "push", &url, "main", "v1"])
            .await?
            .done();
        for (number, arguments) in [
            &["--format=zip", "main"][..],
            &["--format=tar", "--prefix=p/", "v1"],
            &["--format=tar", "--mtime=@1700000000", "main:d0"],
            &["--format=tar", "main", "d1"],
        ]
        .into_iter()
        .enumerate()
        {
            let archive = async |remote: Option<&str>, name: &str| -> Result<Vec<u8>> {
                let output = terminal.path(&format!("{layout}-{number}-{name}"));
                let output = format!("--output={}", output.display());
                let remote = remote.map(|url| format!("--remote={url}"));
                let mut all = vec!["-C", "work", "archive", &output];
                all.extend(remote.as_deref());
                all.extend(arguments);
                terminal.git(&all).await?.done();
                Ok(std::fs::read(output.trim_start_matches("--output="))?)
            };
            let expected = archive(None, "git").await?;
            let ours = archive(Some(&url), "ours").await?;
            if arguments[0] == "--format=zip" {
                // Compressed by another library than git's.
                with_git_archive(&ours, &terminal.path("work"), "main")?;
            } else {
                assert!(ours == expected, "{layout}: git archive {arguments:?}");
            }
        }
        let refused = ["archive", "--remote", &url, "missing"];
        let said = terminal.git(&refused).await?;
        assert_ne!(said.status, Some(0), "{said:?}");
        assert!(said.stderr.contains("no such ref: missing"), "{said:?}");
    }
    Ok(())
}
