//! `repo.zip` of each ref: `git archive` is the oracle, and after any failure the next
//! mirroring reaches the desired state.

use std::collections::BTreeMap;
use std::io::{Cursor, Read as _};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use branchline_core::archive::ZipArchiver;
use branchline_core::git::odb::Database;
use branchline_core::git::pack::PackLimits;
use branchline_core::git::{HashKind, ObjectId};
use branchline_core::mirror::{self, MirrorOptions, RefSelection};
use branchline_core::name::ObjectKey;
use branchline_core::remote::s3_bundle::{self, BundleOptions, BundleRemote, CommitArchive};
use branchline_core::storage::multipart::MultipartWriter;
use branchline_core::storage::{ObjectMetadata, ObjectStore as _, PutOptions, encode_rfc2047};
use branchline_core::testkit::{Failing, FaultPlan, MemoryStore, When};
use branchline_core::{ErrorKind, Result};
use bytes::Bytes;

use crate::remote::s3_bundle_fixture::{BundleFixture, mirror_all};
use branchline_test_support::git_remote::GitRemote;
use branchline_test_support::repo::{Repo, history};

const MIN: usize = 5 << 20;
const SUMMARY: &str = "codepipeline-artifact-revision-summary";

/// Options of the remotes in these tests.
fn options(world: &BundleFixture) -> BundleOptions {
    BundleOptions {
        archiver: Some(Arc::new(ZipArchiver::new(4 << 20))),
        ..world.options()
    }
}

fn zipped(world: &BundleFixture) -> BundleRemote {
    world.remote_with("r", options(world))
}

fn small() -> Repo {
    let repo = Repo::new(HashKind::Sha1);
    repo.input(&["fast-import", "--quiet"], &history(0, 4, 3));
    repo.git(&["update-ref", "-d", "refs/heads/side"]);
    repo
}

fn commit(repo: &Repo, parent: &str, message: &str) -> String {
    let tree = repo.git(&["rev-parse", &format!("{parent}^{{tree}}")]);
    repo.git(&["commit-tree", &tree, "-m", message, "-p", parent])
}

/// Name, mode and content.
type Entry = (String, Option<u32>, Vec<u8>);

/// Returns all entries, and the comment.
fn entries(zip: &[u8]) -> (Vec<Entry>, Vec<u8>) {
    let mut archive = zip::ZipArchive::new(Cursor::new(zip)).unwrap();
    let mut entries = Vec::new();
    for at in 0..archive.len() {
        let mut entry = archive.by_index(at).unwrap();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        entries.push((
            String::from_utf8_lossy(entry.name_raw()).into_owned(),
            entry.unix_mode(),
            content,
        ));
    }
    (entries, archive.comment().to_vec())
}

fn metadata(world: &BundleFixture, name: &str) -> ObjectMetadata {
    let key = format!("r/{name}/repo.zip");
    let versions = world.store.versions(&world.bucket, &key);
    versions.last().unwrap().metadata.clone()
}

/// Checks that each ref has its archive, and that all other keys are bundles and `HEAD`.
async fn check_archives(repo: &Repo, world: &BundleFixture, step: &str) {
    let mut expected = vec!["r/HEAD".to_owned()];
    for line in repo.refs().lines() {
        let (id, name) = line.split_once(' ').unwrap();
        let key = format!("r/{name}/repo.zip");
        expected.push(format!("r/{name}/{id}.bundle"));
        expected.push(key.clone());
        let theirs = repo.bytes(&["archive", "--format=zip", name]);
        let ours = world.get(&key).await;
        assert_eq!(entries(&ours), entries(&theirs), "{step}: {name}");
        let metadata = metadata(world, name);
        assert_eq!(metadata.user[s3_bundle::ARCHIVED], id, "{step}: {name}");
    }
    expected.sort();
    // A lock of a deleted ref whose release failed does not matter.
    let mut keys = world.keys().await;
    keys.retain(|key| !key.ends_with("LOCK#.lock"));
    assert_eq!(keys, expected, "{step}");
    assert!(
        world.store.uploads().is_empty(),
        "{step}: no upload is left"
    );
}

