//! `branchline archive` beside `git archive`, from remotes of every kind.

use std::path::Path;
use std::process::Stdio;

use anyhow::Result;
use branchline_core::git::HashKind;
use branchline_dev::s3::store::PublicAccess;
use branchline_test_support::git;
use branchline_test_support::git_server::GitServer;
use branchline_test_support::repo::Repo;
use branchline_tests::compare::with_git_archive;
use serde_json::Value;

use super::super::git_remote_s3::environment::{BUCKET, Outcome, Terminal};

const ATTRIBUTES: &str = "*.crlf text eol=crlf\nsubst export-subst\nsecret export-ignore\n";

/// Makes the repository `work` with files that git converts, and a tag.
fn work(terminal: &Terminal) -> Result<()> {
    terminal.repository("work", 5)?;
    let work = terminal.path("work");
    git::commit(
        &work,
        &[
            (".gitattributes", ATTRIBUTES),
            ("a.crlf", "a\nb\n"),
            ("subst", "$Format:%H$\n"),
            ("secret/key", "s\n"),
            ("docs/deep/file", "text\n"),
            ("docs/other", &"much ".repeat(5000)),
        ],
        "files",
    )?;
    git::git(
        &work,
        ["tag", "--annotate", "--message=one", "v1.0", "HEAD~1"],
    )?;
    Ok(())
}

/// An archive of `git archive` under `TZ=UTC`.
fn by_git(work: &Path, arguments: &[&str]) -> Result<Vec<u8>> {
    let mut command = git::command(work);
    command.env("TZ", "UTC").arg("archive").args(arguments);
    git::run_bytes(&mut command)
}

