//! Cases that every [`ObjectStore`] passes.

mod uploads;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::join_all;

use self::uploads::{
    a_completion_if_absent_over_a_current_object_is_refused,
    a_completion_with_a_stale_etag_is_refused, a_part_of_an_unknown_upload_is_refused,
    an_aborted_upload_refuses_parts_and_completion, an_aborted_upload_writes_no_object,
    parts_are_copied_from_ranges, parts_become_the_object,
};
use super::{assert_fails, run_cases};
use crate::error::ErrorKind;
use crate::name::{BucketName, ObjectKey};
use crate::storage::{
    ETag, ObjectMetadata, ObjectStore, ObjectStoreExt as _, Precondition, PutOptions, PutResult,
    Tags,
};

/// A store under test, and its buckets.
#[async_trait]
pub trait StoreSetup: Send + Sync {
    /// Returns the store under test.
    fn store(&self) -> &dyn ObjectStore;

    /// Creates an empty bucket.
    async fn bucket(&self, versioned: bool) -> BucketName;

    /// Returns the smallest part that the store accepts, except for the last one.
    fn min_part_bytes(&self) -> usize;

    /// Returns the cases that the service is known to fail.
    fn skipped(&self) -> &[&str] {
        &[]
    }
}

/// Runs the suite.
pub async fn object_store(setup: &dyn StoreSetup) {
    run_cases!(
        setup,
        setup.skipped(),
        [
            an_object_is_read_back_with_its_metadata,
            an_empty_object_exists,
            keys_are_stored_unchanged,
            a_missing_key_and_a_missing_bucket_are_distinguished,
            ranges_are_read,
            a_bucket_with_versions_is_versioned,
            a_bucket_without_versions_is_not_versioned,
            without_versions_a_write_has_no_version_id,
            each_version_is_read_by_its_id,
            a_delete_hides_the_object_and_keeps_its_versions,
            a_delete_without_versions_removes_the_object,
            a_delete_with_a_stale_etag_is_refused,
            a_delete_with_the_etag_of_a_deleted_object_is_refused,
            a_put_if_absent_over_a_current_object_is_refused,
            a_put_with_a_stale_etag_is_refused,
            of_concurrent_creations_one_wins,
            of_concurrent_replacements_one_wins,
            lists_are_ordered_and_paged,
            lists_are_grouped_by_a_delimiter,
            tags_are_replaced_as_a_whole_and_per_version,
            parts_become_the_object,
            parts_are_copied_from_ranges,
            a_completion_if_absent_over_a_current_object_is_refused,
            a_completion_with_a_stale_etag_is_refused,
            an_aborted_upload_writes_no_object,
            an_aborted_upload_refuses_parts_and_completion,
            a_part_of_an_unknown_upload_is_refused,
        ]
    );
}

fn key(text: &str) -> ObjectKey {
    ObjectKey::new(text).expect("the suite's keys are legal")
}

fn with(precondition: Precondition) -> PutOptions {
    PutOptions {
        precondition,
        ..PutOptions::default()
    }
}

async fn put(store: &dyn ObjectStore, bucket: &BucketName, name: &str, body: &str) -> PutResult {
    let body = Bytes::copy_from_slice(body.as_bytes());
    store
        .put(bucket, &key(name), body, &PutOptions::default())
        .await
        .expect("a put without a condition succeeds")
}

async fn read(store: &dyn ObjectStore, bucket: &BucketName, name: &str) -> Bytes {
    let body = store.get(bucket, &key(name), None, None).await;
    body.expect("the object is there")
}

