//! Local repositories mirrored into local ones, compared with git.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use branchline_core::git::HashKind;
use branchline_core::git::pack::PackLimits;
use branchline_core::mirror::{MirrorOptions, MirrorStats, RefSelection, mirror};
use branchline_core::remote::Remote;
use branchline_core::remote::local::LocalRepository;
use branchline_core::{ErrorKind, Result};

use super::objects::{lay, rich};
use branchline_test_support::repo::Repo;

pub(crate) fn local(path: &Path) -> LocalRepository {
    LocalRepository::new(path, PackLimits::default().with_memory(16 << 20))
}

/// Options that select all refs, with `prune`.
pub(crate) fn options() -> MirrorOptions {
    MirrorOptions {
        refs: RefSelection::new(["refs/*"]).unwrap(),
        prune: true,
        ..MirrorOptions::default()
    }
}

pub(crate) async fn run(source: &Path, target: &Path) -> Result<MirrorStats> {
    run_with(source, target, &options()).await
}

async fn run_with(source: &Path, target: &Path, options: &MirrorOptions) -> Result<MirrorStats> {
    mirror(&local(source), &local(target), options, None).await
}

/// Opens a repository that a mirroring wrote.
pub(crate) fn at(path: &Path, hash: HashKind) -> Repo {
    Repo {
        dir: None,
        path: path.to_owned(),
        hash,
    }
}

/// Returns all paths below a directory with their modification times.
fn state(folder: &Path) -> BTreeMap<PathBuf, SystemTime> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let known = std::fs::symlink_metadata(&path).unwrap();
            found.insert(path.clone(), known.modified().unwrap());
            if known.is_dir() {
                folders.push(path);
            }
        }
    }
    found
}

/// Asserts that git finds the target equal to the source, and that a second run writes nothing.
async fn assert_equal(source: &Repo, target: &Path) {
    let copy = at(target, source.hash);
    assert_eq!(copy.refs(), source.refs(), "the refs must be equal");
    let head = |repo: &Repo| std::fs::read_to_string(repo.path.join("HEAD")).unwrap();
    assert_eq!(head(&copy), head(source), "`HEAD` must be equal");
    copy.fsck();
    let before = state(target);
    let again = run(&source.path, target).await.unwrap();
    assert!(again.complete);
    let done = (again.created, again.updated, again.deleted, again.objects);
    assert_eq!(done, (0, 0, 0, 0));
    assert_eq!(state(target), before, "a second run must write nothing");
}

#[tokio::test]
async fn a_missing_directory_becomes_an_equal_bare_repository() {
    for (hash, form) in [
        (HashKind::Sha1, "mixed"),
        (HashKind::Sha1, "offsets"),
        (HashKind::Sha256, "several"),
    ] {
        let source = rich(hash);
        lay(&source, form);
        if form != "mixed" {
            source.git(&["pack-refs", "--all"]);
        }
        source.git(&["symbolic-ref", "HEAD", "refs/heads/octopus"]);
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("new/folder/r.git");
        let outcome = run(&source.path, &target).await.unwrap();
        assert!(outcome.complete && outcome.rejected.is_empty());
        assert_eq!(outcome.created, source.refs().lines().count() as u64);
        assert_eq!(outcome.objects, source.objects().len() as u64);
        assert_equal(&source, &target).await;
        let clone = dir.path().join("clone");
        source.git(&[
            "clone",
            "-q",
            target.to_str().unwrap(),
            clone.to_str().unwrap(),
        ]);
    }
}

#[tokio::test]
async fn an_update_sends_new_objects_and_prunes_refs() {
    let source = rich(HashKind::Sha1);
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("r.git");
    // An empty directory is initialised.
    std::fs::create_dir(&target).unwrap();
    run(&source.path, &target).await.unwrap();
    let copy = at(&target, source.hash);
    copy.git(&["pack-refs", "--all"]);
    let commit = ["commit-tree", "main^{tree}", "-p", "main", "-m", "new"];
    let new = source.git(&commit);
    for (name, to) in [
        ("main", new.as_str()),
        ("other", "main~3"),
        ("a/b/c", "side"),
    ] {
        source.git(&["update-ref", &format!("refs/heads/{name}"), to]);
    }
    source.git(&["tag", "-d", "v1", "plain-tree"]);
    source.git(&["update-ref", "-d", "refs/heads/emptied"]);
    let outcome = run(&source.path, &target).await.unwrap();
    assert_eq!(
        (outcome.created, outcome.updated, outcome.deleted),
        (1, 2, 3)
    );
    assert_eq!(outcome.objects, 1, "one commit is new");
    assert_equal(&source, &target).await;
}

