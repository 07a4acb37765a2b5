//! Histories that are pushed to a target in batches.

use std::fmt::{self, Write as _};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use branchline_core::git::advertisement::Version;
use branchline_core::git::{HashKind, ObjectId};
use branchline_core::mirror::{self, BatchLimits, MirrorOptions, MirrorStats};
use branchline_core::remote::local::LocalRepository;
use branchline_core::remote::{
    BatchPolicy, Push, PushReport, RefOutcome, Remote, Snapshot, Source, Target, TargetCapabilities,
};
use branchline_core::{Error, ErrorKind, Result};
use bstr::BString;

use super::http::remote;
use super::local::{at, local};
use super::push_by_size::noise;
use branchline_test_support::git_server::GitServer;
use branchline_test_support::repo::Repo;

/// Refs of a requested push, with `-` before deletions.
type RequestedPush = Vec<String>;

/// A local repository with batches by commits, which records pushes and can fail.
struct BatchRemote {
    inner: LocalRepository,
    log: Arc<Log>,
}

#[derive(Default)]
struct Log {
    pushes: Mutex<Vec<RequestedPush>>,
    // Number of pushes after which each one fails, before or after it takes effect.
    fail_from: AtomicUsize,
    after: bool,
    largest: AtomicUsize,
    // Selects the refs to reject.
    refuses: Mutex<Option<Refuses>>,
}

type Refuses = Box<dyn Fn(&str) -> bool + Send>;

impl BatchRemote {
    fn new(path: &Path) -> Self {
        Self::failing(path, usize::MAX, false)
    }

    fn failing(path: &Path, from: usize, after: bool) -> Self {
        let log = Log {
            fail_from: AtomicUsize::new(from),
            after,
            ..Log::default()
        };
        Self {
            inner: local(path),
            log: Arc::new(log),
        }
    }

    fn refusing(path: &Path, refuses: impl Fn(&str) -> bool + Send + 'static) -> Self {
        let target = Self::new(path);
        *target.log.refuses.lock().unwrap() = Some(Box::new(refuses));
        target
    }

    fn pushes(&self) -> Vec<RequestedPush> {
        self.log.pushes.lock().unwrap().clone()
    }
}

impl fmt::Display for BatchRemote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl Remote for BatchRemote {
    async fn source(&self, prefixes: &[BString]) -> Result<Box<dyn Source>> {
        self.inner.source(prefixes).await
    }

    async fn target(&self) -> Result<Box<dyn Target>> {
        Ok(Box::new(BatchTarget {
            inner: self.inner.target().await?,
            log: Arc::clone(&self.log),
        }))
    }
}

struct BatchTarget {
    inner: Box<dyn Target>,
    log: Arc<Log>,
}

#[async_trait]
impl Target for BatchTarget {
    fn snapshot(&self) -> &Snapshot {
        self.inner.snapshot()
    }

    fn capabilities(&self) -> TargetCapabilities {
        TargetCapabilities {
            batches: BatchPolicy::ByCommits,
            ..self.inner.capabilities()
        }
    }

    async fn haves(&self) -> Result<Vec<ObjectId>> {
        self.inner.haves().await
    }

    async fn push(&mut self, mut push: Push) -> Result<PushReport> {
        let names = push.changes.iter();
        let asked: RequestedPush = names
            .map(|change| {
                let sign = if change.new.is_none() { "-" } else { "" };
                format!("{sign}{}", change.name)
            })
            .collect();
        let number = {
            let mut pushes = self.log.pushes.lock().unwrap();
            pushes.push(asked);
            pushes.len()
        };
        // A permanent error, so that the run ends here.
        let killed = || Error::new(ErrorKind::AccessDenied, "killed");
        let fails = number > self.log.fail_from.load(Ordering::Relaxed);
        if fails && !self.log.after {
            return Err(killed());
        }
        let mut refused = Vec::new();
        if let Some(refuses) = &*self.log.refuses.lock().unwrap() {
            push.changes.retain(|change| {
                let refuse = refuses(&change.name.to_string());
                if refuse {
                    let no = RefOutcome::Rejected("no".to_owned());
                    refused.push((change.name.clone(), no));
                }
                !refuse
            });
        }
        if push.changes.is_empty() {
            return Ok(PushReport {
                refs: refused,
                ..PushReport::default()
            });
        }
        let mut report = self.inner.push(push).await?;
        report.refs.extend(refused);
        let bytes = usize::try_from(report.bytes).unwrap();
        self.log.largest.fetch_max(bytes, Ordering::Relaxed);
        if fails { Err(killed()) } else { Ok(report) }
    }
}

