//! Mirroring between repositories behind `git http-backend`.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use branchline_core::aws::{HttpSettings, git_http};
use branchline_core::git::advertisement::Version;
use branchline_core::git::smart_http::{NoCredentials, RepositoryUrl, SmartHttp};
use branchline_core::git::{HashKind, ObjectId};
use branchline_core::mirror::{MirrorOptions, MirrorStats, RefSelection, mirror};
use branchline_core::remote::smart_http::HttpRemote;
use branchline_core::remote::{
    Head, Push, PushReport, Remote, Snapshot, Target, TargetCapabilities,
};
use branchline_core::{ErrorKind, Result};
use bstr::BString;

use branchline_test_support::git_server::{GitServer, Response};
use branchline_test_support::http::ReceivedRequest;
use branchline_test_support::repo::{Repo, history};
use branchline_test_support::wrapped_remote::WrappedRemote;

pub(crate) const BOTH: [Version; 2] = [Version::V0, Version::V2];

pub(crate) fn remote(url: &str, version: Version) -> HttpRemote {
    let settings = HttpSettings {
        connect_timeout: Duration::from_secs(5),
        idle_timeout: Duration::from_secs(20),
        answer_timeout: Duration::from_mins(1),
        ..HttpSettings::default()
    };
    let client = SmartHttp::new(
        git_http(&settings).unwrap(),
        RepositoryUrl::new(url).unwrap(),
        Arc::new(NoCredentials),
    );
    HttpRemote::new(client.with_version(version))
}

/// Options that select all refs.
pub(crate) fn everything() -> MirrorOptions {
    MirrorOptions {
        refs: RefSelection::new(["refs/*"]).unwrap(),
        ..MirrorOptions::default()
    }
}

/// Makes a target that checks all objects that it receives.
pub(crate) fn strict(hash: HashKind) -> Repo {
    let target = Repo::new(hash);
    target.git(&["config", "receive.fsckObjects", "true"]);
    // Without fsync, because a test needs no durability.
    target.git(&["config", "core.fsync", "none"]);
    target
}

pub(crate) fn assert_equal(source: &Repo, target: &Repo) {
    assert_eq!(source.refs(), target.refs(), "the refs must be equal");
    assert_eq!(
        source.objects(),
        target.objects(),
        "the objects must be equal"
    );
    target.fsck();
}

pub(crate) fn count(repo: &Repo) -> u64 {
    repo.refs().lines().count() as u64
}

/// Returns method and service of each request.
fn requests(server: &GitServer) -> Vec<String> {
    let seen = server.requests();
    let shown = seen.iter().map(|seen: &ReceivedRequest| {
        let service = branchline_test_support::http::service(&seen.target);
        format!("{} {service}", seen.method)
    });
    shown.collect()
}

async fn run(
    source: &GitServer,
    target: &GitServer,
    version: Version,
    options: &MirrorOptions,
) -> MirrorStats {
    let (source, target) = (
        remote(&source.url(), version),
        remote(&target.url(), Version::V2),
    );
    mirror(&source, &target, options, None).await.unwrap()
}

fn add_refs(repo: &Repo) {
    repo.git(&["update-ref", "refs/heads/feature/ü/日本", "main~4"]);
    repo.git(&["update-ref", "refs/tags/a-tree", "main^{tree}"]);
    repo.git(&["update-ref", "refs/tags/a-blob", "main:link"]);
}

#[tokio::test]
async fn a_mirror_equals_its_source_and_a_second_run_writes_nothing() {
    for hash in [HashKind::Sha1, HashKind::Sha256] {
        for version in BOTH {
            let (source, target) = (Repo::with_history(hash, 30, 12), strict(hash));
            add_refs(&source);
            let (from, to) = (GitServer::new(&source), GitServer::new(&target));
            let first = run(&from, &to, version, &everything()).await;
            assert_equal(&source, &target);
            let created = count(&source);
            let objects = source.objects().len() as u64;
            assert_eq!((first.created, first.objects), (created, objects));
            assert!(first.complete && first.bytes > 0 && first.rejected.is_empty());

            let (from, to) = (GitServer::new(&source), GitServer::new(&target));
            let second = run(&from, &to, version, &everything()).await;
            let expected = MirrorStats {
                complete: true,
                unchanged: created,
                ..MirrorStats::default()
            };
            assert_eq!(second, expected, "a second run has nothing to do");
            let look: &[&str] = match version {
                Version::V0 => &["GET git-upload-pack"],
                Version::V2 => &["GET git-upload-pack", "POST git-upload-pack"],
            };
            assert_eq!(requests(&from), look, "the refs are read once");
            assert_eq!(
                requests(&to),
                ["GET git-receive-pack"],
                "a second run must write nothing"
            );
        }
    }
}