#[tokio::test]
async fn refs_become_directories_of_refs_and_back() {
    for packed in [false, true] {
        let source = Repo::with_history(HashKind::Sha1, 5, 3);
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("r.git");
        source.git(&["update-ref", "refs/heads/x/y/z", "main"]);
        source.git(&["update-ref", "refs/heads/p", "main"]);
        run(&source.path, &target).await.unwrap();
        let copy = at(&target, source.hash);
        if packed {
            copy.git(&["pack-refs", "--all"]);
            // Empty directories that git left do not conflict.
            std::fs::create_dir_all(target.join("refs/heads/x/y/w")).unwrap();
        }
        source.git(&["update-ref", "-d", "refs/heads/x/y/z"]);
        source.git(&["update-ref", "-d", "refs/heads/p"]);
        source.git(&["update-ref", "refs/heads/x", "main~1"]);
        source.git(&["update-ref", "refs/heads/p/q", "main~1"]);
        let outcome = run(&source.path, &target).await.unwrap();
        assert!(outcome.rejected.is_empty(), "{:?}", outcome.rejected);
        assert_equal(&source, &target).await;

        // Without `prune` the old refs conflict.
        source.git(&["update-ref", "-d", "refs/heads/x"]);
        source.git(&["update-ref", "refs/heads/x/y", "main"]);
        source.git(&["update-ref", "-d", "refs/heads/p/q"]);
        source.git(&["update-ref", "refs/heads/p", "main"]);
        source.git(&["update-ref", "refs/heads/side", "main"]);
        let keep = MirrorOptions {
            prune: false,
            ..options()
        };
        let outcome = run_with(&source.path, &target, &keep);
        let outcome = outcome.await.unwrap();
        assert_eq!(outcome.updated, 1, "other refs must be updated");
        let reasons: Vec<_> = outcome.rejected.into_values().collect();
        for (reason, other) in reasons.iter().zip(["refs/heads/p/q", "refs/heads/x"]) {
            assert!(
                reason.starts_with(&format!("`{other}` of the target")),
                "{reason}"
            );
        }
        assert_eq!(reasons.len(), 2);
        copy.fsck();
    }
}

#[tokio::test]
async fn head_is_symbolic_unborn_or_detached() {
    let source = Repo::with_history(HashKind::Sha1, 5, 3);
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("r.git");
    let steps: [&[&str]; 3] = [
        &["symbolic-ref", "HEAD", "refs/heads/side"],
        &["update-ref", "--no-deref", "HEAD", "main~1"],
        &["symbolic-ref", "HEAD", "refs/heads/main"],
    ];
    for step in steps {
        source.git(step);
        run(&source.path, &target).await.unwrap();
        assert_equal(&source, &target).await;
    }
    source.git(&["symbolic-ref", "HEAD", "refs/heads/unborn"]);
    let outcome = run(&source.path, &target).await.unwrap();
    assert!(outcome.complete);
    let head = std::fs::read_to_string(target.join("HEAD")).unwrap();
    assert_eq!(
        head, "ref: refs/heads/main\n",
        "a missing branch does not spread"
    );

    let empty = Repo::new(HashKind::Sha1);
    empty.git(&["symbolic-ref", "HEAD", "refs/heads/trunk"]);
    let target = dir.path().join("empty.git");
    run(&empty.path, &target).await.unwrap();
    assert_equal(&empty, &target).await;
}

