//! Versions, delete markers and preconditions of writes.

use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{BucketVersioningStatus, Delete, ObjectIdentifier};

use crate::support::{BUCKET, Server, code, refusal};

#[tokio::test]
async fn every_version_stays_readable() {
    let server = Server::versioned().await;
    let first = server.put("a", "1").await.unwrap();
    let second = server.put("a", "2").await.unwrap();
    assert_ne!(first, second);
    let get = server.client.get_object().bucket(BUCKET).key("a");
    let old = get.clone().version_id(&first).send().await.unwrap();
    assert_eq!(old.version_id(), Some(&first[..]));
    assert_eq!(&old.body.collect().await.unwrap().to_vec()[..], b"1");
    assert_eq!(
        get.clone().send().await.unwrap().version_id(),
        Some(&second[..])
    );
    let unknown = get
        .clone()
        .version_id("0123456789abcdef0123456789abcdef")
        .send()
        .await;
    assert_eq!(refusal(unknown), code(404, "NoSuchVersion"));
    let malformed = get.version_id("what?").send().await;
    assert_eq!(refusal(malformed), code(400, "InvalidArgument"));
}

#[tokio::test]
async fn a_delete_marker_hides_and_its_removal_restores() {
    let server = Server::versioned().await;
    let client = &server.client;
    let first = server.put("a", "1").await.unwrap();
    let deleted = client
        .delete_object()
        .bucket(BUCKET)
        .key("a")
        .send()
        .await
        .unwrap();
    assert_eq!(deleted.delete_marker(), Some(true));
    let marker = deleted.version_id().unwrap();
    let get = client.get_object().bucket(BUCKET).key("a");
    let hidden = get.clone().send().await.unwrap_err();
    let headers = hidden.raw_response().unwrap().headers();
    assert_eq!(headers.get("x-amz-delete-marker"), Some("true"));
    assert_eq!(headers.get("x-amz-version-id"), Some(marker));
    assert_eq!(refusal(Err::<(), _>(hidden)), code(404, "NoSuchKey"));
    assert_eq!(
        refusal(get.clone().version_id(marker).send().await),
        code(405, "MethodNotAllowed")
    );
    assert!(get.clone().version_id(&first).send().await.is_ok());
    assert!(
        client
            .list_objects_v2()
            .bucket(BUCKET)
            .send()
            .await
            .unwrap()
            .contents()
            .is_empty(),
        "a delete marker hides the key from lists"
    );
    let listed = client
        .list_object_versions()
        .bucket(BUCKET)
        .send()
        .await
        .unwrap();
    assert_eq!(listed.versions()[0].version_id(), Some(&first[..]));
    assert_eq!(listed.versions()[0].is_latest(), Some(false));
    assert_eq!(listed.delete_markers()[0].version_id(), Some(marker));
    assert_eq!(listed.delete_markers()[0].is_latest(), Some(true));
    let removed = client
        .delete_object()
        .bucket(BUCKET)
        .key("a")
        .version_id(marker);
    assert_eq!(removed.send().await.unwrap().delete_marker(), Some(true));
    assert_eq!(server.text("a").await, "1");
    client
        .delete_object()
        .bucket(BUCKET)
        .key("a")
        .version_id(first)
        .send()
        .await
        .unwrap();
    client.delete_bucket().bucket(BUCKET).send().await.unwrap();
}