/// "`s3+zip://` keeps a `repo.zip` for each ref, equal to `git archive` of the ref."
#[tokio::test]
async fn each_ref_has_an_archive_equal_to_that_of_git_archive_and_a_summary() {
    let world = BundleFixture::new(MIN);
    let remote = zipped(&world);
    let repo = Repo::with_history(HashKind::Sha1, 12, 5);
    let other = commit(&repo, "main~2", "gr\u{f6}\u{df}er \u{2603}\n\nbody");
    repo.git(&["update-ref", "refs/heads/feature/x", &other]);
    repo.git(&["update-ref", "refs/heads/same", "main"]);
    mirror_all(&repo, &remote).await.unwrap();
    check_archives(&repo, &world, "created").await;
    for line in repo.refs().lines() {
        let (id, name) = line.split_once(' ').unwrap();
        let metadata = metadata(&world, name);
        let printed = repo.git(&["log", "-1", "--format=%h %s", name]);
        let safe = encode_rfc2047(&printed, 1024);
        assert_eq!(metadata.user[SUMMARY], safe, "{name}");
        assert_eq!(
            metadata.content_disposition.unwrap(),
            format!("attachment; filename=repo-{}.zip", &id[..8])
        );
    }
    let summary = &metadata(&world, "refs/heads/feature/x").user[SUMMARY];
    assert!(
        summary.starts_with("=?UTF-8?B?"),
        "S3 decodes it: {summary}"
    );
    // Moved, created as a copy of another ref's bundle, deleted.
    repo.git(&["update-ref", "refs/heads/same", &other]);
    repo.git(&["update-ref", "refs/heads/copy", "main"]);
    repo.git(&["tag", "-d", "light"]);
    mirror_all(&repo, &remote).await.unwrap();
    check_archives(&repo, &world, "moved").await;
}

#[tokio::test]
async fn archives_cost_one_write_or_one_head_each() {
    let world = BundleFixture::new(MIN);
    let remote = zipped(&world);
    let repo = small();
    for n in 0..5 {
        repo.git(&["update-ref", &format!("refs/tags/t{n}"), "main~1"]);
    }
    mirror_all(&repo, &remote).await.unwrap();
    let traffic = world.store.traffic();
    let calls = async |remote: &BundleRemote| {
        let before = traffic.calls().len();
        mirror_all(&repo, remote).await.unwrap();
        traffic.calls().split_off(before)
    };
    let mut again = calls(&remote).await;
    again.sort_unstable();
    let heads = [
        "get", "head", "head", "head", "head", "head", "head", "list", "list",
    ];
    assert_eq!(
        again, heads,
        "nothing to do: no lists but those of all refs and of temporary objects"
    );
    let more = commit(&repo, "main", "more");
    repo.git(&["update-ref", "refs/heads/main", &more]);
    let with = calls(&remote).await;
    // Of all refs, twice of one, and of temporary objects.
    assert_eq!(with.iter().filter(|call| **call == "list").count(), 4);
    let more = commit(&repo, "main", "still more");
    repo.git(&["update-ref", "refs/heads/main", &more]);
    let without = calls(&world.remote("r")).await;
    assert_eq!(
        with.len(),
        without.len() + 1 + 5,
        "one write, and a look at each of the other archives: {with:?}"
    );
}

