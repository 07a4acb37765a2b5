//! LFS objects that a source does not have, that vanish, or that a run left out: refs go over
//! nevertheless, and later runs copy the objects.

use std::sync::Arc;

use branchline_core::ErrorKind;
use branchline_core::git::HashKind;
use branchline_core::git::advertisement::Version;
use branchline_core::lfs::{KeyScheme, LfsStore, S3Lfs, TransferReport};
use branchline_core::mirror::{LfsPolicy, MirrorStats, mirror};
use branchline_core::name::{BucketName, KeyPrefix, ObjectKey};
use branchline_core::remote::Remote;
use branchline_core::remote::s3_bundle::{BundleOptions, BundleRemote};
use branchline_core::remote::s3_dumb::{DumbOptions, DumbRemote};
use branchline_core::storage::{ObjectStore, ObjectStoreExt as _, Precondition, PutOptions};
use branchline_core::testkit::{Failing, FaultPlan, MemoryStore, MemoryStoreOptions, When};
use bytes::Bytes;

use crate::remote::http::{remote, strict};
use crate::remote::lfs::http;
use crate::remote::lfs_fixture::{Beside, LfsSource, copied, missing, point, version, with_policy};
use branchline_test_support::git_server::GitServer;
use branchline_test_support::lfs_server::{Fault, LfsServer, oid};
use branchline_test_support::repo::Repo;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    Bundle,
    Dumb,
    Loose,
}

const LAYOUTS: [Layout; 3] = [Layout::Bundle, Layout::Dumb, Layout::Loose];

/// A source with LFS objects on a server, and a target in a bucket.
struct BucketMirror {
    from: LfsSource,
    store: Arc<MemoryStore>,
    layout: Layout,
}

impl BucketMirror {
    fn new(layout: Layout) -> Self {
        let store = MemoryStore::with_options(MemoryStoreOptions {
            page: 1000,
            ..MemoryStoreOptions::default()
        });
        store.create_bucket(&Self::bucket(), false);
        Self {
            from: LfsSource::new(),
            store: Arc::new(store),
            layout,
        }
    }

    fn bucket() -> BucketName {
        BucketName::new("mirror").unwrap()
    }

    fn target(&self) -> Box<dyn Remote> {
        self.target_over(Arc::<MemoryStore>::clone(&self.store))
    }

    fn target_over(&self, store: Arc<dyn ObjectStore>) -> Box<dyn Remote> {
        let prefix = KeyPrefix::new("r").unwrap();
        if self.layout == Layout::Bundle {
            let options = BundleOptions::default();
            return Box::new(BundleRemote::new(store, Self::bucket(), prefix, options));
        }
        let options = DumbOptions {
            loose: self.layout == Layout::Loose,
            ..DumbOptions::default()
        };
        Box::new(DumbRemote::new(store, Self::bucket(), prefix, options))
    }

    async fn run(&self, policy: LfsPolicy) -> MirrorStats {
        let target = self.target();
        let options = with_policy(policy);
        mirror(&self.from.remote(), &*target, &options, None)
            .await
            .unwrap()
    }

    fn key(&self, content: &[u8]) -> ObjectKey {
        let id = oid(content);
        ObjectKey::new(&match self.layout {
            Layout::Bundle => format!("r/lfs/{id}"),
            _ => format!("r/lfs/objects/{}/{}/{id}", &id[..2], &id[2..4]),
        })
        .unwrap()
    }

    async fn stored(&self, content: &[u8]) -> Option<Bytes> {
        let key = self.key(content);
        let found = self.store.get_with_etag(&Self::bucket(), &key).await;
        found.unwrap().map(|(body, _)| body)
    }

    async fn delete(&self, content: &[u8]) {
        self.delete_key(self.key(content).as_str()).await;
    }

