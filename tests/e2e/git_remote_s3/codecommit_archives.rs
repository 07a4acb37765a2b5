//! `git archive --remote=codecommit://..` equals `git archive`.

use std::fmt::Write as _;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;

use anyhow::Result;
use branchline_test_support::git;
use branchline_tests::compare::with_git_archive;

use super::codecommit::terminal;
use super::environment::Terminal;

/// Size of a file that `GetBlob` refuses, in bytes.
const LARGE_FILE_BYTES: usize = 7 << 20;

/// Makes the repository `work` with attributes, links, an executable and a large file.
fn repository(terminal: &Terminal) -> Result<()> {
    terminal.repository("work", 8)?;
    let work = terminal.path("work");
    std::fs::create_dir_all(work.join("private"))?;
    let mut large = String::new();
    while large.len() < LARGE_FILE_BYTES {
        let line = large.len() * 2_654_435_761;
        writeln!(large, "{line:032x}")?;
    }
    for (path, content) in [
        (
            ".gitattributes",
            "/private export-ignore\n/version export-subst\n",
        ),
        ("private/key", "not exported\n"),
        ("version", "$Format:%H %cI$\n"),
        ("run", "#!/bin/sh\n"),
        ("with space/\u{fc}", "unicode\n"),
        ("d0/large", &large),
    ] {
        let path = work.join(path);
        std::fs::create_dir_all(path.parent().expect("it is in the repository"))?;
        std::fs::write(path, content)?;
    }
    std::fs::set_permissions(work.join("run"), std::fs::Permissions::from_mode(0o755))?;
    git::git(&work, ["add", "--all"])?;
    git::git(&work, ["commit", "--quiet", "--message=all kinds of files"])?;
    git::git(&work, ["tag", "--annotate", "--message=v2", "v2"]).map(drop)
}

async fn archive(terminal: &Terminal, all: &[&str], output: &str) -> Result<Vec<u8>> {
    let path = terminal.path(output);
    let output = format!("--output={}", path.display());
    let (global, rest) = all.split_first().expect("a test has arguments");
    let mut arguments = vec!["-C", "work", "-c", global, "archive", &output];
    arguments.extend(rest);
    terminal.git(&arguments).await?.done();
    Ok(std::fs::read(path)?)
}

fn inflated(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut content = Vec::new();
    flate2::read::MultiGzDecoder::new(bytes).read_to_end(&mut content)?;
    Ok(content)
}

/// "`git archive --remote=codecommit://..` equals `git archive`."
#[tokio::test]
async fn an_archive_over_the_api_equals_git_archive() -> Result<()> {
    let terminal = terminal(&["r"]).await?;
    repository(&terminal)?;
    let refs = ["main", "side", "v1", "v2", "light"];
    terminal.push("codecommit://r", &refs).await?.done();
    let id = git::git(&terminal.path("work"), ["rev-parse", "main~3"])?;
    for (number, arguments) in [
        &["--format=tar", "main"][..],
        &["--format=tar", "--prefix=p/", "v1"],
        &["--format=tar", "--prefix=p-", "v2"],
        &["--format=tar", "--mtime=@1700000000", "main:d0"],
        &["--format=tar", "main", "d1", "run"],
        &["--format=tar", "refs/heads/side"],
        &["--format=tar", "HEAD"],
        &["--format=tar", &id],
        &["--format=tar.gz", "-9", "main"],
        &["--format=tgz", "--prefix=p/", "main", "d1"],
        &["--format=zip", "main"],
    ]
    .into_iter()
    .enumerate()
    {
        // Git before 2.44 requests archives by `connect`, and so does version 0 of the protocol.
        for version in ["protocol.version=2", "protocol.version=0"] {
            let expected = [&[version], arguments].concat();
            let expected = archive(&terminal, &expected, &format!("{number}-git")).await?;
            let ours = [&[version, "--remote=codecommit://r"], arguments].concat();
            let ours = archive(&terminal, &ours, &format!("{number}-ours")).await?;
            match arguments[0] {
                // Compressed by another library than git's.
                "--format=zip" => {
                    with_git_archive(&ours, &terminal.path("work"), "main")?;
                }
                "--format=tar" => assert!(ours == expected, "git archive {arguments:?}"),
                _ => assert!(
                    inflated(&ours)? == inflated(&expected)?,
                    "git archive {arguments:?}"
                ),
            }
        }
    }
    let formats = ["archive", "--remote=codecommit://r", "--list"];
    let listed = terminal.git(&formats).await?.done();
    assert_eq!(listed, "tar\ntgz\ntar.gz\nzip\n");
    Ok(())
}

#[tokio::test]
async fn an_archive_that_cannot_be_made_is_a_failure_of_git() -> Result<()> {
    let mut terminal = terminal(&["r", "empty"]).await?;
    terminal.repository("work", 3)?;
    terminal.push("codecommit://r", &["main"]).await?.done();
    for (repository, arguments, part) in [
        ("r", &["missing"][..], "no such ref: missing"),
        ("r", &["main:missing"], "main:missing"),
        ("r", &["main", "missing"], "missing"),
        ("empty", &["HEAD"], "no such ref: HEAD"),
        ("missing", &["HEAD"], "missing"),
    ] {
        let remote = format!("--remote=codecommit://{repository}");
        let all = [&["archive", &remote], arguments].concat();
        let failed = terminal.git(&all).await?;
        assert_ne!(failed.status, Some(0), "{arguments:?}: {failed:?}");
        assert!(failed.stderr.contains(part), "{arguments:?}: {failed:?}");
        assert!(!failed.stderr.contains("panicked"), "{failed:?}");
    }
    terminal.set("AWS_SECRET_ACCESS_KEY", Some("wrong"));
    let failed = terminal
        .git(&["archive", "--remote=codecommit://r", "main"])
        .await?;
    assert_ne!(failed.status, Some(0), "{failed:?}");
    assert!(failed.stderr.contains("hint: "), "{failed:?}");
    Ok(())
}