/// Makes a linear history with a branch and a tag.
pub(crate) fn linear(commits: usize) -> Repo {
    let repo = Repo::new(HashKind::Sha1);
    let mut stream = String::new();
    for n in 1..=commits {
        let date = 1_700_000_000 + n;
        writeln!(
            stream,
            "commit refs/heads/main\ncommitter C <c@x> {date} +0000\ndata 2\nc\n\
             M 644 inline f{}\ndata {}\n{n}\n",
            n % 7,
            n.to_string().len()
        )
        .unwrap();
    }
    repo.input(&["fast-import", "--quiet"], stream.as_bytes());
    repo.git(&["tag", "light", "main~1"]);
    repo
}

fn options(commits: u64) -> MirrorOptions {
    MirrorOptions {
        batch: BatchLimits {
            commits,
            ..BatchLimits::default()
        },
        ..MirrorOptions::default()
    }
}

async fn run(source: &Repo, target: &BatchRemote, options: &MirrorOptions) -> Result<MirrorStats> {
    mirror::mirror(&local(&source.path), target, options, None).await
}

/// Asserts that the target equals the source and has no temporary tag.
fn assert_equal(source: &Repo, target: &Path) {
    let target = at(target, HashKind::Sha1);
    assert_eq!(target.refs(), source.refs());
    target.fsck();
}

fn tag(number: usize) -> RequestedPush {
    vec![format!("refs/tags/codecommit_migration_{number}")]
}

#[tokio::test]
async fn each_batch_is_a_push_under_a_tag_that_is_deleted_with_the_refs() {
    let source = linear(45);
    let dir = tempfile::tempdir().unwrap();
    let target = BatchRemote::new(&dir.path().join("t.git"));
    let outcome = run(&source, &target, &options(10)).await.unwrap();
    let pushes = target.pushes();
    let numbers: Vec<_> = (1..=5).map(tag).collect();
    assert_eq!(
        pushes[..5],
        numbers,
        "tags must be pushed in the order of their numbers"
    );
    assert_eq!(pushes.len(), 6);
    assert!(pushes[5].contains(&"refs/heads/main".to_owned()));
    let removed: RequestedPush = numbers.iter().map(|tag| format!("-{}", tag[0])).collect();
    assert!(
        pushes[5].ends_with(&removed),
        "tags must be deleted with the refs"
    );
    assert_eq!(outcome.created, source.refs().lines().count() as u64);
    assert!(outcome.complete && outcome.deleted == 0 && outcome.rejected.is_empty());
    assert_equal(&source, &dir.path().join("t.git"));

    let again = BatchRemote::new(&dir.path().join("t.git"));
    run(&source, &again, &options(10)).await.unwrap();
    assert_eq!(
        again.pushes(),
        Vec::<RequestedPush>::new(),
        "a second run must push nothing"
    );
}

#[tokio::test]
async fn a_short_history_needs_no_tags() {
    let source = linear(21);
    let dir = tempfile::tempdir().unwrap();
    let target = BatchRemote::new(&dir.path().join("t.git"));
    run(&source, &target, &options(20)).await.unwrap();
    assert_eq!(target.pushes().len(), 1, "5 % more commits are one batch");
    assert_equal(&source, &dir.path().join("t.git"));
}

#[tokio::test]
async fn a_run_killed_at_any_push_is_completed_by_the_next_one() {
    let source = linear(25);
    for after in [false, true] {
        for done in 0..4 {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("t.git");
            let first = BatchRemote::failing(&path, done, after);
            let died = run(&source, &first, &options(10)).await;
            assert_eq!(died.unwrap_err().kind(), ErrorKind::AccessDenied);
            let second = BatchRemote::new(&path);
            run(&source, &second, &options(10)).await.unwrap();
            assert_equal(&source, &path);
            let expected = match done + usize::from(after) {
                // Three tags, and the refs, with which the tags are deleted.
                0 => 4,
                // Tags of an earlier run are deleted after the refs were accepted.
                made @ 1..4 => 5 - made,
                _ => 0,
            };
            assert_eq!(
                second.pushes().len(),
                expected,
                "only missing batches are pushed (killed at {done}, after: {after})"
            );
        }
    }
}