async fn an_object_is_read_back_with_its_metadata(setup: &dyn StoreSetup) {
    let (store, bucket) = (setup.store(), setup.bucket(true).await);
    let user = [
        ("commit", "0123"),
        ("codepipeline-artifact-revision-summary", "A: b, c; d"),
    ];
    let options = PutOptions {
        metadata: ObjectMetadata {
            content_type: Some("application/zip".into()),
            content_disposition: Some("attachment; filename=repo.zip".into()),
            cache_control: Some("no-cache".into()),
            user: user.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
        },
        ..PutOptions::default()
    };
    let body = Bytes::from_static(b"some bytes");
    let written = store
        .put(&bucket, &key("a/b.zip"), body.clone(), &options)
        .await
        .expect("a put succeeds");
    assert!(
        written.version_id.is_some(),
        "a versioned bucket names the version"
    );
    assert!(
        written.etag.as_str().starts_with('"') && written.etag.as_str().ends_with('"'),
        "an entity tag keeps its quotes: {}",
        written.etag
    );
    let head = store.head(&bucket, &key("a/b.zip")).await;
    let head = head.expect("head succeeds").expect("the object is there");
    assert_eq!(head.etag, written.etag);
    assert_eq!(head.version_id, written.version_id);
    assert_eq!(head.size_bytes, 10);
    assert_eq!(head.metadata, options.metadata, "metadata is kept");
    assert!(head.last_modified > 0, "the time of writing is known");
    assert_eq!(read(store, &bucket, "a/b.zip").await, body);
}

async fn an_empty_object_exists(setup: &dyn StoreSetup) {
    let (store, bucket) = (setup.store(), setup.bucket(false).await);
    put(store, &bucket, "empty", "").await;
    let head = store.head(&bucket, &key("empty")).await;
    let head = head.expect("head succeeds").expect("the object is there");
    assert_eq!(head.size_bytes, 0);
    assert_eq!(read(store, &bucket, "empty").await, Bytes::new());
}

async fn keys_are_stored_unchanged(setup: &dyn StoreSetup) {
    let (store, bucket) = (setup.store(), setup.bucket(false).await);
    let names = ["sp ace+plus", "ü/日本", "a&b=c?d#e%20f", "quote'\"<>"];
    for name in names {
        put(store, &bucket, name, name).await;
        assert_eq!(read(store, &bucket, name).await, name.as_bytes());
    }
    let mut listed = Vec::new();
    for_each_page(store, &bucket, "", None, |keys, _| listed.extend(keys)).await;
    let mut expected = names.map(str::to_owned);
    expected.sort();
    assert_eq!(listed, expected);
}

async fn a_missing_key_and_a_missing_bucket_are_distinguished(setup: &dyn StoreSetup) {
    let (store, bucket) = (setup.store(), setup.bucket(true).await);
    let gone = BucketName::new("branchline-no-such-bucket").expect("a legal name");
    let none = store.head(&bucket, &key("none")).await;
    assert_eq!(none.expect("a missing key is not an error"), None);
    assert_fails(
        store.head(&gone, &key("k")).await,
        ErrorKind::NotFound,
        gone.as_str(),
    );
    let get = store.get(&bucket, &key("none"), None, None).await;
    assert_fails(get, ErrorKind::NotFound, "none");
    let get = store.get(&gone, &key("k"), None, None).await;
    assert_fails(get, ErrorKind::NotFound, gone.as_str());
    let read = store.get_with_etag(&bucket, &key("none")).await;
    assert_eq!(read.expect("a missing key is not an error"), None);
    let read = store.get_with_etag(&gone, &key("k")).await;
    assert_fails(read, ErrorKind::NotFound, gone.as_str());
    let list = store.list(&gone, "", None, None).await;
    assert_fails(list, ErrorKind::NotFound, gone.as_str());
    let versioned = store.is_versioned(&gone).await;
    assert_fails(versioned, ErrorKind::NotFound, gone.as_str());
    let put = store
        .put(&gone, &key("k"), Bytes::new(), &PutOptions::default())
        .await;
    assert_fails(put, ErrorKind::NotFound, gone.as_str());
    let create = store
        .create_upload(&gone, &key("k"), &PutOptions::default())
        .await;
    assert_fails(create.map(drop), ErrorKind::NotFound, gone.as_str());
    let tags = store.get_tags(&bucket, &key("none"), None).await;
    assert_fails(tags, ErrorKind::NotFound, "none");
    let deleted = store
        .delete(&bucket, &key("none"), &Precondition::None)
        .await;
    deleted.expect("deleting a missing key succeeds");
}

