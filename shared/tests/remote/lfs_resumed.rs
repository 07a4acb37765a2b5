//! Large LFS objects that take longer than one run.

use std::sync::Arc;
use std::time::Duration;

use branchline_core::ErrorKind;
use branchline_core::git::HashKind;
use branchline_core::git::advertisement::Version;
use branchline_core::lfs::{KeyScheme, LfsStore, LfsTransfer, Pointer, S3Lfs};
use branchline_core::mirror::{self, LfsPolicy};
use branchline_core::name::{BucketName, KeyPrefix, ObjectKey};
use branchline_core::remote::Remote;
use branchline_core::remote::s3_bundle::{BundleOptions, BundleRemote};
use branchline_core::remote::s3_dumb::{DumbOptions, DumbRemote};
use branchline_core::storage::{ObjectStore as _, ObjectStoreExt as _, UploadId};
use branchline_core::testkit::{MemoryStore, MemoryStoreOptions};
use tokio::time::{Instant, timeout};

use crate::remote::http::{remote, strict};
use crate::remote::lfs::{MEMORY, http, large, pointer};
use crate::remote::lfs_fixture::{Beside, point, version, with_policy};
use branchline_test_support::git_server::GitServer;
use branchline_test_support::lfs_server::{Fault, LfsServer, oid};
use branchline_test_support::repo::Repo;

/// Size of the object: 20 parts and a byte.
const SIZE: usize = (100 << 20) + 1;

/// An object that a server has, and the store that receives it.
struct LargeObject {
    server: LfsServer,
    store: Arc<MemoryStore>,
    content: Vec<u8>,
    pointer: Pointer,
}

impl LargeObject {
    fn new() -> Self {
        let store = MemoryStore::with_options(MemoryStoreOptions {
            page: 1000,
            ..MemoryStoreOptions::default()
        });
        store.create_bucket(&Self::bucket(), false);
        let content = large(SIZE);
        Self {
            server: LfsServer::new(&[&content]),
            pointer: pointer(&content),
            store: Arc::new(store),
            content,
        }
    }

    fn bucket() -> BucketName {
        BucketName::new("mirror").unwrap()
    }

    fn target(&self) -> Arc<dyn LfsStore> {
        let prefix = KeyPrefix::new("r").unwrap();
        let store = Arc::<MemoryStore>::clone(&self.store);
        let (bucket, keys) = (Self::bucket(), KeyScheme::Flat);
        Arc::new(S3Lfs::new(store, bucket, prefix, keys, None))
    }

    fn transfer(&self) -> LfsTransfer {
        LfsTransfer::new(Some(http(&self.server)), Some(self.target()), MEMORY)
    }

    async fn keys(&self) -> Vec<String> {
        let page = self.store.list(&Self::bucket(), "", None, None).await;
        let keys = page.unwrap().objects.into_iter();
        keys.map(|found| found.key.to_string()).collect()
    }

    async fn assert_copied(&self) {
        let key = format!("r/lfs/{}", self.pointer.oid);
        assert_eq!(
            self.keys().await,
            ["r/branchline/lfs-record", key.as_str()],
            "no progress is left behind"
        );
        let key = ObjectKey::new(&key).unwrap();
        let stored = self.store.get(&Self::bucket(), &key, None, None).await;
        assert!(stored.unwrap() == self.content, "the content is unchanged");
        assert!(self.store.uploads().is_empty(), "no upload is left behind");
    }

    /// Returns the starts of the ranges that were requested.
    fn starts(&self) -> Vec<usize> {
        let downloads = self.server.requests().into_iter();
        let ranges = downloads.filter(|seen| seen.method == "GET").map(|seen| {
            let range = seen.headers.get("range")?;
            range
                .strip_prefix("bytes=")?
                .strip_suffix('-')?
                .parse()
                .ok()
        });
        ranges.map(Option::unwrap_or_default).collect()
    }

    /// Stops a run when its progress was written so often, while the server stalls after 50 MiB.
    async fn stop_after(&self, writes: usize) -> u64 {
        let sent_bytes = 50 << 20;
        self.server
            .rule(move |_, seen| (!seen.is_batch()).then_some(Fault::Stall(sent_bytes)));
        let transfer = self.transfer();
        let pointers = [self.pointer.clone()];
        let copy = transfer.copy(&pointers);
        tokio::pin!(copy);
        // Until the progress is written.
        let written = self.store.traffic().count("put") + writes;
        while self.store.traffic().count("put") < written {
            let stopped = timeout(Duration::from_millis(5), &mut copy).await;
            assert!(stopped.is_err(), "the download stalls");
        }
        self.server.rule(|_, _| None);
        let report = transfer.report().await;
        assert_eq!(report.objects, 0);
        report.bytes
    }
}

