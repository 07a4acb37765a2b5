//! A listening server, a stock git, and fixture repositories with fixed dates.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use aws_sdk_codecommit::Client;
use aws_sdk_codecommit::config::{BehaviorVersion, Region, retry::RetryConfig};
use branchline_dev::account::{Account, Credentials};
use branchline_dev::aws_json::{ApiError, ApiResult, response};
use branchline_dev::codecommit::{CodeCommitService, Limits};
use branchline_dev::git_http::{BoxBody, GitHttp};
use branchline_dev::ref_observer::{RefObserver, RefUpdate};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use jiff::Timestamp;
use serde_json::Value;

pub(crate) const PRINCIPAL: &str = "arn:aws:iam::123456789012:user/dev";
pub(crate) const ZERO: &str = "0000000000000000000000000000000000000000";

/// Observer that records its notifications.
#[derive(Default)]
pub(crate) struct Recorder(Mutex<Vec<(String, String, Vec<RefUpdate>)>>);

impl RefObserver for Recorder {
    fn refs_changed(&self, repository: &str, principal_arn: &str, updates: &[RefUpdate]) {
        let reported = (
            repository.to_owned(),
            principal_arn.to_owned(),
            updates.to_vec(),
        );
        self.0.lock().unwrap().push(reported);
    }
}

impl Recorder {
    /// Takes the notifications since the last call, a line each.
    pub(crate) fn take(&self) -> Vec<String> {
        let short = |id: &Option<String>| id.as_deref().map_or("-".into(), |id| id[..7].to_owned());
        let reported = std::mem::take(&mut *self.0.lock().unwrap());
        reported
            .iter()
            .map(|(repository, principal, updates)| {
                assert_eq!(principal, PRINCIPAL, "the caller is named");
                let mut line = repository.clone();
                for update in updates {
                    write!(
                        line,
                        " {} {}..{}",
                        update.name,
                        short(&update.old),
                        short(&update.new)
                    )
                    .unwrap();
                }
                line
            })
            .collect()
    }
}

/// A server on a port of its own, stopped when it is dropped.
pub(crate) struct Server {
    pub(crate) service: CodeCommitService,
    pub(crate) git: GitHttp,
    pub(crate) observer: Arc<Recorder>,
    pub(crate) credentials: Credentials,
    pub(crate) url: String,
    pub(crate) dir: tempfile::TempDir,
    accept: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accept.abort();
    }
}

pub(crate) fn account() -> (Account, Credentials) {
    let account = Account::new("123456789012", "eu-west-1");
    let credentials = Credentials {
        access_key_id: "AKIDDEV".into(),
        secret_access_key: "secret".into(),
        session_token: None,
        principal_arn: PRINCIPAL.into(),
    };
    account.add(credentials.clone());
    account.add(Credentials {
        access_key_id: "ASIAROLE".into(),
        session_token: Some("to/ken+%==".into()),
        ..credentials.clone()
    });
    (account, credentials)
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::start_with(Limits::default()).await
    }

    pub(crate) async fn start_with(limits: Limits) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (account, credentials) = account();
        let observer = Arc::new(Recorder::default());
        let reported: Arc<dyn RefObserver> = Arc::<Recorder>::clone(&observer);
        let home = dir.path().join("repositories");
        let service =
            CodeCommitService::open_with(home, account.clone(), reported, limits).unwrap();
        let git = GitHttp::new(service.clone(), account);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        service.set_base_url(&url);
        let accept = tokio::spawn(accept(listener, service.clone(), git.clone()));
        Self {
            service,
            git,
            observer,
            credentials,
            url,
            dir,
            accept,
        }
    }

    /// Starts a server that has the empty repository `demo`.
    pub(crate) async fn with_demo() -> Self {
        let server = Self::start().await;
        let input = serde_json::json!({ "repositoryName": "demo" });
        server.call("CreateRepository", input).await.unwrap();
        server
    }

    pub(crate) async fn call(&self, operation: &str, input: Value) -> ApiResult {
        self.service.call(operation, input, PRINCIPAL).await
    }

    pub(crate) async fn error(&self, operation: &str, input: Value) -> ApiError {
        let shown = input.to_string();
        match self.call(operation, input).await {
            Err(error) => error,
            Ok(output) => panic!("{operation} {shown} must be refused: {output}"),
        }
    }

    pub(crate) fn git_url(&self, repository: &str) -> String {
        self.git
            .git_url(repository, &self.credentials, Timestamp::now())
    }

    pub(crate) fn sdk(&self) -> Client {
        let credentials = aws_credential_types::Credentials::for_tests();
        let config = aws_sdk_codecommit::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("eu-west-1"))
            .endpoint_url(&self.url)
            .retry_config(RetryConfig::disabled())
            .credentials_provider(credentials)
            .http_client(aws_smithy_http_client::Builder::new().build_http())
            .build();
        Client::from_conf(config)
    }

    /// Starts a server with the fixture pushed to `demo`; returns the client's local repository, too.
    pub(crate) async fn with_fixture() -> (Self, PathBuf) {
        let server = Self::with_demo().await;
        let local = fixture(server.dir.path());
        run(
            &local,
            &["push", "--quiet", &server.git_url("demo"), "--all"],
        );
        server.observer.take();
        (server, local)
    }
}