    async fn delete_key(&self, key: &str) {
        let (bucket, key) = (Self::bucket(), ObjectKey::new(key).unwrap());
        let deleted = self.store.delete(&bucket, &key, &Precondition::None);
        deleted.await.unwrap();
    }

    async fn put(&self, key: &str, body: &[u8]) {
        let key = ObjectKey::new(key).unwrap();
        let body = Bytes::copy_from_slice(body);
        let (bucket, options) = (Self::bucket(), PutOptions::default());
        let put = self.store.put(&bucket, &key, body, &options);
        put.await.unwrap();
    }

    /// Returns the refs of the target, as git lists them.
    async fn refs(&self) -> String {
        let target = self.target().target().await.unwrap();
        let refs = &target.snapshot().refs;
        let lines = refs
            .iter()
            .map(|(name, found)| format!("{} {name}", found.id));
        lines.collect::<Vec<_>>().join("\n")
    }

    async fn assert_refs_equal(&self) {
        assert_eq!(
            self.refs().await,
            self.from.repo.refs(),
            "{:?}",
            self.layout
        );
    }
}

#[tokio::test]
async fn a_missing_object_stops_no_ref_and_is_copied_by_the_first_run_that_finds_it() {
    for layout in LAYOUTS {
        let mirrored = BucketMirror::new(layout);
        let there = mirrored.from.grow(1, true);
        let gone = mirrored.from.grow(2, false);
        let last = mirrored.from.grow(3, true);
        let stats = mirrored.run(LfsPolicy::Copy).await;
        let expected = TransferReport {
            missing: 1,
            missing_oids: vec![oid(&gone)],
            ..copied(&[&there, &last])
        };
        assert_eq!((stats.complete, stats.lfs), (true, expected), "{layout:?}");
        mirrored.assert_refs_equal().await;
        // Each run tries again, also when refs move.
        assert_eq!(mirrored.run(LfsPolicy::Copy).await.lfs, missing(&[&gone]));
        let next = mirrored.from.grow(4, true);
        let expected = TransferReport {
            missing: 1,
            missing_oids: vec![oid(&gone)],
            ..copied(&[&next])
        };
        assert_eq!(mirrored.run(LfsPolicy::Copy).await.lfs, expected);
        mirrored.from.lfs.put(&oid(&gone), &gone);
        assert_eq!(mirrored.run(LfsPolicy::Copy).await.lfs, copied(&[&gone]));
        assert_eq!(mirrored.stored(&gone).await.unwrap(), gone);
        assert_eq!(
            mirrored.run(LfsPolicy::Copy).await.lfs,
            TransferReport::default()
        );
    }
}

#[tokio::test]
async fn an_object_with_wrong_content_counts_as_missing() {
    let mirrored = BucketMirror::new(Layout::Dumb);
    let content = mirrored.from.grow(1, false);
    let wrong = vec![b'x'; content.len()];
    mirrored.from.lfs.put(&oid(&content), &wrong);
    assert_eq!(
        mirrored.run(LfsPolicy::Copy).await.lfs,
        missing(&[&content])
    );
    assert_eq!(
        mirrored.stored(&content).await,
        None,
        "wrong content is not stored"
    );
    mirrored.assert_refs_equal().await;
}

#[tokio::test]
async fn only_twenty_missing_objects_are_named() {
    let mirrored = BucketMirror::new(Layout::Bundle);
    for number in 0..30 {
        mirrored.from.grow(number, false);
    }
    let stats = mirrored.run(LfsPolicy::Copy).await;
    assert_eq!((stats.lfs.missing, stats.lfs.missing_oids.len()), (30, 20));
}

#[tokio::test]
async fn a_source_without_an_lfs_server_stops_no_ref() {
    let mirrored = BucketMirror::new(Layout::Bundle);
    let content = mirrored.from.grow(1, true);
    mirrored
        .from
        .lfs
        .rule(|_, _| Some(Fault::Answer(404, Vec::new(), Vec::new())));
    assert_eq!(
        mirrored.run(LfsPolicy::Copy).await.lfs,
        missing(&[&content])
    );
    mirrored.assert_refs_equal().await;
    mirrored.from.lfs.rule(|_, _| None);
    assert_eq!(mirrored.run(LfsPolicy::Copy).await.lfs, copied(&[&content]));
}

