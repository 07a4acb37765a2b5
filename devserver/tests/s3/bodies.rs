//! Uploaded bytes: verified, and stored whole or not at all.

use std::io::Write as _;
use std::time::Duration;

use aws_credential_types::Credentials;
use aws_sdk_s3::Client;
use aws_sdk_s3::presigning::PresigningConfig;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ChecksumAlgorithm, ChecksumMode, Delete, ObjectIdentifier};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{BUCKET, KEY_ID, SECRET, Server, client, code, refusal};

/// Sends a file `aws-chunked`, every chunk signed, with the checksum as a trailer.
#[tokio::test]
async fn chunked_bodies_with_trailers_are_stored_decoded() {
    let server = Server::start().await;
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let bytes: Vec<u8> = (0..300_000u32).map(|i| (i % 249) as u8).collect();
    file.write_all(&bytes).unwrap();
    for algorithm in [
        ChecksumAlgorithm::Crc32,
        ChecksumAlgorithm::Crc32C,
        ChecksumAlgorithm::Crc64Nvme,
        ChecksumAlgorithm::Sha1,
        ChecksumAlgorithm::Sha256,
    ] {
        server
            .client
            .put_object()
            .bucket(BUCKET)
            .key("file")
            .checksum_algorithm(algorithm.clone())
            .body(ByteStream::from_path(file.path()).await.unwrap())
            .send()
            .await
            .unwrap();
        let get = server.client.get_object().bucket(BUCKET).key("file");
        let got = get
            .checksum_mode(ChecksumMode::Enabled)
            .send()
            .await
            .unwrap();
        assert_eq!(
            got.content_encoding(),
            None,
            "`aws-chunked` is not the object's encoding"
        );
        let kept = match algorithm {
            ChecksumAlgorithm::Crc32 => got.checksum_crc32(),
            ChecksumAlgorithm::Crc32C => got.checksum_crc32_c(),
            ChecksumAlgorithm::Crc64Nvme => got.checksum_crc64_nvme(),
            ChecksumAlgorithm::Sha1 => got.checksum_sha1(),
            _ => got.checksum_sha256(),
        };
        assert!(kept.is_some(), "{algorithm:?} of the trailer is kept");
        // Reading compares the bytes with that checksum.
        assert!(got.body.collect().await.unwrap().to_vec() == bytes);
    }
}

#[tokio::test]
async fn a_wrong_checksum_writes_nothing() {
    let server = Server::start().await;
    let put = || {
        let put = server.client.put_object().bucket(BUCKET).key("a");
        put.body(ByteStream::from_static(b"bytes"))
    };
    let crc = put().checksum_crc32("AAAAAA==").send().await;
    assert_eq!(refusal(crc), code(400, "BadDigest"));
    let sha = put()
        .checksum_sha256("47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=")
        .send()
        .await;
    assert_eq!(refusal(sha), code(400, "BadDigest"));
    let malformed = put().checksum_crc32("AA==").send().await;
    assert_eq!(refusal(malformed), code(400, "InvalidRequest"));
    let md5 = put().content_md5("1B2M2Y8AsgTpgAmY7PhCfg==").send().await;
    assert_eq!(refusal(md5), code(400, "BadDigest"));
    let md5 = put().content_md5("no md5").send().await;
    assert_eq!(refusal(md5), code(400, "InvalidDigest"));
    assert_eq!(server.blobs(), 0, "a refused body leaves no file");
    let none = server
        .client
        .head_object()
        .bucket(BUCKET)
        .key("a")
        .send()
        .await;
    assert_eq!(refusal(none).0, 404, "and no object");
}

