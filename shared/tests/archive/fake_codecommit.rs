//! CodeCommit over a real repository on disk, and an object store in memory; both count calls.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use branchline_core::codecommit::{
    BlobAdmission, CodeCommit, Difference, MAX_BLOB_BYTES, Page, PullRequest, Repository, Trigger,
    TriggerSet,
};
use branchline_core::git::ObjectId;
use branchline_core::git::object::{Commit, EntryMode, ListedEntry, Signature, TreeListing};
use branchline_core::name::{
    BlobId, BranchName, BucketName, CommitId, ObjectKey, PullRequestId, RepositoryName, TagName,
};
use branchline_core::storage::{
    CopySource, Deletion, ETag, GetOptions, ListPage, MultipartUpload, Object, ObjectHead,
    ObjectStore, Part, Precondition, PutOptions, PutResult, Tags, UploadId, UploadStart, VersionId,
};
use branchline_core::{Error, ErrorKind, Result};
use bytes::Bytes;

use super::git::git;
use super::git_differences::differences;

/// Returns the error of a call that fails on purpose.
pub(crate) fn broken(what: &str) -> Error {
    Error::new(
        ErrorKind::AccessDenied,
        format!("{what} is broken on purpose"),
    )
}

fn object_id(hex: &str) -> ObjectId {
    ObjectId::from_hex(hex.as_bytes()).unwrap()
}

/// CodeCommit with one repository on disk.
pub(crate) struct Disk {
    path: PathBuf,
    objects: Mutex<(Child, ChildStdin, BufReader<ChildStdout>)>,
    /// All calls, as text.
    pub calls: Mutex<Vec<String>>,
    in_flight: AtomicUsize,
    pub most_in_flight: AtomicUsize,
    /// Bytes of blobs that are admitted and not yet returned. Those that the caller still holds
    /// are not counted.
    pub admitted: AtomicUsize,
    pub most_admitted: AtomicUsize,
    /// Maximum of a random wait before each response, in milliseconds.
    pub jitter_ms: u64,
    /// Wait before each response, in milliseconds.
    pub latency_ms: u64,
    /// Index of the call that fails.
    pub fails: Option<usize>,
    /// Maximum size of a blob that is served, in bytes.
    pub max_blob_bytes: u64,
    /// URL of the repository for git.
    pub clone_url: String,
    /// Listings that replace the true ones, by path.
    pub wrong_listings: HashMap<String, TreeListing>,
}