/// Each failure of the k-th request ends in a clean error or in success; repeating the mirror
/// reaches the desired state.
#[tokio::test(start_paused = true)]
async fn the_mirror_after_a_failure_of_any_request_reaches_the_desired_state() {
    let repo = small();
    let first = repo.id("main").to_string();
    let mut reported = 0;
    for when in [When::Before, When::After] {
        let mut nth = 1;
        loop {
            repo.git(&["update-ref", "refs/heads/main", &first]);
            repo.git(&["update-ref", "-d", "refs/heads/new"]);
            repo.git(&["update-ref", "refs/tags/gone", &first]);
            repo.git(&["update-ref", "refs/tags/stays", &first]);
            let world = BundleFixture::new(MIN);
            mirror_all(&repo, &zipped(&world)).await.unwrap();
            // One archive is outdated, because another client does not write archives.
            world.put("r/refs/tags/stays/repo.zip", "PK").await;
            let second = commit(&repo, "main", "second");
            repo.git(&["update-ref", "refs/heads/main", &second]);
            let new = commit(&repo, "main", "new");
            repo.git(&["update-ref", "refs/heads/new", &new]);
            repo.git(&["update-ref", "-d", "refs/tags/gone"]);
            let script = FaultPlan::new();
            // It is not retried.
            script.fail(nth, ErrorKind::AccessDenied, when);
            let store = Failing::new(Arc::<MemoryStore>::clone(&world.store), &script);
            let failing = world.remote_over(Arc::new(store), "r", options(&world));
            if let Err(error) = mirror_all(&repo, &failing).await {
                let report = error.report();
                assert_eq!(error.kind(), ErrorKind::AccessDenied, "{nth}: {report}");
                if report.contains("its archive could not be written") {
                    reported += 1;
                    assert!(report.contains("was moved to"), "{report}");
                    assert!(report.contains("the same mirror again"), "{report}");
                }
            }
            // A lock whose release failed expires.
            world.clock.fetch_add(10_000, Ordering::Relaxed);
            // An upload whose creation got no answer cannot be aborted, because its id is unknown.
            let calls = script.calls();
            let failed = calls.get(nth - 1).copied().unwrap_or_default();
            let remote = zipped(&world);
            mirror_all(&repo, &remote).await.unwrap();
            remote.repair().await.unwrap();
            if failed == "abort_upload" || failed == "create_upload" {
                nth += 1;
                continue;
            }
            let step = format!("request {nth}, {failed} {when:?}");
            check_archives(&repo, &world, &step).await;
            if calls.len() < nth {
                break;
            }
            nth += 1;
        }
        assert!(nth > 30, "there are that many requests to fail");
    }
    assert!(
        reported >= 4,
        "the archives of two refs, failing before and after"
    );
}

/// Parts of the archive's own upload, the third after the pack's and the bundle's.
#[tokio::test(start_paused = true)]
async fn the_mirror_after_a_failure_of_any_part_of_a_large_archive_reaches_the_desired_state() {
    let repo = small();
    let mut state = 1_u64;
    let mut noise = Vec::new();
    while noise.len() < 12 << 20 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        noise.extend(state.to_le_bytes());
    }
    let id = repo.input(&["hash-object", "-w", "--stdin"], &noise);
    let id = String::from_utf8(id).unwrap();
    let tree = format!("100644 blob {}\tlarge\n", id.trim());
    let tree = String::from_utf8(repo.input(&["mktree"], tree.as_bytes())).unwrap();
    let large = repo.git(&["commit-tree", tree.trim(), "-m", "large", "-p", "main"]);
    for (method, nth) in [
        ("create_upload", 3),
        ("upload_part", 7),
        ("complete_upload", 3),
    ] {
        for when in [When::Before, When::After] {
            repo.git(&["update-ref", "refs/heads/main", &large]);
            let world = BundleFixture::new(MIN);
            let script = FaultPlan::new();
            script.fail_method(method, nth, ErrorKind::AccessDenied, when);
            let store = Failing::new(Arc::<MemoryStore>::clone(&world.store), &script);
            let limits = PackLimits::default().with_memory(8 << 20);
            let options = || BundleOptions {
                limits,
                ..options(&world)
            };
            let failing = world.remote_over(Arc::new(store), "r", options());
            let error = mirror_all(&repo, &failing).await.unwrap_err().report();
            assert!(error.contains("was moved to"), "{method}: {error}");
            mirror_all(&repo, &world.remote_with("r", options()))
                .await
                .unwrap();
            if method != "create_upload" {
                check_archives(&repo, &world, method).await;
            }
        }
    }
}

async fn put(world: &BundleFixture, name: &str, metadata: ObjectMetadata) {
    let key = ObjectKey::new(&format!("r/{name}/repo.zip")).unwrap();
    let options = PutOptions {
        metadata,
        ..PutOptions::default()
    };
    let body = Bytes::from_static(b"PK of another client");
    let written = world.store.put(&world.bucket, &key, body, &options).await;
    written.unwrap();
}

