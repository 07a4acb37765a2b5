//! Memory that receiving a pack takes for each object, counted by the allocator.
//!
//! The only test of its binary, because the memory of the whole process is counted.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests are tests, even outside of a `#[test]` function"
)]

use std::fmt::Write as _;

use branchline_git::HashKind;
use branchline_git::pack::{Connectivity, NoBases, PackIndexer, PackLimits};
use branchline_test_support::repo::Repo;
use bytes::Bytes;
use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

const COMMITS: usize = 3_000;
/// Memory for content, which is not counted as a table.
const CONTENT_BYTES: usize = 4 << 10;

/// A history of small files in two folders: four objects a commit.
fn history() -> Repo {
    let repo = Repo::new(HashKind::Sha1);
    let mut input = String::new();
    for n in 0..COMMITS {
        let text = format!("{n:08} {:08x}\n", n * 2_654_435_761 % 4_294_967_291);
        write!(
            input,
            "commit refs/heads/main\ncommitter C <c@x> {n} +0000\ndata 1\nx\n\
             M 100644 inline d{}/f{}\ndata {}\n{text}",
            n % 7,
            n % 11,
            text.len()
        )
        .unwrap();
    }
    repo.input(&["fast-import", "--quiet"], input.as_bytes());
    repo
}

/// Returns the number of objects, how many deltas were left for the second pass, and the bytes
/// of tables for each object at most.
async fn measure(pack: &Bytes, expected_index: &[u8]) -> (usize, usize, usize) {
    MEMORY.reset_peak_usage();
    let before = MEMORY.current_usage();
    let limits = PackLimits::default().with_memory(CONTENT_BYTES);
    let mut connectivity = Connectivity::new(HashKind::Sha1, []);
    let mut indexer = PackIndexer::new(HashKind::Sha1, limits);
    for piece in pack.chunks(16 << 10) {
        indexer.push(piece, &mut connectivity).unwrap();
    }
    let received = indexer.finish().unwrap();
    let (objects, pending) = (received.objects(), received.pending());
    let resolved = received.resolve(pack, &NoBases, &mut connectivity);
    let resolved = resolved.await.unwrap();
    assert_eq!(resolved.index.bytes(), expected_index, "git's own index");
    let missing = connectivity.missing_objects(&resolved, &[]).unwrap();
    assert!(missing.is_empty(), "the pack has all");
    let peak = MEMORY.peak_usage() - before;
    (
        objects,
        pending,
        peak.saturating_sub(CONTENT_BYTES) / objects,
    )
}

/// "At most 180 bytes for each object of a pack": here without the memory of the target.
#[tokio::test]
async fn an_object_takes_at_most_150_bytes_of_tables_also_if_its_delta_waits() {
    let repo = history();
    for (name, deltas) in [("offset", true), ("id", false)] {
        let option = format!("repack.useDeltaBaseOffset={deltas}");
        repo.git(&["-c", &option, "repack", "-adfq", "--depth=50", "--window=4"]);
        let (pack, index) = repo.only_pack();
        let (objects, pending, bytes) = measure(&pack.into(), &index).await;
        println!("{name}: {objects} objects, {pending} deltas left, {bytes} bytes an object");
        assert!(objects >= 3 * COMMITS && pending > objects / 10);
        assert!(bytes <= 150, "{name}: {bytes} bytes an object");
    }
}
