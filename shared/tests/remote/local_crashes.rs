//! Local repositories under kills, locks, concurrent git processes and hostile packs.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use branchline_core::git::object::{ObjectKind, id_of};
use branchline_core::git::{HashKind, ObjectId};
use branchline_core::mirror::{MirrorOptions, mirror};
use branchline_core::remote::{PackRequest, PublishHook, ReceivedObjects, Remote};
use branchline_core::testkit::KilledFs;
use branchline_core::{ErrorKind, Result};

use super::local::{at, local, options, run};
use branchline_test_support::repo::Repo;
use branchline_test_support::wrapped_remote::WrappedRemote;

fn copy(from: &Path, to: &Path) {
    let done = std::process::Command::new("cp")
        .args(["-a", from.to_str().unwrap(), to.to_str().unwrap()])
        .status();
    assert!(done.unwrap().success());
}

fn locks(folder: &Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            locks(&path, found);
        } else if path.extension().is_some_and(|end| end == "lock") {
            found.push(path);
        }
    }
}

fn lines(refs: &str) -> std::collections::BTreeSet<String> {
    refs.lines().map(str::to_owned).collect()
}

/// Mirrors with a kill after each number of writes; returns the number of writes of a full run.
async fn kill_at_each_write(source: &Repo, before: Option<&Path>) -> u64 {
    let dir = tempfile::tempdir().unwrap();
    let old = before.map(|path| at(path, source.hash).refs());
    let old = lines(&old.unwrap_or_default());
    let new = lines(&source.refs());
    for kill in 0.. {
        let target = dir.path().join(format!("{kill}.git"));
        if let Some(before) = before {
            copy(before, &target);
        }
        let remote = local(&target).with_fs(KilledFs::after(kill));
        let outcome = mirror_once(&local(&source.path), &remote, &options()).await;
        if outcome.is_ok() {
            let repo = at(&target, source.hash);
            assert_eq!(lines(&repo.refs()), new);
            return kill;
        }
        if target.join("HEAD").exists() {
            let repo = at(&target, source.hash);
            repo.fsck();
            let now = lines(&repo.refs());
            for line in &now {
                assert!(
                    old.contains(line) || new.contains(line),
                    "killed after {kill} writes: {line}"
                );
            }
            let kept: Vec<_> = old.intersection(&new).collect();
            assert!(kept.into_iter().all(|line| now.contains(line)));
            let mut found = Vec::new();
            locks(&target, &mut found);
            // As git's message says, because no git is running.
            for lock in found {
                std::fs::remove_file(lock).unwrap();
            }
        } else {
            assert!(
                before.is_none() && !target.exists(),
                "an initialised repository must be complete or missing"
            );
        }
        let again = run(&source.path, &target).await.unwrap();
        assert!(again.complete && again.rejected.is_empty());
        let repo = at(&target, source.hash);
        assert_eq!(
            lines(&repo.refs()),
            new,
            "killed after {kill} writes, and run again"
        );
        repo.fsck();
    }
    unreachable!()
}

/// Mirrors without retries.
async fn mirror_once(
    source: &dyn Remote,
    target: &dyn Remote,
    options: &MirrorOptions,
) -> Result<()> {
    let (source, mut target) = (source.source(&[]).await?, target.target().await?);
    let rules = branchline_core::mirror::PlanRules {
        prune: options.prune,
        head: source.snapshot().head.as_ref(),
        ..branchline_core::mirror::PlanRules::default()
    };
    let plan =
        branchline_core::mirror::plan(source.snapshot(), target.snapshot(), &options.refs, rules)?;
    let conflicting_deletions = branchline_core::remote::Push {
        changes: plan.conflicting_deletions,
        ..branchline_core::remote::Push::default()
    };
    target.push(conflicting_deletions).await?;
    let wants: Vec<_> = plan
        .changes
        .iter()
        .filter_map(|c| Some(c.new?.id))
        .collect();
    let wanted = PackRequest {
        wants: wants.clone(),
        haves: target.haves().await?,
        thin: true,
        offset_deltas: true,
    };
    let incoming = branchline_core::remote::IncomingOptions {
        hash: source.snapshot().hash,
        limits: options.limits,
        scanner: None,
        commits: None,
    };
    let body = source.fetch(&wanted).await?;
    let push = branchline_core::remote::Push {
        changes: [plan.changes, plan.deletions].concat(),
        head: plan.head,
        pack: Some(branchline_core::remote::IncomingPack::new(body, &incoming)),
        ..branchline_core::remote::Push::default()
    };
    target.push(push).await.map(drop)
}