#[tokio::test]
async fn refused_credentials_fail_the_mapping() {
    let mirrored = BucketMirror::new(Layout::Dumb);
    mirrored.from.grow(1, true);
    mirrored
        .from
        .lfs
        .rule(|_, _| Some(Fault::Answer(401, Vec::new(), Vec::new())));
    let target = mirrored.target();
    let options = with_policy(LfsPolicy::Copy);
    let error = mirror(&mirrored.from.remote(), &*target, &options, None).await;
    let error = error.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AccessDenied, "{}", error.report());
    assert_eq!(mirrored.refs().await, "");
}

#[tokio::test]
async fn an_object_that_the_server_refuses_stops_no_other() {
    let mirrored = BucketMirror::new(Layout::Dumb);
    let refused = mirrored.from.grow(1, true);
    let there = mirrored.from.grow(2, true);
    mirrored.from.lfs.rule(|_, seen| {
        seen.is_batch().then_some(Fault::Changed(|answer| {
            for object in answer["objects"].as_array_mut().unwrap() {
                if object["oid"] == oid(&version(1)) {
                    object.as_object_mut().unwrap().remove("actions");
                    object["error"] = serde_json::json!({"code": 403, "message": "no"});
                }
            }
        }))
    });
    let stats = mirrored.run(LfsPolicy::Copy).await;
    assert_eq!((stats.lfs.objects, stats.lfs.missing), (1, 1));
    assert_eq!(stats.lfs.missing_oids, [oid(&refused)]);
    assert!(mirrored.stored(&there).await.is_some());
    mirrored.assert_refs_equal().await;
}

#[tokio::test]
async fn required_objects_that_are_missing_fail_the_mapping_before_refs_move() {
    for layout in LAYOUTS {
        let mirrored = BucketMirror::new(layout);
        let gone = mirrored.from.grow(1, false);
        let target = mirrored.target();
        let options = with_policy(LfsPolicy::Required);
        let outcome = mirror(&mirrored.from.remote(), &*target, &options, None).await;
        let error = outcome.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{}", error.report());
        assert!(error.report().contains(&oid(&gone)), "{}", error.report());
        assert_eq!(mirrored.refs().await, "", "{layout:?}");
        // Refs of an earlier run, whose objects are missing.
        mirrored.run(LfsPolicy::Copy).await;
        let outcome = mirror(&mirrored.from.remote(), &*target, &options, None).await;
        let error = outcome.unwrap_err();
        assert!(error.report().contains(&oid(&gone)), "{}", error.report());
        mirrored.from.lfs.put(&oid(&gone), &gone);
        assert_eq!(
            mirrored.run(LfsPolicy::Required).await.lfs,
            copied(&[&gone])
        );
    }
}

#[tokio::test]
async fn an_object_that_vanished_from_the_target_is_copied_by_a_run_without_news() {
    for layout in LAYOUTS {
        let mirrored = BucketMirror::new(layout);
        let contents: Vec<Vec<u8>> = (0..5)
            .map(|number| mirrored.from.grow(number, true))
            .collect();
        mirrored.run(LfsPolicy::Copy).await;
        mirrored.delete(&contents[1]).await;
        mirrored
            .put(mirrored.key(&contents[3]).as_str(), b"cut")
            .await;
        let restored = mirrored.run(LfsPolicy::Copy).await;
        let expected = copied(&[&contents[1], &contents[3]]);
        assert_eq!(restored.lfs, expected, "{layout:?}");
        assert_eq!(mirrored.stored(&contents[1]).await.unwrap(), contents[1]);
        assert_eq!(mirrored.stored(&contents[3]).await.unwrap(), contents[3]);
    }
}