async fn accept(listener: tokio::net::TcpListener, service: CodeCommitService, git: GitHttp) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            return;
        };
        let (service, git) = (service.clone(), git.clone());
        let handler = hyper::service::service_fn(move |request: Request<Incoming>| {
            let (service, git) = (service.clone(), git.clone());
            async move { Ok::<_, Infallible>(route(&service, &git, request).await) }
        });
        tokio::spawn(async move {
            let builder = hyper::server::conn::http1::Builder::new();
            let _ = builder
                .serve_connection(TokioIo::new(stream), handler)
                .await;
        });
    }
}

async fn route(
    service: &CodeCommitService,
    git: &GitHttp,
    request: Request<Incoming>,
) -> Response<BoxBody> {
    let target = request.headers().get("x-amz-target");
    let Some(target) = target.map(|target| target.to_str().unwrap().to_owned()) else {
        return git.call(request).await;
    };
    let operation = target.strip_prefix("CodeCommit_20150413.").unwrap();
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let input = serde_json::from_slice(&body).unwrap();
    response(service.call(operation, input, PRINCIPAL).await).map(|body| {
        let body = Full::new(Bytes::from(body));
        body.map_err(|never| match never {}).boxed_unsync()
    })
}

/// Returns a plain HTTP client.
pub(crate) fn http() -> hyper_util::client::legacy::Client<
    hyper_util::client::legacy::connect::HttpConnector,
    Full<Bytes>,
> {
    hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build_http()
}

/// Builds a hermetic command of stock git in `dir`.
pub(crate) fn git(dir: &Path) -> Command {
    let mut command = branchline_test_support::git::command(dir);
    // Syncing 4000 refs would wait 4000 times for the disk.
    command.args(["-c", "core.fsync=none"]);
    command
}

/// Runs git and returns its stdout; it must succeed.
pub(crate) fn run(dir: &Path, arguments: &[&str]) -> String {
    String::from_utf8_lossy(&run_with(dir, arguments, b"").stdout)
        .trim_end()
        .to_owned()
}

/// Runs git, which must fail, and returns its stderr.
pub(crate) fn fail(dir: &Path, arguments: &[&str]) -> String {
    let output = git(dir).args(arguments).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success(),
        "git {arguments:?} must fail: {stderr}"
    );
    stderr
}

pub(crate) fn run_with(dir: &Path, arguments: &[&str], input: &[u8]) -> Output {
    use std::io::Write as _;
    let mut command = git(dir);
    command.args(arguments).stdin(Stdio::piped());
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let writer = std::thread::spawn(move || {
        let _ = stdin.write_all(&input);
    });
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "git {arguments:?}: {stderr}");
    output
}

/// Creates a bare repository of two commits on `main` and a branch `feature/x`, with each kind of
/// entry, names with special characters, and an empty file.
pub(crate) fn fixture(parent: &Path) -> PathBuf {
    let local = parent.join("local.git");
    run(
        parent,
        &[
            "init",
            "--quiet",
            "--bare",
            "--initial-branch=main",
            "local.git",
        ],
    );
    let mut stream: Vec<u8> = Vec::new();
    let mut commit = |reference: &str, message: &str, changes: &[(&str, &str, &str)]| {
        stream.extend_from_slice(format!("commit {reference}\n").as_bytes());
        stream.extend_from_slice(b"author A U Thor <author@example.com> 1700000000 +0100\n");
        stream
            .extend_from_slice(b"committer C O Mitter <committer@example.com> 1700000060 -0230\n");
        stream.extend_from_slice(format!("data {}\n{message}\n", message.len()).as_bytes());
        for (mode, path, content) in changes {
            stream.extend_from_slice(format!("M {mode} ").as_bytes());
            if *mode == "160000" {
                stream.extend_from_slice(format!("{content} ").as_bytes());
                stream.extend_from_slice(path.as_bytes());
                stream.push(b'\n');
            } else {
                stream.extend_from_slice(b"inline ");
                stream.extend_from_slice(path.as_bytes());
                stream
                    .extend_from_slice(format!("\ndata {}\n{content}\n", content.len()).as_bytes());
            }
        }
        stream.push(b'\n');
    };
    let module = "1234567890123456789012345678901234567890";
    commit(
        "refs/heads/main",
        "first\n\nwith a body\n",
        &[
            ("100644", "README.md", "hello\n"),
            ("100644", "empty", ""),
            ("100755", "bin/run", "#!/bin/sh\n"),
            ("120000", "link", "README.md"),
            ("160000", "vendor/module", module),
            ("100644", "a/b/c/d/deep.txt", "deep\n"),
            ("100644", "caf\u{e9}/\u{1f600}", "wide\n"),
            ("100644", "sp ace/x y", "spaces\n"),
            ("100644", r#""line\nfeed/file""#, "line feed\n"),
            ("100644", r#""bad/\377name""#, "no UTF-8\n"),
        ],
    );
    commit(
        "refs/heads/main",
        "second\n",
        &[
            ("100755", "README.md", "hello\n"),
            ("100644", "a/b/c/d/deep.txt", "deeper\n"),
            ("100644", "a/new", "new\n"),
        ],
    );
    stream.extend_from_slice(b"commit refs/heads/feature/x\ncommitter C <c@x> 1700000120 +0000\n");
    stream.extend_from_slice(b"data 6\nthird\n\nfrom refs/heads/main\nD empty\nR a renamed\n\n");
    run_with(&local, &["fast-import", "--quiet"], &stream);
    local
}
