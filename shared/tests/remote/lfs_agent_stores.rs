//! Stores as git-lfs's agent uses them: keys that follow from the layout, parts that are transferred
//! at once, and downloads into files.

use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use branchline_core::lfs::{
    KeyScheme, LfsBody, LfsStore, Pointer, S3Lfs, S3RepositoryLfs, download, verify_stream,
};
use branchline_core::name::{BucketName, KeyPrefix, ObjectKey};
use branchline_core::storage::{ObjectStore as _, PutOptions};
use branchline_core::testkit::{MemoryStore, MemoryStoreOptions};
use branchline_core::{Error, ErrorKind, Result};
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use crate::remote::lfs::{large, pointer};

fn bucket() -> BucketName {
    BucketName::new("bucket").unwrap()
}

fn memory() -> Arc<MemoryStore> {
    let store = MemoryStore::with_options(MemoryStoreOptions {
        page: 1000,
        ..MemoryStoreOptions::default()
    });
    store.create_bucket(&bucket(), false);
    Arc::new(store)
}

fn objects(store: &Arc<MemoryStore>, keys: KeyScheme) -> S3Lfs {
    let prefix = KeyPrefix::new("r").unwrap();
    S3Lfs::new(Arc::clone(store) as _, bucket(), prefix, keys, None)
}

fn body(content: &[u8]) -> LfsBody {
    let pieces: Vec<_> = content
        .chunks(1 << 20)
        .map(Bytes::copy_from_slice)
        .collect();
    Box::pin(stream::iter(pieces.into_iter().map(Ok)))
}

async fn put(store: &MemoryStore, key: &str, content: &[u8]) {
    let key = ObjectKey::new(key).unwrap();
    let content = Bytes::copy_from_slice(content);
    let (bucket, options) = (bucket(), PutOptions::default());
    let put = store.put(&bucket, &key, content, &options);
    put.await.unwrap();
}

async fn keys(store: &MemoryStore) -> Vec<String> {
    let page = store.list(&bucket(), "", None, None).await.unwrap();
    let keys = page.objects.into_iter().map(|found| found.key.to_string());
    keys.collect()
}

async fn read(store: &dyn LfsStore, pointer: &Pointer) -> Result<Vec<u8>> {
    let pieces: Vec<Bytes> = store.read(pointer).await?.try_collect().await?;
    Ok(pieces.concat())
}

#[tokio::test]
async fn keys_follow_from_the_layout_and_both_are_read() {
    let content = b"content";
    let pointer = pointer(content);
    let oid = &pointer.oid;
    let flat = format!("r/lfs/{oid}");
    let fanned = format!("r/lfs/objects/{}/{}/{oid}", &oid[..2], &oid[2..4]);
    for (stored, keys_if_empty, written) in [
        (None, KeyScheme::Flat, &flat),
        (None, KeyScheme::Fanned, &fanned),
        (Some("r/HEAD"), KeyScheme::Flat, &flat),
        (Some("r/HEAD"), KeyScheme::Fanned, &flat),
        (Some("r/info/refs"), KeyScheme::Flat, &fanned),
        (Some("r/info/refs"), KeyScheme::Fanned, &fanned),
    ] {
        let store = memory();
        if let Some(key) = stored {
            put(&store, key, b"").await;
        }
        let objects = objects(&store, KeyScheme::Flat);
        let lfs = S3RepositoryLfs::new(objects, keys_if_empty);
        assert!(lfs.write_if_missing(&pointer, body(content)).await.unwrap());
        assert!(!lfs.write_if_missing(&pointer, body(content)).await.unwrap());
        let found = keys(&store).await;
        assert!(
            found.contains(written),
            "{stored:?}, {keys_if_empty:?}: {found:?}"
        );
        assert_eq!(found.len(), 1 + usize::from(stored.is_some()));
        assert_eq!(read(&lfs, &pointer).await.unwrap(), content);
        assert!(
            lfs.missing(std::slice::from_ref(&pointer))
                .await
                .unwrap()
                .is_empty()
        );
    }
    for key in [&flat, &fanned] {
        let store = memory();
        put(&store, key, content).await;
        let lfs = S3RepositoryLfs::new(objects(&store, KeyScheme::Flat), KeyScheme::Flat);
        assert_eq!(read(&lfs, &pointer).await.unwrap(), content, "{key}");
        // The next object is searched where this one was.
        let before = store.traffic().count("get");
        read(&lfs, &pointer).await.unwrap();
        assert_eq!(store.traffic().count("get") - before, 1, "{key}");
    }
    let store = memory();
    let lfs = S3RepositoryLfs::new(objects(&store, KeyScheme::Flat), KeyScheme::Flat);
    let error = read(&lfs, &pointer).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{}", error.report());
}

