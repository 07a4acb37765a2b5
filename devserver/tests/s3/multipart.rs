//! Multipart uploads.

use aws_sdk_s3::operation::upload_part::UploadPartOutput;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ChecksumAlgorithm, ChecksumMode, CompletedMultipartUpload, CompletedPart};

use crate::support::{BUCKET, Server, code, refusal};

const MIB: usize = 1024 * 1024;

pub(crate) async fn begin(server: &Server, key: &str) -> String {
    let created = server
        .client
        .create_multipart_upload()
        .bucket(BUCKET)
        .key(key)
        .send()
        .await;
    created.unwrap().upload_id.unwrap()
}

pub(crate) async fn part(
    server: &Server,
    key: &str,
    upload: &str,
    number: i32,
    bytes: Vec<u8>,
) -> CompletedPart {
    let sent = server
        .client
        .upload_part()
        .bucket(BUCKET)
        .key(key)
        .upload_id(upload)
        .part_number(number)
        .body(ByteStream::from(bytes))
        .send()
        .await
        .unwrap();
    named(number, &sent)
}

fn named(number: i32, sent: &UploadPartOutput) -> CompletedPart {
    CompletedPart::builder()
        .part_number(number)
        .set_e_tag(sent.e_tag.clone())
        .set_checksum_crc32(sent.checksum_crc32.clone())
        .build()
}

pub(crate) fn all(parts: impl IntoIterator<Item = CompletedPart>) -> CompletedMultipartUpload {
    CompletedMultipartUpload::builder()
        .set_parts(Some(parts.into_iter().collect()))
        .build()
}

#[tokio::test]
async fn parts_become_one_object() {
    let server = Server::versioned().await;
    let client = &server.client;
    let created = client
        .create_multipart_upload()
        .bucket(BUCKET)
        .key("big")
        .content_type("application/zip")
        .metadata("m", "1")
        .tagging("t=1")
        .checksum_algorithm(ChecksumAlgorithm::Crc32)
        .send()
        .await
        .unwrap();
    let upload = created.upload_id().unwrap();
    let mut bytes: Vec<u8> = (0..251).cycle().take(5 * MIB).collect();
    let first = part_with_crc(&server, upload, 1, bytes.clone()).await;
    let overwritten = part_with_crc(&server, upload, 7, b"wrong".to_vec()).await;
    let last = part_with_crc(&server, upload, 7, b"tail".to_vec()).await;
    bytes.extend_from_slice(b"tail");
    let listed = client
        .list_parts()
        .bucket(BUCKET)
        .key("big")
        .upload_id(upload);
    let listed = listed.send().await.unwrap();
    let numbers: Vec<_> = listed
        .parts()
        .iter()
        .map(|p| p.part_number().unwrap())
        .collect();
    assert_eq!(numbers, [1, 7], "a part replaces the one of its number");
    let uploads = client
        .list_multipart_uploads()
        .bucket(BUCKET)
        .send()
        .await
        .unwrap();
    assert_eq!(uploads.uploads()[0].upload_id(), Some(upload));
    let complete = client
        .complete_multipart_upload()
        .bucket(BUCKET)
        .key("big")
        .upload_id(upload);
    let stale = complete
        .clone()
        .multipart_upload(all([first.clone(), overwritten]));
    assert_eq!(refusal(stale.send().await), code(400, "InvalidPart"));
    let completed = complete
        .multipart_upload(all([first.clone(), last.clone()]))
        .send()
        .await;
    let completed = completed.unwrap();
    assert!(
        completed.e_tag().unwrap().ends_with("-2\""),
        "the entity tag counts the parts"
    );
    assert!(completed.version_id().is_some());
    assert!(
        completed.checksum_crc32().unwrap().ends_with("-2"),
        "the checksum is composite"
    );
    let got = client
        .get_object()
        .bucket(BUCKET)
        .key("big")
        .checksum_mode(ChecksumMode::Enabled)
        .send()
        .await
        .unwrap();
    assert_eq!(got.content_type(), Some("application/zip"));
    assert_eq!(got.tag_count(), Some(1));
    assert_eq!(got.metadata().unwrap()["m"], "1");
    assert!(
        got.body.collect().await.unwrap().to_vec() == bytes,
        "the parts in order"
    );
    let second = client
        .get_object()
        .bucket(BUCKET)
        .key("big")
        .part_number(2)
        .send()
        .await;
    let second = second.unwrap();
    assert_eq!(second.parts_count(), Some(2));
    assert_eq!(&second.body.collect().await.unwrap().to_vec()[..], b"tail");
    assert!(
        server.store.uploads(BUCKET).unwrap().is_empty(),
        "a completed upload is gone"
    );
    assert_eq!(server.blobs(), 2, "replaced parts are deleted");
}