#[tokio::test]
async fn a_checked_out_branch_is_rejected() {
    let source = Repo::with_history(HashKind::Sha1, 5, 3);
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    let other = dir.path().join("other");
    source.git(&["clone", "-q", ".", tree.to_str().unwrap()]);
    let target = at(&tree.join(".git"), HashKind::Sha1);
    target.git(&["branch", "-q", "linked", "main"]);
    let args = ["worktree", "add", "-q", other.to_str().unwrap(), "linked"];
    target.git(&args);
    source.git(&["update-ref", "refs/heads/linked", "main~1"]);
    source.git(&["update-ref", "refs/heads/main", "main~1"]);
    let heads = MirrorOptions {
        prune: true,
        ..MirrorOptions::default()
    };
    let outcome = run_with(&source.path, &tree, &heads);
    let outcome = outcome.await.unwrap();
    assert!(outcome.complete);
    assert_eq!(outcome.created, 1, "`side` must be updated: {outcome:?}");
    let refused = "branch is currently checked out".to_owned();
    assert_eq!(outcome.rejected.len(), 2);
    assert!(outcome.rejected.values().all(|reason| *reason == refused));
    source.git(&["update-ref", "-d", "refs/heads/linked"]);
    let outcome = run_with(&source.path, &tree, &heads);
    let outcome = outcome.await.unwrap();
    let reason = &outcome.rejected[bstr("refs/heads/linked")];
    assert!(reason.starts_with("deletion of the current branch prohibited; hint: "));

    target.git(&["config", "receive.denyCurrentBranch", "ignore"]);
    let outcome = run_with(&source.path, &tree, &heads);
    assert!(outcome.await.unwrap().rejected.is_empty());
    assert_eq!(target.id("refs/heads/main"), source.id("main"));
}

fn bstr(text: &str) -> &bstr::BStr {
    text.into()
}

#[tokio::test]
async fn working_trees_linked_ones_and_alternates_are_sources() {
    let source = Repo::with_history(HashKind::Sha1, 10, 3);
    let dir = tempfile::tempdir().unwrap();
    let (tree, linked) = (dir.path().join("tree"), dir.path().join("linked"));
    source.git(&["clone", "-q", "--shared", ".", tree.to_str().unwrap()]);
    let repo = at(&tree.join(".git"), HashKind::Sha1);
    let args = ["worktree", "add", "-q", "-b", "w", linked.to_str().unwrap()];
    repo.git(&args);
    assert!(linked.join(".git").is_file() && repo.path.join("objects/info/alternates").is_file());
    for path in [&tree, &linked, &repo.path] {
        let target = dir.path().join(format!("{}.git", rand_name(path)));
        run(path, &target).await.unwrap();
        let copy = at(&target, HashKind::Sha1);
        copy.fsck();
        let names = [
            "for-each-ref",
            "--format=%(objectname) %(refname)",
            "refs/heads",
        ];
        assert_eq!(copy.git(&names), repo.git(&names));
        let expected = if path == &linked { "w" } else { "main" };
        let head = copy.git(&["symbolic-ref", "--short", "HEAD"]);
        assert_eq!(head, expected, "HEAD is that of {}", path.display());
    }
}

fn rand_name(path: &Path) -> String {
    path.display().to_string().replace('/', "-")
}

#[tokio::test]
async fn a_repository_that_cannot_be_used_is_refused_with_a_remedy() {
    let source = Repo::with_history(HashKind::Sha1, 10, 3);
    let dir = tempfile::tempdir().unwrap();
    let from = format!("file://{}", source.path.display());
    let shallow = dir.path().join("shallow");
    let partial = dir.path().join("partial");
    let tables = dir.path().join("tables");
    let clone = |args: &[&str], to: &Path| {
        source.git(&["config", "uploadpack.allowFilter", "true"]);
        let mut all = vec!["clone", "-q", "--bare"];
        all.extend(args);
        all.extend([from.as_str(), to.to_str().unwrap()]);
        source.git(&all);
    };
    clone(&["--depth=1"], &shallow);
    clone(&["--filter=blob:none"], &partial);
    clone(&["--ref-format=reftable"], &tables);
    for (path, word) in [
        (&shallow, "shallow"),
        (&partial, "partial"),
        (&tables, "reftable"),
    ] {
        let error = local(path).source(&[]).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.to_string().contains(word), "{error}");
        assert!(error.hint().is_some_and(|hint| hint.contains("git ")));
        assert!(local(path).target().await.is_err());
    }
    let nowhere = dir.path().join("nowhere");
    let error = local(&nowhere).source(&[]).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let error = local(dir.path()).target().await.err().unwrap();
    assert_eq!(
        error.kind(),
        ErrorKind::NotFound,
        "a directory with other files must be refused"
    );
    let file = dir.path().join("file");
    std::fs::write(&file, "x").unwrap();
    assert!(local(&file).target().await.is_err() && local(&file).source(&[]).await.is_err());

    let other = Repo::with_history(HashKind::Sha256, 2, 2);
    let error = run(&other.path, &source.path).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    let empty = Repo::new(HashKind::Sha1);
    let error = run(&other.path, &empty.path).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
}
