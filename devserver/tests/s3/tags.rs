//! Object tags.

use aws_sdk_s3::types::{Tag, Tagging};

use crate::support::{BUCKET, Server, code, refusal};

#[tokio::test]
async fn tags_are_replaced_without_a_new_version() {
    let server = Server::versioned().await;
    let client = &server.client;
    let first = server.put("a", "1").await;
    let second = server.put("a", "2").await;
    let tag = |key: &str, value: &str| Tag::builder().key(key).value(value).build().unwrap();
    let put = client
        .put_object_tagging()
        .bucket(BUCKET)
        .key("a")
        .tagging(
            Tagging::builder()
                .tag_set(tag("branchline-execution", "e-1"))
                .build()
                .unwrap(),
        )
        .send()
        .await
        .unwrap();
    assert_eq!(put.version_id, second, "tags go to the current version");
    let get = client.get_object_tagging().bucket(BUCKET).key("a");
    let tags = get.clone().send().await.unwrap();
    assert_eq!(tags.tag_set(), [tag("branchline-execution", "e-1")]);
    let old = get.clone().set_version_id(first).send().await.unwrap();
    assert!(old.tag_set().is_empty(), "other versions keep their tags");
    client
        .delete_object_tagging()
        .bucket(BUCKET)
        .key("a")
        .send()
        .await
        .unwrap();
    assert!(get.send().await.unwrap().tag_set().is_empty());
    let many = (0..11).fold(Tagging::builder(), |all, i| {
        all.tag_set(tag(&i.to_string(), ""))
    });
    let many = client
        .put_object_tagging()
        .bucket(BUCKET)
        .key("a")
        .tagging(many.build().unwrap())
        .send()
        .await;
    assert_eq!(refusal(many), code(400, "BadRequest"));
    let versions = client
        .list_object_versions()
        .bucket(BUCKET)
        .send()
        .await
        .unwrap();
    assert_eq!(versions.versions().len(), 2, "tagging makes no version");
}
