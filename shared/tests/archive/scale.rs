//! Many entries, exact numbers of requests, and reproducible bytes.

use std::fmt::Write as _;
use std::time::Instant;

use super::compare::{agree_at, ours, same};
use super::fake_codecommit::Disk;
use super::git::{Repo, line};

#[tokio::test]
async fn each_folder_and_each_distinct_blob_takes_one_request() {
    let repo = Repo::new();
    let commit = repo.files(&[
        (".gitattributes", b"out export-ignore\n*.o export-ignore\n"),
        ("a/1", b"one"),
        ("a/again", b"one"),
        ("a/empty", b""),
        ("b/.gitattributes", b"*.c text\n"),
        ("b/2", b"two"),
        ("c/.gitattributes", b"*.c text\n"),
        ("c/x.o", b"ignored"),
        ("out/deep/er", b"ignored too"),
    ]);
    for _ in 0..5 {
        let mut disk = Disk::new(repo.path());
        disk.jitter_ms = 4;
        let (zip, summary) = ours(&disk, &commit, "").await;
        same(&zip, &repo.archive("", &commit));
        let calls = disk.calls.lock().unwrap();
        let folders = calls
            .iter()
            .filter(|call| call.starts_with("folder"))
            .count();
        assert_eq!(folders, 4, "the root, a, b, c: {calls:?}");
        assert_eq!(
            calls.len(),
            4 + 4,
            "two .gitattributes, `one` and `two`: {calls:?}"
        );
        assert_eq!(summary.requests, 8);
    }
}

/// "The same commit gives the same bytes."
#[tokio::test]
async fn the_same_commit_gives_the_same_bytes() {
    let repo = Repo::new();
    let names: Vec<(String, Vec<u8>)> = (0..120)
        .map(|n| {
            let text = format!("file {} says {}\n", n % 70, "word ".repeat(n % 70 * 40));
            (format!("d{}/e{}/f{n}", n % 7, n % 3), text.into_bytes())
        })
        .collect();
    let files: Vec<_> = names
        .iter()
        .map(|(name, text)| (&**name, &**text))
        .collect();
    let commit = repo.files(&files);
    let (first, _) = ours(&Disk::new(repo.path()), &commit, "x/").await;
    for jitter_ms in [1, 5, 9] {
        let mut disk = Disk::new(repo.path());
        disk.jitter_ms = jitter_ms;
        let (repeated, _) = ours(&disk, &commit, "x/").await;
        assert!(first == repeated, "the bytes are equal");
    }
}

/// More entries than the central directory of a zip without ZIP64 can count.
#[tokio::test]
async fn an_archive_of_seventy_thousand_entries_uses_zip64_and_equals_that_of_git() {
    let repo = Repo::new();
    let mut stream = String::from("blob\nmark :1\ndata 2\nx\n\n");
    stream += "commit refs/heads/main\ncommitter C <c@x> 1500000001 +0000\ndata 2\nm\n\n";
    for n in 0..70_000 {
        let (folder, below) = (n % 50, n % 1000);
        writeln!(stream, "M 100644 :1 d{folder:02}/{below:03}/file-{n}").unwrap();
    }
    stream += "\ndone\n";
    repo.git(["fast-import", "--quiet", "--done"], stream.as_bytes());
    let commit = line(&repo.git(["rev-parse", "refs/heads/main"], b""));
    let zip = agree_at(repo.path(), &commit, "").await;
    assert!(
        zip.windows(4)
            .rev()
            .take(200)
            .any(|bytes| bytes == b"PK\x06\x06"),
        "there is a 64-bit end of the directory"
    );
}

#[tokio::test]
async fn five_thousand_files_take_less_than_a_minute() {
    let repo = Repo::new();
    let names: Vec<(String, Vec<u8>)> = (0..5000)
        .map(|n| {
            let text = format!("fn number_{n}() -> u32 {{ {n} }}\n").repeat(1 + n % 60);
            (format!("d{}/e{}/f{n}.rs", n % 40, n % 5), text.into_bytes())
        })
        .collect();
    let files: Vec<_> = names
        .iter()
        .map(|(name, text)| (&**name, &**text))
        .collect();
    let commit = repo.files(&files);
    let disk = Disk::new(repo.path());
    let start = Instant::now();
    let (zip, summary) = ours(&disk, &commit, "").await;
    let took = start.elapsed();
    println!("5000 files: {took:?}, {summary:?}");
    assert_eq!(summary.requests, 5000 + 1 + 40 + 40, "{summary:?}");
    same(&zip, &repo.archive("", &commit));
    assert!(took.as_secs() < 60, "{took:?}");
}

/// "At 10 ms a request, a repository of about 500 files in 100 folders: at most 1.5 x the
/// limit (rounds of the tree's depth + blobs / concurrency), and at least 15 x faster than
/// one request at a time." The clock is virtual, so only waiting is measured.
#[tokio::test(start_paused = true)]
async fn latency_counts_once_for_each_round_of_concurrent_requests() {
    let repo = Repo::new();
    let names: Vec<String> = (0..500)
        .map(|n| format!("d{}/e{}/f{n}", n % 10, n / 10 % 9))
        .collect();
    let files: Vec<_> = names
        .iter()
        .map(|name| (&**name, name.as_bytes()))
        .collect();
    let commit = repo.files(&files);
    let mut disk = Disk::new(repo.path());
    disk.latency_ms = 10;
    let start = tokio::time::Instant::now();
    let (_, summary) = ours(&disk, &commit, "").await;
    let took = start.elapsed().as_millis();
    assert_eq!(summary.requests, 1 + 10 + 90 + 500);
    let limit = (3 + 500_u128.div_ceil(32)) * 10;
    println!("{took} ms of waiting, the limit is {limit} ms");
    assert!(took * 2 <= limit * 3, "{took} ms of {limit} ms");
    assert!(took * 15 <= u128::from(summary.requests) * 10, "{took} ms");
}