impl Disk {
    pub(crate) fn new(folder: &Path) -> Self {
        let mut child = git(folder)
            .args(["cat-file", "--batch"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("git starts");
        let stdin = child.stdin.take().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Self {
            path: folder.to_owned(),
            objects: Mutex::new((child, stdin, stdout)),
            calls: Mutex::default(),
            in_flight: AtomicUsize::new(0),
            most_in_flight: AtomicUsize::new(0),
            admitted: AtomicUsize::new(0),
            most_admitted: AtomicUsize::new(0),
            jitter_ms: 0,
            latency_ms: 0,
            fails: None,
            max_blob_bytes: MAX_BLOB_BYTES,
            clone_url: String::new(),
            wrong_listings: HashMap::new(),
        }
    }

    /// Reads the type and content of an object.
    fn object(&self, name: &str) -> Result<(String, Vec<u8>)> {
        let mut process = self.objects.lock().unwrap();
        let (_, stdin, stdout) = &mut *process;
        writeln!(stdin, "{name}").unwrap();
        stdin.flush().unwrap();
        let mut head = String::new();
        stdout.read_line(&mut head).unwrap();
        let mut words = head.split_whitespace();
        let (_, kind, size) = (words.next(), words.next().unwrap(), words.next());
        let Some(size) = size else {
            return Err(Error::new(ErrorKind::NotFound, format!("{name} is {kind}")));
        };
        let mut bytes = vec![0; size.parse::<usize>().unwrap() + 1];
        stdout.read_exact(&mut bytes).unwrap();
        bytes.pop();
        Ok((kind.to_owned(), bytes))
    }

    pub(crate) fn commit(&self, id: &str) -> Commit {
        let (_, bytes) = self.object(id).unwrap();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let (head, message) = text.split_once("\n\n").unwrap();
        let person = |line: &str| {
            let (name, rest) = line.split_once(" <").unwrap();
            let (email, date) = rest.split_once("> ").unwrap();
            Signature {
                name: name.to_owned(),
                email: email.to_owned(),
                date: date.to_owned(),
            }
        };
        let values = |wanted: &str| -> Vec<String> {
            let start = format!("{wanted} ");
            head.lines()
                .filter_map(|line| Some(line.strip_prefix(&start)?.to_owned()))
                .collect()
        };
        Commit {
            id: object_id(id),
            tree: object_id(&values("tree")[0]),
            parents: values("parent").iter().map(|id| object_id(id)).collect(),
            message: message.to_owned(),
            author: person(&values("author")[0]),
            committer: person(&values("committer")[0]),
            extra_headers: String::new(),
        }
    }

    fn folder(&self, name: &str) -> Result<TreeListing> {
        let (kind, bytes) = self.object(name)?;
        assert_eq!(kind, "tree", "{name} is a folder");
        let id = self.id(name);
        let mut entries = Vec::new();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let space = rest.iter().position(|&byte| byte == b' ').unwrap();
            let end = rest.iter().position(|&byte| byte == 0).unwrap();
            let mode = std::str::from_utf8(&rest[..space]).unwrap();
            let name = String::from_utf8_lossy(&rest[space + 1..end]).into_owned();
            let width = id.len() / 2;
            let id = ObjectId::from_bytes_or_panic(&rest[end + 1..end + 1 + width]);
            rest = &rest[end + 1 + width..];
            let mode = match mode {
                "40000" => EntryMode::Tree,
                "160000" => EntryMode::Commit,
                "100755" => EntryMode::BlobExecutable,
                "120000" => EntryMode::Link,
                _ => EntryMode::Blob,
            };
            entries.push(ListedEntry::new(name, mode, id));
        }
        // Reversed, because the API does not guarantee an order.
        entries.reverse();
        let id = object_id(&id);
        Ok(TreeListing { id, entries })
    }

    /// Reads the id of an object.
    fn id(&self, name: &str) -> String {
        let mut process = self.objects.lock().unwrap();
        let (_, stdin, stdout) = &mut *process;
        writeln!(stdin, "{name}").unwrap();
        stdin.flush().unwrap();
        let mut head = String::new();
        stdout.read_line(&mut head).unwrap();
        let size: usize = head.split_whitespace().nth(2).unwrap().parse().unwrap();
        let mut bytes = vec![0; size + 1];
        stdout.read_exact(&mut bytes).unwrap();
        head.split_whitespace().next().unwrap().to_owned()
    }

    /// Counts a call and waits. The call ends when the guard is dropped.
    async fn call(&self, what: String) -> Result<InFlight<'_>> {
        let number = {
            let mut calls = self.calls.lock().unwrap();
            calls.push(what.clone());
            calls.len() - 1
        };
        let now = self.in_flight.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_in_flight.fetch_max(now, Ordering::SeqCst);
        let guard = InFlight(&self.in_flight);
        if self.jitter_ms + self.latency_ms > 0 {
            let wait = self.latency_ms + rand::random::<u64>() % (self.jitter_ms + 1);
            tokio::time::sleep(Duration::from_millis(wait)).await;
        }
        if self.fails == Some(number) {
            return Err(broken(&what));
        }
        Ok(guard)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let (child, ..) = self.objects.get_mut().unwrap();
        let _ = child.kill();
        let _ = child.wait();
    }
}

struct InFlight<'a>(&'a AtomicUsize);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl CodeCommit for Disk {
    async fn list_repositories(&self, _: Option<&str>) -> Result<Page<RepositoryName>> {
        panic!("an archive lists no repositories")
    }

    async fn get_repository(&self, name: &RepositoryName) -> Result<Repository> {
        let _guard = self.call("repository".into()).await?;
        Ok(Repository {
            name: name.clone(),
            arn: format!("arn:aws:codecommit:us-east-1:123456789012:{name}"),
            clone_url_http: self.clone_url.clone(),
            default_branch: None,
        })
    }

    async fn create_repository(&self, _: &RepositoryName) -> Result<Repository> {
        panic!("an archive creates no repository")
    }

    async fn update_default_branch(&self, _: &RepositoryName, _: &BranchName) -> Result<()> {
        panic!("an archive reads no branches")
    }

    async fn list_branches(&self, _: &RepositoryName, _: Option<&str>) -> Result<Page<String>> {
        panic!("an archive reads no branches")
    }

    async fn get_branch(&self, _: &RepositoryName, _: &BranchName) -> Result<CommitId> {
        panic!("an archive reads no branches")
    }

