//! A repository and a bucket in memory, and archives of commits.

use std::collections::BTreeMap;
use std::sync::Arc;

use branchline_core::Result;
use branchline_core::archive::{ArchiveDestination, ArchiveRequest, Built, PreviousArchive, build};
use branchline_core::codecommit::CodeCommit;
use branchline_core::name::{BucketName, CommitId, ObjectKey};
use branchline_core::storage::{ObjectMetadata, ObjectStore, PutOptions};
use branchline_core::testkit::{
    CodeCommitOptions, CommitText, Entry, MemoryCodeCommit, MemoryStore,
};
use bytes::Bytes;

use super::faults::repository;

pub(crate) const RECORD: &str = "listing";

pub(crate) fn bucket() -> BucketName {
    BucketName::new("bucket").unwrap()
}

pub(crate) fn key(name: &str) -> ObjectKey {
    ObjectKey::new(name).unwrap()
}

pub(crate) struct ReuseFixture {
    pub codecommit: Arc<MemoryCodeCommit>,
    pub store: MemoryStore,
}

impl ReuseFixture {
    pub(crate) fn new() -> Self {
        Self::with_page(2)
    }

    /// Makes a fixture whose pages have this many items.
    pub(crate) fn with_page(page: usize) -> Self {
        let codecommit = MemoryCodeCommit::with_options(CodeCommitOptions {
            page,
            ..CodeCommitOptions::default()
        });
        codecommit.add_repository(&repository());
        let store = MemoryStore::new();
        store.create_bucket(&bucket(), false);
        Self {
            codecommit: Arc::new(codecommit),
            store,
        }
    }

    /// Commits on top of `parents`, at a time of its own.
    pub(crate) fn commit(&self, parents: &[CommitId], changes: &[(&str, Entry)]) -> CommitId {
        let number = self.codecommit.traffic().calls().len();
        let mut text = CommitText::new(format!("commit {number}\n"));
        text.committer.date = format!("{} +0100", 1_700_000_000 + 3600 * number);
        self.codecommit
            .commit_on(&repository(), "main", parents, changes, &text)
    }

    pub(crate) async fn request(&self, commit: CommitId) -> ArchiveRequest {
        let commit = self.codecommit.get_commit(&repository(), commit).await;
        ArchiveRequest::new(commit.unwrap())
    }

    /// Builds the archive of a commit at `name`, from `previous`.
    pub(crate) async fn build(
        &self,
        name: &str,
        commit: CommitId,
        previous: Option<PreviousArchive>,
    ) -> Built {
        let mut request = self.request(commit).await;
        request.previous = previous.map(Arc::new);
        let store: Arc<dyn ObjectStore> = Arc::new(self.store.clone());
        build_at(&*self.codecommit, &store, name, &request)
            .await
            .unwrap_or_else(|error| panic!("{}", error.report()))
    }

    /// Describes the archive at `name`, which is of `commit`.
    pub(crate) async fn previous(&self, name: &str, commit: CommitId) -> PreviousArchive {
        previous(&self.store, name, commit).await
    }

    pub(crate) fn bytes(&self, name: &str) -> Bytes {
        bytes(&self.store, name)
    }

    /// Stores `body` at `name`, with the metadata of an archive.
    pub(crate) async fn put(&self, name: &str, body: Bytes, archive: &PreviousArchive) {
        let mut user = BTreeMap::from([("files".to_owned(), archive.files.to_string())]);
        user.extend(
            archive
                .record
                .clone()
                .map(|record| (RECORD.to_owned(), record)),
        );
        let options = PutOptions {
            metadata: ObjectMetadata {
                user,
                ..ObjectMetadata::default()
            },
            ..PutOptions::default()
        };
        let written = self.store.put(&bucket(), &key(name), body, &options).await;
        written.unwrap();
    }
}

pub(crate) async fn build_at(
    codecommit: &dyn CodeCommit,
    store: &Arc<dyn ObjectStore>,
    name: &str,
    request: &ArchiveRequest,
) -> Result<Built> {
    let destination = ArchiveDestination {
        bucket: bucket(),
        key: key(name),
        options: PutOptions::default(),
        files_metadata: Some("files".into()),
        record_metadata: Some(RECORD.into()),
    };
    build(codecommit, &repository(), store, request, &destination).await
}

pub(crate) async fn previous(store: &MemoryStore, name: &str, commit: CommitId) -> PreviousArchive {
    let head = store.head(&bucket(), &key(name)).await.unwrap().unwrap();
    let user = &head.metadata.user;
    PreviousArchive {
        bucket: bucket(),
        key: key(name),
        etag: head.etag.clone(),
        size_bytes: head.size_bytes,
        commit,
        files: user["files"].parse().unwrap(),
        record: user.get(RECORD).cloned(),
    }
}

pub(crate) fn bytes(store: &MemoryStore, name: &str) -> Bytes {
    let versions = store.versions(&bucket(), name);
    versions.last().unwrap().body.clone().unwrap()
}
