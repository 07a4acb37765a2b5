//! Objects and buckets: content, attributes, ranges and conditions.

use std::collections::HashMap;

use aws_sdk_s3::primitives::{ByteStream, DateTime};
use aws_sdk_s3::types::{ChecksumAlgorithm, ChecksumMode, ObjectAttributes, ServerSideEncryption};

use crate::support::{BUCKET, Server, code, refusal};

#[tokio::test]
async fn attributes_are_read_as_written() {
    let server = Server::start().await;
    server
        .client
        .put_object()
        .bucket(BUCKET)
        .key("a.zip")
        .body(ByteStream::from_static(b"bytes"))
        .content_type("application/zip")
        .content_disposition("attachment")
        .content_encoding("gzip")
        .content_language("de")
        .cache_control("no-store")
        .expires(DateTime::from_secs(1_900_000_000))
        .metadata("commit", "abc")
        .metadata("subject", "a ü b")
        .tagging("x=1&y=a%20b")
        .server_side_encryption(ServerSideEncryption::AwsKms)
        .ssekms_key_id("alias/artifacts")
        .bucket_key_enabled(true)
        .send()
        .await
        .unwrap();
    let got = server
        .client
        .get_object()
        .bucket(BUCKET)
        .key("a.zip")
        .checksum_mode(ChecksumMode::Enabled)
        .send()
        .await
        .unwrap();
    assert_eq!(got.content_type(), Some("application/zip"));
    assert_eq!(got.content_disposition(), Some("attachment"));
    assert_eq!(got.content_encoding(), Some("gzip"));
    assert_eq!(got.content_language(), Some("de"));
    assert_eq!(got.cache_control(), Some("no-store"));
    assert_eq!(got.expires_string(), Some("Sun, 17 Mar 2030 17:46:40 GMT"));
    assert_eq!(got.tag_count(), Some(2));
    assert_eq!(
        got.server_side_encryption(),
        Some(&ServerSideEncryption::AwsKms)
    );
    assert_eq!(got.ssekms_key_id(), Some("alias/artifacts"));
    assert_eq!(got.bucket_key_enabled(), Some(true));
    assert_eq!(
        got.version_id(),
        None,
        "a bucket that never had versions shows none"
    );
    assert_eq!(
        got.e_tag(),
        Some("\"4b3a6218bb3e3a7303e8a171a60fcf92\""),
        "the entity tag of a single put is the MD5 of the bytes"
    );
    assert!(
        got.checksum_crc32().is_some(),
        "the client's checksum is kept"
    );
    let expected = HashMap::from([
        ("commit".to_owned(), "abc".to_owned()),
        ("subject".to_owned(), "a ü b".to_owned()),
    ]);
    let metadata = got.metadata().unwrap();
    assert_eq!(metadata["commit"], expected["commit"]);
    assert!(metadata.contains_key("subject"), "metadata is kept by name");
    assert_eq!(&got.body.collect().await.unwrap().to_vec()[..], b"bytes");
}

#[tokio::test]
async fn keys_of_every_form_are_just_keys() {
    let server = Server::start().await;
    let long = "k".repeat(1024);
    let keys = [
        "a",
        "a/b",
        "a/",
        "../../etc/passwd",
        "a/../b",
        "./.",
        "ü/ß €",
        "a b+c%20d&e=f?g#h",
        "new\nline",
        &long,
        "con",
        "*",
        "'\"<>&",
    ];
    for key in keys {
        server.put(key, &format!("body of {key}")).await;
    }
    for key in keys {
        assert_eq!(
            server.text(key).await,
            format!("body of {key}"),
            "each key is its own object"
        );
    }
    let outside: Vec<_> = walk(server.folder.path());
    assert_eq!(
        outside
            .iter()
            .filter(|path| path.contains("blobs/"))
            .count(),
        keys.len(),
        "every object is in the bucket's folder"
    );
    let listed = server
        .client
        .list_objects_v2()
        .bucket(BUCKET)
        .send()
        .await
        .unwrap();
    let mut expected: Vec<_> = keys.to_vec();
    expected.sort_unstable();
    let found: Vec<_> = listed
        .contents()
        .iter()
        .map(|object| object.key().unwrap())
        .collect();
    assert_eq!(
        found, expected,
        "keys are listed in the order of their bytes"
    );
    let too_long = server
        .client
        .get_object()
        .bucket(BUCKET)
        .key("k".repeat(1025))
        .send()
        .await;
    assert_eq!(refusal(too_long), code(400, "KeyTooLongError"));
}

