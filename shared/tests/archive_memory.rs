//! Memory of the process for a repository that is larger than the limit.
//!
//! The only test of its binary, because the memory of the whole process is measured.

#![cfg(target_os = "linux")]
#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests are tests, even outside of a `#[test]` function"
)]

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use branchline_core::Result;
use branchline_core::archive::{ArchiveRequest, PartSink, write};
use branchline_core::codecommit::{
    BlobAdmission, CodeCommit, Difference, Page, PullRequest, Repository, Trigger, TriggerSet,
};
use branchline_core::git::ObjectId;
use branchline_core::git::object::{Commit, EntryMode, ListedEntry, Signature, TreeListing};
use branchline_core::name::{BlobId, BranchName, CommitId, PullRequestId, RepositoryName, TagName};
use bytes::Bytes;

const MIB: usize = 1024 * 1024;
const FILES: u32 = 60;
const LARGEST_FILE_BYTES: usize = 5 * MIB;

/// A folder of incompressible files, generated on request.
struct GeneratedFolder;

fn noise(seed: u32) -> Vec<u8> {
    let mut state = u64::from(seed) * 2 + 1;
    let size = LARGEST_FILE_BYTES - seed as usize % 7 * 400_000;
    let mut noise = Vec::with_capacity(size + 8);
    while noise.len() < size {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        noise.extend((state ^ (state >> 29)).to_le_bytes());
    }
    noise
}

fn id(number: u32) -> ObjectId {
    ObjectId::from_hex(format!("{number:040x}").as_bytes()).unwrap()
}

#[async_trait]
impl CodeCommit for GeneratedFolder {
    async fn get_folder(&self, _: &RepositoryName, _: CommitId, _: &str) -> Result<TreeListing> {
        let entry = |n| ListedEntry::new(format!("{n:03}"), EntryMode::Blob, id(n + 1000));
        Ok(TreeListing {
            id: id(1),
            entries: (0..FILES).map(entry).collect(),
        })
    }

    async fn get_blob(
        &self,
        _: &RepositoryName,
        blob: BlobId,
        admission: &dyn BlobAdmission,
    ) -> Result<Bytes> {
        let seed = u32::from_str_radix(&blob.to_string()[32..], 16).unwrap();
        tokio::time::sleep(Duration::from_millis(u64::from(seed % 5))).await;
        admission
            .admit((LARGEST_FILE_BYTES - seed as usize % 7 * 400_000) as u64)
            .await;
        // The SDK holds the base64 text while it decodes the content.
        let bytes = noise(seed);
        let text = std::hint::black_box(vec![b'A'; bytes.len() * 4 / 3]);
        drop(text);
        Ok(bytes.into())
    }

    async fn list_repositories(&self, _: Option<&str>) -> Result<Page<RepositoryName>> {
        panic!("an archive does not call this")
    }
    async fn get_repository(&self, _: &RepositoryName) -> Result<Repository> {
        panic!("an archive does not call this")
    }
    async fn create_repository(&self, _: &RepositoryName) -> Result<Repository> {
        panic!("an archive does not call this")
    }
    async fn update_default_branch(&self, _: &RepositoryName, _: &BranchName) -> Result<()> {
        panic!("an archive does not call this")
    }
    async fn list_branches(&self, _: &RepositoryName, _: Option<&str>) -> Result<Page<String>> {
        panic!("an archive does not call this")
    }
    async fn get_branch(&self, _: &RepositoryName, _: &BranchName) -> Result<CommitId> {
        panic!("an archive does not call this")
    }
    async fn get_tag(&self, _: &RepositoryName, _: &TagName) -> Result<CommitId> {
        panic!("an archive does not call this")
    }

    async fn get_merge_base(
        &self,
        _: &RepositoryName,
        _: CommitId,
        _: &BranchName,
    ) -> Result<Option<CommitId>> {
        panic!("an archive does not call this")
    }

    async fn list_open_pull_requests(
        &self,
        _: &RepositoryName,
        _: Option<&str>,
    ) -> Result<Page<PullRequestId>> {
        panic!("an archive does not call this")
    }

    async fn get_commits(&self, _: &RepositoryName, _: &[CommitId]) -> Result<Vec<Commit>> {
        panic!("an archive does not call this")
    }

    async fn get_pull_request(&self, _: &PullRequestId) -> Result<PullRequest> {
        panic!("an archive does not call this")
    }

    async fn get_commit(&self, _: &RepositoryName, _: CommitId) -> Result<Commit> {
        panic!("an archive does not call this")
    }
    async fn get_differences(
        &self,
        _: &RepositoryName,
        _: CommitId,
        _: CommitId,
        _: Option<&str>,
    ) -> Result<Page<Difference>> {
        panic!("an archive does not call this")
    }
    async fn get_triggers(&self, _: &RepositoryName) -> Result<TriggerSet> {
        panic!("an archive does not call this")
    }
    async fn put_triggers(&self, _: &RepositoryName, _: &[Trigger]) -> Result<String> {
        panic!("an archive does not call this")
    }
}

/// A store that is slower than the fetches; records the size of each part.
#[derive(Default)]
struct SlowSink(Mutex<HashMap<u32, usize>>);

#[async_trait]
impl PartSink for SlowSink {
    async fn part(&self, number: u32, bytes: Bytes) -> Result<()> {
        tokio::time::sleep(Duration::from_millis(20)).await;
        self.0.lock().unwrap().insert(number, bytes.len());
        Ok(())
    }
}

/// Returns the maximum resident memory of this process so far, in KiB.
fn peak_kib() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Setting of the system's allocator that the functions start with.
const ALLOCATOR: (&str, &str) = ("MALLOC_MMAP_THRESHOLD_", "131072");

/// "Memory does not grow with the repository: at most `64 MiB + 3 x the largest file`."
#[test]
fn memory_stays_below_its_limit_for_a_larger_repository() {
    let (name, value) = ALLOCATOR;
    if std::env::var_os(name).is_some() {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        return runtime.block_on(measure());
    }
    // The allocator reads the setting when a process starts.
    let status = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture"])
        .arg("memory_stays_below_its_limit_for_a_larger_repository")
        .env(name, value)
        .status()
        .unwrap();
    assert!(status.success(), "it ended with {status}");
}

async fn measure() {
    let signature = Signature {
        name: "a".into(),
        email: "a@x".into(),
        date: "1500000000 +0000".into(),
    };
    let commit = Commit {
        id: id(2),
        tree: id(1),
        parents: vec![],
        message: "m".into(),
        author: signature.clone(),
        committer: signature,
        extra_headers: String::new(),
    };
    let request = ArchiveRequest::new(commit);
    let repository = RepositoryName::new("r").unwrap();
    let sink = SlowSink::default();
    let summary = write(&GeneratedFolder, &repository, &request, &sink)
        .await
        .unwrap();
    let sent: usize = sink.0.lock().unwrap().values().sum();
    assert_eq!(sent as u64, summary.size_bytes);
    let (most, limit) = (peak_kib(), (64 * MIB + 3 * LARGEST_FILE_BYTES) / 1024);
    println!("{most} KiB at most for {sent} bytes; {summary:?}");
    assert!(
        sent > 200 * MIB,
        "the archive is much larger than the limit"
    );
    assert!(most <= limit, "{most} KiB are more than {limit} KiB");
}