async fn archive(terminal: &Terminal, arguments: &[&str]) -> Result<Outcome> {
    terminal
        .run("branchline", &[&["archive"], arguments].concat())
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_equals_gits_from_remotes_of_every_kind() -> Result<()> {
    let mut terminal = Terminal::start().await?;
    let region = terminal.server().account().region.clone();
    terminal.set("AWS_REGION", Some(&region));
    work(&terminal)?;
    let path = terminal.path("work");
    let server = Repo::new(HashKind::Sha1);
    let http = GitServer::new(&server);
    let bundle = format!("s3://{BUCKET}/bundle");
    let dumb = format!("s3://{BUCKET}/dumb");
    for (target, option) in [
        (bundle.as_str(), "--layout=bundle"),
        (dumb.as_str(), "--layout=dumb"),
        ("codecommit://demo", "--create"),
        (&http.url(), "--no-force"),
    ] {
        let mirror = ["mirror", "work", target, option];
        terminal.run("branchline", &mirror).await?.done();
    }
    // The same mirror as a web server shows it.
    let store = terminal.server().store();
    store.set_public_access(BUCKET, PublicAccess::ReadAndList);
    let files = format!("{}/{BUCKET}/dumb", terminal.server().endpoint());
    let old = git::git(&path, ["rev-parse", "HEAD~2"])?;
    for remote in [
        "work",
        &bundle,
        &dumb,
        &files,
        "codecommit://demo",
        &http.url(),
    ] {
        for (revision, paths) in [
            ("HEAD", &[][..]),
            ("v1.0", &[]),
            (old.as_str(), &[]),
            ("refs/heads/main", &["docs", ":!docs/other"]),
        ] {
            let ours = format!("{remote}@{revision}");
            let arguments = [&[ours.as_str(), "--prefix=p/", "-o", "ours.tar"], paths].concat();
            let wrote = archive(&terminal, &arguments).await?;
            assert!(wrote.stderr.contains("to `ours.tar`"), "{wrote:?}");
            wrote.done();
            let theirs = by_git(&path, &[&["--prefix=p/", revision], paths].concat())?;
            let ours = std::fs::read(terminal.path("ours.tar"))?;
            assert!(ours == theirs, "{remote} {revision} {paths:?}");
        }
        let zip = archive(&terminal, &[remote, "-o", "ours.zip", "--quiet"]).await?;
        assert_eq!(zip.stderr, "");
        with_git_archive(&std::fs::read(terminal.path("ours.zip"))?, &path, "HEAD")?;
    }
    // A shallow fetch, not the whole history.
    let requests = http.requests();
    let fetches = requests.iter().filter(|seen| {
        let body = String::from_utf8_lossy(&seen.body);
        body.contains("command=fetch") || body.starts_with("00") && body.contains("want ")
    });
    let mut count = 0;
    for fetch in fetches {
        let body = String::from_utf8_lossy(&fetch.body);
        assert!(body.contains("deepen 1"), "{body}");
        count += 1;
    }
    assert_eq!(count, 5, "one fetch for each archive");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn formats_levels_times_folders_and_added_files_are_those_of_git() -> Result<()> {
    let terminal = Terminal::start().await?;
    work(&terminal)?;
    let path = terminal.path("work");
    std::fs::write(terminal.path("VERSION"), "1.0\n")?;
    let list = archive(&terminal, &["--list"]).await?.done();
    assert_eq!(list, git::git(&path, ["archive", "--list"])? + "\n");
    let version = terminal.path("VERSION").display().to_string();
    let add = format!("--add-file={version}");
    for arguments in [
        &["--mtime=@1500000000", "HEAD"][..],
        &["--mtime=@1500000000", "HEAD:docs"],
        &["--mtime=2024-02-29 10:00:00 +0100", "HEAD"],
        &["--prefix=x-", &add, "HEAD"],
        &["--prefix=x/", &add, "HEAD~1"],
    ] {
        let (revision, options) = arguments.split_last().expect("there is a revision");
        let ours = [&["work", "--rev", revision, "-o", "ours.tar"], options].concat();
        archive(&terminal, &ours).await?.done();
        let ours = std::fs::read(terminal.path("ours.tar"))?;
        assert!(ours == by_git(&path, arguments)?, "{arguments:?}");
    }
    // Of compressed tars, the content is equal.
    archive(&terminal, &["work", "-o", "ours.tgz", "--level=9"])
        .await?
        .done();
    let unpack = ["-c", "gzip -dc ours.tgz > unpacked.tar"];
    terminal.run("sh", &unpack).await?.done();
    let ours = std::fs::read(terminal.path("unpacked.tar"))?;
    assert!(ours == by_git(&path, &["HEAD"])?);
    for level in ["-0", "-1", "-9"] {
        archive(&terminal, &["work", "-o", "ours.zip", level])
            .await?
            .done();
        let theirs = by_git(&path, &["--format=zip", level, "HEAD"])?;
        let ours = std::fs::read(terminal.path("ours.zip"))?;
        // Two deflaters differ most at their fastest level.
        let difference = ours.len().abs_diff(theirs.len());
        assert!(difference < 2000, "{level}: {difference} bytes");
    }
    // Nothing is compressed at level 0.
    archive(&terminal, &["work", "-o", "ours.zip", "--level=0"])
        .await?
        .done();
    let ours = std::fs::read(terminal.path("ours.zip"))?;
    assert!(ours.len() > 25_000, "{} bytes", ours.len());
    with_git_archive(&ours, &path, "HEAD")?;
    // A remote of the repository, by its name, and standard output.
    git::git(
        &path,
        ["remote", "add", "here", &path.display().to_string()],
    )?;
    let mut command = terminal.command("branchline", &["archive", "here@v1.0"]);
    command.current_dir(&path).stdout(Stdio::piped());
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    assert!(output.stdout == by_git(&path, &["v1.0"])?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_that_fails_leaves_no_file_and_names_the_remedy() -> Result<()> {
    let terminal = Terminal::start().await?;
    work(&terminal)?;
    git::init(&terminal.path("empty"))?;
    let unknown = "1".repeat(40);
    for (arguments, status, part) in [
        (&["work@nothing"][..], 1, "`work` has no revision `nothing`"),
        (&["work@nothing"], 1, "`refs/heads/main`"),
        (&["work", "--rev", &unknown], 1, "has no object"),
        (&["empty"], 1, "has no branch and no tag"),
        (&["work@main:nothing"], 1, "not a folder"),
        (
            &["work", "nothing"],
            1,
            "pathspec 'nothing' did not match any files",
        ),
        (&["work", "../x"], 1, "is outside repository"),
        (&["work", "--prefix=/x"], 1, "must be a relative path"),
        (
            &["work", "--add-file=missing"],
            1,
            "`missing` cannot be read",
        ),
        (&["work", "--format=rar"], 2, "tar, tgz, tar.gz, zip"),
        (&["work", "--level=10"], 2, "--level"),
        (&["work", "--mtime=garbage"], 1, "@1700000000"),
        (&["nowhere"], 1, "`nowhere` is not a git repository"),
        (&["s4://b/x"], 1, "must start with"),
        (&[], 2, "REMOTE"),
    ] {
        let ours = [arguments, &["-o", "no.tar"]].concat();
        let message = archive(&terminal, &ours).await?.failed(status);
        assert!(message.contains(part), "{arguments:?}: {message}");
        let left = std::fs::read_dir(terminal.home())?;
        let left = left.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        let left: Vec<String> = left.collect::<Result<_>>()?;
        assert!(!left.iter().any(|name| name.contains("no.tar")), "{left:?}");
    }
    // An existing file stays when its replacement fails.
    std::fs::write(terminal.path("old.tar"), "old")?;
    archive(&terminal, &["work@nothing", "-o", "old.tar"])
        .await?
        .failed(1);
    assert_eq!(std::fs::read(terminal.path("old.tar"))?, b"old");
    let full = archive(&terminal, &["work", "-o", "/dev/full"])
        .await?
        .failed(1);
    assert!(full.contains("`/dev/full` cannot be written"), "{full}");
    let missing = archive(&terminal, &["work", "-o", "none/x.tar"])
        .await?
        .failed(1);
    assert!(
        missing.contains("`none/x.tar` cannot be created"),
        "{missing}"
    );
    // The reader of a pipe goes away.
    std::fs::write(terminal.path("big"), vec![b'x'; 1 << 20])?;
    let line = "branchline archive work --add-file=big | head -c 1 > /dev/null; \
                echo ${PIPESTATUS[0]}";
    let piped = terminal.run("bash", &["-c", line]).await?;
    assert_eq!(piped.stdout, "1\n", "{piped:?}");
    let message = piped.stderr;
    assert!(
        message.contains("standard output cannot be written"),
        "{message}"
    );
    let json = archive(&terminal, &["work", "-o", "a.zip", "--json"]).await?;
    let result: Value = serde_json::from_str(&json.done())?;
    assert_eq!(result["output"], "a.zip");
    let size = std::fs::metadata(terminal.path("a.zip"))?.len();
    assert_eq!(result["bytes"], size);
    Ok(())
}