#[tokio::test]
async fn an_object_that_takes_longer_than_one_run_is_resumed_by_the_next() {
    let object = LargeObject::new();
    // When the upload begins, and after eight parts.
    let first = object.stop_after(2).await;
    assert!(first > 0, "what was sent counts");
    let second = object.stop_after(1).await;
    assert!(second > 0, "what was sent counts");
    let transfer = object.transfer();
    let copied = transfer.copy(std::slice::from_ref(&object.pointer)).await;
    copied.unwrap();
    object.assert_copied().await;
    let starts = object.starts();
    assert_eq!(starts[0], 0);
    assert!(0 < starts[1] && starts[1] < starts[2], "{starts:?}");
    object.server.assert_content();
}

/// Mirrors a repository of one large object in runs that are too short, into one layout.
async fn mirror_in_short_runs(target: &dyn Remote, object: &LargeObject, key: &str) {
    let repo = Repo::new(HashKind::Sha1);
    point(&repo, "large.bin", &object.content);
    let server = GitServer::new(&repo);
    let source = Beside(remote(&server.url(), Version::V2), http(&object.server));
    let options = with_policy(LfsPolicy::Copy);
    // The server stalls after 50 MiB, of which eight parts are recorded.
    object
        .server
        .rule(|_, seen| (!seen.is_batch()).then_some(Fault::Stall(50 << 20)));
    let progress = format!("r/branchline/lfs-upload-{}", object.pointer.oid);
    let mut seconds = 2;
    let sent_parts = async || {
        let place = ObjectKey::new(&progress).unwrap();
        let read = object
            .store
            .get(&LargeObject::bucket(), &place, None, None)
            .await;
        let read: serde_json::Value = serde_json::from_slice(&read.ok()?).unwrap();
        Some(read["parts"].as_array()?.len())
    };
    while sent_parts().await.is_none_or(|parts| parts == 0) {
        let deadline = Instant::now() + Duration::from_secs(seconds);
        let result = mirror::mirror_with_stats(&source, target, &options, Some(deadline)).await;
        assert!(!result.stats.complete, "the server stalls");
        // Nothing may arrive in a short run on a busy machine.
        let kind = result.error.map(|error| error.kind());
        assert!(kind.is_none_or(|kind| kind == ErrorKind::FileTooLarge));
        seconds *= 2;
        assert!(seconds < 100, "a run sends eight parts");
    }
    let snapshot = target.target().await.unwrap();
    assert!(snapshot.snapshot().refs.is_empty(), "no ref moves before");
    object.server.rule(|_, _| None);
    let deadline = Instant::now() + Duration::from_secs(100);
    let result = mirror::mirror_with_stats(&source, target, &options, Some(deadline)).await;
    assert!(result.stats.complete, "{:?}", result.error);
    assert_eq!(result.stats.lfs.objects, 1);
    let starts = object.starts();
    let last = *starts.last().unwrap();
    assert!(
        last >= 40 << 20,
        "the parts that were sent stay: {starts:?}"
    );
    let key = ObjectKey::new(key).unwrap();
    let bucket = LargeObject::bucket();
    let stored = object.store.get(&bucket, &key, None, None).await;
    assert!(
        stored.unwrap() == object.content,
        "the content is unchanged"
    );
    assert!(
        object.store.uploads().is_empty(),
        "no upload is left behind"
    );
    let keys = object.keys().await;
    assert!(!keys.contains(&progress), "{keys:?}");
    let target = target.target().await.unwrap();
    let main = &target.snapshot().refs[bstr::BStr::new("refs/heads/main")];
    assert_eq!(main.id, repo.id("main"));
}

#[tokio::test]
async fn a_mirror_of_bundles_resumes_a_large_object_in_the_next_run() {
    let object = LargeObject::new();
    let (prefix, store) = (KeyPrefix::new("r").unwrap(), Arc::clone(&object.store));
    let options = BundleOptions::default();
    let target = BundleRemote::new(store, LargeObject::bucket(), prefix, options);
    let key = format!("r/lfs/{}", object.pointer.oid);
    mirror_in_short_runs(&target, &object, &key).await;
}

#[tokio::test]
async fn a_dumb_mirror_resumes_a_large_object_in_the_next_run() {
    let object = LargeObject::new();
    let (prefix, store) = (KeyPrefix::new("r").unwrap(), Arc::clone(&object.store));
    let options = DumbOptions::default();
    let target = DumbRemote::new(store, LargeObject::bucket(), prefix, options);
    let id = &object.pointer.oid;
    let key = format!("r/lfs/objects/{}/{}/{id}", &id[..2], &id[2..4]);
    mirror_in_short_runs(&target, &object, &key).await;
}