#[tokio::test]
async fn only_new_objects_are_sent() {
    for version in BOTH {
        let (source, target) = (
            Repo::with_history(HashKind::Sha1, 40, 12),
            strict(HashKind::Sha1),
        );
        let (from, to) = (GitServer::new(&source), GitServer::new(&target));
        run(&from, &to, version, &everything()).await;

        // A branch moves forward, one back, one becomes a directory; tags are created and deleted.
        source.git(&["update-ref", "refs/heads/dir", "main~2"]);
        run(&from, &to, version, &everything()).await;
        let tips = source.git(&["for-each-ref", "--format=^%(objectname)"]);
        source.input(&["fast-import", "--quiet", "--force"], &history(40, 6, 12));
        source.git(&["update-ref", "refs/heads/side", "main~9"]);
        source.git(&["update-ref", "-d", "refs/heads/dir"]);
        source.git(&["update-ref", "refs/heads/dir/below", "main~1"]);
        source.git(&["tag", "-d", "light"]);
        source.git(&["tag", "-f", "-a", "v1", "-m", "again", "main"]);
        source.git(&["tag", "-a", "of-a-tag", "-m", "more", "nested"]);
        let revisions = format!("--all\n{tips}\n");
        let list = ["rev-list", "--objects", "--no-object-names", "--stdin"];
        let new = source.input(&list, revisions.as_bytes());
        let new = String::from_utf8(new).unwrap().lines().count() as u64;

        let pruning = MirrorOptions {
            prune: true,
            ..everything()
        };
        let outcome = run(&from, &to, version, &pruning).await;
        assert_equal(&source, &target);
        assert_eq!(
            (outcome.created, outcome.updated, outcome.deleted),
            (2, 3, 2),
            "{outcome:?}"
        );
        assert_eq!(outcome.objects, new, "no object may be sent twice");
    }
}

#[tokio::test]
async fn refs_that_only_the_target_has_stay_unless_pruned() {
    let (source, target) = (
        Repo::with_history(HashKind::Sha1, 10, 3),
        Repo::with_history(HashKind::Sha1, 8, 4),
    );
    target.git(&["update-ref", "refs/heads/only/here", "main"]);
    target.git(&["update-ref", "refs/keep/this", "main"]);
    let (from, to) = (GitServer::new(&source), GitServer::new(&target));
    let options = MirrorOptions::default();
    let kept = run(&from, &to, Version::V2, &options).await;
    assert_eq!(kept.deleted, 0);
    assert!(target.refs().contains("refs/heads/only/here"));
    assert_eq!(
        source.id("main"),
        target.id("main"),
        "the branch must be forced"
    );
    let pruning = MirrorOptions {
        prune: true,
        ..options
    };
    let pruned = run(&from, &to, Version::V2, &pruning).await;
    assert_eq!((pruned.deleted, pruned.created, pruned.updated), (1, 0, 0));
    assert!(!target.refs().contains("refs/heads/only/here"));
    assert!(
        target.refs().contains("refs/keep/this"),
        "the ref is not selected"
    );
    target.fsck();
}