async fn ranges_are_read(setup: &dyn StoreSetup) {
    let (store, bucket) = (setup.store(), setup.bucket(false).await);
    put(store, &bucket, "digits", "0123456789").await;
    for (range, expected) in [
        (0..1, "0"),
        (3..7, "3456"),
        (9..10, "9"),
        (0..10, "0123456789"),
        (8..100, "89"),
        (4..4, ""),
    ] {
        let body = store
            .get(&bucket, &key("digits"), None, Some(range.clone()))
            .await
            .expect("a range that starts inside succeeds");
        assert_eq!(body, expected, "range {range:?}");
    }
    let behind = store.get(&bucket, &key("digits"), None, Some(10..12)).await;
    assert_fails(behind, ErrorKind::Corrupt, "digits");
}

async fn a_bucket_with_versions_is_versioned(setup: &dyn StoreSetup) {
    let bucket = setup.bucket(true).await;
    let answer = setup.store().is_versioned(&bucket).await;
    assert!(answer.expect("the bucket is there"));
}

async fn a_bucket_without_versions_is_not_versioned(setup: &dyn StoreSetup) {
    let bucket = setup.bucket(false).await;
    let answer = setup.store().is_versioned(&bucket).await;
    assert!(!answer.expect("the bucket is there"));
}

async fn without_versions_a_write_has_no_version_id(setup: &dyn StoreSetup) {
    let (store, bucket) = (setup.store(), setup.bucket(false).await);
    let written = put(store, &bucket, "k", "body").await;
    assert_eq!(written.version_id, None);
    let head = store.head(&bucket, &key("k")).await;
    let head = head.expect("head succeeds").expect("the object is there");
    assert_eq!(head.version_id, None);
}

async fn each_version_is_read_by_its_id(setup: &dyn StoreSetup) {
    let (store, bucket) = (setup.store(), setup.bucket(true).await);
    let first = put(store, &bucket, "k", "first").await;
    let second = put(store, &bucket, "k", "second").await;
    assert_ne!(first.version_id, second.version_id);
    assert_ne!(first.etag, second.etag);
    for (written, body) in [(&first, "first"), (&second, "second")] {
        let version = written.version_id.as_deref();
        let read = store.get(&bucket, &key("k"), version, None).await;
        assert_eq!(read.expect("the version is there"), body);
    }
    assert_eq!(read(store, &bucket, "k").await, "second");
    let mut listed = Vec::new();
    for_each_page(store, &bucket, "", None, |keys, _| listed.extend(keys)).await;
    assert_eq!(listed, ["k"], "a list has only current versions");
}

async fn a_delete_hides_the_object_and_keeps_its_versions(setup: &dyn StoreSetup) {
    let (store, bucket) = (setup.store(), setup.bucket(true).await);
    let written = put(store, &bucket, "k", "body").await;
    let deleted = store.delete(&bucket, &key("k"), &Precondition::None).await;
    deleted.expect("a delete succeeds");
    let head = store.head(&bucket, &key("k")).await.expect("head succeeds");
    assert_eq!(head, None, "a delete marker hides the object");
    let get = store.get(&bucket, &key("k"), None, None).await;
    assert_fails(get, ErrorKind::NotFound, "k");
    let page = store.list(&bucket, "", None, None).await;
    assert_eq!(page.expect("a list succeeds").objects, []);
    let version = written.version_id.as_deref();
    let old = store.get(&bucket, &key("k"), version, None).await;
    assert_eq!(old.expect("the version is still there"), "body");
    store
        .put(
            &bucket,
            &key("k"),
            "new".into(),
            &with(Precondition::Absent),
        )
        .await
        .expect("an object hidden by a delete marker is absent");
}

async fn a_delete_without_versions_removes_the_object(setup: &dyn StoreSetup) {
    let (store, bucket) = (setup.store(), setup.bucket(false).await);
    put(store, &bucket, "k", "body").await;
    for _ in 0..2 {
        let deleted = store.delete(&bucket, &key("k"), &Precondition::None).await;
        deleted.expect("deleting a deleted object succeeds");
    }
    let head = store.head(&bucket, &key("k")).await.expect("head succeeds");
    assert_eq!(head, None);
}