#[tokio::test]
async fn suspended_versioning_writes_the_null_version() {
    let server = Server::start().await;
    assert_eq!(server.put("a", "before").await, None);
    server.set_versioning(BucketVersioningStatus::Enabled).await;
    let kept = server.put("a", "versioned").await.unwrap();
    server
        .set_versioning(BucketVersioningStatus::Suspended)
        .await;
    assert_eq!(server.put("a", "after").await.as_deref(), Some("null"));
    let get = server.client.get_object().bucket(BUCKET).key("a");
    let null = get.clone().version_id("null").send().await.unwrap();
    assert_eq!(
        &null.body.collect().await.unwrap().to_vec()[..],
        b"after",
        "there is one null version"
    );
    assert!(
        get.version_id(kept).send().await.is_ok(),
        "older versions stay"
    );
    let deleted = server
        .client
        .delete_object()
        .bucket(BUCKET)
        .key("a")
        .send()
        .await
        .unwrap();
    assert_eq!(
        deleted.version_id(),
        Some("null"),
        "the marker takes the null version's place"
    );
    let listed = server
        .client
        .list_object_versions()
        .bucket(BUCKET)
        .send()
        .await
        .unwrap();
    assert_eq!(listed.versions().len(), 1);
    assert_eq!(listed.delete_markers().len(), 1);
}

#[tokio::test]
async fn preconditions_of_writes_hold() {
    let server = Server::versioned().await;
    let client = &server.client;
    let put = client
        .put_object()
        .bucket(BUCKET)
        .key("a")
        .body(ByteStream::from_static(b"1"));
    let again = || {
        client
            .put_object()
            .bucket(BUCKET)
            .key("a")
            .body(ByteStream::from_static(b"2"))
    };
    let missing = again().if_match("\"x\"").send().await;
    assert_eq!(
        refusal(missing),
        code(404, "NoSuchKey"),
        "If-Match needs an object"
    );
    let first = put.if_none_match("*").send().await.unwrap();
    assert_eq!(
        refusal(again().if_none_match("*").send().await),
        code(412, "PreconditionFailed")
    );
    assert_eq!(
        refusal(again().if_none_match("\"x\"").send().await),
        code(501, "NotImplemented"),
        "If-None-Match of a write takes `*` only"
    );
    assert_eq!(
        refusal(again().if_match("\"x\"").send().await),
        code(412, "PreconditionFailed")
    );
    let second = again()
        .if_match(first.e_tag().unwrap())
        .send()
        .await
        .unwrap();
    let delete = || client.delete_object().bucket(BUCKET).key("a");
    assert_eq!(
        refusal(delete().if_match(first.e_tag().unwrap()).send().await),
        code(412, "PreconditionFailed")
    );
    delete()
        .if_match(second.e_tag().unwrap())
        .send()
        .await
        .unwrap();
    assert_eq!(
        refusal(delete().if_match("*").send().await),
        code(404, "NoSuchKey"),
        "a delete marker counts as absent"
    );
    again().if_none_match("*").send().await.unwrap();
    assert_eq!(
        server.text("a").await,
        "2",
        "and does not stop a conditional put"
    );
    assert_eq!(server.blobs(), 3, "a refused write leaves nothing");
}

#[tokio::test]
async fn many_objects_are_deleted_at_once() {
    let server = Server::versioned().await;
    let first = server.put("a", "1").await.unwrap();
    server.put("b", "2").await;
    server.put("c", "3").await;
    let id = |key: &str| ObjectIdentifier::builder().key(key);
    let delete = Delete::builder()
        .objects(id("a").version_id(&first).build().unwrap())
        .objects(id("b").build().unwrap())
        .objects(id("c").e_tag("\"x\"").build().unwrap())
        .objects(id("none").build().unwrap())
        .build()
        .unwrap();
    let answer = server
        .client
        .delete_objects()
        .bucket(BUCKET)
        .delete(delete)
        .send()
        .await
        .unwrap();
    let deleted: Vec<_> = answer
        .deleted()
        .iter()
        .map(|d| (d.key().unwrap(), d.delete_marker().unwrap_or(false)))
        .collect();
    assert_eq!(deleted, [("a", false), ("b", true), ("none", true)]);
    assert_eq!(answer.errors().len(), 1);
    assert_eq!(answer.errors()[0].key(), Some("c"));
    assert_eq!(answer.errors()[0].code(), Some("PreconditionFailed"));
}