async fn part_with_crc(
    server: &Server,
    upload: &str,
    number: i32,
    bytes: Vec<u8>,
) -> CompletedPart {
    let sent = server
        .client
        .upload_part()
        .bucket(BUCKET)
        .key("big")
        .upload_id(upload)
        .part_number(number)
        .checksum_algorithm(ChecksumAlgorithm::Crc32)
        .body(ByteStream::from(bytes))
        .send()
        .await
        .unwrap();
    assert!(
        sent.checksum_crc32().is_some(),
        "the part's checksum is answered"
    );
    named(number, &sent)
}

#[tokio::test]
async fn a_completion_whose_answer_was_lost_can_be_repeated() {
    let server = Server::versioned().await;
    let upload = begin(&server, "a").await;
    let part = part(&server, "a", &upload, 1, b"bytes".to_vec()).await;
    let complete = server
        .client
        .complete_multipart_upload()
        .bucket(BUCKET)
        .key("a");
    let complete = complete.upload_id(upload).if_none_match("*");
    let first = complete.clone().multipart_upload(all([part.clone()]));
    let first = first.send().await.unwrap();
    let again = complete.clone().multipart_upload(all([part]));
    let again = again.send().await.unwrap();
    assert_eq!(
        again.version_id(),
        first.version_id(),
        "it is the same object"
    );
    let other = CompletedPart::builder()
        .part_number(1)
        .e_tag("\"00\"")
        .build();
    assert_eq!(
        refusal(complete.multipart_upload(all([other])).send().await),
        code(404, "NoSuchUpload"),
        "a completion with other parts is a different request"
    );
}

#[tokio::test]
async fn lists_of_parts_are_checked() {
    let server = Server::start().await;
    let upload = begin(&server, "a").await;
    let small = part(&server, "a", &upload, 1, vec![1; 100]).await;
    let last = part(&server, "a", &upload, 2, vec![2; 100]).await;
    let complete = |parts: Vec<CompletedPart>| {
        let request = server
            .client
            .complete_multipart_upload()
            .bucket(BUCKET)
            .key("a");
        request
            .upload_id(&upload)
            .multipart_upload(all(parts))
            .send()
    };
    assert_eq!(
        refusal(complete(vec![small.clone(), last.clone()]).await),
        code(400, "EntityTooSmall")
    );
    assert_eq!(
        refusal(complete(vec![last.clone(), small.clone()]).await),
        code(400, "InvalidPartOrder")
    );
    let unknown = CompletedPart::builder()
        .part_number(3)
        .e_tag("\"x\"")
        .build();
    assert_eq!(
        refusal(complete(vec![unknown]).await),
        code(400, "InvalidPart")
    );
    assert_eq!(refusal(complete(vec![]).await), code(400, "MalformedXML"));
    let forged = CompletedPart::builder()
        .part_number(2)
        .set_e_tag(last.e_tag.clone())
        .checksum_crc32("AAAAAA==")
        .build();
    assert_eq!(
        refusal(complete(vec![forged]).await),
        code(400, "InvalidPart")
    );
    complete(vec![last]).await.unwrap();
    assert_eq!(
        server.text("a").await.len(),
        100,
        "a single part may be small"
    );
    assert_eq!(server.blobs(), 1, "unlisted parts are deleted");
    let late = server
        .client
        .upload_part()
        .bucket(BUCKET)
        .key("a")
        .upload_id(&upload);
    assert_eq!(
        refusal(late.part_number(1).send().await),
        code(404, "NoSuchUpload")
    );
}