#[tokio::test]
async fn objects_of_a_run_without_lfs_are_copied_by_the_next_run_with_lfs() {
    for layout in LAYOUTS {
        let mirrored = BucketMirror::new(layout);
        let first = mirrored.from.grow(1, true);
        mirrored.run(LfsPolicy::Copy).await;
        let skipped = [mirrored.from.grow(2, true), mirrored.from.grow(3, true)];
        mirrored.run(LfsPolicy::Skip).await;
        let later = mirrored.from.grow(4, true);
        mirrored.run(LfsPolicy::Skip).await;
        assert_eq!(mirrored.stored(&later).await, None);
        let requests = mirrored.from.lfs.requests().len();
        let stats = mirrored.run(LfsPolicy::Copy).await;
        let expected = copied(&[&skipped[0], &skipped[1], &later]);
        assert_eq!(stats.lfs, expected, "{layout:?}");
        assert!(mirrored.from.lfs.requests().len() > requests);
        assert_eq!(mirrored.stored(&first).await.unwrap(), first);
        // The history is scanned once.
        let before = mirrored.from.server.requests().len();
        assert_eq!(
            mirrored.run(LfsPolicy::Copy).await.lfs,
            TransferReport::default()
        );
        let later = mirrored.from.server.requests().split_off(before);
        assert!(
            later
                .iter()
                .all(|seen| !seen.body.windows(5).any(|word| word == b"want ")),
            "nothing is fetched"
        );
    }
}

#[tokio::test]
async fn a_run_with_nothing_to_do_makes_at_most_four_requests_to_s3() {
    for layout in LAYOUTS {
        for with_objects in [false, true] {
            let mirrored = BucketMirror::new(layout);
            if with_objects {
                for number in 0..5 {
                    mirrored.from.grow(number, true);
                }
            } else {
                point(&mirrored.from.repo, "small", b"");
            }
            mirrored.run(LfsPolicy::Copy).await;
            let before = mirrored.store.traffic().calls().len();
            assert_eq!(
                mirrored.run(LfsPolicy::Copy).await.lfs,
                TransferReport::default()
            );
            let calls = mirrored.store.traffic().calls().split_off(before);
            assert!(calls.len() <= 4, "{layout:?} {with_objects}: {calls:?}");
        }
    }
}

#[tokio::test]
async fn verification_replaces_wrong_content_of_the_right_size() {
    for layout in LAYOUTS {
        let mirrored = BucketMirror::new(layout);
        let contents: Vec<Vec<u8>> = (0..5)
            .map(|number| mirrored.from.grow(number, true))
            .collect();
        mirrored.run(LfsPolicy::Copy).await;
        let wrong = vec![b'x'; contents[2].len()];
        mirrored
            .put(mirrored.key(&contents[2]).as_str(), &wrong)
            .await;
        mirrored.delete(&contents[4]).await;
        let repaired = mirrored.run(LfsPolicy::Verify).await;
        let expected = copied(&[&contents[2], &contents[4]]);
        assert_eq!(repaired.lfs, expected, "{layout:?}");
        assert_eq!(mirrored.stored(&contents[2]).await.unwrap(), contents[2]);
        assert_eq!(
            mirrored.run(LfsPolicy::Verify).await.lfs,
            TransferReport::default()
        );
    }
}

#[tokio::test]
async fn verification_finds_objects_without_a_record() {
    let mirrored = BucketMirror::new(Layout::Bundle);
    let content = mirrored.from.grow(1, true);
    mirrored.run(LfsPolicy::Skip).await;
    mirrored.delete_key("r/branchline/lfs-record").await;
    assert_eq!(
        mirrored.run(LfsPolicy::Copy).await.lfs,
        TransferReport::default()
    );
    assert_eq!(
        mirrored.run(LfsPolicy::Verify).await.lfs,
        copied(&[&content])
    );
}

