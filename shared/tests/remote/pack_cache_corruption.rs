//! Cached packs that are truncated, changed, swapped, forged, removed or half written: pushes
//! succeed, and the bundles are correct.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use branchline_core::ErrorKind;
use branchline_core::pack_cache::PackCache;
use branchline_core::remote::{PackRequest, Remote};
use branchline_core::testkit::{Failing, FaultPlan, When};

use crate::remote::pack_cache::{Disk, commit, repository};
use crate::remote::s3_bundle_fixture::{fetch_all, mirror_all};
use branchline_test_support::repo::Repo;

/// Returns a disk with the cached pack of a repository that was pushed twice.
async fn disk_after_two_pushes() -> (Disk, Repo) {
    let disk = Disk::new();
    let repo = repository();
    mirror_all(&repo, &disk.remote("r")).await.unwrap();
    commit(&repo, "main", 0);
    mirror_all(&repo, &disk.remote("r")).await.unwrap();
    (disk, repo)
}

/// Pushes another commit, and checks the bundle.
async fn push_and_check(disk: &Disk, repo: &Repo, number: usize, what: &str) {
    commit(repo, "main", number);
    let outcome = mirror_all(repo, &disk.remote("r")).await;
    assert!(outcome.is_ok(), "{what}: {outcome:?}");
    disk.check(repo, "r", "main").await;
}

/// Returns `count` offsets spread over a file, including both ends.
fn sample(length: u64, count: u64) -> Vec<u64> {
    let last = length.saturating_sub(1);
    let mut offsets: Vec<u64> = (0..count).map(|n| last * n / (count - 1)).collect();
    offsets.dedup();
    offsets
}

fn change(path: &Path, offset: u64) {
    change_open(
        &File::options().read(true).write(true).open(path).unwrap(),
        offset,
    );
}

fn change_open(file: &File, offset: u64) {
    use std::os::unix::fs::FileExt as _;
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    byte[0] ^= 0x10;
    file.write_all_at(&byte, offset).unwrap();
}

#[tokio::test]
async fn a_push_onto_a_cached_pack_with_a_changed_byte_writes_a_correct_bundle() {
    let (disk, repo) = disk_after_two_pushes().await;
    let mut number = 1;
    for kind in ["copy", "entries"] {
        for step in 0..16 {
            // Each push writes new files, so the byte is changed in all current files.
            for path in disk.of_kind(kind) {
                let length = path.metadata().unwrap().len();
                change(
                    &path,
                    sample(length, 16)[..].get(step).copied().unwrap_or(0),
                );
            }
            push_and_check(&disk, &repo, number, &format!("{kind}, {step}/16")).await;
            number += 1;
        }
    }
}

/// The process that wrote a pack does not compare it with its trailer again.
#[tokio::test]
async fn a_changed_byte_is_detected_by_the_process_that_wrote_the_pack() {
    let (disk, repo) = disk_after_two_pushes().await;
    let remote = disk.remote("r");
    for step in 0..16 {
        commit(&repo, "main", 2 * step + 1);
        mirror_all(&repo, &remote).await.unwrap();
        for path in disk.of_kind("entries") {
            let length = path.metadata().unwrap().len();
            let offsets = sample(length, 16);
            change(&path, offsets[step.min(offsets.len() - 1)]);
        }
        commit(&repo, "main", 2 * step + 2);
        mirror_all(&repo, &remote).await.unwrap();
        disk.check(&repo, "r", "main").await;
    }
}

#[tokio::test]
async fn a_block_that_changes_during_a_push_is_never_in_a_completed_bundle() {
    let (disk, repo) = disk_after_two_pushes().await;
    let mut number = 1;
    let changed = Arc::new(AtomicUsize::new(0));
    for call in ["create_upload", "upload_part", "upload_part_copy"] {
        for step in 0..4 {
            let segments = disk.of_kind("entries");
            let nth = disk.world.store.traffic().count(call) + 1;
            let changed = Arc::clone(&changed);
            disk.world.store.traffic().before(call, nth, move || {
                for path in &segments {
                    // A push removes a segment in which it finds the change of an earlier one.
                    let Ok(file) = File::options().read(true).write(true).open(path) else {
                        continue;
                    };
                    let offsets = sample(file.metadata().unwrap().len(), 4);
                    change_open(&file, offsets[step.min(offsets.len() - 1)]);
                    changed.fetch_add(1, Ordering::Relaxed);
                }
            });
            push_and_check(&disk, &repo, number, &format!("{call}, {step}/4")).await;
            number += 1;
        }
    }
    assert!(
        changed.load(Ordering::Relaxed) >= number / 2,
        "most pushes must meet a change"
    );
}

