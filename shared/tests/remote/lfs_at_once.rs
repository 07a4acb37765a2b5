//! The number of LFS objects that are transferred at once follows from their size and the memory.

use std::sync::Arc;
use std::time::Duration;

use branchline_core::lfs::{KeyScheme, LfsStore, LfsTransfer, Pointer, S3Lfs};
use branchline_core::name::{BucketName, KeyPrefix};
use branchline_core::testkit::{MemoryStore, MemoryStoreOptions};
use bytes::Bytes;
use tokio::time::Instant;

use crate::remote::lfs::pointer;

/// Duration of each request to the target.
const LATENCY: Duration = Duration::from_millis(10);
/// A function of 64 MiB has 32 MiB for a mapping, a quarter of them for LFS objects.
const MEMORY_OF_SMALLEST_FUNCTION: usize = 8 << 20;

fn bucket() -> BucketName {
    BucketName::new("bucket").unwrap()
}

fn objects() -> (Arc<MemoryStore>, Arc<dyn LfsStore>) {
    let store = MemoryStore::with_options(MemoryStoreOptions {
        page: 1000,
        ..MemoryStoreOptions::default()
    });
    store.create_bucket(&bucket(), false);
    let store = Arc::new(store);
    let prefix = KeyPrefix::new("r").unwrap();
    let lfs = S3Lfs::new(
        Arc::<MemoryStore>::clone(&store),
        bucket(),
        prefix,
        KeyScheme::Flat,
        None,
    );
    (store, Arc::new(lfs))
}

/// Copies objects of one size; returns the time that it took, and the peak of concurrent requests.
async fn copy(count: usize, size_bytes: usize, memory: usize) -> (Duration, usize) {
    let ((_, source), (store, target)) = (objects(), objects());
    let mut pointers: Vec<Pointer> = Vec::new();
    for number in 0..count {
        let mut content = format!("{number:020}").into_bytes();
        content.resize(size_bytes, b'x');
        let pointer = pointer(&content);
        let body = futures_util::stream::iter([Ok(Bytes::from(content))]);
        source.write(&pointer, Box::pin(body)).await.unwrap();
        pointers.push(pointer);
    }
    store.traffic().set_latency(LATENCY);
    let begin = Instant::now();
    let transfer = LfsTransfer::new(Some(source), Some(target), memory);
    transfer.copy(&pointers).await.unwrap();
    assert_eq!(transfer.report().await.objects, count as u64);
    (begin.elapsed(), store.traffic().peak())
}

#[tokio::test(start_paused = true)]
async fn small_objects_are_transferred_many_at_once_also_with_little_memory() {
    // As if each object took the memory of a large one.
    let (one_by_one, peak) = copy(5000, 20, 256 << 10).await;
    assert_eq!(peak, 1);
    for memory in [MEMORY_OF_SMALLEST_FUNCTION, 221 << 20] {
        let (took, peak) = copy(5000, 20, memory).await;
        assert_eq!(peak, 32, "{memory} bytes");
        assert!(took * 30 < one_by_one, "{took:?}, not {one_by_one:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn larger_objects_are_transferred_as_many_at_once_as_the_memory_holds() {
    for (size_bytes, at_once) in [(100 << 10, 32), (700 << 10, 10), (3 << 20, 2)] {
        let (_, peak) = copy(40, size_bytes, MEMORY_OF_SMALLEST_FUNCTION).await;
        assert!(
            peak.abs_diff(at_once) <= 1,
            "{size_bytes} bytes: {peak} at once, not {at_once}"
        );
    }
}
