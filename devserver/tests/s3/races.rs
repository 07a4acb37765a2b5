//! Concurrent conditional writes have exactly one winner.

use aws_sdk_s3::primitives::ByteStream;
use futures_util::future::join_all;

use crate::multipart::{all, begin, part};
use crate::support::{BUCKET, Server, code, refusal};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_of_64_conditional_puts_creates_the_object() {
    let server = Server::versioned().await;
    let results = join_all((0..64).map(|i| {
        server
            .client
            .put_object()
            .bucket(BUCKET)
            .key("lock")
            .if_none_match("*")
            .body(ByteStream::from(format!("writer {i}").into_bytes()))
            .send()
    }))
    .await;
    one_winner(&server, results, "lock").await;
    assert_eq!(server.blobs(), 1, "the losers leave nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_of_64_conditional_puts_replaces_the_object() {
    let server = Server::versioned().await;
    server.put("ref", "old").await;
    let head = server
        .client
        .head_object()
        .bucket(BUCKET)
        .key("ref")
        .send()
        .await
        .unwrap();
    let results = join_all((0..64).map(|i| {
        server
            .client
            .put_object()
            .bucket(BUCKET)
            .key("ref")
            .if_match(head.e_tag().unwrap())
            .body(ByteStream::from(format!("writer {i}").into_bytes()))
            .send()
    }))
    .await;
    one_winner(&server, results, "ref").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_of_16_uploads_becomes_the_object() {
    let server = Server::versioned().await;
    let uploads = join_all((0..16).map(|i| {
        let server = &server;
        async move {
            let upload = begin(server, "zip").await;
            let part = part(
                server,
                "zip",
                &upload,
                1,
                format!("writer {i}").into_bytes(),
            )
            .await;
            (upload, part)
        }
    }))
    .await;
    let results = join_all(uploads.into_iter().map(|(upload, part)| {
        server
            .client
            .complete_multipart_upload()
            .bucket(BUCKET)
            .key("zip")
            .upload_id(upload)
            .if_none_match("*")
            .multipart_upload(all([part]))
            .send()
    }))
    .await;
    one_winner(&server, results, "zip").await;
    assert_eq!(
        server.store.uploads(BUCKET).unwrap().len(),
        15,
        "the losers' uploads stay, to be aborted or completed otherwise"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_of_16_conditional_deletes_succeeds() {
    let server = Server::versioned().await;
    server.put("ref", "old").await;
    let head = server
        .client
        .head_object()
        .bucket(BUCKET)
        .key("ref")
        .send()
        .await
        .unwrap();
    let results = join_all((0..16).map(|_| {
        let delete = server.client.delete_object().bucket(BUCKET).key("ref");
        delete.if_match(head.e_tag().unwrap()).send()
    }))
    .await;
    let done = results.iter().filter(|result| result.is_ok()).count();
    assert_eq!(done, 1, "exactly one deletes");
    for lost in results.into_iter().filter(Result::is_err) {
        assert_eq!(
            refusal(lost),
            code(404, "NoSuchKey"),
            "the others find nothing"
        );
    }
}

async fn one_winner<T, E>(
    server: &Server,
    results: Vec<
        Result<
            T,
            aws_sdk_s3::error::SdkError<
                E,
                aws_smithy_runtime_api::client::orchestrator::HttpResponse,
            >,
        >,
    >,
    key: &str,
) where
    T: std::fmt::Debug,
    E: aws_sdk_s3::error::ProvideErrorMetadata + std::fmt::Debug,
{
    let winners: Vec<_> = (0..results.len()).filter(|i| results[*i].is_ok()).collect();
    assert_eq!(winners.len(), 1, "exactly one writer wins");
    for lost in results.into_iter().filter(Result::is_err) {
        assert_eq!(
            refusal(lost),
            code(412, "PreconditionFailed"),
            "the others get an error"
        );
    }
    assert_eq!(
        server.text(key).await,
        format!("writer {}", winners[0]),
        "the object is the winner's"
    );
}