#[tokio::test]
async fn truncated_extended_or_removed_files_do_not_fail_a_push() {
    let (disk, repo) = disk_after_two_pushes().await;
    let mut number = 1;
    for kind in ["copy", "entries"] {
        for step in 0..5 {
            for path in disk.of_kind(kind) {
                let length = path.metadata().unwrap().len();
                let file = File::options().write(true).open(&path).unwrap();
                file.set_len(sample(length, 5)[step.min(sample(length, 5).len() - 1)])
                    .unwrap();
            }
            push_and_check(&disk, &repo, number, &format!("{kind} cut, {step}/5")).await;
            number += 1;
        }
        let extended = &disk.of_kind(kind)[0];
        File::options()
            .append(true)
            .open(extended)
            .and_then(|mut file| std::io::Write::write_all(&mut file, b"more"))
            .unwrap();
        push_and_check(&disk, &repo, number, &format!("{kind} with more")).await;
        for path in disk.of_kind(kind) {
            std::fs::remove_file(path).unwrap();
        }
        push_and_check(&disk, &repo, number + 1, &format!("without {kind}")).await;
        number += 2;
    }
}

#[tokio::test]
async fn swapped_files_do_not_serve_as_each_other() {
    let disk = Disk::new();
    let (repo, other) = (repository(), repository());
    commit(&other, "main", 77);
    mirror_all(&repo, &disk.remote("r")).await.unwrap();
    mirror_all(&other, &disk.remote("other")).await.unwrap();
    for (number, kind) in ["copy", "entries"].into_iter().enumerate() {
        let files = disk.of_kind(kind);
        let aside = disk.folder().join("aside");
        std::fs::rename(&files[0], &aside).unwrap();
        std::fs::rename(&files[1], &files[0]).unwrap();
        std::fs::rename(&aside, &files[1]).unwrap();
        push_and_check(&disk, &repo, number + 1, kind).await;
        commit(&other, "main", 80 + number);
        mirror_all(&other, &disk.remote("other")).await.unwrap();
        disk.check(&other, "other", "main").await;
    }
}

#[tokio::test]
async fn links_and_directories_instead_of_files_are_not_followed() {
    let (disk, repo) = disk_after_two_pushes().await;
    let mut number = 1;
    for kind in ["copy", "entries"] {
        for path in disk.of_kind(kind) {
            let elsewhere = disk.folder().join("../elsewhere");
            std::fs::rename(&path, &elsewhere).unwrap();
            std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
        }
        push_and_check(&disk, &repo, number, &format!("{kind} as links")).await;
        for path in disk.of_kind(kind) {
            let _ = std::fs::remove_file(&path);
            std::fs::create_dir(&path).unwrap();
        }
        push_and_check(&disk, &repo, number + 1, &format!("{kind} as folders")).await;
        number += 2;
    }
}

const BLOCK: usize = 64 * 1024;

/// Returns the number of bytes of entries in a segment, without 4 bytes of checksum for each block.
fn entries(segment: &Path) -> usize {
    let length = usize::try_from(segment.metadata().unwrap().len()).unwrap();
    length - 4 * length.div_ceil(BLOCK + 4)
}

/// Changes a byte of a segment, and forges the checksums of the segment and of its records.
fn forge(disk: &Disk, segment: &Path, offset: u64) {
    change(segment, offset);
    let bytes = std::fs::read(segment).unwrap();
    let length = entries(segment);
    let mut forged = bytes[..length].to_vec();
    for block in bytes[..length].chunks(BLOCK) {
        forged.extend_from_slice(&crc32fast::hash(block).to_be_bytes());
    }
    assert_eq!(forged.len(), bytes.len());
    std::fs::write(segment, &forged).unwrap();
    let check = crc32fast::hash(&forged[length..]).to_be_bytes();
    let name = segment.file_stem().unwrap().to_str().unwrap();
    let name = u128::from_str_radix(name, 16).unwrap().to_be_bytes();
    for record in disk.of_kind("copy") {
        let mut bytes = std::fs::read(&record).unwrap();
        let magic = b"branchline copy 1\n".len();
        let end = magic + 1 + usize::from(bytes[magic]) * 28;
        for at in (magic + 1..end).step_by(28) {
            if bytes[at..at + 16] == name {
                bytes[at + 24..at + 28].copy_from_slice(&check);
            }
        }
        let sum = crc32fast::hash(&bytes[..end]).to_be_bytes();
        bytes[end..end + 4].copy_from_slice(&sum);
        std::fs::write(&record, bytes).unwrap();
    }
}