#[tokio::test]
async fn head_is_read_in_all_its_forms() {
    for version in BOTH {
        let source = Repo::with_history(HashKind::Sha1, 10, 3);
        source.git(&["update-ref", "refs/heads/other", "main"]);
        let server = GitServer::new(&source);
        let head = async || -> Option<Head> {
            let prefixes: Vec<BString> = vec!["refs/heads/".into()];
            let opened = remote(&server.url(), version).source(&prefixes).await;
            opened.unwrap().snapshot().head.clone()
        };
        let symbolic = |name: &str| Some(Head::Symbolic(name.into()));
        assert_eq!(head().await, symbolic("refs/heads/main"));
        source.git(&["symbolic-ref", "HEAD", "refs/heads/other"]);
        assert_eq!(head().await, symbolic("refs/heads/other"));
        source.git(&["update-ref", "--no-deref", "HEAD", "main~3"]);
        assert_eq!(head().await, Some(Head::Detached(source.id("main~3"))));
        source.git(&["symbolic-ref", "HEAD", "refs/heads/unborn"]);
        let expected = match version {
            Version::V0 => None,
            Version::V2 => symbolic("refs/heads/unborn"),
        };
        assert_eq!(
            head().await,
            expected,
            "version 0 cannot advertise an unborn `HEAD`"
        );
        let opened = remote(&server.url(), version).source(&[]).await.unwrap();
        let snapshot = opened.snapshot();
        let tag = snapshot
            .refs
            .get(&BString::from("refs/tags/nested"))
            .unwrap();
        assert_eq!(
            tag.peeled,
            Some(source.id("main")),
            "tags of tags are peeled"
        );
        assert!(!snapshot.refs.contains_key(&BString::from("HEAD")));
    }
}

#[tokio::test]
async fn an_empty_side_is_not_an_error() {
    for hash in [HashKind::Sha1, HashKind::Sha256] {
        for version in BOTH {
            let (source, target) = (Repo::new(hash), Repo::new(hash));
            let (from, to) = (GitServer::new(&source), GitServer::new(&target));
            let outcome = run(&from, &to, version, &everything()).await;
            let nothing = MirrorStats {
                complete: true,
                ..MirrorStats::default()
            };
            assert_eq!(
                outcome, nothing,
                "an empty source is mirrored into an empty target"
            );
            let full = Repo::with_history(hash, 5, 2);
            let to = GitServer::new(&full);
            let before = full.refs();
            assert_eq!(run(&from, &to, version, &everything()).await, nothing);
            assert_eq!(full.refs(), before, "refs must stay without `prune`");
        }
    }
}

#[tokio::test]
async fn a_rejected_ref_does_not_stop_the_others() {
    let (source, target) = (
        Repo::with_history(HashKind::Sha1, 20, 5),
        strict(HashKind::Sha1),
    );
    let (from, to) = (GitServer::new(&source), GitServer::new(&target));
    run(&from, &to, Version::V2, &everything()).await;
    target.git(&["config", "receive.denyNonFastForwards", "true"]);
    source.git(&["update-ref", "refs/heads/main", "main~5"]);
    source.git(&["update-ref", "refs/heads/new", "main"]);
    source.git(&["update-ref", "-d", "refs/tags/light"]);
    source.git(&["update-ref", "-d", "refs/heads/side"]);
    let pruning = MirrorOptions {
        prune: true,
        ..everything()
    };
    for (created, deleted) in [(1, 2), (0, 0)] {
        let outcome = run(&from, &to, Version::V2, &pruning).await;
        assert_eq!((outcome.created, outcome.deleted), (created, deleted));
        assert_eq!(outcome.updated, 0);
        let rejected: Vec<_> = outcome.rejected.iter().collect();
        assert_eq!(
            rejected,
            [(
                &BString::from("refs/heads/main"),
                &"non-fast-forward".to_owned()
            )],
            "the server's reason must be reported"
        );
    }
    target.fsck();
}