#[tokio::test]
async fn an_interrupted_script_migration_is_resumed_from_any_state() {
    let source = linear(45);
    let commits = source.git(&["rev-list", "--reverse", "main"]);
    let commits: Vec<&str> = commits.lines().collect();
    let nth = |n: usize| commits[n - 1];
    let own = [1, 12, 23, 34, 45];
    let states: [&[(usize, usize)]; 5] = [
        &[(1, 1), (2, 12)],
        // All tags and no refs: the script itself cannot continue from here.
        &[(1, 1), (2, 12), (3, 23), (4, 34), (5, 45)],
        // Of another batch size: the script refuses to continue.
        &[(1, 5), (2, 26)],
        &[(1, 5), (2, 26), (3, 45), (17, 3)],
        &[],
    ];
    for state in states {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.git");
        source.git(&["init", "-q", "--bare", path.to_str().unwrap()]);
        for (number, commit) in state {
            let to = format!("{}:refs/tags/codecommit_migration_{number}", nth(*commit));
            source.git(&["push", "-q", path.to_str().unwrap(), &to]);
        }
        let target = BatchRemote::new(&path);
        run(&source, &target, &options(10)).await.unwrap();
        assert_equal(&source, &path);
        let there = state.iter().map(|(_, commit)| *commit).max().unwrap_or(0);
        let expected: Vec<RequestedPush> = (1..)
            .zip(own)
            .filter(|(_, commit)| *commit > there && 45 - there > 10)
            .map(|(number, _)| tag(number))
            .collect();
        let pushes = target.pushes();
        let tags: Vec<_> = pushes
            .into_iter()
            .filter(|push| push[0].contains("codecommit_migration") && !push[0].starts_with('-'))
            .collect();
        assert_eq!(tags, expected, "only missing batches are pushed: {state:?}");
    }
}

#[tokio::test]
async fn a_batch_with_too_many_bytes_is_split_in_halves() {
    let source = noise(12, 60_000);
    for commits in [5, 1000] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.git");
        let target = BatchRemote::new(&path);
        let mut options = options(commits);
        options.batch.bytes = Some(150_000);
        let outcome = run(&source, &target, &options).await.unwrap();
        assert_equal(&source, &path);
        let largest = target.log.largest.load(Ordering::Relaxed);
        assert!(largest <= 150_000, "a push had {largest} bytes");
        assert!(outcome.bytes > 500_000, "all bytes must be sent");
    }
    // A single commit is pushed whatever its size.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.git");
    let target = BatchRemote::new(&path);
    let mut options = options(5);
    options.batch.bytes = Some(10);
    run(&source, &target, &options).await.unwrap();
    assert_equal(&source, &path);
}

#[tokio::test]
async fn clean_deletes_only_temporary_tags() {
    let source = linear(5);
    source.git(&["tag", "codecommit_migration_1", "main~1"]);
    source.git(&["tag", "codecommit_migration_x", "main~1"]);
    source.git(&[
        "tag",
        "codecommit_migration_part_0123456789abcdef",
        "main~2",
    ]);
    source.git(&["tag", "codecommit_migration_part_2", "main"]);
    source.git(&["tag", "mine", "main"]);
    let before = source.refs();
    let target = BatchRemote::new(&source.path);
    let outcome = mirror::clean(&target, None).await.into_result().unwrap();
    assert_eq!((outcome.deleted, outcome.complete), (2, true));
    let left: String = before
        .lines()
        .filter(|line| !line.ends_with("migration_1") && !line.ends_with("0123456789abcdef"))
        .collect::<Vec<_>>()
        .join("\n");
    assert_eq!(source.refs(), left);
    let outcome = mirror::clean(&target, None).await.into_result().unwrap();
    assert_eq!(outcome.deleted, 0);
    assert_eq!(
        target.pushes().len(),
        1,
        "nothing to delete must not be a push"
    );
}

#[tokio::test]
async fn temporary_tags_are_never_mirrored() {
    let source = linear(5);
    source.git(&["tag", "codecommit_migration_1", "main~1"]);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.git");
    let outcome = mirror::mirror(
        &local(&source.path),
        &local(&path),
        &MirrorOptions::default(),
        None,
    )
    .await
    .unwrap();
    assert!(outcome.complete);
    assert!(!at(&path, HashKind::Sha1).refs().contains("migration"));
}

#[tokio::test]
async fn remaining_commits_are_pushed_in_batches_even_if_the_server_cannot_filter() {
    let source = linear(45);
    let server = GitServer::new(&source);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.git");
    let from = remote(&server.url(), Version::V0);
    let first = BatchRemote::failing(&path, 2, false);
    let died = mirror::mirror(&from, &first, &options(10), None).await;
    assert_eq!(died.unwrap_err().kind(), ErrorKind::AccessDenied);
    let second = BatchRemote::new(&path);
    let outcome = mirror::mirror(&from, &second, &options(10), None).await;
    assert!(outcome.unwrap().complete);
    assert_equal(&source, &path);
    let tags: Vec<RequestedPush> = (3..=5).map(tag).collect();
    assert_eq!(
        second.pushes()[..3],
        tags,
        "the rest must not be a single push"
    );
}