fn walk(folder: &std::path::Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(walk(&path));
        } else {
            found.push(path.display().to_string());
        }
    }
    found
}

#[tokio::test]
async fn ranges_are_read() {
    let server = Server::start().await;
    server.put("digits", "0123456789").await;
    let range = async |range: &str| {
        let got = server
            .client
            .get_object()
            .bucket(BUCKET)
            .key("digits")
            .range(range)
            .send();
        let got = got.await?;
        let shown = got.content_range().unwrap().to_owned();
        let bytes = got.body.collect().await.unwrap().to_vec();
        Ok((String::from_utf8(bytes).unwrap(), shown))
    };
    let read = |text: &str, shown: &str| (text.to_owned(), shown.to_owned());
    assert_eq!(
        range("bytes=2-4").await.unwrap(),
        read("234", "bytes 2-4/10")
    );
    assert_eq!(
        range("bytes=7-").await.unwrap(),
        read("789", "bytes 7-9/10")
    );
    assert_eq!(
        range("bytes=-3").await.unwrap(),
        read("789", "bytes 7-9/10")
    );
    assert_eq!(
        range("bytes=8-100").await.unwrap(),
        read("89", "bytes 8-9/10")
    );
    assert_eq!(refusal(range("bytes=10-").await), code(416, "InvalidRange"));
    server.put("empty", "").await;
    let empty = server.client.get_object().bucket(BUCKET).key("empty");
    assert_eq!(
        refusal(empty.clone().range("bytes=0-").send().await),
        code(416, "InvalidRange")
    );
    assert_eq!(empty.send().await.unwrap().content_length(), Some(0));
}

#[tokio::test]
async fn large_objects_are_read_whole_and_in_part() {
    let server = Server::start().await;
    let bytes: Vec<u8> = (0..3_000_000u32).map(|i| (i % 253) as u8).collect();
    server
        .client
        .put_object()
        .bucket(BUCKET)
        .key("large")
        .checksum_algorithm(ChecksumAlgorithm::Sha256)
        .body(ByteStream::from(bytes.clone()))
        .send()
        .await
        .unwrap();
    let got = server
        .client
        .get_object()
        .bucket(BUCKET)
        .key("large")
        .checksum_mode(ChecksumMode::Enabled)
        .send()
        .await
        .unwrap();
    assert_eq!(got.content_length(), Some(3_000_000));
    assert!(got.checksum_sha256().is_some());
    assert!(
        got.body.collect().await.unwrap().to_vec() == bytes,
        "every byte comes back"
    );
    let part = server
        .client
        .get_object()
        .bucket(BUCKET)
        .key("large")
        .range("bytes=999999-2000000");
    let part = part
        .send()
        .await
        .unwrap()
        .body
        .collect()
        .await
        .unwrap()
        .to_vec();
    assert!(
        part == bytes[999_999..=2_000_000],
        "a range is exactly its bytes"
    );
}

#[tokio::test]
async fn get_object_attributes_returns_the_requested_ones() {
    let server = Server::start().await;
    server.put("a", "123").await;
    let asked = server
        .client
        .get_object_attributes()
        .bucket(BUCKET)
        .key("a");
    let asked = asked
        .object_attributes(ObjectAttributes::ObjectSize)
        .object_attributes(ObjectAttributes::Checksum);
    let answer = asked.send().await.unwrap();
    assert_eq!(answer.object_size(), Some(3));
    assert!(answer.checksum().unwrap().checksum_crc32().is_some());
    assert_eq!(answer.e_tag(), None, "what was not asked is not answered");
}

