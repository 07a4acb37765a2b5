//! A write whose answer was lost is recognised instead of repeated.

use std::sync::Arc;

use branchline_core::ErrorKind;
use branchline_core::name::{BucketName, ObjectKey};
use branchline_core::retry::{RetryPolicy, Retrying};
use branchline_core::storage::{ETag, ObjectStore, ObjectStoreExt as _, Precondition, PutOptions};
use branchline_core::testkit::{Failing, FaultPlan, MemoryStore, When};

struct Case {
    memory: Arc<MemoryStore>,
    script: FaultPlan,
    store: Retrying<Failing<Arc<MemoryStore>>>,
    bucket: BucketName,
    key: ObjectKey,
}

fn case() -> Case {
    let memory = Arc::new(MemoryStore::new());
    let bucket = BucketName::new("bucket").unwrap();
    memory.create_bucket(&bucket, true);
    let script = FaultPlan::new();
    let failing = Failing::new(Arc::clone(&memory), &script);
    Case {
        store: Retrying::new(failing, RetryPolicy::new(4)),
        memory,
        script,
        bucket,
        key: ObjectKey::new("k").unwrap(),
    }
}

impl Case {
    async fn first_etag(&self) -> ETag {
        let options = PutOptions::default();
        let put = self
            .memory
            .put(&self.bucket, &self.key, "first".into(), &options);
        put.await.unwrap().etag
    }
}

fn with(precondition: Precondition) -> PutOptions {
    PutOptions {
        precondition,
        ..PutOptions::default()
    }
}

#[tokio::test(start_paused = true)]
async fn a_put_whose_answers_are_lost_makes_one_version() {
    for lost in 1..=4 {
        for conditional in [None, Some(false), Some(true)] {
            let case = case();
            let (precondition, before) = match conditional {
                None => (Precondition::None, 0),
                Some(false) => (Precondition::Absent, 0),
                Some(true) => (Precondition::Matches(case.first_etag().await), 1),
            };
            for nth in 1..=lost {
                case.script.fail(nth, ErrorKind::Transport, When::After);
            }
            let put = case
                .store
                .put(&case.bucket, &case.key, "new".into(), &with(precondition))
                .await
                .expect("the write has happened");
            let versions = case.memory.versions(&case.bucket, "k");
            assert_eq!(versions.len(), before + 1, "one new version");
            assert_eq!(
                versions[before].id, put.version_id,
                "and its id is returned"
            );
            assert_eq!(versions[before].etag, put.etag);
            assert_eq!(
                case.script.count("put"),
                1,
                "a stored object is not written again"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_put_whose_request_is_lost_is_stored_once() {
    let case = case();
    case.script.fail(1, ErrorKind::Transport, When::Before);
    let put = case
        .store
        .put(
            &case.bucket,
            &case.key,
            "new".into(),
            &with(Precondition::Absent),
        )
        .await;
    put.expect("the second try succeeds");
    assert_eq!(case.script.calls(), ["put", "head", "put"]);
    assert_eq!(case.memory.versions(&case.bucket, "k").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_conflict_caused_by_another_writer_is_returned() {
    // Another writer of equal bytes writes before our second try.
    for lost in [false, true] {
        let case = case();
        if lost {
            case.script
                .fail_method("put", 1, ErrorKind::Transport, When::Before);
        }
        let options = with(Precondition::Absent);
        let other = case
            .memory
            .put(&case.bucket, &case.key, "same".into(), &options);
        other.await.unwrap();
        let put = case
            .store
            .put(&case.bucket, &case.key, "same".into(), &options)
            .await;
        assert_eq!(put.unwrap_err().kind(), ErrorKind::Conflict);
        assert_eq!(case.memory.versions(&case.bucket, "k").len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_completion_whose_answers_are_lost_makes_one_version() {
    for lost in 1..=4 {
        let case = case();
        let (bucket, key) = (&case.bucket, &case.key);
        let options = with(Precondition::None);
        let upload = case
            .store
            .create_upload(bucket, key, &options)
            .await
            .unwrap();
        let parts = [upload.part(1, "body".into()).await.unwrap()];
        for nth in 1..=lost {
            case.script.fail(2 + nth, ErrorKind::Transport, When::After);
        }
        let absent = Precondition::Absent;
        let completed = upload
            .complete(&parts, &absent)
            .await
            .expect("the completion has happened");
        let versions = case.memory.versions(bucket, "k");
        assert_eq!(versions.len(), 1);
        assert_eq!(versions[0].id, completed.version_id);
        assert!(case.memory.uploads().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_delete_whose_answer_is_lost_makes_one_marker() {
    let case = case();
    let etag = case.first_etag().await;
    case.script.fail(1, ErrorKind::Transport, When::After);
    let deleted = case
        .store
        .delete(&case.bucket, &case.key, &Precondition::Matches(etag))
        .await;
    deleted.expect("a missing object counts as deleted");
    let versions = case.memory.versions(&case.bucket, "k");
    assert_eq!(versions.len(), 2, "the version and its marker");
}

#[tokio::test(start_paused = true)]
async fn head_does_not_show_the_id_of_a_write() {
    let case = case();
    let options = with(Precondition::None);
    let put = case
        .store
        .put(&case.bucket, &case.key, "new".into(), &options);
    put.await.unwrap();
    let head = case
        .store
        .head(&case.bucket, &case.key)
        .await
        .unwrap()
        .unwrap();
    assert!(head.metadata.user.is_empty(), "{:?}", head.metadata.user);
    let stored = case.memory.versions(&case.bucket, "k");
    assert!(
        stored[0]
            .metadata
            .user
            .contains_key(branchline_core::storage::WRITE_ID)
    );
}
