//! Content of `branchline archive` from outside of the commit: tags, history and objects of LFS.

use std::io::{Read, Seek};

use anyhow::Result;
use branchline_core::git::HashKind;
use branchline_test_support::git;
use branchline_test_support::git_server::GitServer;
use branchline_test_support::repo::Repo;
use sha2::{Digest as _, Sha256};

use super::super::git_remote_s3::environment::{BUCKET, Terminal};

const ATTRIBUTES: &str = "described export-subst\nsecret export-ignore\n*.bin filter=lfs -text\n";

/// Makes the repository `work` whose git runs git-lfs; returns the pointer and the object.
fn work(terminal: &Terminal) -> Result<(String, String)> {
    terminal.repository("work", 3)?;
    let work = terminal.path("work");
    let tag = ["tag", "--annotate", "--message=one", "v1.0", "HEAD~1"];
    git::git(&work, tag)?;
    let object = "an object of git LFS\n".repeat(1000);
    let oid = hex::encode(Sha256::digest(&object));
    let folder = work.join(format!(".git/lfs/objects/{}/{}", &oid[..2], &oid[2..4]));
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join(&oid), &object)?;
    let size = object.len();
    let pointer =
        format!("version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {size}\n");
    git::commit(
        &work,
        &[
            (".gitattributes", ATTRIBUTES),
            (
                "described",
                "$Format:%(describe:tags)$ $Format:%(trailers)$\n",
            ),
            ("secret", "s\n"),
            ("large.bin", &pointer),
        ],
        "files\n\nKey: value",
    )?;
    for (key, value) in [
        ("filter.lfs.process", "git-lfs filter-process"),
        ("filter.lfs.required", "true"),
    ] {
        git::git(&work, ["config", key, value])?;
    }
    Ok((oid, object))
}

#[tokio::test(flavor = "multi_thread")]
async fn archives_have_descriptions_and_objects_of_lfs_as_those_of_git() -> Result<()> {
    let mut terminal = Terminal::start().await?;
    let region = terminal.server().account().region.clone();
    terminal.set("AWS_REGION", Some(&region));
    let (oid, object) = work(&terminal)?;
    let path = terminal.path("work");
    let server = Repo::new(HashKind::Sha1);
    server.git(&["config", "uploadpack.allowFilter", "true"]);
    let http = GitServer::new(&server);
    let bundle = format!("s3://{BUCKET}/bundle");
    let dumb = format!("s3://{BUCKET}/dumb");
    let url = http.url();
    for (target, option) in [
        (bundle.as_str(), "--layout=bundle"),
        (dumb.as_str(), "--layout=dumb"),
        ("codecommit://demo", "--create"),
        (&url, "--no-lfs"),
    ] {
        let mirror = ["mirror", "work", target, option];
        terminal.run("branchline", &mirror).await?.done();
    }
    let mut command = git::command(&path);
    command.env("TZ", "UTC").args(["archive", "HEAD"]);
    let theirs = git::run_bytes(&mut command)?;
    let from_bundle = format!("--lfs={bundle}");
    for (remote, lfs) in [
        ("work", "--lfs"),
        (&bundle, "--lfs"),
        (&dumb, "--lfs"),
        ("codecommit://demo", &from_bundle),
        (&url, &from_bundle),
    ] {
        let arguments = ["archive", remote, lfs, "-o", "ours.tar"];
        terminal.run("branchline", &arguments).await?.done();
        let ours = std::fs::read(terminal.path("ours.tar"))?;
        assert!(ours == theirs, "{remote} {lfs}");
    }
    // The commit itself names the place of its objects.
    let config = format!("[lfs]\n\turl = {bundle}\n");
    git::commit(&path, &[(".lfsconfig", &config)], "configured")?;
    let branch = ["branch", "--force", "configured", "HEAD"];
    git::git(&path, branch)?;
    git::git(&path, ["reset", "--quiet", "--hard", "HEAD~1"])?;
    let mut command = git::command(&path);
    command.env("TZ", "UTC").args(["archive", "configured"]);
    let theirs = git::run_bytes(&mut command)?;
    for target in ["codecommit://demo", &url] {
        let mirror = ["mirror", "work", target, "--no-lfs"];
        terminal.run("branchline", &mirror).await?.done();
        let remote = format!("{target}@configured");
        let arguments = ["archive", &remote, "--lfs", "-o", "ours.tar"];
        terminal.run("branchline", &arguments).await?.done();
        let ours = std::fs::read(terminal.path("ours.tar"))?;
        assert!(ours == theirs, "{target}");
    }
    // Everything as it is in the commit.
    let arguments = ["archive", "work", "--no-export-ignore", "-o", "all.zip"];
    terminal.run("branchline", &arguments).await?.done();
    let mut zip = zip::ZipArchive::new(std::fs::File::open(terminal.path("all.zip"))?)?;
    assert!(zip.by_name("secret").is_ok());
    let pointer = std::io::read_to_string(zip.by_name("large.bin")?)?;
    assert!(pointer.contains(&oid) && pointer.len() < object.len());

    // A missing object, and a remote without objects.
    let folder = format!(".git/lfs/objects/{}/{}/{oid}", &oid[..2], &oid[2..4]);
    std::fs::remove_file(path.join(folder))?;
    let arguments = ["archive", "work", "--lfs", "-o", "no.tar"];
    let message = terminal.run("branchline", &arguments).await?.failed(1);
    assert!(message.contains("`large.bin`"), "{message}");
    assert!(message.contains(&oid), "{message}");
    assert!(!terminal.path("no.tar").exists());
    let arguments = ["archive", "codecommit://demo", "--lfs", "-o", "no.tar"];
    let message = terminal.run("branchline", &arguments).await?.failed(1);
    assert!(message.contains("--lfs=s3://bucket/prefix"), "{message}");
    Ok(())
}