#[tokio::test]
async fn conditions_of_reads_hold() {
    let server = Server::start().await;
    server.put("a", "1").await;
    let head = server.client.head_object().bucket(BUCKET).key("a");
    let answer = head.clone().send().await.unwrap();
    let etag = answer.e_tag().unwrap();
    let modified = *answer.last_modified().unwrap();
    assert!(head.clone().if_match(etag).send().await.is_ok());
    assert_eq!(refusal(head.clone().if_match("\"x\"").send().await).0, 412);
    assert_eq!(
        refusal(head.clone().if_none_match(etag).send().await).0,
        304
    );
    assert_eq!(
        refusal(head.clone().if_modified_since(modified).send().await).0,
        304
    );
    let earlier = DateTime::from_secs(modified.secs() - 1);
    assert!(head.clone().if_modified_since(earlier).send().await.is_ok());
    assert_eq!(
        refusal(head.clone().if_unmodified_since(earlier).send().await).0,
        412
    );
    let get = server.client.get_object().bucket(BUCKET).key("a");
    assert_eq!(refusal(get.clone().if_none_match(etag).send().await).0, 304);
    assert_eq!(
        refusal(get.if_match("\"x\"").send().await),
        code(412, "PreconditionFailed")
    );
}

#[tokio::test]
async fn missing_names_are_in_the_error() {
    let server = Server::start().await;
    let client = &server.client;
    let key = client.get_object().bucket(BUCKET).key("none").send().await;
    assert_eq!(refusal(key), code(404, "NoSuchKey"));
    let bucket = client
        .get_object()
        .bucket("no-such-bucket")
        .key("a")
        .send()
        .await;
    assert_eq!(refusal(bucket), code(404, "NoSuchBucket"));
    let put = client
        .put_object()
        .bucket("no-such-bucket")
        .key("a")
        .send()
        .await;
    assert_eq!(refusal(put), code(404, "NoSuchBucket"));
    assert_eq!(
        refusal(client.head_bucket().bucket("no-such-bucket").send().await).0,
        404
    );
    let list = client
        .list_objects_v2()
        .bucket("no-such-bucket")
        .send()
        .await;
    assert_eq!(refusal(list), code(404, "NoSuchBucket"));
    let tags = client
        .get_object_tagging()
        .bucket(BUCKET)
        .key("none")
        .send()
        .await;
    assert_eq!(refusal(tags), code(404, "NoSuchKey"));
    let copy = client
        .copy_object()
        .bucket(BUCKET)
        .key("b")
        .copy_source("artifacts/none");
    assert_eq!(refusal(copy.send().await), code(404, "NoSuchKey"));
    let name = client.create_bucket().bucket("No_Bucket").send().await;
    assert_eq!(refusal(name), code(400, "InvalidBucketName"));
    assert!(
        client
            .delete_object()
            .bucket(BUCKET)
            .key("none")
            .send()
            .await
            .is_ok(),
        "deleting a missing object is not an error"
    );
}

#[tokio::test]
async fn buckets_are_created_and_deleted() {
    let server = Server::start().await;
    let client = &server.client;
    assert_eq!(
        refusal(client.create_bucket().bucket(BUCKET).send().await),
        code(409, "BucketAlreadyOwnedByYou")
    );
    client.create_bucket().bucket("b.2-c").send().await.unwrap();
    let names = async || {
        let listed = client.list_buckets().send().await.unwrap();
        listed
            .buckets()
            .iter()
            .map(|b| b.name().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(names().await, [BUCKET, "b.2-c"]);
    let location = client
        .get_bucket_location()
        .bucket(BUCKET)
        .send()
        .await
        .unwrap();
    assert_eq!(
        location.location_constraint().unwrap().as_str(),
        "eu-central-1"
    );
    let head = client.head_bucket().bucket(BUCKET).send().await.unwrap();
    assert_eq!(head.bucket_region(), Some("eu-central-1"));
    server.put("a", "1").await;
    assert_eq!(
        refusal(client.delete_bucket().bucket(BUCKET).send().await),
        code(409, "BucketNotEmpty")
    );
    client
        .delete_object()
        .bucket(BUCKET)
        .key("a")
        .send()
        .await
        .unwrap();
    client.delete_bucket().bucket(BUCKET).send().await.unwrap();
    assert_eq!(names().await, ["b.2-c"]);
    assert_eq!(
        refusal(client.head_bucket().bucket(BUCKET).send().await).0,
        404
    );
}