/// Returns the first and largest segment of the pack that was used last.
fn base(disk: &Disk) -> PathBuf {
    let records = disk.of_kind("copy").into_iter();
    let newest = records.max_by_key(|path| path.metadata().unwrap().modified().unwrap());
    let record = std::fs::read(newest.unwrap()).unwrap();
    let name = &record[b"branchline copy 1\n".len() + 1..][..16];
    let name = u128::from_be_bytes(name.try_into().unwrap());
    disk.folder().join(format!("{name:032x}.entries"))
}

#[tokio::test]
async fn a_pack_with_forged_checksums_is_detected_by_its_trailer() {
    let (disk, repo) = disk_after_two_pushes().await;
    for number in 0..24 {
        let segment = base(&disk);
        let offset = sample(entries(&segment) as u64, 24)[number];
        forge(&disk, &segment, offset);
        push_and_check(&disk, &repo, number + 1, &format!("forged at {offset}")).await;
        // The pack that was composed of it is removed, too.
        std::fs::remove_dir_all(disk.folder()).unwrap();
        push_and_check(&disk, &repo, number + 50, "with an empty cache").await;
    }
}

#[tokio::test]
async fn a_pack_with_forged_checksums_is_never_served() {
    let (disk, repo) = disk_after_two_pushes().await;
    for number in 0..12 {
        let segment = base(&disk);
        let offset = sample(entries(&segment) as u64, 12)[number];
        forge(&disk, &segment, offset);
        let source = disk.remote("r").source(&[]).await.unwrap();
        for haves in [vec![], vec![repo.id("main~4")]] {
            let wanted = PackRequest {
                wants: vec![repo.id("main")],
                haves,
                thin: false,
                offset_deltas: true,
            };
            let pack = match source.fetch(&wanted).await {
                Ok(pack) => crate::remote::s3_bundle_fixture::collect(pack).await,
                Err(error) => Err(error),
            };
            match pack {
                Ok(pack) => drop(repo.index_pack(&pack, false)),
                Err(error) => assert_eq!(error.kind(), ErrorKind::Conflict),
            }
        }
        assert_eq!(fetch_all(&disk.remote("r")).await.refs(), repo.refs());
        // The next push fills the cache again.
        std::fs::remove_dir_all(disk.folder()).unwrap();
        commit(&repo, "main", number + 1);
        mirror_all(&repo, &disk.remote("r")).await.unwrap();
    }
}

#[tokio::test]
async fn files_of_a_killed_process_are_removed_after_an_hour() {
    let (disk, repo) = disk_after_two_pushes().await;
    // Killed while it wrote entries, after that, and while it wrote the record.
    let halves = [
        "00000000000000000000000000000001.entries",
        "00000000000000000000000000000002.entries",
        "00000000000000000000000000000003.new",
    ];
    for name in halves {
        std::fs::write(disk.folder().join(name), "half of it").unwrap();
    }
    push_and_check(&disk, &repo, 1, "with leftover files").await;
    let left = || {
        let existing = halves
            .iter()
            .filter(|name| disk.folder().join(name).exists());
        existing.count()
    };
    assert_eq!(left(), 3, "another process may be about to record them");
    let old = SystemTime::now() - Duration::from_hours(2);
    for name in halves {
        let file = File::options()
            .write(true)
            .open(disk.folder().join(name))
            .unwrap();
        file.set_modified(old).unwrap();
    }
    push_and_check(&disk, &repo, 2, "with old leftover files").await;
    assert_eq!(left(), 0, "no process will record them");
}

/// Cancels a push just before its call `nth`; returns whether it made that many calls.
async fn cancel_push(disk: &Disk, repo: &Repo, nth: usize) -> bool {
    let traffic = disk.world.store.traffic();
    traffic.set_latency(Duration::from_millis(1));
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let (store, deletions) = (Arc::clone(&disk.world.store), traffic.count("delete") + 2);
    traffic.before_call(traffic.calls().len() + nth, move || {
        // After the old bundle and the lock are deleted, only temporary objects are listed.
        if store.traffic().count("delete") < deletions {
            let _ = sender.send(());
        }
    });
    let remote = disk.remote("r");
    let is_cancelled = tokio::select! {
        biased;
        Ok(()) = receiver => true,
        done = mirror_all(repo, &remote) => done.is_err(),
    };
    traffic.set_latency(Duration::ZERO);
    is_cancelled
}