async fn a_delete_with_a_stale_etag_is_refused(setup: &dyn StoreSetup) {
    let (store, bucket) = (setup.store(), setup.bucket(true).await);
    let first = put(store, &bucket, "k", "first").await;
    let second = put(store, &bucket, "k", "second").await;
    let stale = Precondition::Matches(first.etag);
    let refused = store.delete(&bucket, &key("k"), &stale).await;
    assert_fails(refused, ErrorKind::Conflict, "k");
    assert_eq!(read(store, &bucket, "k").await, "second");
    let fresh = Precondition::Matches(second.etag);
    let deleted = store.delete(&bucket, &key("k"), &fresh).await;
    deleted.expect("the current object matches");
}

async fn a_delete_with_the_etag_of_a_deleted_object_is_refused(setup: &dyn StoreSetup) {
    let (store, bucket) = (setup.store(), setup.bucket(true).await);
    let written = put(store, &bucket, "k", "body").await;
    let deleted = store.delete(&bucket, &key("k"), &Precondition::None).await;
    deleted.expect("a delete succeeds");
    let gone = Precondition::Matches(written.etag);
    let refused = store.delete(&bucket, &key("k"), &gone).await;
    assert_fails(refused, ErrorKind::Conflict, "k");
}

async fn a_put_if_absent_over_a_current_object_is_refused(setup: &dyn StoreSetup) {
    let (store, bucket) = (setup.store(), setup.bucket(true).await);
    let absent = with(Precondition::Absent);
    let first = store.put(&bucket, &key("k"), "first".into(), &absent).await;
    first.expect("the object is absent");
    let second = store
        .put(&bucket, &key("k"), "second".into(), &absent)
        .await;
    assert_fails(second, ErrorKind::Conflict, "k");
    assert_eq!(read(store, &bucket, "k").await, "first");
}

async fn a_put_with_a_stale_etag_is_refused(setup: &dyn StoreSetup) {
    let (store, bucket) = (setup.store(), setup.bucket(true).await);
    let missing = with(Precondition::Matches(
        ETag::new("\"0123\"").expect("it is valid"),
    ));
    let refused = store.put(&bucket, &key("k"), "x".into(), &missing).await;
    assert_fails(refused, ErrorKind::Conflict, "k");
    let first = put(store, &bucket, "k", "first").await;
    let matches = with(Precondition::Matches(first.etag));
    let second = store
        .put(&bucket, &key("k"), "second".into(), &matches)
        .await;
    second.expect("the current object matches");
    let third = store
        .put(&bucket, &key("k"), "third".into(), &matches)
        .await;
    assert_fails(third, ErrorKind::Conflict, "k");
    assert_eq!(read(store, &bucket, "k").await, "second");
}

async fn of_concurrent_creations_one_wins(setup: &dyn StoreSetup) {
    let (store, bucket) = (setup.store(), setup.bucket(true).await);
    assert_one_wins(store, &bucket, &with(Precondition::Absent)).await;
}

async fn of_concurrent_replacements_one_wins(setup: &dyn StoreSetup) {
    let (store, bucket) = (setup.store(), setup.bucket(true).await);
    let written = put(store, &bucket, "k", "first").await;
    assert_one_wins(store, &bucket, &with(Precondition::Matches(written.etag))).await;
}

async fn assert_one_wins(store: &dyn ObjectStore, bucket: &BucketName, options: &PutOptions) {
    let at = key("k");
    let at = &at;
    let writers = (0..16).map(|n| async move {
        let body = format!("writer {n}");
        let result = store.put(bucket, at, body.clone().into(), options).await;
        (body, result)
    });
    let mut winners = Vec::new();
    for (body, result) in join_all(writers).await {
        match result {
            Ok(_) => winners.push(body),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Conflict, "{}", error.report()),
        }
    }
    assert_eq!(winners.len(), 1, "one writer wins: {winners:?}");
    assert_eq!(read(store, bucket, "k").await, winners[0]);
}

