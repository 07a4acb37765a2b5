//! Each kind of fault as a client observes it, and the counts of requests.

use std::time::{Duration, Instant};

use aws_sdk_codecommit::error::ProvideErrorMetadata as _;
use branchline_dev::faults::Service;
use branchline_dev::server::Server;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::{
    authorization, call_pipeline, codecommit, codepipeline, dev, function, http, lambda, pipeline,
    quick, s3,
};

async fn add(server: &Server, rule: &str) {
    dev(
        server,
        "POST",
        "faults",
        json!({ "rules": [{ "rule": rule }] }),
    )
    .await;
}

/// Sends `request` over a socket and returns all bytes that are received until it closes.
async fn raw(server: &Server, request: String) -> String {
    let address = server.endpoint().replace("http://", "");
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

fn create_repository(server: &Server, name: &str) -> String {
    let body = json!({ "repositoryName": name }).to_string();
    format!(
        "POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Amz-Target: \
         CodeCommit_20150413.CreateRepository\r\nAuthorization: {}\r\nContent-Length: {}\r\n\r\n\
         {body}",
        authorization(server),
        body.len()
    )
}

#[tokio::test]
async fn each_service_throttles_with_its_own_error() {
    let server = Server::start(quick(vec![function("f")])).await.unwrap();
    add(&server, "*:throttle").await;
    let error = codecommit(&server)
        .list_repositories()
        .send()
        .await
        .unwrap_err();
    assert_eq!(error.raw_response().unwrap().status().as_u16(), 429);
    assert_eq!(
        error.into_service_error().code(),
        Some("ThrottlingException")
    );
    let error = s3(&server).list_buckets().send().await.unwrap_err();
    assert_eq!(error.raw_response().unwrap().status().as_u16(), 503);
    assert_eq!(error.into_service_error().code(), Some("SlowDown"));
    let error = codepipeline(&server)
        .list_pipelines()
        .send()
        .await
        .unwrap_err();
    assert_eq!(error.raw_response().unwrap().status().as_u16(), 400);
    assert_eq!(
        error.into_service_error().code(),
        Some("ThrottlingException")
    );
    let error = lambda(&server).list_functions().send().await.unwrap_err();
    assert_eq!(error.raw_response().unwrap().status().as_u16(), 429);
    assert_eq!(
        error.into_service_error().code(),
        Some("TooManyRequestsException")
    );
    let url = format!(
        "{}/v1/repos/r/info/refs?service=git-upload-pack",
        server.endpoint()
    );
    assert_eq!(http("GET", &url, &[], "").await.0, 429);
    dev(&server, "DELETE", "faults", Value::Null).await;
    codecommit(&server)
        .list_repositories()
        .send()
        .await
        .unwrap();
    server.shutdown().await;
}

#[tokio::test]
async fn failures_and_conflicts_have_different_errors() {
    let server = Server::start(quick(vec![])).await.unwrap();
    add(&server, "codecommit/GetBranch:error").await;
    add(&server, "codepipeline/StartPipelineExecution:conflict").await;
    add(&server, "s3/PutObject:conflict").await;
    add(&server, "s3/GetObject:error").await;
    let get = codecommit(&server)
        .get_branch()
        .repository_name("r")
        .branch_name("b");
    let error = get.send().await.unwrap_err();
    assert_eq!(error.raw_response().unwrap().status().as_u16(), 500);
    let start = codepipeline(&server).start_pipeline_execution().name("p");
    let error = start.send().await.unwrap_err().into_service_error();
    assert!(error.is_conflict_exception(), "{error:?}");
    let client = s3(&server);
    let error = client
        .put_object()
        .bucket("bucket")
        .key("k")
        .send()
        .await
        .unwrap_err();
    assert_eq!(error.raw_response().unwrap().status().as_u16(), 409);
    assert_eq!(
        error.into_service_error().code(),
        Some("ConditionalRequestConflict")
    );
    let error = client
        .get_object()
        .bucket("bucket")
        .key("k")
        .send()
        .await
        .unwrap_err();
    assert_eq!(error.into_service_error().code(), Some("InternalError"));
    server.shutdown().await;
}

#[tokio::test]
async fn a_dropped_request_was_not_carried_out_and_a_lost_answer_was() {
    let server = Server::start(quick(vec![])).await.unwrap();
    add(&server, "codecommit/CreateRepository:drop,nth=1").await;
    add(&server, "codecommit/CreateRepository:lose-answer,nth=2").await;
    for name in ["dropped", "lost"] {
        let answer = raw(&server, create_repository(&server, name)).await;
        assert_eq!(answer, "", "the connection closes without an answer");
    }
    assert_eq!(server.codecommit().repositories(), ["lost"]);
    let answer = raw(&server, create_repository(&server, "third")).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    server.shutdown().await;
}

#[tokio::test]
async fn a_cut_answer_ends_within_its_body() {
    let server = Server::start(quick(vec![])).await.unwrap();
    add(&server, "codecommit/CreateRepository:cut").await;
    let answer = raw(&server, create_repository(&server, "cut")).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let length: usize = head
        .lines()
        .find_map(|line| {
            line.to_ascii_lowercase()
                .strip_prefix("content-length: ")?
                .parse()
                .ok()
        })
        .unwrap();
    assert!(
        !body.is_empty() && body.len() < length,
        "{} of {length} bytes arrive",
        body.len()
    );
    assert_eq!(
        server.codecommit().repositories(),
        ["cut"],
        "it was carried out"
    );

    dev(&server, "DELETE", "faults", Value::Null).await;
    let client = s3(&server);
    client
        .create_bucket()
        .bucket("bucket")
        .send()
        .await
        .unwrap();
    let body = aws_sdk_s3::primitives::ByteStream::from(vec![7; 500_000]);
    client
        .put_object()
        .bucket("bucket")
        .key("k")
        .body(body)
        .send()
        .await
        .unwrap();
    add(&server, "s3/GetObject:cut").await;
    let object = client
        .get_object()
        .bucket("bucket")
        .key("k")
        .send()
        .await
        .unwrap();
    assert_eq!(object.content_length(), Some(500_000));
    assert!(object.body.collect().await.is_err(), "the client notices");
    server.shutdown().await;
}

#[tokio::test]
async fn latency_delays_requests_and_sdk_retries_succeed() {
    let server = Server::start(quick(vec![])).await.unwrap();
    add(&server, "codecommit:latency,ms=120").await;
    let started = Instant::now();
    codecommit(&server)
        .list_repositories()
        .send()
        .await
        .unwrap();
    assert!(started.elapsed() >= Duration::from_millis(120));
    dev(&server, "DELETE", "faults", Value::Null).await;
    add(&server, "codecommit:throttle,nth=1").await;
    let config = aws_sdk_codecommit::config::Builder::from(&crate::support::sdk(&server))
        .retry_config(
            aws_smithy_types::retry::RetryConfig::standard()
                .with_initial_backoff(Duration::from_millis(1)),
        )
        .sleep_impl(aws_smithy_types_sleep())
        .build();
    let client = aws_sdk_codecommit::Client::from_conf(config);
    client.list_repositories().send().await.unwrap();
    assert_eq!(
        server
            .requests()
            .count(Service::CodeCommit, "ListRepositories"),
        3,
        "the throttled request was sent again"
    );
    server.shutdown().await;
}

fn aws_smithy_types_sleep() -> aws_sdk_codecommit::config::SharedAsyncSleep {
    #[derive(Debug)]
    struct Tokio;
    impl aws_sdk_codecommit::config::AsyncSleep for Tokio {
        fn sleep(&self, duration: Duration) -> aws_sdk_codecommit::config::Sleep {
            aws_sdk_codecommit::config::Sleep::new(tokio::time::sleep(duration))
        }
    }
    aws_sdk_codecommit::config::SharedAsyncSleep::new(Tokio)
}

#[tokio::test]
async fn the_same_seed_makes_the_same_requests_fail() {
    let mut runs = Vec::new();
    for seed in [5, 5, 6] {
        let mut options = quick(vec![]);
        options.seed = Some(seed);
        options.faults = vec!["codecommit:throttle,rate=0.5".parse().unwrap()];
        let server = Server::start(options).await.unwrap();
        let client = codecommit(&server);
        let mut run = Vec::new();
        for _ in 0..40 {
            run.push(client.list_repositories().send().await.is_ok());
        }
        runs.push(run);
        server.shutdown().await;
    }
    assert_eq!(runs[0], runs[1], "a seed repeats its run");
    assert_ne!(runs[0], runs[2], "another seed gives different faults");
}

#[tokio::test]
async fn requests_are_counted_with_principal_action_and_most_in_flight() {
    let server = Server::start(quick(vec![])).await.unwrap();
    add(&server, "codecommit:latency,ms=100").await;
    let client = codecommit(&server);
    let get = || {
        client
            .get_folder()
            .repository_name("r")
            .folder_path("")
            .send()
    };
    let _ = tokio::join!(get(), get(), get());
    call_pipeline(
        &server,
        "CreatePipeline",
        json!({ "pipeline": pipeline("p", "bucket", "k", false) }),
    )
    .await;
    let found = dev(&server, "GET", "requests", Value::Null).await;
    assert_eq!(found["maxInFlight"]["codecommit"], 3);
    assert_eq!(
        found["requests"],
        json!([
            {
                "service": "codecommit",
                "operation": "GetFolder",
                "action": "codecommit:GetFolder",
                "principal": "arn:aws:iam::123456789012:user/developer",
                "count": 3,
                "failed": 3,
            },
            {
                "service": "codepipeline",
                "operation": "CreatePipeline",
                "action": "codepipeline:CreatePipeline",
                "principal": "arn:aws:iam::123456789012:user/developer",
                "count": 1,
                "failed": 0,
            },
        ])
    );
    let found = dev(&server, "DELETE", "requests", Value::Null).await;
    assert_eq!(found["requests"], json!([]));
    server.shutdown().await;
}

#[tokio::test]
async fn the_control_paths_refuse_web_pages_and_wrong_rules() {
    let server = Server::start(quick(vec![])).await.unwrap();
    let url = format!("{}/_dev/faults", server.endpoint());
    let rule = json!({ "rules": [{ "rule": "s3:error" }] }).to_string();
    let origin = [("origin", "http://example.com")];
    assert_eq!(http("POST", &url, &origin, rule).await.0, 403);
    let wrong = json!({ "rules": [{ "rule": "s3:melt" }] }).to_string();
    let (status, _, body) = http("POST", &url, &[], wrong).await;
    assert_eq!(status, 400);
    assert!(String::from_utf8_lossy(&body).contains("unknown fault `melt`"));
    assert!(server.faults().rules().is_empty());
    server.shutdown().await;
}