#[tokio::test]
async fn five_thousand_refs_are_two_pushes() {
    let (source, target) = (
        Repo::with_history(HashKind::Sha1, 6, 2),
        strict(HashKind::Sha1),
    );
    let id = source.id("main~1");
    let lines = (0..5000).fold(String::new(), |lines, n| {
        lines + &format!("create refs/heads/many/{n:04} {id}\n")
    });
    source.input(&["update-ref", "--stdin"], lines.as_bytes());
    source.git(&["pack-refs", "--all"]);
    let (from, to) = (GitServer::new(&source), GitServer::new(&target));
    let outcome = run(&from, &to, Version::V2, &everything()).await;
    assert_equal(&source, &target);
    assert_eq!(outcome.created, count(&source));
    let pushes = |seen: &&ReceivedRequest| seen.method == "POST" && seen.body.len() > 4;
    assert_eq!(to.requests().iter().filter(pushes).count(), 2);
    let fetches = |seen: &&ReceivedRequest| seen.method == "POST";
    assert!(
        from.requests().iter().filter(fetches).count() <= 3,
        "the second push needs no object that is not there"
    );
}

/// Returns a remote that accepts at most `max_changes` refs in one push.
pub(crate) fn few(remote: HttpRemote, max_changes: usize) -> WrappedRemote<HttpRemote> {
    WrappedRemote::new(remote).with_target(move |target| Box::new(FewTarget(target, max_changes)))
}

struct FewTarget(Box<dyn Target>, usize);

#[async_trait]
impl Target for FewTarget {
    fn snapshot(&self) -> &Snapshot {
        self.0.snapshot()
    }

    fn capabilities(&self) -> TargetCapabilities {
        TargetCapabilities {
            max_changes: self.1,
            ..self.0.capabilities()
        }
    }

    async fn haves(&self) -> Result<Vec<ObjectId>> {
        self.0.haves().await
    }

    async fn push(&mut self, push: Push) -> Result<PushReport> {
        self.0.push(push).await
    }
}

#[tokio::test]
async fn a_push_of_no_or_too_many_refs_makes_no_request() {
    let repo = Repo::with_history(HashKind::Sha1, 3, 1);
    let server = GitServer::new(&repo);
    let mut target = remote(&server.url(), Version::V2).target().await.unwrap();
    let report = target.push(Push::default()).await.unwrap();
    assert_eq!(report, PushReport::default());
    let change = branchline_core::remote::RefUpdate {
        name: "refs/heads/main".into(),
        old: Some(repo.id("main")),
        new: None,
    };
    let push = Push {
        changes: vec![change; 4001],
        ..Push::default()
    };
    let error = target.push(push).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Internal);
    assert_eq!(requests(&server), ["GET git-receive-pack"]);
}

#[tokio::test]
async fn packs_have_only_deltas_that_the_target_accepts() {
    for (words, thin, offset_deltas) in [
        ("report-status delete-refs side-band-64k", true, false),
        ("report-status ofs-delta", true, true),
        ("report-status ofs-delta no-thin", false, true),
        ("delete-refs", true, false),
    ] {
        let (source, target) = (
            Repo::with_history(HashKind::Sha1, 30, 8),
            strict(HashKind::Sha1),
        );
        let to = GitServer::with(&target, move |seen| match seen.method.as_str() {
            "GET" => Response::Capabilities(words),
            _ => Response::Git,
        });
        let from = GitServer::new(&source);
        let opened = remote(&to.url(), Version::V2).target().await.unwrap();
        let capabilities = opened.capabilities();
        assert_eq!(
            (capabilities.thin, capabilities.offset_deltas),
            (thin, offset_deltas),
            "{words}"
        );
        assert!(!capabilities.head && capabilities.max_changes == 4000);
        run(&from, &to, Version::V2, &everything()).await;
        assert_equal(&source, &target);
        source.input(&["fast-import", "--quiet", "--force"], &history(30, 5, 8));
        let outcome = run(&from, &to, Version::V2, &everything()).await;
        assert_eq!(
            outcome.updated, 2,
            "`{words}`: refs are read if nothing is reported"
        );
        assert_equal(&source, &target);
        let asked = |seen: &&ReceivedRequest, word: &str| {
            let text = String::from_utf8_lossy(&seen.body);
            text.contains("command=fetch") && text.contains(word)
        };
        let seen = from.requests();
        let any = |word: &str| seen.iter().any(|seen| asked(&seen, word));
        assert_eq!(any("thin-pack"), thin, "{words}");
        assert_eq!(any("ofs-delta"), offset_deltas, "{words}");
    }
}