#[tokio::test]
async fn an_object_is_written_unless_it_exists_with_its_size() {
    for size in [1, 1000, 200 << 10, 6 << 20] {
        let content = large(size);
        let pointer = pointer(&content);
        let store = memory();
        let lfs = objects(&store, KeyScheme::Flat);
        let verified = || verify_stream(&pointer, body(&content));
        assert!(lfs.write_if_missing(&pointer, verified()).await.unwrap());
        assert!(!lfs.write_if_missing(&pointer, verified()).await.unwrap());
        // A part of it, which another program left.
        let key = format!("r/lfs/{}", pointer.oid);
        put(&store, &key, b"").await;
        assert!(lfs.write_if_missing(&pointer, verified()).await.unwrap());
        assert!(read(&lfs, &pointer).await.unwrap() == content, "{size}");

        let mut wrong = content.clone();
        wrong[0] ^= 1;
        let store = memory();
        let lfs = objects(&store, KeyScheme::Flat);
        let wrong = verify_stream(&pointer, body(&wrong));
        let error = lfs.write_if_missing(&pointer, wrong).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{}", error.report());
        assert!(keys(&store).await.is_empty(), "{size}");
    }
}

#[tokio::test(start_paused = true)]
async fn parts_are_transferred_at_once_and_arrive_in_order() {
    let content = large(67 << 20);
    let pointer = pointer(&content);
    for parallel in [1, 4] {
        for is_resumable in [false, true] {
            let store = memory();
            store
                .traffic()
                .set_latency(std::time::Duration::from_millis(10));
            let lfs = objects(&store, KeyScheme::Flat).with_parallel_parts(parallel);
            if is_resumable {
                let upload = lfs.resume(&pointer).await.unwrap().unwrap();
                let counted = AtomicU64::new(0);
                let count = |bytes| {
                    counted.fetch_add(bytes, Ordering::Relaxed);
                };
                upload.write(body(&content), &count).await.unwrap();
                assert_eq!(counted.into_inner(), pointer.size_bytes);
            } else {
                lfs.write(&pointer, body(&content)).await.unwrap();
            }
            let peak = store.traffic().peak();
            assert!(peak >= parallel, "{parallel} parts at once: {peak}");
            // One more part is read, or the progress is written.
            assert!(peak <= parallel + 1, "{parallel} parts at once: {peak}");
            assert!(read(&lfs, &pointer).await.unwrap() == content);
            assert_eq!(keys(&store).await, [format!("r/lfs/{}", pointer.oid)]);
            assert!(store.uploads().is_empty());
        }
    }
}

/// A store whose reads end after some bytes, each with a failure.
struct CutStore {
    content: Mutex<Vec<u8>>,
    served: AtomicUsize,
    starts: Mutex<Vec<u64>>,
}

impl CutStore {
    fn new(content: &[u8], served: usize) -> Self {
        Self {
            content: Mutex::new(content.to_vec()),
            served: AtomicUsize::new(served),
            starts: Mutex::default(),
        }
    }

    fn starts(&self) -> Vec<u64> {
        std::mem::take(&mut *self.starts.lock().unwrap())
    }
}

impl fmt::Display for CutStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a store that is cut")
    }
}

#[async_trait]
impl LfsStore for CutStore {
    async fn missing(&self, _pointers: &[Pointer]) -> Result<Vec<Pointer>> {
        Ok(Vec::new())
    }

    async fn read(&self, pointer: &Pointer) -> Result<LfsBody> {
        self.read_from(pointer, 0).await
    }

