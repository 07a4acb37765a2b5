//! The memory budget: exceeded only by the entry that is needed next, and never the cause of a
//! deadlock.

use std::sync::atomic::Ordering;

use branchline_core::archive::{WriteSink, write};

use super::compare::same;
use super::fake_codecommit::Disk;
use super::faults::{noise, repository, request};
use super::git::Repo;

/// Commits large files, not sorted by size, many of them twice: more duplicates than are
/// retained.
fn many_big_files() -> (Repo, String) {
    let repo = Repo::new();
    let blobs: Vec<Vec<u8>> = (0..14)
        .map(|n| noise(n, 200_000 + usize::try_from(n * 7 % 5).unwrap() * 400_000))
        .collect();
    let names: Vec<(String, usize)> = (0..14)
        .map(|n| (format!("a/{n}"), n))
        .chain((0..14).map(|n| (format!("b/{n}"), 13 - n)))
        .chain((0..14).map(|n| (format!("c{n}/x"), n)))
        .collect();
    let files: Vec<_> = names
        .iter()
        .map(|(name, blob)| (&**name, &*blobs[*blob]))
        .collect();
    let commit = repo.files(&files);
    (repo, commit)
}

#[tokio::test]
async fn a_tiny_budget_never_deadlocks_at_any_concurrency() {
    let (repo, commit) = many_big_files();
    let theirs = repo.archive("", &commit);
    let mut first: Option<Vec<u8>> = None;
    for concurrency in [1, 3, 32] {
        for memory_bytes in [0, 1_000_000, 6_000_000] {
            let mut disk = Disk::new(repo.path());
            disk.jitter_ms = 3;
            let mut request = request(&disk, &commit);
            request.concurrency = concurrency;
            request.memory_bytes = memory_bytes;
            let sink = WriteSink::new(Vec::new());
            let repository = repository();
            let running = write(&disk, &repository, &request, &sink);
            let summary = tokio::time::timeout(std::time::Duration::from_mins(1), running)
                .await
                .expect("no deadlock")
                .expect("nothing fails");
            let largest = 1_800_000 * 11 / 4 + 512;
            assert!(
                summary.peak_held_bytes <= memory_bytes + largest,
                "{} bytes held with a budget of {memory_bytes}",
                summary.peak_held_bytes
            );
            assert!(
                disk.most_admitted.load(Ordering::SeqCst) as u64 * 11 / 4 <= memory_bytes + largest,
                "the service counts the same"
            );
            assert!(disk.most_in_flight.load(Ordering::SeqCst) <= concurrency + 1);
            let zip = sink.into_inner();
            match &first {
                None => {
                    same(&zip, &theirs);
                    first = Some(zip);
                }
                Some(first) => assert!(
                    *first == zip,
                    "the same commit gives the same bytes ({concurrency}, {memory_bytes})"
                ),
            }
        }
    }
}