#[tokio::test]
async fn clean_deletes_unfinished_uploads() {
    let object = LargeObject::new();
    object.stop_after(2).await;
    assert_eq!(object.store.uploads().len(), 1);
    let prefix = KeyPrefix::new("r").unwrap();
    let store = Arc::<MemoryStore>::clone(&object.store);
    let options = BundleOptions::default();
    let remote = BundleRemote::new(store, LargeObject::bucket(), prefix, options);
    let cleaned = mirror::clean(&remote, None).await;
    assert!(cleaned.stats.complete, "{:?}", cleaned.error);
    assert_eq!(object.keys().await, [""; 0]);
    assert!(object.store.uploads().is_empty());
}

/// "it is resumed [..], or an error names it."
#[tokio::test]
async fn an_object_that_never_arrives_in_one_run_is_named_by_an_error() {
    let repo = Repo::new(HashKind::Sha1);
    let copy = strict(HashKind::Sha1);
    let content = version(1);
    point(&repo, "large.bin", &content);
    let (lfs, second) = (LfsServer::new(&[&content]), LfsServer::new(&[]));
    lfs.rule(|_, seen| (!seen.is_batch()).then_some(Fault::Stall(1)));
    let (from, to) = (GitServer::new(&repo), GitServer::new(&copy));
    let source = Beside(remote(&from.url(), Version::V2), http(&lfs));
    let target = Beside(remote(&to.url(), Version::V2), http(&second));
    // The other requests take a small part of the time.
    let mut seconds = 2;
    let error = loop {
        let deadline = Instant::now() + Duration::from_secs(seconds);
        let options = with_policy(LfsPolicy::Copy);
        let result = mirror::mirror_with_stats(&source, &target, &options, Some(deadline)).await;
        assert!(!result.stats.complete, "the object has not arrived");
        if let Some(error) = result.error {
            break error;
        }
        seconds *= 2;
        assert!(seconds < 100, "an error names the object");
    };
    assert_eq!(error.kind(), ErrorKind::FileTooLarge, "{}", error.report());
    assert!(
        error.report().contains(&oid(&content)),
        "{}",
        error.report()
    );
    assert_eq!(copy.refs(), "");
}

#[tokio::test]
async fn a_broken_connection_is_resumed_within_a_run() {
    let object = LargeObject::new();
    // Each download ends after four parts.
    object
        .server
        .rule(|_, seen| (!seen.is_batch()).then_some(Fault::Cut(20 << 20)));
    let mut runs = 0;
    while object
        .transfer()
        .copy(std::slice::from_ref(&object.pointer))
        .await
        .is_err()
    {
        runs += 1;
        assert!(runs < 10, "each run makes progress");
    }
    object.assert_copied().await;
    let starts = object.starts();
    assert!(
        starts.is_sorted(),
        "nothing that was sent is sent again: {starts:?}"
    );
}

#[tokio::test]
async fn a_resumed_object_with_wrong_content_starts_anew() {
    let object = LargeObject::new();
    object.stop_after(2).await;
    // The source changes meanwhile.
    let mut wrong = object.content.clone();
    *wrong.last_mut().unwrap() ^= 1;
    object.server.put(&object.pointer.oid, &wrong);
    let transfer = object.transfer().with_required(true);
    let error = transfer.copy(std::slice::from_ref(&object.pointer)).await;
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Corrupt);
    assert!(object.store.uploads().is_empty());
    assert!(
        object
            .keys()
            .await
            .iter()
            .all(|key| !key.contains("lfs-upload"))
    );
    object.server.put(&oid(&object.content), &object.content);
    let copied = object
        .transfer()
        .copy(std::slice::from_ref(&object.pointer))
        .await;
    copied.unwrap();
    object.assert_copied().await;
}

#[tokio::test]
async fn an_upload_whose_parts_were_removed_starts_anew() {
    let object = LargeObject::new();
    object.stop_after(2).await;
    // As the bucket's lifecycle rule does.
    let key = ObjectKey::new(&format!("r/lfs/{}", object.pointer.oid)).unwrap();
    let progress = format!("r/branchline/lfs-upload-{}", object.pointer.oid);
    let progress = ObjectKey::new(&progress).unwrap();
    let bucket = LargeObject::bucket();
    let progress = object.store.get(&bucket, &progress, None, None).await;
    let progress: serde_json::Value = serde_json::from_slice(&progress.unwrap()).unwrap();
    let id = UploadId(progress["upload"].as_str().unwrap().to_owned());
    let aborted = object.store.abort_upload(&bucket, &key, &id).await;
    aborted.unwrap();
    assert!(object.store.uploads().is_empty());
    let copied = object
        .transfer()
        .copy(std::slice::from_ref(&object.pointer))
        .await;
    copied.unwrap();
    object.assert_copied().await;
}
