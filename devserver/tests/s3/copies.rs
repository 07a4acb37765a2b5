//! Copies of objects.

use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::MetadataDirective;

use crate::support::{BUCKET, Server, code, refusal};

#[tokio::test]
async fn copies_keep_or_replace_attributes_and_tags() {
    let server = Server::versioned().await;
    let client = &server.client;
    let put = client.put_object().bucket(BUCKET).key("from ü");
    let old = put
        .body(ByteStream::from_static(b"old"))
        .content_type("text/x-old")
        .metadata("m", "1")
        .tagging("t=1")
        .send()
        .await
        .unwrap();
    server.put("from ü", "new").await;
    let version = old.version_id().unwrap();
    let copied = client
        .copy_object()
        .bucket(BUCKET)
        .key("to")
        .copy_source(format!("{BUCKET}/from%20%C3%BC?versionId={version}"))
        .send()
        .await
        .unwrap();
    assert_eq!(copied.copy_source_version_id(), Some(version));
    assert_eq!(
        server.text("to").await,
        "old",
        "the version that was named is copied"
    );
    let head = client
        .head_object()
        .bucket(BUCKET)
        .key("to")
        .send()
        .await
        .unwrap();
    assert_eq!(head.content_type(), Some("text/x-old"));
    assert_eq!(head.metadata().unwrap()["m"], "1");
    let itself = client
        .copy_object()
        .bucket(BUCKET)
        .key("to")
        .copy_source("artifacts/to");
    assert_eq!(
        refusal(itself.clone().send().await),
        code(400, "InvalidRequest")
    );
    itself
        .metadata_directive(MetadataDirective::Replace)
        .metadata("n", "2")
        .send()
        .await
        .unwrap();
    let head = client
        .head_object()
        .bucket(BUCKET)
        .key("to")
        .send()
        .await
        .unwrap();
    assert!(
        !head.metadata().unwrap().contains_key("m"),
        "metadata is replaced whole"
    );
    assert_eq!(head.content_type(), Some("binary/octet-stream"));
    let copy = client
        .copy_object()
        .bucket(BUCKET)
        .key("to")
        .copy_source("artifacts/from%20%C3%BC");
    let refused = copy.clone().copy_source_if_match("\"x\"").send().await;
    assert_eq!(refusal(refused), code(412, "PreconditionFailed"));
    let refused = copy.clone().if_none_match("*").send().await;
    assert_eq!(
        refusal(refused),
        code(412, "PreconditionFailed"),
        "the target is there"
    );
    assert!(copy.if_match(head.e_tag().unwrap()).send().await.is_ok());
    assert_eq!(server.text("to").await, "new");
}
