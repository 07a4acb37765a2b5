//! Requests of the SDK's clients, and their errors, over a socket with canned answers.

#![expect(
    clippy::unwrap_used,
    reason = "a failed setup fails its test by panicking"
)]

use branchline_core::ErrorKind;
use branchline_core::aws::{AccessKey, Aws};
use branchline_core::codecommit::client::SdkCodeCommit;
use branchline_core::function::client::SdkFunctions;
use branchline_core::function::{FunctionArn, Functions as _};
use branchline_core::name::RepositoryName;
use branchline_core::pattern::BranchPatterns;
use branchline_core::trigger::{
    PendingInvocations, Policy, ReconcileOutcome, Reconciler, TriggerLimits, TriggerPrefix,
};
use bytes::Bytes;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

const UPDATE: &str = "arn:aws:lambda:eu-west-1:111122223333:function:update:live";

/// Starts a service that answers one request; the task returns the head and body it received.
async fn answering(status: &str, body: &str) -> (Aws, JoinHandle<(String, String)>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let answer = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/x-amz-json-1.1\r\n\
         x-amzn-requestid: id-1\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    let server = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            stream.read_line(&mut head).await.unwrap();
        }
        let head = head.to_lowercase();
        let length = head.split("content-length: ").nth(1).map_or(0, |rest| {
            rest.split("\r\n").next().unwrap().parse().unwrap()
        });
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.unwrap();
        stream.write_all(answer.as_bytes()).await.unwrap();
        (head, String::from_utf8(body).unwrap())
    });
    let key = AccessKey {
        id: "AKID".into(),
        secret: "SECRET".into(),
        session_token: None,
    };
    (Aws::fixed("eu-west-1", &endpoint, &key), server)
}

#[tokio::test]
async fn a_function_is_invoked_asynchronously_with_the_unchanged_payload() {
    let (aws, server) = answering("202 Accepted", "").await;
    let function = FunctionArn::new(UPDATE).unwrap();
    let payload = Bytes::from_static(b"{\"Records\": []}");
    SdkFunctions::new(&aws)
        .invoke_async(&function, payload.clone())
        .await
        .unwrap();
    let (head, body) = server.await.unwrap();
    let path = "/2015-03-31/functions/arn%3aaws%3alambda%3aeu-west-1%3a111122223333%3afunction%3aupdate%3alive/invocations";
    assert!(head.starts_with(&format!("post {path}")), "{head}");
    assert!(head.contains("x-amz-invocation-type: event\r\n"), "{head}");
    assert_eq!(body.as_bytes(), payload);
}

#[tokio::test]
async fn a_refused_invocation_names_the_action_and_the_function() {
    for (status, code, kind, parts) in [
        (
            "403 Forbidden",
            "AccessDeniedException",
            ErrorKind::AccessDenied,
            ["`lambda:InvokeFunction`", UPDATE],
        ),
        (
            "404 Not Found",
            "ResourceNotFoundException",
            ErrorKind::NotFound,
            ["UPDATE_FUNCTION_ARN", UPDATE],
        ),
        (
            "429 Too Many Requests",
            "TooManyRequestsException",
            ErrorKind::Throttled,
            ["`Invoke`", UPDATE],
        ),
    ] {
        let body = format!("{{\"__type\":\"{code}\",\"Message\":\"no\"}}");
        let (aws, _server) = answering(status, &body).await;
        let function = FunctionArn::new(UPDATE).unwrap();
        let error = SdkFunctions::new(&aws)
            .invoke_async(&function, Bytes::from_static(b"{}"))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), kind, "{}", error.report());
        for part in parts {
            assert!(error.report().contains(part), "{}", error.report());
        }
    }
}

#[tokio::test]
async fn a_denied_reconciliation_names_the_action_and_the_repository() {
    let body = "{\"__type\":\"AccessDeniedException\",\"Message\":\"no\"}";
    let (aws, _server) = answering("400 Bad Request", body).await;
    let policy = Policy {
        branches: BranchPatterns::default(),
        prefix: TriggerPrefix::default(),
        destination: FunctionArn::new(UPDATE).unwrap(),
        custom_data: None,
        filters: Vec::new(),
    };
    let reconciler = Reconciler {
        codecommit: &SdkCodeCommit::new(&aws),
        policy: &policy,
        limits: TriggerLimits::default(),
        jitter: || 0.0,
    };
    let repository = RepositoryName::new("demo").unwrap();
    let outcome = reconciler
        .run(&repository, &mut PendingInvocations::default())
        .await
        .unwrap();
    let ReconcileOutcome::Unreadable(error) = outcome else {
        panic!("the triggers may not be read: {outcome:?}");
    };
    assert_eq!(error.kind(), ErrorKind::AccessDenied);
    for part in [
        "repository `demo`",
        "`codecommit:GetRepositoryTriggers`",
        "`arn:aws:codecommit:<region>:<account>:demo`",
    ] {
        assert!(error.report().contains(part), "{}", error.report());
    }
}