    async fn get_tag(&self, _: &RepositoryName, _: &TagName) -> Result<CommitId> {
        panic!("an archive reads no tags")
    }

    async fn get_merge_base(
        &self,
        _: &RepositoryName,
        _: CommitId,
        _: &BranchName,
    ) -> Result<Option<CommitId>> {
        panic!("an archive merges nothing")
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
        panic!("an archive reads no pull requests")
    }

    async fn get_commit(&self, _: &RepositoryName, id: CommitId) -> Result<Commit> {
        let _guard = self.call(format!("commit {id}")).await?;
        Ok(self.commit(&id.to_string()))
    }

    async fn get_folder(
        &self,
        _: &RepositoryName,
        commit: CommitId,
        path: &str,
    ) -> Result<TreeListing> {
        let _guard = self.call(format!("folder {path}")).await?;
        if let Some(folder) = self.wrong_listings.get(path) {
            return Ok(folder.clone());
        }
        self.folder(&format!("{commit}:{path}"))
    }

    async fn get_blob(
        &self,
        _: &RepositoryName,
        blob: BlobId,
        admission: &dyn BlobAdmission,
    ) -> Result<Bytes> {
        let guard = self.call(format!("blob {blob}")).await?;
        let (_, bytes) = self.object(&blob.to_string())?;
        if bytes.len() as u64 > self.max_blob_bytes {
            return Err(Error::new(ErrorKind::FileTooLarge, format!("blob {blob}")));
        }
        drop(guard);
        admission.admit(bytes.len() as u64).await;
        let now = self.admitted.fetch_add(bytes.len(), Ordering::SeqCst) + bytes.len();
        self.most_admitted.fetch_max(now, Ordering::SeqCst);
        if self.jitter_ms > 0 {
            tokio::time::sleep(Duration::from_millis(
                rand::random::<u64>() % self.jitter_ms,
            ))
            .await;
        }
        self.admitted.fetch_sub(bytes.len(), Ordering::SeqCst);
        Ok(bytes.into())
    }

    async fn get_differences(
        &self,
        _: &RepositoryName,
        before: CommitId,
        after: CommitId,
        next: Option<&str>,
    ) -> Result<Page<Difference>> {
        /// Number of differences on a page.
        const PAGE: usize = 3;
        let _guard = self.call("differences".into()).await?;
        let differences = differences(&self.path, before, after);
        let start = next.map_or(0, |next| next.parse().unwrap());
        let end = differences.len().min(start + PAGE);
        Ok(Page {
            next: (end < differences.len()).then(|| end.to_string()),
            items: differences[start..end].to_vec(),
        })
    }

    async fn get_triggers(&self, _: &RepositoryName) -> Result<TriggerSet> {
        panic!("an archive needs no triggers")
    }

    async fn put_triggers(&self, _: &RepositoryName, _: &[Trigger]) -> Result<String> {
        panic!("an archive writes no triggers")
    }
}

/// An object store in memory. A clone has the same contents.
#[derive(Clone, Default)]
pub(crate) struct Memory {
    pub objects: Arc<Mutex<BTreeMap<String, (Bytes, PutOptions)>>>,
    pub uploads: Arc<Mutex<BTreeMap<String, BTreeMap<u32, Bytes>>>>,
    pub calls: Arc<Mutex<Vec<String>>>,
    pub fails: Option<usize>,
    pub parts_in_flight: Arc<AtomicUsize>,
    pub most_parts: Arc<AtomicUsize>,
    /// Parts never arrive.
    pub stuck: Arc<AtomicBool>,
    pub latency_ms: u64,
    /// Wait before the response to the creation of an upload, in milliseconds.
    pub creation_ms: u64,
}

impl Memory {
    fn call(&self, what: &str) -> Result<()> {
        let mut calls = self.calls.lock().unwrap();
        calls.push(what.to_owned());
        if self.fails == Some(calls.len() - 1) {
            return Err(broken(what));
        }
        Ok(())
    }

    fn store(&self, key: &ObjectKey, body: Bytes, options: &PutOptions) -> Result<PutResult> {
        let mut objects = self.objects.lock().unwrap();
        if options.precondition == Precondition::Absent && objects.contains_key(key.as_str()) {
            return Err(Error::new(ErrorKind::Conflict, format!("`{key}` is there")));
        }
        objects.insert(key.to_string(), (body, options.clone()));
        Ok(PutResult {
            etag: ETag::new("\"1\"").unwrap(),
            version_id: VersionId::new("v1"),
        })
    }
}