/// "What the Python client wrote counts, as long as it is of the same commit."
#[tokio::test]
async fn archives_of_other_clients_are_rewritten_when_their_commit_does_not_match() {
    let world = BundleFixture::new(MIN);
    let repo = small();
    repo.git(&["update-ref", "refs/heads/old", "main"]);
    repo.git(&["update-ref", "refs/heads/none", "main"]);
    // Written by a client without archives.
    mirror_all(&repo, &world.remote("r")).await.unwrap();
    let python = |id: ObjectId| ObjectMetadata {
        content_disposition: Some(format!(
            "attachment; filename=repo-{}.zip",
            id.to_hex_with_len(8)
        )),
        user: BTreeMap::from([(SUMMARY.to_owned(), "1234567 s".to_owned())]),
        ..ObjectMetadata::default()
    };
    put(&world, "refs/heads/main", python(repo.id("main"))).await;
    put(&world, "refs/heads/old", python(repo.id("main~1"))).await;
    mirror_all(&repo, &zipped(&world)).await.unwrap();
    let kept = world.get("r/refs/heads/main/repo.zip").await;
    assert_eq!(kept, "PK of another client", "it is of that very commit");
    put(&world, "refs/heads/main", ObjectMetadata::default()).await;
    mirror_all(&repo, &zipped(&world)).await.unwrap();
    check_archives(&repo, &world, "renewed").await;
    // Refs that are not selected are unchanged.
    put(&world, "refs/heads/old", python(repo.id("main~1"))).await;
    let selected = MirrorOptions {
        refs: RefSelection::new(["refs/heads/main"]).unwrap(),
        ..MirrorOptions::default()
    };
    let source = GitRemote::new(&repo);
    let mirrored = mirror::mirror(&source, &zipped(&world), &selected, None).await;
    assert_eq!(mirrored.unwrap().unchanged, 1);
    let kept = world.get("r/refs/heads/old/repo.zip").await;
    assert_eq!(kept, "PK of another client");
}

#[tokio::test]
async fn a_ref_that_does_not_name_a_commit_has_no_archive() {
    let world = BundleFixture::new(MIN);
    let repo = small();
    repo.git(&["update-ref", "refs/tags/thing", "main"]);
    mirror_all(&repo, &zipped(&world)).await.unwrap();
    for kind in ["main^{tree}", "main:link"] {
        repo.git(&["tag", "-f", "-a", "thing", "-m", "x", kind]);
        for _ in 0..2 {
            mirror_all(&repo, &zipped(&world)).await.unwrap();
            let keys = world.keys().await;
            let of_thing: Vec<_> = keys.iter().filter(|key| key.contains("thing")).collect();
            let [bundle] = &of_thing[..] else {
                panic!("the archive of the commit is missing: {keys:?}");
            };
            assert!(bundle.contains(&repo.id("thing").to_string()));
        }
    }
    repo.git(&["update-ref", "refs/tags/thing", "main"]);
    mirror_all(&repo, &zipped(&world)).await.unwrap();
    check_archives(&repo, &world, "a commit again").await;
}

#[tokio::test]
async fn an_archive_that_cannot_be_made_is_reported_and_does_not_stop_the_others() {
    let world = BundleFixture::new(MIN);
    let repo = small();
    let id = repo.input(
        &["hash-object", "-w", "--stdin"],
        b"* working-tree-encoding\n",
    );
    let id = String::from_utf8(id).unwrap();
    let tree = format!(
        "100644 blob {0}\t.gitattributes\n100644 blob {0}\ta\n",
        id.trim()
    );
    let tree = String::from_utf8(repo.input(&["mktree"], tree.as_bytes())).unwrap();
    let broken = repo.git(&["commit-tree", tree.trim(), "-m", "no encoding has no name"]);
    repo.git(&["update-ref", "refs/heads/broken", &broken]);
    repo.git(&["update-ref", "refs/tags/z", "main~1"]);
    for round in 0..2 {
        let error = mirror_all(&repo, &zipped(&world)).await.unwrap_err();
        let report = error.report();
        assert!(report.contains("refs/heads/broken"), "{round}: {report}");
        assert!(report.contains("`.gitattributes`"), "{round}: {report}");
        let zips: Vec<_> = world.keys().await;
        let zips: Vec<_> = zips
            .iter()
            .filter(|key| key.ends_with("/repo.zip"))
            .collect();
        assert_eq!(
            zips,
            ["r/refs/heads/main/repo.zip", "r/refs/tags/z/repo.zip"]
        );
    }
    repo.git(&["update-ref", "-d", "refs/heads/broken"]);
    mirror_all(&repo, &zipped(&world)).await.unwrap();
    check_archives(&repo, &world, "without it").await;
}