#[tokio::test]
async fn a_kill_at_any_write_leaves_a_valid_repository() {
    let source = Repo::with_history(HashKind::Sha1, 8, 3);
    let kills = kill_at_each_write(&source, None).await;
    assert!(kills > 20, "initialising takes {kills} writes");

    let dir = tempfile::tempdir().unwrap();
    let before = dir.path().join("before.git");
    source.git(&["update-ref", "refs/heads/gone/far", "main~1"]);
    source.git(&["update-ref", "refs/heads/loose/far", "main~1"]);
    run(&source.path, &before).await.unwrap();
    at(&before, source.hash).git(&["pack-refs", "--all"]);
    source.git(&["update-ref", "refs/heads/loose/far", "main"]);
    run(&source.path, &before).await.unwrap();
    let commit = ["commit-tree", "main~2^{tree}", "-p", "main", "-m", "new"];
    let new = source.git(&commit);
    source.git(&["update-ref", "refs/heads/main", &new]);
    source.git(&["update-ref", "-d", "refs/heads/gone/far"]);
    source.git(&["update-ref", "-d", "refs/heads/loose/far"]);
    source.git(&["update-ref", "refs/heads/gone", "main"]);
    source.git(&["symbolic-ref", "HEAD", "refs/heads/side"]);
    let kills = kill_at_each_write(&source, Some(&before)).await;
    assert!(kills > 20, "updating takes {kills} writes");
}

#[tokio::test(start_paused = true)]
async fn a_held_lock_is_named_and_nothing_changes() {
    let source = Repo::with_history(HashKind::Sha1, 8, 3);
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("r.git");
    source.git(&["update-ref", "refs/heads/gone", "main"]);
    run(&source.path, &target).await.unwrap();
    let copy = at(&target, source.hash);
    let refs = copy.refs();
    source.git(&["update-ref", "-d", "refs/heads/gone"]);
    source.git(&["update-ref", "refs/heads/main", "main~1"]);
    for lock in ["packed-refs.lock", "refs/heads/gone.lock"] {
        std::fs::write(target.join(lock), "").unwrap();
        let error = run(&source.path, &target).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert!(
            error.hint().is_some_and(|hint| hint.contains(lock)),
            "{}",
            error.report()
        );
        assert_eq!(copy.refs(), refs, "no ref may change");
        assert!(target.join(lock).exists(), "a foreign lock must stay");
        std::fs::remove_file(target.join(lock)).unwrap();
        let mut left = Vec::new();
        locks(&target, &mut left);
        assert!(left.is_empty(), "own locks must be removed: {left:?}");
    }
    let outcome = run(&source.path, &target).await.unwrap();
    assert_eq!((outcome.updated, outcome.deleted), (1, 1));
}

/// Runs git commands in the target during a push.
struct ConcurrentGit {
    repo: Mutex<Option<Repo>>,
    commands: Vec<Vec<String>>,
    done: AtomicBool,
}