#[async_trait]
impl ObjectStore for Memory {
    async fn is_versioned(&self, _: &BucketName) -> Result<bool> {
        panic!("an archive does not call this")
    }
    async fn head(&self, _: &BucketName, _: &ObjectKey) -> Result<Option<ObjectHead>> {
        panic!("an archive does not call this")
    }
    async fn get_object(
        &self,
        _: &BucketName,
        _: &ObjectKey,
        _: &GetOptions<'_>,
    ) -> Result<Object> {
        panic!("an archive does not call this")
    }
    async fn list(
        &self,
        _: &BucketName,
        _: &str,
        _: Option<&str>,
        _: Option<&str>,
    ) -> Result<ListPage> {
        panic!("an archive does not call this")
    }
    async fn put(
        &self,
        _: &BucketName,
        key: &ObjectKey,
        body: Bytes,
        options: &PutOptions,
    ) -> Result<PutResult> {
        self.call("put")?;
        self.store(key, body, options)
    }
    async fn delete_object(&self, _: &BucketName, _: &ObjectKey, _: Deletion<'_>) -> Result<()> {
        panic!("an archive does not call this")
    }
    async fn open_upload(
        &self,
        _: &BucketName,
        key: &ObjectKey,
        _: UploadStart<'_>,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.call("create")?;
        tokio::task::yield_now().await;
        let id = {
            let mut uploads = self.uploads.lock().unwrap();
            let id = format!("u{}", uploads.len());
            uploads.insert(id.clone(), BTreeMap::new());
            id
        };
        tokio::time::sleep(Duration::from_millis(self.creation_ms)).await;
        Ok(Box::new(MemoryUpload {
            store: self.clone(),
            key: key.clone(),
            id: UploadId(id),
        }))
    }
    async fn tags(
        &self,
        _: &BucketName,
        _: &ObjectKey,
        _: Option<&str>,
        _: Option<&Tags>,
    ) -> Result<Tags> {
        panic!("an archive does not call this")
    }
}

struct MemoryUpload {
    store: Memory,
    key: ObjectKey,
    id: UploadId,
}

#[async_trait]
impl MultipartUpload for MemoryUpload {
    fn id(&self) -> UploadId {
        self.id.clone()
    }
    async fn part(&self, number: u32, body: Bytes) -> Result<Part> {
        let store = &self.store;
        store.call("part")?;
        let now = store.parts_in_flight.fetch_add(1, Ordering::SeqCst) + 1;
        let _guard = InFlight(&store.parts_in_flight);
        store.most_parts.fetch_max(now, Ordering::SeqCst);
        if store.stuck.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(Duration::from_millis(store.latency_ms)).await;
        let mut uploads = store.uploads.lock().unwrap();
        uploads.get_mut(&self.id.0).unwrap().insert(number, body);
        Ok(Part {
            number,
            etag: ETag::new(format!("\"{number}\"")).unwrap(),
            checksum_crc32: None,
        })
    }
    async fn part_copy(&self, _: u32, _: CopySource<'_>, _: Range<u64>) -> Result<Part> {
        panic!("an archive does not call this")
    }
    async fn complete(&self, parts: &[Part], precondition: &Precondition) -> Result<PutResult> {
        self.store.call("complete")?;
        let stored = self
            .store
            .uploads
            .lock()
            .unwrap()
            .get(&self.id.0)
            .cloned()
            .unwrap();
        let numbers: Vec<u32> = parts.iter().map(|part| part.number).collect();
        assert!(
            numbers.iter().eq(stored.keys()) && numbers.is_sorted(),
            "all parts are listed in order"
        );
        let sizes: Vec<usize> = stored.values().map(Bytes::len).collect();
        assert!(
            sizes[..sizes.len() - 1].iter().all(|size| *size >= 5 << 20),
            "only the last part may be small: {sizes:?}"
        );
        let body: Vec<u8> = stored.values().flatten().copied().collect();
        let options = PutOptions {
            precondition: precondition.clone(),
            ..PutOptions::default()
        };
        let written = self.store.store(&self.key, body.into(), &options)?;
        self.store.uploads.lock().unwrap().remove(&self.id.0);
        Ok(written)
    }
    async fn abort(&self) -> Result<()> {
        self.store.call("abort")?;
        self.store.uploads.lock().unwrap().remove(&self.id.0);
        Ok(())
    }
}