/// Archiver during whose work another push finishes.
struct Overtaken {
    inner: Arc<ZipArchiver>,
    meanwhile: tokio::sync::Mutex<Option<futures_util::future::BoxFuture<'static, ()>>>,
}

struct Late(Box<dyn CommitArchive>, Arc<Overtaken>);

#[async_trait]
impl CommitArchive for Late {
    fn summary(&self) -> &str {
        self.0.summary()
    }

    async fn send(&self, upload: &MultipartWriter) -> Result<(u32, Bytes)> {
        let sent = self.0.send(upload).await;
        if let Some(meanwhile) = self.1.meanwhile.lock().await.take() {
            meanwhile.await;
        }
        sent
    }
}

struct Overtakes(Arc<Overtaken>);

#[async_trait]
impl s3_bundle::Archiver for Overtakes {
    async fn open(
        &self,
        objects: &Arc<Database>,
        id: ObjectId,
    ) -> Result<Option<Box<dyn CommitArchive>>> {
        let archive = self.0.inner.open(objects, id).await?;
        Ok(archive.map(|archive| Box::new(Late(archive, Arc::clone(&self.0))) as _))
    }
}

/// A client that lost its lock while it made its archive does not replace a newer archive.
#[tokio::test(start_paused = true)]
async fn an_older_archive_never_replaces_a_newer_one() {
    for there_before in [false, true] {
        let world = Arc::new(BundleFixture::new(MIN));
        let repo = Arc::new(small());
        let first = repo.id("main").to_string();
        if there_before {
            mirror_all(&repo, &zipped(&world)).await.unwrap();
        }
        let second = commit(&repo, &first, "second");
        let third = commit(&repo, &second, "third");
        repo.git(&["update-ref", "refs/heads/main", &second]);
        let (other, other_repo) = (Arc::clone(&world), Arc::clone(&repo));
        let newest = third.clone();
        let meanwhile = async move {
            other.clock.fetch_add(10_000, Ordering::Relaxed);
            other_repo.git(&["update-ref", "refs/heads/main", &newest]);
            mirror_all(&other_repo, &zipped(&other)).await.unwrap();
        };
        let overtaken = Arc::new(Overtaken {
            inner: Arc::new(ZipArchiver::new(0)),
            meanwhile: tokio::sync::Mutex::new(Some(Box::pin(meanwhile))),
        });
        let options = BundleOptions {
            archiver: Some(Arc::new(Overtakes(overtaken))),
            ..world.options()
        };
        let slow = world.remote_with("r", options);
        mirror_all(&repo, &slow).await.unwrap();
        assert_eq!(repo.id("main").to_string(), third);
        check_archives(&repo, &world, "the newer one").await;
    }
}

/// The lock is released, and no upload remains.
#[tokio::test(start_paused = true)]
async fn a_mirror_that_is_cancelled_while_it_archives_leaves_no_lock_and_no_upload() {
    let world = BundleFixture::new(MIN);
    let repo = small();
    mirror_all(&repo, &world.remote("r")).await.unwrap();
    let overtaken = Arc::new(Overtaken {
        inner: Arc::new(ZipArchiver::new(0)),
        meanwhile: tokio::sync::Mutex::new(Some(Box::pin(std::future::pending()))),
    });
    let options = BundleOptions {
        archiver: Some(Arc::new(Overtakes(overtaken))),
        ..world.options()
    };
    let slow = world.remote_with("r", options);
    let source = GitRemote::new(&repo);
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(5);
    let options = MirrorOptions::default();
    let outcome = mirror::mirror(&source, &slow, &options, Some(deadline)).await;
    assert!(!outcome.unwrap().complete, "there was no time");
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    mirror_all(&repo, &zipped(&world)).await.unwrap();
    check_archives(&repo, &world, "at once").await;
}
