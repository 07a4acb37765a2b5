//! Cases of multipart uploads.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{StoreSetup, key, put, read};
use crate::error::ErrorKind;
use crate::name::BucketName;
use crate::storage::{
    ETag, MultipartUpload, ObjectMetadata, ObjectStore, ObjectStoreExt as _, Precondition,
    PutOptions, UploadId, UploadStart,
};
use crate::testkit::conformance::assert_fails;

async fn start(
    store: &dyn ObjectStore,
    bucket: &BucketName,
    name: &str,
) -> Box<dyn MultipartUpload> {
    let upload = store
        .create_upload(bucket, &key(name), &PutOptions::default())
        .await;
    upload.expect("an upload starts")
}

pub(super) async fn parts_become_the_object(setup: &dyn StoreSetup) {
    let (store, bucket) = (setup.store(), setup.bucket(true).await);
    let options = PutOptions {
        metadata: ObjectMetadata {
            content_type: Some("application/zip".into()),
            user: BTreeMap::from([("commit".to_owned(), "0123".to_owned())]),
            ..ObjectMetadata::default()
        },
        ..PutOptions::default()
    };
    let upload = store.create_upload(&bucket, &key("k"), &options).await;
    let upload = upload.expect("an upload starts");
    let head = store.head(&bucket, &key("k")).await.expect("head succeeds");
    assert_eq!(head, None, "an incomplete upload is not an object");
    let large = Bytes::from(vec![b'x'; setup.min_part_bytes()]);
    let mut parts = Vec::new();
    // Parts may arrive in any order; a part sent twice counts once.
    for (number, body) in [
        (2, "tail".into()),
        (1, Bytes::from("old")),
        (1, large.clone()),
    ] {
        let part = upload.part(number, body).await.expect("a part arrives");
        assert_eq!(part.number, number);
        parts.retain(|other: &crate::storage::Part| other.number != number);
        parts.push(part);
    }
    parts.sort_by_key(|part| part.number);
    let written = upload
        .complete(&parts, &Precondition::None)
        .await
        .expect("an upload completes");
    assert!(written.version_id.is_some());
    let head = store.head(&bucket, &key("k")).await;
    let head = head.expect("head succeeds").expect("the object is there");
    assert_eq!(
        (head.etag, head.version_id),
        (written.etag, written.version_id)
    );
    assert_eq!(head.size_bytes, large.len() as u64 + 4);
    assert_eq!(head.metadata.content_type, options.metadata.content_type);
    assert_eq!(head.metadata.user, options.metadata.user);
    let body = read(store, &bucket, "k").await;
    assert!(body[..large.len()] == large[..] && body[large.len()..] == *b"tail");
}

pub(super) async fn parts_are_copied_from_ranges(setup: &dyn StoreSetup) {
    let (store, bucket) = (setup.store(), setup.bucket(true).await);
    let size = setup.min_part_bytes() as u64;
    let mut source = vec![b'-'; setup.min_part_bytes()];
    source.extend_from_slice(b"0123456789");
    let from = key("from ü+here");
    let first = store
        .put(
            &bucket,
            &from,
            source.clone().into(),
            &PutOptions::default(),
        )
        .await
        .expect("a put succeeds");
    put(store, &bucket, "from ü+here", "a newer version").await;
    let version = first.version_id.as_deref();
    let upload = start(store, &bucket, "k").await;
    let mut parts = Vec::new();
    for (number, range) in [(1, 0..size), (2, size + 3..size + 6)] {
        let source = (&bucket, &from, version);
        let part = upload.part_copy(number, source, range).await;
        parts.push(part.expect("a part is copied"));
    }
    let completed = upload.complete(&parts, &Precondition::None).await;
    completed.expect("an upload completes");
    let body = read(store, &bucket, "k").await;
    assert!(
        body[..setup.min_part_bytes()]
            .iter()
            .all(|byte| *byte == b'-')
    );
    assert_eq!(body[setup.min_part_bytes()..], *b"345");
    let missing = key("missing");
    let upload = start(store, &bucket, "l").await;
    let copy = upload.part_copy(1, (&bucket, &missing, None), 0..1).await;
    assert_fails(copy, ErrorKind::NotFound, "missing");
    let aborted = upload.abort().await;
    aborted.expect("an upload is aborted");
}

async fn complete_over_first(
    setup: &dyn StoreSetup,
    precondition: impl FnOnce(ETag) -> Precondition,
    wins: bool,
) {
    let (store, bucket) = (setup.store(), setup.bucket(true).await);
    let first = put(store, &bucket, "k", "first").await;
    let precondition = precondition(first.etag);
    let upload = start(store, &bucket, "k").await;
    let part = upload.part(1, "second".into()).await;
    let parts = [part.expect("a part arrives")];
    let completed = upload.complete(&parts, &precondition).await;
    if wins {
        completed.expect("the current object matches");
        assert_eq!(read(store, &bucket, "k").await, "second");
    } else {
        assert_fails(completed, ErrorKind::Conflict, "k");
        assert_eq!(read(store, &bucket, "k").await, "first");
        let aborted = upload.abort().await;
        aborted.expect("an upload is aborted");
    }
}

pub(super) async fn a_completion_if_absent_over_a_current_object_is_refused(
    setup: &dyn StoreSetup,
) {
    complete_over_first(setup, |_| Precondition::Absent, false).await;
}

pub(super) async fn a_completion_with_a_stale_etag_is_refused(setup: &dyn StoreSetup) {
    complete_over_first(setup, Precondition::Matches, true).await;
    let other = ETag::new("\"0123\"").expect("it is valid");
    complete_over_first(setup, |_| Precondition::Matches(other), false).await;
}

pub(super) async fn an_aborted_upload_writes_no_object(setup: &dyn StoreSetup) {
    let (store, bucket) = (setup.store(), setup.bucket(true).await);
    let upload = start(store, &bucket, "k").await;
    let part = upload.part(1, "body".into()).await;
    part.expect("a part arrives");
    for _ in 0..2 {
        let aborted = upload.abort().await;
        aborted.expect("aborting an aborted upload succeeds");
    }
    let head = store.head(&bucket, &key("k")).await.expect("head succeeds");
    assert_eq!(head, None, "nothing was written");
}

pub(super) async fn an_aborted_upload_refuses_parts_and_completion(setup: &dyn StoreSetup) {
    let (store, bucket) = (setup.store(), setup.bucket(true).await);
    let upload = start(store, &bucket, "k").await;
    let part = upload.part(1, "body".into()).await;
    let parts = [part.expect("a part arrives")];
    let aborted = upload.abort().await;
    aborted.expect("an upload is aborted");
    let part = upload.part(2, "body".into()).await;
    assert_fails(part, ErrorKind::NotFound, "k");
    let completed = upload.complete(&parts, &Precondition::None).await;
    assert_fails(completed, ErrorKind::NotFound, "k");
}

pub(super) async fn a_part_of_an_unknown_upload_is_refused(setup: &dyn StoreSetup) {
    let (store, bucket) = (setup.store(), setup.bucket(true).await);
    let id = UploadId("no-such-upload".into());
    let upload = store
        .open_upload(&bucket, &key("k"), UploadStart::Existing(&id))
        .await
        .expect("opening an upload makes no request");
    let part = upload.part(1, "body".into()).await;
    assert_fails(part, ErrorKind::NotFound, "no-such-upload");
}