#[tokio::test]
async fn the_batch_of_a_rejected_temporary_tag_is_part_of_the_next_one() {
    let source = linear(45);
    for refused in 1..=5 {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.git");
        let name = tag(refused).remove(0);
        let target = BatchRemote::refusing(&path, move |asked| asked == name);
        let outcome = run(&source, &target, &options(10)).await.unwrap();
        assert!(outcome.complete && outcome.rejected.is_empty());
        let tags: Vec<RequestedPush> = (1..=5).map(tag).collect();
        assert_eq!(target.pushes()[..5], tags, "each tag is pushed once");
        assert_equal(&source, &path);
    }
}

#[tokio::test]
async fn no_temporary_tag_is_pushed_after_two_consecutive_rejections() {
    let source = linear(45);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.git");
    let target = BatchRemote::refusing(&path, |asked| asked.contains("migration"));
    let outcome = run(&source, &target, &options(10)).await.unwrap();
    assert!(outcome.complete && outcome.rejected.is_empty());
    let pushes = target.pushes();
    assert_eq!(pushes[..2], [tag(1), tag(2)]);
    assert_eq!(pushes.len(), 3, "then the refs must be pushed: {pushes:?}");
    assert_equal(&source, &path);
}

#[tokio::test]
async fn temporary_tags_stay_while_a_ref_is_rejected() {
    let source = linear(25);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.git");
    let target = BatchRemote::refusing(&path, |asked| asked == "refs/heads/main");
    let outcome = run(&source, &target, &options(10)).await.unwrap();
    assert_eq!(outcome.rejected.len(), 1);
    let pushes = target.pushes();
    assert_eq!(
        pushes[4..],
        [(1..=3).flat_map(tag).collect::<RequestedPush>()]
    );
    // The next run does not delete and restore them.
    let target = BatchRemote::refusing(&path, |asked| asked == "refs/heads/main");
    let outcome = run(&source, &target, &options(10)).await.unwrap();
    assert_eq!((outcome.objects, outcome.rejected.len()), (0, 1));
    assert_eq!(target.pushes(), [["refs/heads/main"]]);
    let target = BatchRemote::new(&path);
    let outcome = run(&source, &target, &options(10)).await.unwrap();
    assert_eq!((outcome.objects, outcome.created), (0, 1));
    assert_eq!(
        target.pushes().len(),
        2,
        "one push of the branch, one of the deletions"
    );
    assert_equal(&source, &path);
}

#[tokio::test]
async fn a_temporary_tag_that_cannot_be_deleted_is_reported() {
    let source = linear(25);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.git");
    let seen = AtomicUsize::new(0);
    let target = BatchRemote::refusing(&path, move |asked| {
        asked == tag(2)[0] && seen.fetch_add(1, Ordering::Relaxed) > 0
    });
    let outcome = run(&source, &target, &options(10)).await.unwrap();
    let rejected: Vec<_> = outcome.rejected.keys().cloned().collect();
    assert_eq!(rejected, [BString::from(tag(2)[0].as_str())]);
    assert_eq!(outcome.created, 2);
    let cleaned = mirror::clean(&BatchRemote::new(&path), None).await.stats;
    assert_eq!((cleaned.deleted, cleaned.complete), (1, true));
    assert_equal(&source, &path);
}

#[tokio::test]
async fn a_failure_counts_updates_that_took_effect() {
    let source = linear(25);
    for (after, created) in [(false, 0), (true, 2)] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.git");
        let target = BatchRemote::failing(&path, 3, after);
        let local = local(&source.path);
        let result = mirror::mirror_with_stats(&local, &target, &options(10), None).await;
        assert_eq!(result.error.unwrap().kind(), ErrorKind::AccessDenied);
        assert_eq!(result.stats.created, created, "made: {after}");
        assert!(result.stats.objects > 50 && !result.stats.complete);
        // Cleaning fails too; its deletions may have taken effect.
        let path = dir.path().join("again.git");
        let target = BatchRemote::failing(&path, 3, false);
        run(&source, &target, &options(10)).await.unwrap_err();
        let target = BatchRemote::failing(&path, 0, after);
        let result = mirror::clean(&target, None).await;
        result.error.unwrap();
        assert_eq!(result.stats.deleted, if after { 3 } else { 0 });
    }
}