#[tokio::test]
async fn an_aborted_upload_leaves_no_files() {
    let server = Server::start().await;
    let upload = begin(&server, "a").await;
    part(&server, "a", &upload, 1, vec![1; 100]).await;
    let abort = server
        .client
        .abort_multipart_upload()
        .bucket(BUCKET)
        .key("a")
        .upload_id(&upload);
    abort.clone().send().await.unwrap();
    assert!(server.store.uploads(BUCKET).unwrap().is_empty());
    assert_eq!(server.blobs(), 0);
    assert_eq!(refusal(abort.send().await), code(404, "NoSuchUpload"));
    let number = server.client.upload_part().bucket(BUCKET).key("a");
    let upload = begin(&server, "a").await;
    assert_eq!(
        refusal(number.upload_id(upload).part_number(10_001).send().await),
        code(400, "InvalidArgument")
    );
}

#[tokio::test]
async fn an_announced_checksum_must_be_sent() {
    let server = Server::start().await;
    let created = server
        .client
        .create_multipart_upload()
        .bucket(BUCKET)
        .key("big");
    let created = created
        .checksum_algorithm(ChecksumAlgorithm::Crc32)
        .send()
        .await
        .unwrap();
    let upload = created.upload_id().unwrap();
    let sha = server
        .client
        .upload_part()
        .bucket(BUCKET)
        .key("big")
        .upload_id(upload);
    let sha = sha
        .part_number(1)
        .checksum_algorithm(ChecksumAlgorithm::Sha256)
        .body(ByteStream::from_static(b"x"))
        .send()
        .await;
    assert_eq!(
        refusal(sha),
        code(400, "InvalidRequest"),
        "another algorithm is refused"
    );
    let sent = part_with_crc(&server, upload, 1, b"x".to_vec()).await;
    let bare = CompletedPart::builder()
        .part_number(1)
        .set_e_tag(sent.e_tag.clone())
        .build();
    let complete = server
        .client
        .complete_multipart_upload()
        .bucket(BUCKET)
        .key("big");
    let complete = complete.upload_id(upload);
    assert_eq!(
        refusal(complete.clone().multipart_upload(all([bare])).send().await),
        code(400, "InvalidRequest"),
        "completing names each part's checksum"
    );
    complete.multipart_upload(all([sent])).send().await.unwrap();
}

#[tokio::test]
async fn parts_are_copied_from_ranges_of_versions() {
    let server = Server::versioned().await;
    let client = &server.client;
    let bytes: Vec<u8> = (0..241).cycle().take(6 * MIB).collect();
    let put = client
        .put_object()
        .bucket(BUCKET)
        .key("src")
        .body(ByteStream::from(bytes.clone()));
    let version = put.send().await.unwrap().version_id.unwrap();
    server.put("src", "newer").await;
    let upload = begin(&server, "dst").await;
    let copy = client
        .upload_part_copy()
        .bucket(BUCKET)
        .key("dst")
        .upload_id(&upload);
    let copy = copy.copy_source(format!("{BUCKET}/src?versionId={version}"));
    let range = format!("bytes=10-{}", 5 * MIB + 9);
    let copied = copy
        .clone()
        .part_number(1)
        .copy_source_range(range)
        .send()
        .await
        .unwrap();
    assert_eq!(copied.copy_source_version_id(), Some(&version[..]));
    let first = CompletedPart::builder()
        .part_number(1)
        .set_e_tag(copied.copy_part_result.unwrap().e_tag)
        .build();
    let beyond = copy
        .part_number(2)
        .copy_source_range(format!("bytes=0-{}", 6 * MIB))
        .send()
        .await;
    assert_eq!(refusal(beyond), code(400, "InvalidArgument"));
    let last = part(&server, "dst", &upload, 2, b"end".to_vec()).await;
    let complete = client.complete_multipart_upload().bucket(BUCKET).key("dst");
    complete
        .upload_id(upload)
        .multipart_upload(all([first, last]))
        .send()
        .await
        .unwrap();
    let (head, got) = server.store.get_bytes(BUCKET, "dst", None).unwrap();
    assert_eq!(head.parts, Some(vec![5 * MIB as u64, 3]));
    assert!(
        got[..5 * MIB] == bytes[10..5 * MIB + 10],
        "the range of the version is copied"
    );
    assert_eq!(&got[5 * MIB..], b"end");
}
