//! `mirror-git-to-s3`: options, layout and exit statuses of the Python tool, with our program.

use anyhow::Result;
use branchline_core::git::HashKind;
use branchline_dev::s3::store::PublicAccess;
use branchline_test_support::git;
use branchline_test_support::git_server::GitServer;
use branchline_test_support::repo::Repo;

use super::super::dumb::SmartServer;
use super::super::git_remote_s3::environment::{BUCKET, Terminal};

#[tokio::test(flavor = "multi_thread")]
async fn repositories_are_mirrored_as_files_that_stock_git_clones() -> Result<()> {
    let terminal = Terminal::start().await?;
    let sources = [
        Repo::with_history(HashKind::Sha1, 6, 4),
        Repo::with_history(HashKind::Sha1, 3, 2),
    ];
    let servers = sources.each_ref().map(GitServer::new);
    let urls = servers.each_ref().map(GitServer::url);
    let targets = ["a", "b"].map(|name| format!("s3://{BUCKET}/mirrors/{name}"));
    let run = [
        "--source",
        &urls[0],
        "-s",
        &targets[0],
        "--source",
        &urls[1],
        "--target",
        &targets[1],
    ];
    for _ in 0..2 {
        let done = terminal.run("mirror-git-to-s3", &run).await?;
        assert_eq!(done.stdout, "", "{done:?}");
        done.done();
    }
    let store = terminal.server().store();
    // Objects are read without `s3:ListBucket`, because none that is missing is requested.
    store.set_public_access(BUCKET, PublicAccess::Read);
    for (name, source) in ["a", "b"].iter().zip(&sources) {
        let keys = terminal.keys(&format!("mirrors/{name}/"));
        let is_known = |key: &&String| {
            let rest = key
                .strip_prefix(&format!("mirrors/{name}/"))
                .unwrap_or_default();
            rest == "HEAD" || rest == "info/refs" || rest.starts_with("objects/")
        };
        let unknown: Vec<_> = keys.iter().filter(|key| !is_known(key)).collect();
        assert!(unknown.is_empty(), "{unknown:?}");
        let objects = source.objects();
        for id in &objects {
            let key = format!("mirrors/{name}/objects/{}/{}", &id[..2], &id[2..]);
            assert!(keys.contains(&key), "{key}");
        }
        let address = format!("{}/{BUCKET}/mirrors/{name}", terminal.server().endpoint());
        terminal
            .git(&["clone", "--quiet", "--mirror", &address, name])
            .await?
            .done();
        let clone = terminal.path(name);
        git::git(&clone, ["fsck", "--full", "--strict"])?;
        let listed = git::git(
            &clone,
            ["for-each-ref", "--format=%(objectname) %(refname)"],
        )?;
        assert_eq!(listed, source.refs());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pair_that_fails_does_not_stop_the_next_one() -> Result<()> {
    let terminal = Terminal::start().await?;
    let source = Repo::with_history(HashKind::Sha1, 3, 2);
    let server = GitServer::new(&source);
    let url = server.url();
    let missing = url.replace("r.git", "none.git");
    let target = format!("s3://{BUCKET}/second");
    let first = format!("s3://{BUCKET}/first");
    let run = [
        "--source", &missing, "--target", &first, "--source", &url, "--target", &target,
    ];
    let failed = terminal.run("mirror-git-to-s3", &run).await?.failed(1);
    assert!(failed.contains("none.git"), "{failed}");
    assert!(!terminal.keys("second/objects/").is_empty());
    for (arguments, part) in [
        (&[][..], "--source"),
        (&["--source", &url], "--target"),
        (
            &["--source", &url, "--source", &url, "--target", &target],
            "2 sources",
        ),
        (&["--version"], "--version"),
    ] {
        let refused = terminal.run("mirror-git-to-s3", arguments).await?.failed(2);
        assert!(refused.contains(part), "{arguments:?}: {refused}");
    }
    let help = terminal.run("mirror-git-to-s3", &["--help"]).await?.done();
    assert!(help.contains("Example:"), "{help}");
    Ok(())
}

/// The Python tool of this name beside ours, on one source and with equal arguments.
#[tokio::test(flavor = "multi_thread")]
async fn the_python_tool_writes_the_same_keys() -> Result<()> {
    let mut terminal = Terminal::start().await?;
    let Some(venv) = std::env::var_os("BRANCHLINE_VENV") else {
        eprintln!("skipped: BRANCHLINE_VENV is not set");
        return Ok(());
    };
    let theirs = std::path::Path::new(&venv).join("bin/mirror-git-to-s3");
    let region = terminal.server().account().region.clone();
    terminal.set("AWS_DEFAULT_REGION", Some(&region));
    let source = Repo::with_history(HashKind::Sha1, 8, 4);
    // Theirs names no media type, which git's own server refuses.
    let (lenient, server) = (SmartServer::start(&source)?, GitServer::new(&source));
    let theirs = theirs.display().to_string();
    for (program, url, name) in [
        (theirs.as_str(), lenient.url(), "theirs"),
        ("mirror-git-to-s3", server.url(), "ours"),
    ] {
        let target = format!("s3://{BUCKET}/{name}");
        let run = ["--source", &url, "--target", &target];
        let done = terminal.run(program, &run).await?;
        assert_eq!(done.stdout, "", "{program}: {done:?}");
        done.done();
    }
    let keys = |name: &str| -> Vec<String> {
        let prefix = format!("{name}/");
        let keys = terminal.keys(&prefix).into_iter();
        keys.filter_map(|key| key.strip_prefix(&prefix).map(str::to_owned))
            .collect()
    };
    assert_eq!(keys("theirs"), keys("ours"));
    let text = |key: String| -> Result<Vec<String>> {
        let got = terminal.server().store().get_bytes(BUCKET, &key, None);
        let (_, bytes) = got.map_err(|error| anyhow::anyhow!("{key}: {error}"))?;
        let text = String::from_utf8(bytes.to_vec())?;
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        Ok(lines)
    };
    for file in ["HEAD", "info/refs"] {
        let both = ["theirs", "ours"].map(|name| text(format!("{name}/{file}")));
        let [theirs, ours] = both;
        assert_eq!(theirs?, ours?, "{file}");
    }
    for arguments in [
        &["--source", "x"][..],
        &["--target", "s3://b/x"],
        &["--version"],
    ] {
        let theirs = terminal.run(&theirs, arguments).await?;
        let ours = terminal.run("mirror-git-to-s3", arguments).await?;
        assert_eq!(theirs.status, ours.status, "{arguments:?}: {ours:?}");
    }
    Ok(())
}
