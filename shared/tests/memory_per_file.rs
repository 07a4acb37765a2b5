//! Requests and memory that an archive takes for each file, counted over a generated repository.
//! With `BRANCHLINE_FULL_SCALE=1` in the size of `docs/limits.md`.
//!
//! The only test of its binary, because the memory of the whole process is counted.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests are tests, even outside of a `#[test]` function"
)]

use std::sync::atomic::{AtomicU64, Ordering};

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
use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

const FILES_PER_FOLDER: u32 = 10;

/// Memory that does not grow with the repository.
const CONSTANT_BYTES: usize = 24 << 20;

/// Folders of ten small files each, generated on request.
struct GeneratedTree {
    folders: u32,
    requests: AtomicU64,
}

fn id(kind: u32, number: u32) -> ObjectId {
    ObjectId::from_hex(format!("{number:08x}{kind:08x}{number:024x}").as_bytes()).unwrap()
}

const FOLDER: u32 = 1;
const FILE: u32 = 2;

#[async_trait]
impl CodeCommit for GeneratedTree {
    async fn get_folder(&self, _: &RepositoryName, _: CommitId, path: &str) -> Result<TreeListing> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        if path.is_empty() {
            let folder =
                |n| ListedEntry::new(format!("folder-{n:06}"), EntryMode::Tree, id(FOLDER, n));
            return Ok(TreeListing {
                id: id(FOLDER, u32::MAX),
                entries: (0..self.folders).map(folder).collect(),
            });
        }
        let number: u32 = path.strip_prefix("folder-").unwrap().parse().unwrap();
        let first = number * FILES_PER_FOLDER;
        let file = |n| ListedEntry::new(format!("file-{n:07}.rs"), EntryMode::Blob, id(FILE, n));
        Ok(TreeListing {
            id: id(FOLDER, number),
            entries: (first..first + FILES_PER_FOLDER).map(file).collect(),
        })
    }

    async fn get_blob(
        &self,
        _: &RepositoryName,
        blob: BlobId,
        admission: &dyn BlobAdmission,
    ) -> Result<Bytes> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let content = format!("content of {blob}\n");
        admission.admit(content.len() as u64).await;
        Ok(content.into())
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
    async fn get_commits(&self, _: &RepositoryName, _: &[CommitId]) -> Result<Vec<Commit>> {
        panic!("an archive does not call this")
    }
    async fn list_open_pull_requests(
        &self,
        _: &RepositoryName,
        _: Option<&str>,
    ) -> Result<Page<PullRequestId>> {
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

/// Counts the bytes, and keeps none.
#[derive(Default)]
struct CountingSink(AtomicU64);

#[async_trait]
impl PartSink for CountingSink {
    async fn part(&self, _: u32, bytes: Bytes) -> Result<()> {
        self.0.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(())
    }
}

/// Archives a repository of this many folders; returns the bytes in memory at most.
async fn measure(folders: u32) -> usize {
    let signature = Signature {
        name: "a".into(),
        email: "a@x".into(),
        date: "1500000000 +0000".into(),
    };
    let request = ArchiveRequest::new(Commit {
        id: id(0, 2),
        tree: id(FOLDER, u32::MAX),
        parents: vec![],
        message: "m".into(),
        author: signature.clone(),
        committer: signature,
        extra_headers: String::new(),
    });
    let repository = RepositoryName::new("r").unwrap();
    let service = GeneratedTree {
        folders,
        requests: AtomicU64::new(0),
    };
    let sink = CountingSink::default();
    MEMORY.reset_peak_usage();
    let before = MEMORY.current_usage();
    let start = std::time::Instant::now();
    let summary = write(&service, &repository, &request, &sink).await.unwrap();
    let peak = MEMORY.peak_usage() - before;
    let files = u64::from(folders * FILES_PER_FOLDER);
    let requests = service.requests.load(Ordering::Relaxed);
    println!(
        "{files} files in {folders} folders: {requests} requests, {} bytes of archive, {:?}, \
         {} MiB at most",
        sink.0.load(Ordering::Relaxed),
        start.elapsed(),
        peak >> 20
    );
    assert_eq!(summary.files, files);
    assert_eq!(requests, 1 + u64::from(folders) + files, "one for each");
    assert_eq!(sink.0.load(Ordering::Relaxed), summary.size_bytes);
    peak
}

/// "An archive takes at most 1,000 bytes for each file."
#[tokio::test]
async fn a_file_takes_at_most_1000_bytes_and_one_request() {
    const BYTES_PER_FILE: usize = 1000;
    let folders = match std::env::var_os("BRANCHLINE_FULL_SCALE") {
        Some(_) => 100_000,
        None => 300,
    };
    let small = measure(100).await;
    assert!(small <= CONSTANT_BYTES, "{small} bytes for few files");
    let peak = measure(folders).await;
    let files = usize::try_from((folders - 100) * FILES_PER_FOLDER).unwrap();
    let bytes = peak.saturating_sub(small) / files;
    println!("{bytes} bytes a file");
    assert!(bytes <= BYTES_PER_FILE, "{bytes} bytes a file");
}