#[async_trait]
impl PublishHook for ConcurrentGit {
    async fn before_publish(&self, _: &ReceivedObjects) -> branchline_core::git::Result<()> {
        if let Some(repo) = self.repo.lock().unwrap().take() {
            for command in &self.commands {
                let words: Vec<_> = command.iter().map(String::as_str).collect();
                repo.git(&words);
            }
            self.done.store(true, Ordering::SeqCst);
        }
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn changes_of_a_concurrent_git_are_respected() {
    let cases = [
        vec!["update-ref refs/heads/main refs/heads/main~2"],
        vec!["update-ref -d refs/heads/main"],
        vec!["pack-refs --all"],
        vec!["pack-refs --all", "update-ref -d refs/heads/main"],
        vec!["gc -q --prune=now"],
        vec!["update-ref refs/heads/new refs/heads/main"],
        vec!["update-ref refs/heads/gone refs/heads/main~3"],
    ];
    for commands in cases {
        let source = Repo::with_history(HashKind::Sha1, 8, 3);
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("r.git");
        source.git(&["update-ref", "refs/heads/gone", "main"]);
        run(&source.path, &target).await.unwrap();
        let commit = ["commit-tree", "main~2^{tree}", "-p", "main", "-m", "new"];
        let new = source.git(&commit);
        source.git(&["update-ref", "refs/heads/main", &new]);
        source.git(&["update-ref", "refs/heads/new", &new]);
        source.git(&["update-ref", "-d", "refs/heads/gone"]);
        let words = |line: &&str| line.split(' ').map(str::to_owned).collect();
        let meanwhile = Arc::new(ConcurrentGit {
            repo: Mutex::new(Some(at(&target, source.hash))),
            commands: commands.iter().map(words).collect(),
            done: AtomicBool::new(false),
        });
        let options = MirrorOptions {
            publish_hook: Some(Arc::clone(&meanwhile) as Arc<dyn PublishHook>),
            ..options()
        };
        let outcome = mirror(&local(&source.path), &local(&target), &options, None).await;
        let outcome = outcome.unwrap_or_else(|error| panic!("{commands:?}: {}", error.report()));
        assert!(outcome.complete && meanwhile.done.load(Ordering::SeqCst));
        let copy = at(&target, source.hash);
        assert_eq!(copy.refs(), source.refs(), "{commands:?}");
        copy.fsck();
    }
}

#[tokio::test]
async fn an_incomplete_pack_is_not_published() {
    let pack_of = |source: &Repo, ids: &[ObjectId]| {
        let lines: Vec<_> = ids.iter().map(|id| format!("{id}\n")).collect();
        source.input(
            &["pack-objects", "--stdout", "-q"],
            lines.concat().as_bytes(),
        )
    };
    for (left_out, has_history) in [
        ("main:link", false),
        ("main^{tree}", false),
        ("main~1", false),
        ("main", false),
        ("main:link", true),
    ] {
        let source = Repo::with_history(HashKind::Sha1, 6, 3);
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("r.git");
        if has_history {
            run(&source.path, &target).await.unwrap();
            // A new tree with a blob that is not sent.
            let blob = source.input(&["hash-object", "-w", "--stdin"], b"new");
            let blob = String::from_utf8(blob).unwrap();
            let tree = format!("100644 blob {}\tnew\n", blob.trim());
            let tree = source.input(&["mktree"], tree.as_bytes());
            let tree = String::from_utf8(tree).unwrap();
            let commit = ["commit-tree", tree.trim(), "-p", "main", "-m", "new"];
            let new = source.git(&commit);
            source.git(&["update-ref", "refs/heads/main", &new]);
        }
        let mut ids: Vec<_> = source
            .objects()
            .iter()
            .map(|hex| ObjectId::from_hex(hex.as_bytes()).unwrap())
            .collect();
        let gone = if has_history {
            source.id("main:new")
        } else {
            source.id(left_out)
        };
        ids.retain(|id| *id != gone);
        let pack = pack_of(&source, &ids);
        let before = has_history.then(|| at(&target, source.hash).refs());
        let hash = source.hash;
        let lying = WrappedRemote::new(local(&source.path)).with_pack(pack);
        let error = mirror(&lying, &local(&target), &options(), None).await;
        let error = error.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{}", error.report());
        assert!(
            error.report().contains(&gone.to_string()),
            "{}",
            error.report()
        );
        let copy = at(&target, hash);
        assert_eq!(copy.refs(), before.unwrap_or_default());
        let packs = std::fs::read_dir(target.join("objects/pack")).unwrap();
        let packs = packs.filter(|e| {
            e.as_ref()
                .unwrap()
                .path()
                .extension()
                .is_some_and(|e| e == "idx")
        });
        assert_eq!(
            packs.count(),
            usize::from(has_history),
            "no pack may be published"
        );
        copy.fsck();
    }
}

#[tokio::test]
async fn a_branch_can_only_name_a_commit() {
    let source = Repo::with_history(HashKind::Sha1, 6, 3);
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("r.git");
    let tree = source.id("main^{tree}");
    std::fs::write(source.path.join("refs/heads/tree"), format!("{tree}\n")).unwrap();
    let outcome = run(&source.path, &target).await.unwrap();
    assert_eq!(outcome.rejected.len(), 1);
    let reason = outcome.rejected.into_values().next().unwrap();
    assert_eq!(
        reason,
        format!(
            "cannot update ref 'refs/heads/tree': trying to write non-commit object {tree} to \
             branch 'refs/heads/tree'"
        )
    );
    at(&target, source.hash).fsck();
    let stranger = id_of(HashKind::Sha1, ObjectKind::Blob, b"stranger").unwrap();
    std::fs::write(source.path.join("refs/heads/tree"), format!("{stranger}\n")).unwrap();
    assert!(
        run(&source.path, &target).await.is_err(),
        "a ref without its object must fail"
    );
}
