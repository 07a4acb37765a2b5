//! Servers, clients and functions for tests.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_smithy_types::retry::RetryConfig;
use branchline_dev::lambda::FunctionConfig;
use branchline_dev::server::{Options, Server};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};

/// Returns the path of the function of `examples/bootstrap.rs`.
pub(crate) fn bootstrap() -> PathBuf {
    let mut path = std::env::current_exe().unwrap();
    path.pop();
    path.pop();
    path.push("examples/bootstrap");
    assert!(
        path.is_file(),
        "{} is not built: run `cargo build -p branchline-dev --examples`",
        path.display()
    );
    path
}

/// Returns the test function, named `name`.
pub(crate) fn function(name: &str) -> FunctionConfig {
    FunctionConfig::new(name, bootstrap())
}

/// Returns options that scale a minute to 30 ms.
pub(crate) fn quick(functions: Vec<FunctionConfig>) -> Options {
    Options {
        functions,
        retry_delay_scale: 0.0005,
        seed: Some(1),
        ..Options::default()
    }
}

/// Returns the configuration of SDK clients; they do not retry unless a test enables it.
pub(crate) fn sdk(server: &Server) -> aws_config::SdkConfig {
    let found = server.credentials();
    let credentials = Credentials::new(
        &found.access_key_id,
        &found.secret_access_key,
        found.session_token.clone(),
        None,
        "test",
    );
    aws_config::SdkConfig::builder()
        .behavior_version(aws_config::BehaviorVersion::latest())
        .region(aws_config::Region::new(server.account().region.clone()))
        .endpoint_url(server.endpoint())
        .credentials_provider(SharedCredentialsProvider::new(credentials))
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .retry_config(RetryConfig::disabled())
        .build()
}

pub(crate) fn lambda(server: &Server) -> aws_sdk_lambda::Client {
    aws_sdk_lambda::Client::new(&sdk(server))
}

pub(crate) fn codecommit(server: &Server) -> aws_sdk_codecommit::Client {
    aws_sdk_codecommit::Client::new(&sdk(server))
}

pub(crate) fn codepipeline(server: &Server) -> aws_sdk_codepipeline::Client {
    aws_sdk_codepipeline::Client::new(&sdk(server))
}

pub(crate) fn s3(server: &Server) -> aws_sdk_s3::Client {
    let config = aws_sdk_s3::config::Builder::from(&sdk(server))
        .force_path_style(true)
        .build();
    aws_sdk_s3::Client::from_conf(config)
}

/// Sends a plain request; returns status and body.
pub(crate) async fn http(
    method: &str,
    url: &str,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> (u16, http::HeaderMap, Bytes) {
    let mut request = http::Request::builder().method(method).uri(url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let client = Client::builder(TokioExecutor::new()).build_http();
    let request = request.body(Full::new(body.into())).unwrap();
    let response = client.request(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (parts.status.as_u16(), parts.headers, body)
}

/// Calls one of the server's control paths, and reads its answer as JSON.
pub(crate) async fn dev(server: &Server, method: &str, path: &str, body: Value) -> Value {
    let url = format!("{}/_dev/{path}", server.endpoint());
    let body = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    let (status, _, body) = http(method, &url, &[], body).await;
    assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
    serde_json::from_slice(&body).unwrap()
}

/// Returns an `Authorization` header of an API request, without a real signature.
pub(crate) fn authorization(server: &Server) -> String {
    format!(
        "AWS4-HMAC-SHA256 Credential={}/20260101/us-east-1/x/aws4_request, SignedHeaders=host, \
         Signature=0",
        server.credentials().access_key_id
    )
}

/// Waits until `done` holds.
pub(crate) async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let limit = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < limit, "it never came that {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Returns true while a process of that id runs.
pub(crate) fn is_running(pid: u64) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // A zombie process has ended.
    stat.rsplit(')').next().is_some_and(|rest| {
        let state = rest.trim_start().chars().next();
        state.is_some_and(|state| state != 'Z')
    })
}

/// Runs git hermetically in a folder, and expects it to succeed.
pub(crate) fn git(folder: &Path, arguments: &[&str]) -> String {
    let output = branchline_test_support::git::git(folder, arguments).unwrap();
    output.trim().to_owned()
}

/// Declares a pipeline with one S3 source action named `Source` and a second stage.
pub(crate) fn pipeline(name: &str, bucket: &str, key: &str, allow_key: bool) -> Value {
    json!({
        "name": name,
        "roleArn": "arn:aws:iam::123456789012:role/pipeline",
        "pipelineType": "V2",
        "artifactStore": { "type": "S3", "location": bucket },
        "stages": [
            { "name": "Source", "actions": [{
                "name": "Source",
                "actionTypeId": {
                    "category": "Source", "owner": "AWS", "provider": "S3", "version": "1"
                },
                "configuration": {
                    "S3Bucket": bucket,
                    "S3ObjectKey": key,
                    "PollForSourceChanges": "false",
                    "AllowOverrideForS3ObjectKey": allow_key.to_string(),
                },
                "outputArtifacts": [{ "name": "source" }],
            }]},
            { "name": "Approve", "actions": [{
                "name": "Approve",
                "actionTypeId": {
                    "category": "Approval", "owner": "AWS", "provider": "Manual", "version": "1"
                },
            }]},
        ],
        "variables": [
            { "name": "BRANCH_NAME", "defaultValue": "main" },
        ],
    })
}

/// Calls CodePipeline in JSON without an SDK.
pub(crate) async fn call_pipeline(server: &Server, operation: &str, input: Value) -> (u16, Value) {
    let target = format!("CodePipeline_20150709.{operation}");
    let authorization = authorization(server);
    let headers = [
        ("x-amz-target", target.as_str()),
        ("authorization", &authorization),
        ("content-type", "application/x-amz-json-1.1"),
    ];
    let url = format!("{}/", server.endpoint());
    let (status, _, body) = http("POST", &url, &headers, input.to_string()).await;
    (status, serde_json::from_slice(&body).unwrap())
}

/// Builds a zip with one entry.
pub(crate) fn zip(name: &str, content: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    writer
        .start_file(name, zip::write::SimpleFileOptions::default())
        .unwrap();
    writer.write_all(content).unwrap();
    writer.finish().unwrap().into_inner()
}