/// Creates a client that replaces `from` by `to` in its requests after signing them.
async fn tampering(server: &Server, from: &[u8], to: &[u8]) -> Client {
    assert_eq!(from.len(), to.len(), "lengths are in the headers");
    let proxy = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = proxy.local_addr().unwrap();
    let upstream = server.address;
    let (from, to) = (from.to_vec(), to.to_vec());
    tokio::spawn(async move {
        let (mut inward, _) = proxy.accept().await.unwrap();
        let mut outward = TcpStream::connect(upstream).await.unwrap();
        let (mut request, mut answer) = (vec![0; 65_536], vec![0; 65_536]);
        loop {
            tokio::select! {
                read = inward.read(&mut request) => {
                    let count = read.unwrap();
                    if count == 0 {
                        break;
                    }
                    let chunk = &mut request[..count];
                    if let Some(at) = chunk.windows(from.len()).position(|seen| seen == from) {
                        chunk[at..at + to.len()].copy_from_slice(&to);
                    }
                    outward.write_all(chunk).await.unwrap();
                }
                read = outward.read(&mut answer) => {
                    let count = read.unwrap();
                    if count == 0 {
                        break;
                    }
                    inward.write_all(&answer[..count]).await.unwrap();
                }
            }
        }
    });
    client(
        address,
        Credentials::new(KEY_ID, SECRET, None, None, "test"),
    )
}

#[tokio::test]
async fn bytes_that_differ_from_the_signed_ones_are_not_written() {
    let server = Server::start().await;
    let put = async |body: ByteStream, from: &[u8], to: &[u8]| {
        let client = tampering(&server, from, to).await;
        refusal(
            client
                .put_object()
                .bucket(BUCKET)
                .key("a")
                .body(body)
                .send()
                .await,
        )
    };
    let body = ByteStream::from_static(b"the original bytes");
    assert_eq!(
        put(body, b"original", b"tampered").await,
        code(400, "XAmzContentSHA256Mismatch")
    );
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"the original bytes").unwrap();
    let body = ByteStream::from_path(file.path()).await.unwrap();
    assert_eq!(
        put(body, b"original", b"tampered").await,
        code(403, "SignatureDoesNotMatch"),
        "each chunk is signed"
    );
    let body = ByteStream::from_path(file.path()).await.unwrap();
    assert_eq!(
        put(body, b"x-amz-checksum-crc32:", b"x-amz-checksum-crc33:").await,
        code(403, "SignatureDoesNotMatch"),
        "so is the trailer"
    );
    assert_eq!(server.blobs(), 0, "refused uploads leave no blobs");
}

#[tokio::test]
async fn a_document_that_differs_from_the_signed_one_is_refused() {
    let server = Server::start().await;
    server.put("a", "1").await;
    server.put("b", "2").await;
    let delete = Delete::builder().objects(ObjectIdentifier::builder().key("a").build().unwrap());
    let client = tampering(&server, b"<Key>a<", b"<Key>b<").await;
    let forged = client
        .delete_objects()
        .bucket(BUCKET)
        .delete(delete.build().unwrap());
    assert_eq!(
        refusal(forged.send().await).0,
        400,
        "the error is not a 5xx"
    );
    assert_eq!(server.text("b").await, "2");
}

#[tokio::test]
async fn an_interrupted_upload_leaves_no_files() {
    let server = Server::start().await;
    let put = server
        .client
        .put_object()
        .bucket(BUCKET)
        .key("a")
        .content_length(1_000_000);
    let lives = PresigningConfig::expires_in(Duration::from_mins(1)).unwrap();
    let url = put.presigned(lives).await.unwrap();
    let uri: http::Uri = url.uri().parse().unwrap();
    let mut socket = TcpStream::connect(server.address).await.unwrap();
    let head = format!(
        "PUT {} HTTP/1.1\r\nhost: {}\r\ncontent-length: 1000000\r\n\r\n",
        uri.path_and_query().unwrap(),
        server.address
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    socket.write_all(&vec![7; 500_000]).await.unwrap();
    socket.flush().await.unwrap();
    wait(|| server.blobs() == 1, "half of the body is being written").await;
    drop(socket);
    wait(
        || server.blobs() == 0,
        "the half is removed when the connection ends",
    )
    .await;
    let none = server
        .client
        .head_object()
        .bucket(BUCKET)
        .key("a")
        .send()
        .await;
    assert_eq!(refusal(none).0, 404, "no object came of it");
}

async fn wait(mut holds: impl FnMut() -> bool, claim: &str) {
    for _ in 0..500 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{claim}");
}

#[tokio::test]
async fn a_large_body_does_not_hide_its_refusal() {
    let server = Server::start().await;
    let put = server.client.put_object().bucket("no-such-bucket").key("a");
    let put = put.body(ByteStream::from(vec![7; 20_000_000])).send().await;
    assert_eq!(refusal(put), code(404, "NoSuchBucket"));
}