    async fn read_from(&self, _pointer: &Pointer, position: u64) -> Result<LfsBody> {
        self.starts.lock().unwrap().push(position);
        let content = self.content.lock().unwrap();
        let start = usize::try_from(position).unwrap();
        let end = content
            .len()
            .min(start + self.served.load(Ordering::SeqCst));
        let cut = (end < content.len()).then(|| Err(Error::new(ErrorKind::Transport, "cut")));
        let rest = body(&content[start..end]).chain(stream::iter(cut));
        Ok(Box::pin(rest))
    }

    async fn write(&self, _pointer: &Pointer, _content: LfsBody) -> Result<()> {
        Err(Error::new(ErrorKind::Config, "it is read only"))
    }
}

async fn fetch(
    store: &dyn LfsStore,
    pointer: &Pointer,
    directory: &Path,
) -> (Result<Vec<u8>>, u64) {
    let counted = AtomicU64::new(0);
    let count = |bytes| {
        counted.fetch_add(bytes, Ordering::Relaxed);
    };
    let path = download(store, pointer, directory, &count).await;
    let content = path.map(|path| std::fs::read(path).unwrap());
    (content, counted.into_inner())
}

fn left(directory: &Path, name: &str) -> Vec<std::path::PathBuf> {
    let Ok(entries) = std::fs::read_dir(directory.join(name)) else {
        return Vec::new();
    };
    entries.map(|entry| entry.unwrap().path()).collect()
}

#[tokio::test]
async fn a_large_download_that_was_cut_is_continued_and_a_small_one_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let content = large(65 << 20);
    let large_one = pointer(&content);
    let store = CutStore::new(&content, 30 << 20);
    let (result, counted) = fetch(&store, &large_one, directory).await;
    assert_eq!(result.unwrap_err().kind(), ErrorKind::Transport);
    // The last piece is withheld until the whole matches.
    let first = counted;
    assert_eq!(left(directory, "incomplete").len(), 1);
    assert!(left(directory, "tmp").is_empty());
    let (result, _) = fetch(&store, &large_one, directory).await;
    assert!(result.is_err());
    store.served.store(content.len(), Ordering::SeqCst);
    let (result, counted) = fetch(&store, &large_one, directory).await;
    assert!(result.unwrap() == content);
    assert_eq!(
        counted, large_one.size_bytes,
        "what was there is counted, too"
    );
    let starts = store.starts();
    assert_eq!(starts.len(), 3);
    assert_eq!((starts[0], starts[1]), (0, first));
    assert!(starts[2] > starts[1], "{starts:?}");
    assert!(left(directory, "incomplete").is_empty());

    let small = large(3 << 20);
    let store = CutStore::new(&small, 1 << 20);
    let before = left(directory, "tmp").len();
    let (result, _) = fetch(&store, &pointer(&small), directory).await;
    assert!(result.is_err());
    assert_eq!(left(directory, "tmp").len(), before);
    assert!(left(directory, "incomplete").is_empty());
}

#[tokio::test]
async fn a_wrong_begin_of_a_download_is_replaced_and_wrong_content_is_removed() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let content = large(65 << 20);
    let large_one = pointer(&content);
    let store = CutStore::new(&content, 30 << 20);
    fetch(&store, &large_one, directory).await.0.unwrap_err();
    let partial = left(directory, "incomplete").remove(0);
    let mut begin = std::fs::read(&partial).unwrap();
    begin[1000] ^= 1;
    std::fs::write(&partial, begin).unwrap();
    store.served.store(content.len(), Ordering::SeqCst);
    let (result, _) = fetch(&store, &large_one, directory).await;
    assert!(result.unwrap() == content);

    store.content.lock().unwrap()[5 << 20] ^= 1;
    let (result, _) = fetch(&store, &large_one, directory).await;
    assert_eq!(result.unwrap_err().kind(), ErrorKind::Corrupt);
    assert!(left(directory, "incomplete").is_empty());
}

#[tokio::test]
async fn two_downloads_of_one_large_object_do_not_mix() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let content = large(65 << 20);
    let pointer = pointer(&content);
    let store = CutStore::new(&content, content.len());
    let both = tokio::join!(
        fetch(&store, &pointer, directory),
        fetch(&store, &pointer, directory)
    );
    assert!(both.0.0.unwrap() == content && both.1.0.unwrap() == content);
    assert_eq!(
        left(directory, "tmp").len(),
        2,
        "each has a file of its own"
    );
}
