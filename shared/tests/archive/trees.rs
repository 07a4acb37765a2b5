//! Entries of a tree: kinds, modes, names, order.

use std::process::Command;

use super::compare::{agree, agree_at, entries, ours};
use super::fake_codecommit::Disk;
use super::git::{Item, Repo, git, line, run};

/// "The archive equals `git archive --format=zip` under `TZ=UTC`, entry by entry."
#[tokio::test]
async fn kinds_modes_and_order_equal_those_of_git() {
    let repo = Repo::new();
    let long = b"a line that shrinks when it is said again\n".repeat(50);
    let commit = repo.commit(
        b"kinds\n",
        &[
            (b"a", Item::File(b"a\n")),
            (b"a.b/c", Item::File(&long)),
            (b"a-b/c", Item::File(&long)),
            (b"a0", Item::Executable(&long)),
            (b"again", Item::File(&long)),
            (b"bin/run", Item::Executable(b"#!/bin/sh\n")),
            (b"dir/deep/er/still/file", Item::File(b"x")),
            (b"empty", Item::File(b"")),
            (b"empty.sh", Item::Executable(b"")),
            (b"link", Item::Link(b"a")),
            (b"link-dangling", Item::Link(b"../nowhere")),
            (b"link-dir", Item::Link(b"dir/deep")),
            (b"link-same", Item::Link(b"a\n")),
            (b"module", Item::Submodule),
            (b"modules/one", Item::Submodule),
            (b"noise", Item::File(&(0..=255).collect::<Vec<u8>>())),
        ],
    );
    let zip = agree(&repo, &commit).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.zip");
    std::fs::write(&file, &zip).unwrap();
    let unzipped = run(Command::new("unzip").args(["-tq"]).arg(&file), b"");
    assert!(
        line(&unzipped).starts_with("No errors"),
        "Info-ZIP reads it without complaint"
    );
    let target = folder.path().join("out");
    run(
        Command::new("unzip")
            .arg("-q")
            .arg(&file)
            .arg("-d")
            .arg(&target),
        b"",
    );
    let found = run(
        Command::new("find").current_dir(&target).args([
            "bin/run",
            "a",
            "link-dir",
            "-printf",
            "%p %y %m %l\n",
        ]),
        b"",
    );
    let found = line(&found);
    assert!(
        found.contains("bin/run f 755") && found.contains("link-dir l 777 dir/deep"),
        "{found}"
    );
    let program =
        "import sys,zipfile; z=zipfile.ZipFile(sys.argv[1]); print(z.testzip(), len(z.namelist()))";
    let python = run(
        Command::new("python3").args(["-c", program]).arg(&file),
        b"",
    );
    assert_eq!(line(&python), format!("None {}", entries(&zip).0.len()));
}

#[tokio::test]
async fn names_equal_those_of_git_byte_for_byte() {
    let repo = Repo::new();
    let names = [
        "with space",
        "quo\"te",
        "apo'strophe",
        "back\\slash",
        "new\nline",
        "tab\t",
        "ünï.txt",
        "日本/語.txt",
        "emoji-🦀",
        "-dash",
        "~tilde",
        "$HOME",
        "*star?",
        "[x]",
        "a:b",
        "...",
        "..a",
        "trailing ",
        "\u{fffd}replaced",
        "Git",
        "\u{1}control",
        "é/e\u{301}",
    ];
    let files: Vec<_> = names.iter().map(|name| (*name, name.as_bytes())).collect();
    let commit = repo.files(&files);
    agree(&repo, &commit).await;
}

#[tokio::test]
async fn the_archive_of_an_empty_tree_has_no_entries() {
    let repo = Repo::new();
    let commit = repo.files(&[]);
    let zip = agree(&repo, &commit).await;
    assert_eq!(zip.len(), 22 + 40, "an empty directory and the comment");
}

#[tokio::test]
async fn a_sha256_commit_is_archived_as_by_git() {
    let repo = Repo::with_object_format("sha256");
    let commit = repo.files(&[
        (".gitattributes", b"a ident export-subst\n"),
        ("a", b"$Id$ $Format:%H %h %T$\n"),
        ("b/\u{fffd}", b"checked by the id of its tree"),
        ("empty", b""),
    ]);
    assert_eq!(commit.len(), 64);
    agree(&repo, &commit).await;
}

#[tokio::test]
async fn a_deep_tree_is_archived_completely() {
    let repo = Repo::new();
    let path = "d/".repeat(300) + "file";
    let commit = repo.files(&[(&path, b"deep"), ("d/d/x", b"x")]);
    agree(&repo, &commit).await;
}

#[tokio::test]
async fn times_before_1980_and_odd_seconds_equal_those_of_git() {
    for (date, clamped) in [
        ("1500000001 +0530", false),
        ("315532800 +0000", false),
        ("4000000000 -0100", false),
        ("0 +0000", true),
    ] {
        let repo = Repo::new();
        let tree = line(&repo.git(["mktree"], b""));
        let blob = line(&repo.git(["hash-object", "-w", "--stdin"], b"x"));
        assert_eq!(tree.len(), 40);
        let tree = format!("100644 blob {blob}\tx\n");
        let tree = line(&repo.git(["mktree"], tree.as_bytes()));
        let commit = line(&run(
            git(repo.path())
                .env("GIT_COMMITTER_DATE", format!("@{date}"))
                .args(["commit-tree", "-m", "m", &tree]),
            b"",
        ));
        if clamped {
            let (zip, _) = ours(&Disk::new(repo.path()), &commit, "").await;
            let mut archive = zip::ZipArchive::new(std::io::Cursor::new(zip)).unwrap();
            let file = archive.by_index(0).unwrap();
            assert_eq!(
                file.last_modified().unwrap().to_string(),
                "1980-01-01 00:00:00",
                "a DOS date begins in 1980"
            );
        } else {
            agree(&repo, &commit).await;
        }
    }
}

#[tokio::test]
async fn this_repository_is_archived_as_by_git() {
    let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let found = std::process::Command::new("git")
        .args(["rev-parse", "HEAD"])
        .current_dir(here)
        .output();
    // Skipped in a source archive, which has no history to compare with.
    let Some(output) = found.ok().filter(|output| output.status.success()) else {
        return;
    };
    let top = line(&run(git(here).args(["rev-parse", "--show-toplevel"]), b""));
    agree_at(top.as_ref(), &line(&output.stdout), "branchline/").await;
}