async fn for_each_page(
    store: &dyn ObjectStore,
    bucket: &BucketName,
    prefix: &str,
    delimiter: Option<&str>,
    mut visit: impl FnMut(Vec<String>, Vec<String>),
) {
    let mut next = None;
    for _ in 0..100 {
        let page = store.list(bucket, prefix, delimiter, next.as_deref()).await;
        let page = page.expect("a list succeeds");
        let keys = page.objects.iter().map(|listed| listed.key.to_string());
        visit(keys.collect(), page.common_prefixes);
        next = page.next;
        if next.is_none() {
            return;
        }
    }
    panic!("the list does not end");
}

async fn lists_are_ordered_and_paged(setup: &dyn StoreSetup) {
    let (store, bucket) = (setup.store(), setup.bucket(true).await);
    let names = ["b", "a/2", "a/1", "a", "a0", "B", "ü", "a/10"];
    for name in names {
        put(store, &bucket, name, name).await;
    }
    let mut listed = Vec::new();
    for_each_page(store, &bucket, "", None, |keys, _| listed.extend(keys)).await;
    let mut expected = names.map(str::to_owned);
    expected.sort();
    assert_eq!(listed, expected, "keys come in the order of their bytes");
    let mut listed = Vec::new();
    for_each_page(store, &bucket, "a/", None, |keys, _| listed.extend(keys)).await;
    assert_eq!(listed, ["a/1", "a/10", "a/2"]);
    let page = store.list(&bucket, "a/10", None, None).await;
    let page = page.expect("a list succeeds");
    let head = store.head(&bucket, &key("a/10")).await;
    let head = head.expect("head succeeds").expect("the object is there");
    assert_eq!(page.objects[0].etag, head.etag);
    assert_eq!(page.objects[0].size_bytes, 4);
    assert!(page.objects[0].last_modified > 0);
}

async fn lists_are_grouped_by_a_delimiter(setup: &dyn StoreSetup) {
    let (store, bucket) = (setup.store(), setup.bucket(false).await);
    for name in ["p/a/1", "p/a/2", "p/b/1", "p/c", "p/d/e/f", "q/x", "p/a"] {
        put(store, &bucket, name, name).await;
    }
    let (mut keys, mut groups) = (Vec::new(), Vec::new());
    for_each_page(store, &bucket, "p/", Some("/"), |page, common| {
        keys.extend(page);
        groups.extend(common);
    })
    .await;
    assert_eq!(keys, ["p/a", "p/c"]);
    assert_eq!(groups, ["p/a/", "p/b/", "p/d/"], "each common prefix once");
}

async fn tags_are_replaced_as_a_whole_and_per_version(setup: &dyn StoreSetup) {
    let (store, bucket) = (setup.store(), setup.bucket(true).await);
    let tags = |pairs: &[(&str, &str)]| -> Tags {
        let owned = |(k, v): &(&str, &str)| ((*k).to_owned(), (*v).to_owned());
        pairs.iter().map(owned).collect()
    };
    let first = put(store, &bucket, "k", "first").await;
    let none = store.get_tags(&bucket, &key("k"), None).await;
    assert_eq!(none.expect("the object is there"), tags(&[]));
    for set in [
        tags(&[("a", "1"), ("b", "2")]),
        tags(&[("branchline-execution", "x-1")]),
    ] {
        let written = store.put_tags(&bucket, &key("k"), None, &set).await;
        written.expect("the object is there");
        let read = store.get_tags(&bucket, &key("k"), None).await;
        assert_eq!(read.expect("the object is there"), set, "tags are replaced");
    }
    let second = put(store, &bucket, "k", "second").await;
    let current = store.get_tags(&bucket, &key("k"), None).await;
    assert_eq!(
        current.expect("the object is there"),
        tags(&[]),
        "a new version has no tags"
    );
    let version = first.version_id.as_deref();
    let old = store.get_tags(&bucket, &key("k"), version).await;
    assert_eq!(
        old.expect("the version is there"),
        tags(&[("branchline-execution", "x-1")]),
        "tags belong to a version"
    );
    let written = store
        .put_tags(
            &bucket,
            &key("k"),
            second.version_id.as_deref(),
            &tags(&[("v", "2")]),
        )
        .await;
    written.expect("the version is there");
    let current = store.get_tags(&bucket, &key("k"), None).await;
    assert_eq!(current.expect("the object is there"), tags(&[("v", "2")]));
}
