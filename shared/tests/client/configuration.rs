//! Configuration of the SDK, read from the environment in a child process.

use std::process::Stdio;
use std::time::{Duration, Instant};

use branchline_core::aws::{Aws, AwsOverrides};
use branchline_core::codecommit::CodeCommit;
use branchline_core::codecommit::client::SdkCodeCommit;
use branchline_core::name::{BucketName, ObjectKey, RepositoryName};
use branchline_core::pipeline::client::SdkPipelines;
use branchline_core::storage::ObjectStoreExt as _;
use branchline_core::storage::client::SdkObjectStore;
use tokio::process::Command;

use crate::client::canned_http_server::{Server, answer};

/// Runs [`child`] in a process with this environment; returns what it prints.
async fn run_child(environment: &[(&str, &str)]) -> String {
    let home = tempfile::tempdir().unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args([
            "client::configuration::child",
            "--exact",
            "--ignored",
            "--nocapture",
        ])
        .env_clear()
        .env("HOME", home.path())
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

/// Child process: loads, makes a client of each kind, and calls two of them.
#[tokio::test]
#[ignore = "run by the other tests here, in a process with an environment of its own"]
async fn child() {
    let start = Instant::now();
    let aws = match Aws::load(AwsOverrides::default()).await {
        Ok(aws) => aws,
        Err(error) => return println!("error={} {}", error.kind(), error.report()),
    };
    let loaded = start.elapsed();
    let codecommit = SdkCodeCommit::new(&aws);
    let store = SdkObjectStore::new(&aws);
    let _pipelines = SdkPipelines::new(&aws);
    println!("region={}", aws.region());
    println!("load_us={}", loaded.as_micros());
    println!("init_us={}", start.elapsed().as_micros());
    let repository = RepositoryName::new("repo").unwrap();
    match codecommit.get_repository(&repository).await {
        Ok(repository) => println!("arn={}", repository.arn),
        Err(error) => println!("codecommit={} {}", error.kind(), error.report()),
    }
    let bucket = BucketName::new("artifacts").unwrap();
    let key = ObjectKey::new("k").unwrap();
    match store.get(&bucket, &key, None, None).await {
        Ok(body) => println!("body={}", String::from_utf8_lossy(&body)),
        Err(error) => println!("s3={} {}", error.kind(), error.report()),
    }
}

const CREDENTIALS: [(&str, &str); 3] = [
    ("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE"),
    ("AWS_SECRET_ACCESS_KEY", "VERYSECRETKEY"),
    ("AWS_REGION", "eu-west-1"),
];

#[tokio::test]
async fn variables_work_as_aws_documents_them() {
    let metadata =
        r#"{"repositoryMetadata":{"repositoryName":"repo","Arn":"arn:1","cloneUrlHttp":"u"}}"#;
    let codecommit = Server::answering(answer(200, &[], metadata)).await;
    let s3 = Server::answering(answer(200, &[("etag", "\"1\"")], "hello")).await;
    let (codecommit_url, s3_url) = (codecommit.url(), s3.url());
    let mut environment = CREDENTIALS.to_vec();
    environment.push(("AWS_ENDPOINT_URL_CODECOMMIT", &codecommit_url));
    environment.push(("AWS_ENDPOINT_URL_S3", &s3_url));
    let text = run_child(&environment).await;
    assert!(text.contains("region=eu-west-1"), "{text}");
    assert!(text.contains("arn=arn:1"), "{text}");
    assert!(text.contains("body=hello"), "{text}");
    let request = &s3.requests()[0];
    assert!(
        request.head.starts_with("GET /artifacts/k"),
        "path style: {}",
        request.head
    );
    let signature = request.header("authorization").unwrap_or_default();
    assert!(
        signature.contains("AKIDEXAMPLE/") && signature.contains("/eu-west-1/s3/"),
        "{signature}"
    );
}

#[tokio::test]
async fn loading_is_quick_and_makes_no_request() {
    // Without a listener, so that a request to the metadata service would be slow.
    let mut environment = CREDENTIALS.to_vec();
    environment.push(("AWS_ENDPOINT_URL", "http://127.0.0.1:1"));
    let text = run_child(&environment).await;
    let value = |name: &str| -> u64 {
        let line = text.lines().find_map(|line| line.split_once(name));
        line.expect("the child measures").1.trim().parse().unwrap()
    };
    eprintln!(
        "load {} us, with clients {} us",
        value("load_us="),
        value("init_us=")
    );
    let init = Duration::from_micros(value("init_us="));
    // Enough for a debug build on a busy machine; IMDS would take a second or more.
    assert!(init < Duration::from_millis(900), "{init:?}");
}

#[tokio::test]
async fn a_missing_region_is_an_error_with_a_hint() {
    let off = ("AWS_EC2_METADATA_DISABLED", "true");
    let text = run_child(&[off]).await;
    assert!(
        text.contains("error=Config no AWS region is configured"),
        "{text}"
    );
    assert!(text.contains("AWS_REGION"), "{text}");

    let text = run_child(&[
        off,
        ("AWS_REGION", "eu-west-1"),
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:1"),
    ])
    .await;
    assert!(
        text.contains("codecommit=Config no usable AWS credentials"),
        "{text}"
    );
    assert!(
        text.contains("s3=Config no usable AWS credentials"),
        "{text}"
    );
}