/// Lists the names of the entries.
fn names<R: Read + Seek>(zip: &zip::ZipArchive<R>) -> Result<Vec<String>> {
    let names = zip.file_names();
    names.map(|name| Ok(name?.into_owned())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_has_the_files_of_submodules_from_remotes_of_every_kind() -> Result<()> {
    let mut terminal = Terminal::start().await?;
    let region = terminal.server().account().region.clone();
    terminal.set("AWS_REGION", Some(&region));
    terminal.repository("library", 3)?;
    terminal.repository("work", 3)?;
    let work = terminal.path("work");
    let pinned = git::git(&terminal.path("library"), ["rev-parse", "HEAD~1"])?;
    let modules = "[submodule \"library\"]\n\tpath = libs/one\n\turl = ../library\n";
    std::fs::write(work.join(".gitmodules"), modules)?;
    git::git(&work, ["add", ".gitmodules"])?;
    let entry = format!("160000,{pinned},libs/one");
    git::git(&work, ["update-index", "--add", "--cacheinfo", &entry])?;
    git::git(&work, ["commit", "--quiet", "--message=with a submodule"])?;
    let mut expected = Vec::new();
    let by_git = |folder: &str, arguments: &[&str]| -> Result<Vec<String>> {
        let mut command = git::command(&terminal.path(folder));
        command.args(["archive", "--format=zip"]).args(arguments);
        let bytes = git::run_bytes(&mut command)?;
        let zip = zip::ZipArchive::new(std::io::Cursor::new(bytes))?;
        names(&zip)
    };
    expected.extend(by_git("work", &["HEAD"])?);
    expected.extend(by_git("library", &["--prefix=libs/one/", &pinned])?);
    expected.sort();
    expected.dedup();
    let bundles = format!("s3://{BUCKET}/team");
    for name in ["work", "library"] {
        let target = format!("{bundles}/{name}");
        for (target, option) in [
            (target.as_str(), "--layout=bundle"),
            (&format!("codecommit://{name}"), "--create"),
        ] {
            let mirror = ["mirror", name, target, option];
            terminal.run("branchline", &mirror).await?.done();
        }
    }
    for remote in ["work", &format!("{bundles}/work"), "codecommit://work"] {
        let arguments = ["archive", remote, "--submodules", "-o", "ours.zip"];
        terminal.run("branchline", &arguments).await?.done();
        let zip = zip::ZipArchive::new(std::fs::File::open(terminal.path("ours.zip"))?)?;
        let mut found = names(&zip)?;
        found.sort();
        assert_eq!(found, expected, "{remote}");
    }
    // A path that another repository chooses is not read.
    std::fs::write(
        work.join(".gitmodules"),
        modules.replace("../library", "/etc"),
    )?;
    git::git(
        &work,
        ["commit", "--quiet", "--message=elsewhere", ".gitmodules"],
    )?;
    let arguments = ["archive", "work", "--submodules", "-o", "no.zip"];
    let message = terminal.run("branchline", &arguments).await?.failed(1);
    assert!(message.contains("submodule `libs/one`"), "{message}");
    assert!(message.contains("relative URL"), "{message}");
    assert!(!terminal.path("no.zip").exists());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn attributes_of_the_working_tree_decide_as_for_git() -> Result<()> {
    let terminal = Terminal::start().await?;
    terminal.repository("work", 3)?;
    let work = terminal.path("work");
    let files = [
        (".gitattributes", "secret export-ignore\n"),
        ("a/.gitattributes", "here export-ignore\n"),
        ("a/here", "1\n"),
        ("a/there", "$Format:%H$\n"),
        ("b/.gitattributes", "* export-ignore\n"),
        ("b/kept", "2\n"),
        ("c/text", "3\n"),
        ("secret", "4\n"),
    ];
    git::commit(&work, &files, "files")?;
    // Changed, deleted, made a link, and new: none of it is committed.
    std::fs::write(
        work.join(".gitattributes"),
        "[attr]gone export-ignore\na/there export-subst\n",
    )?;
    std::fs::remove_file(work.join("a/.gitattributes"))?;
    std::fs::remove_file(work.join("b/.gitattributes"))?;
    std::os::unix::fs::symlink("../.gitattributes", work.join("b/.gitattributes"))?;
    std::fs::write(work.join("c/.gitattributes"), "text gone\n")?;
    let bare = terminal.path("bare.git");
    git::git(
        &work,
        [
            "clone",
            "--quiet",
            "--bare",
            ".",
            &bare.display().to_string(),
        ],
    )?;
    for repository in ["work", "work/.git", "bare.git"] {
        for option in [None, Some("--worktree-attributes")] {
            let folder = terminal.path(repository.trim_end_matches("/.git"));
            let mut command = git::command(&folder);
            command
                .env("TZ", "UTC")
                .args(["archive", "HEAD"])
                .args(option);
            let theirs = git::run_bytes(&mut command)?;
            let mut arguments = vec!["archive", repository, "-o", "ours.tar"];
            arguments.extend(option);
            terminal.run("branchline", &arguments).await?.done();
            let ours = std::fs::read(terminal.path("ours.tar"))?;
            assert!(ours == theirs, "{repository} {option:?}");
        }
    }
    let url = format!("s3://{BUCKET}/bundle");
    let arguments = ["archive", &url, "--worktree-attributes", "-o", "no.tar"];
    let message = terminal.run("branchline", &arguments).await?.failed(1);
    assert!(message.contains("has no working tree"), "{message}");
    Ok(())
}