#[tokio::test]
async fn a_push_that_is_cancelled_before_any_call_leaves_no_files() {
    let (disk, repo) = disk_after_two_pushes().await;
    let mut cancelled = 0;
    for nth in 1.. {
        let before = disk.files();
        commit(&repo, "main", 2 * nth);
        let is_cancelled = cancel_push(&disk, &repo, nth).await;
        let names = |files: Vec<(PathBuf, u64)>| -> Vec<_> {
            files.into_iter().map(|(path, _)| path).collect()
        };
        if is_cancelled {
            cancelled += 1;
            // A separate thread removes the file that it was writing.
            for _ in 0..500 {
                if disk.files().len() == before.len() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            assert_eq!(names(disk.files()), names(before), "before call {nth}");
        }
        // Its lock expires, unless it was released.
        let clock = &disk.world.clock;
        clock.fetch_add(1000, Ordering::Relaxed);
        push_and_check(&disk, &repo, 2 * nth + 1, "after a cancelled push").await;
        if !is_cancelled {
            break;
        }
    }
    assert!(cancelled >= 15, "at each of {cancelled} calls");
}

#[tokio::test]
async fn files_that_another_process_removes_during_a_push_do_not_fail_it() {
    let (disk, repo) = disk_after_two_pushes().await;
    for (number, call) in ["create_upload", "upload_part_copy", "complete_upload"]
        .into_iter()
        .enumerate()
    {
        let folder = disk.folder();
        let nth = disk.world.store.traffic().count(call) + 1;
        disk.world.store.traffic().before(call, nth, move || {
            for entry in std::fs::read_dir(&folder).unwrap() {
                std::fs::remove_file(entry.unwrap().path()).unwrap();
            }
        });
        push_and_check(&disk, &repo, 2 * number + 1, call).await;
        push_and_check(&disk, &repo, 2 * number + 2, "after that").await;
    }
}

#[tokio::test]
async fn a_push_with_a_removed_cache_directory_succeeds_without_caching() {
    let (disk, repo) = disk_after_two_pushes().await;
    let remote = disk.remote("r");
    std::fs::remove_dir_all(disk.folder()).unwrap();
    commit(&repo, "main", 1);
    mirror_all(&repo, &remote).await.unwrap();
    disk.check(&repo, "r", "main").await;
    assert!(!disk.folder().exists());
}

#[tokio::test]
async fn two_processes_share_one_directory() {
    let disk = Disk::new();
    let repo = repository();
    mirror_all(&repo, &disk.remote("a")).await.unwrap();
    mirror_all(&repo, &disk.remote("b")).await.unwrap();
    for number in 0..10 {
        commit(&repo, "main", number);
        // Both extend the same cached pack. With little space each evicts files that the other
        // may need.
        let bound = if number < 5 {
            1 << 30
        } else {
            (1 << 20) + 120_000
        };
        let open = |prefix: &str| {
            let cache = PackCache::open(&disk.folder())
                .unwrap()
                .with_max_bytes(bound);
            disk.opened(prefix, Some(cache))
        };
        let (a, b) = (open("a"), open("b"));
        let (a, b) = tokio::join!(mirror_all(&repo, &a), mirror_all(&repo, &b));
        a.unwrap();
        b.unwrap();
        disk.check(&repo, "a", "main").await;
        disk.check(&repo, "b", "main").await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_failed_request_leaves_correct_cached_packs_or_none() {
    for when in [When::Before, When::After] {
        let mut nth = 1;
        loop {
            let (disk, repo) = disk_after_two_pushes().await;
            commit(&repo, "main", 1);
            let script = FaultPlan::new();
            script.fail(nth, ErrorKind::Transport, when);
            let store = Failing::new(Arc::clone(&disk.world.store), &script);
            // It may fail, or be retried.
            let _ = mirror_all(&repo, &disk.over(Arc::new(store), "r")).await;
            disk.world.clock.fetch_add(10_000, Ordering::Relaxed);
            for number in 2..4 {
                push_and_check(&disk, &repo, number, &format!("after request {nth}")).await;
            }
            if script.calls().len() < nth {
                break;
            }
            nth += 1;
        }
        assert!(nth > 15, "a push makes more than 15 requests");
    }
}