#[tokio::test]
async fn a_damaged_record_is_replaced_and_all_history_is_scanned() {
    let mirrored = BucketMirror::new(Layout::Dumb);
    let content = mirrored.from.grow(1, true);
    let gone = mirrored.from.grow(2, false);
    mirrored.run(LfsPolicy::Copy).await;
    mirrored.delete(&content).await;
    mirrored.put("r/branchline/lfs-record", b"\xff\0").await;
    let expected = TransferReport {
        missing: 1,
        missing_oids: vec![oid(&gone)],
        ..copied(&[&content])
    };
    assert_eq!(mirrored.run(LfsPolicy::Copy).await.lfs, expected);
    assert_eq!(mirrored.run(LfsPolicy::Copy).await.lfs, missing(&[&gone]));
}

#[tokio::test]
async fn a_server_stores_the_objects_that_a_verification_finds_missing() {
    let (repo, copy) = (Repo::new(HashKind::Sha1), strict(HashKind::Sha1));
    let contents = [version(1), version(2)];
    for content in &contents {
        point(&repo, "large.bin", content);
    }
    let (lfs, second) = (LfsServer::new(&[&contents[0]]), LfsServer::new(&[]));
    let (from, to) = (GitServer::new(&repo), GitServer::new(&copy));
    let source = Beside(remote(&from.url(), Version::V2), http(&lfs));
    let target = Beside(remote(&to.url(), Version::V2), http(&second));
    let run = async |policy| {
        let stats = mirror(&source, &target, &with_policy(policy), None).await;
        stats.unwrap().lfs
    };
    let stats = run(LfsPolicy::Copy).await;
    assert_eq!((stats.objects, stats.missing), (1, 1));
    assert_eq!(copy.refs(), repo.refs());
    lfs.put(&oid(&contents[1]), &contents[1]);
    assert_eq!(run(LfsPolicy::Verify).await, copied(&[&contents[1]]));
    assert!(second.objects() == lfs.objects());
    // A server does not accept an object again that it has with wrong content.
    second.put(&oid(&contents[0]), &vec![b'x'; contents[0].len()]);
    let verify = with_policy(LfsPolicy::Verify);
    let error = mirror(&source, &target, &verify, None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{}", error.report());
    assert!(
        error.report().contains(&oid(&contents[0])),
        "{}",
        error.report()
    );
}

#[tokio::test]
async fn objects_left_out_for_want_of_a_store_are_copied_once_the_source_has_one() {
    let mirrored = BucketMirror::new(Layout::Dumb);
    let content = mirrored.from.grow(1, true);
    let target = mirrored.target();
    let options = with_policy(LfsPolicy::Copy);
    let source = NoLfs(remote(&mirrored.from.server.url(), Version::V2));
    for _ in 0..2 {
        let stats = mirror(&source, &*target, &options, None).await.unwrap();
        assert_eq!((stats.lfs.left_out, stats.lfs.missing), (1, 0));
    }
    assert_eq!(mirrored.run(LfsPolicy::Copy).await.lfs, copied(&[&content]));
}

/// A repository without LFS objects, as in CodeCommit.
struct NoLfs(branchline_core::remote::smart_http::HttpRemote);

impl std::fmt::Display for NoLfs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

#[async_trait::async_trait]
impl Remote for NoLfs {
    async fn source(
        &self,
        prefixes: &[bstr::BString],
    ) -> branchline_core::Result<Box<dyn branchline_core::remote::Source>> {
        self.0.source(prefixes).await
    }

    async fn target(&self) -> branchline_core::Result<Box<dyn branchline_core::remote::Target>> {
        self.0.target().await
    }
}

#[tokio::test]
async fn a_server_that_compresses_unasked_is_asked_not_to_and_named() {
    let mirrored = BucketMirror::new(Layout::Dumb);
    let content = mirrored.from.grow(1, true);
    let zipped = content.clone();
    mirrored.from.lfs.rule(move |_, seen| {
        let headers = vec![("Content-Encoding", "gzip".to_owned())];
        (!seen.is_batch()).then(|| Fault::Answer(200, headers, zipped.clone()))
    });
    let target = mirrored.target();
    let options = with_policy(LfsPolicy::Required);
    let outcome = mirror(&mirrored.from.remote(), &*target, &options, None).await;
    let report = outcome.unwrap_err().report();
    assert!(
        report.contains(&mirrored.from.lfs.base()) && report.contains("gzip"),
        "{report}"
    );
    for seen in mirrored.from.lfs.requests() {
        let accepted = seen.headers.get("accept-encoding").map(String::as_str);
        assert_eq!(accepted, Some("identity"), "{}", seen.target);
    }
}

#[tokio::test]
async fn a_run_that_fails_at_any_request_loses_no_missing_object() {
    for layout in [Layout::Bundle, Layout::Dumb] {
        let mut nth = 0;
        loop {
            nth += 1;
            let mirrored = BucketMirror::new(layout);
            let gone = mirrored.from.grow(1, false);
            let there = mirrored.from.grow(2, true);
            let plan = FaultPlan::new();
            let failing = Failing::new(Arc::clone(&mirrored.store), &plan);
            plan.fail(nth, ErrorKind::AccessDenied, When::Before);
            let target = mirrored.target_over(Arc::new(failing));
            let options = with_policy(LfsPolicy::Copy);
            let outcome = mirror(&mirrored.from.remote(), &*target, &options, None).await;
            let calls = plan.calls().len();
            mirrored.from.lfs.put(&oid(&gone), &gone);
            // In one run or two: what was recorded is found without news.
            mirrored.run(LfsPolicy::Copy).await;
            mirrored.assert_refs_equal().await;
            for content in [&gone, &there] {
                let stored = mirrored.stored(content).await;
                assert!(
                    stored.is_some_and(|body| body == *content),
                    "{layout:?} {nth}"
                );
            }
            if outcome.is_ok() && nth > calls {
                break;
            }
        }
        assert!(nth > 8, "{nth} requests were tried");
    }
}

#[tokio::test]
async fn a_large_store_is_compared_in_slices() {
    let store = MemoryStore::with_options(MemoryStoreOptions {
        page: 1000,
        ..MemoryStoreOptions::default()
    });
    store.create_bucket(&BucketMirror::bucket(), false);
    let store = Arc::new(store);
    for keys in [KeyScheme::Flat, KeyScheme::Fanned] {
        let prefix = KeyPrefix::new(&format!("{keys:?}")).unwrap();
        let place = S3Lfs::new(
            Arc::<MemoryStore>::clone(&store),
            BucketMirror::bucket(),
            prefix,
            keys,
            None,
        );
        let records = place.listed().unwrap();
        let mut expected = Vec::new();
        for number in 0..300 {
            let content = version(number);
            let pointer = crate::remote::lfs::pointer(&content);
            let body = Bytes::from(content);
            place.write(&pointer, one(body)).await.unwrap();
            expected.push(pointer);
        }
        expected.sort();
        let all = records.list("").await.unwrap();
        assert!(all.is_complete);
        assert_eq!(all.objects, expected, "{keys:?}");
        for length in 1..=3 {
            for digits in (0..16_u32.pow(length)).step_by(7) {
                let digits = format!("{digits:0width$x}", width = length as usize);
                let slice = expected
                    .iter()
                    .filter(|found| found.oid.starts_with(&digits));
                let slice: Vec<_> = slice.cloned().collect();
                assert_eq!(records.list(&digits).await.unwrap().objects, slice);
            }
        }
    }
}

fn one(body: Bytes) -> branchline_core::lfs::LfsBody {
    Box::pin(futures_util::stream::iter([Ok(body)]))
}
