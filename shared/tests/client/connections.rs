//! Pooled connections that were cut without a word, for AWS clients and for git.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use branchline_core::aws::{Aws, HttpSettings, git_http};
use branchline_core::codecommit::CodeCommit as _;
use branchline_core::codecommit::client::SdkCodeCommit;
use branchline_core::git::advertisement::Version;
use branchline_core::git::smart_http::{NoCredentials, RepositoryUrl, SmartHttp};
use branchline_core::name::{BranchName, RepositoryName};
use branchline_core::retry::{RetryPolicy, Retrying};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::client::canned_http_server::{aws, read_request};

/// Longer than the pause after which no pooled connection is used.
const PAUSE: Duration = Duration::from_millis(5_300);

/// Time in which an answer arrives unless a dead connection is waited for.
const SOON: Duration = Duration::from_secs(3);

/// Effect of a cut on requests of earlier connections.
#[derive(Clone, Copy)]
enum Cut {
    /// They get no answer.
    Silent,
    /// They get no answer, and the connection is closed.
    Closed,
}

/// Server whose connections stay open, and can be cut.
struct PersistentServer {
    aws: Aws,
    url: String,
    cuts: Arc<AtomicUsize>,
    connections: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl PersistentServer {
    async fn start(kind: Cut) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (cuts, connections) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let mut tasks = JoinSet::new();
        let (now, opened) = (Arc::clone(&cuts), Arc::clone(&connections));
        tasks.spawn(async move {
            let mut serving = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                opened.fetch_add(1, Ordering::SeqCst);
                serving.spawn(serve(stream, Arc::clone(&now), kind));
            }
        });
        Self {
            aws: aws(address),
            url: format!("http://{address}/repository.git"),
            cuts,
            connections,
            _tasks: tasks,
        }
    }

    /// Cuts all connections.
    fn cut(&self) {
        self.cuts.fetch_add(1, Ordering::SeqCst);
    }

    /// Number of connections so far.
    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

async fn serve(mut stream: TcpStream, cuts: Arc<AtomicUsize>, kind: Cut) {
    let opened_after = cuts.load(Ordering::SeqCst);
    while let Some(request) = read_request(&mut stream).await {
        if cuts.load(Ordering::SeqCst) != opened_after {
            match kind {
                Cut::Silent => std::future::pending().await,
                Cut::Closed => return,
            }
        }
        // So that concurrent requests use connections of their own.
        tokio::time::sleep(Duration::from_millis(100)).await;
        let id = "0".repeat(40);
        let (content_type, body) = if request.head.starts_with("GET") {
            let reference = format!("{id} capabilities^{{}}\0ofs-delta\n");
            let body = format!(
                "001e# service=git-upload-pack\n0000{:04x}{reference}0000",
                reference.len() + 4
            );
            ("application/x-git-upload-pack-advertisement", body)
        } else {
            let id = "1".repeat(40);
            let body = format!(r#"{{"branch":{{"branchName":"main","commitId":"{id}"}}}}"#);
            ("application/x-amz-json-1.1", body)
        };
        let answer = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// Sends `count` requests at once to CodeCommit; returns the duration.
async fn get_branches(client: &Retrying<SdkCodeCommit>, count: usize) -> Duration {
    let begin = Instant::now();
    let repository = RepositoryName::new("demo").unwrap();
    let branch = BranchName::new("main").unwrap();
    let calls = (0..count).map(|_| client.get_branch(&repository, &branch));
    for result in futures_util::future::join_all(calls).await {
        result.expect("every request gets an answer");
    }
    begin.elapsed()
}

#[tokio::test]
async fn after_a_pause_no_earlier_connection_is_used() {
    let server = PersistentServer::start(Cut::Silent).await;
    let client = Retrying::new(SdkCodeCommit::new(&server.aws), RetryPolicy::new(32));
    get_branches(&client, 32).await;
    get_branches(&client, 32).await;
    assert_eq!(server.connections(), 32, "connections are kept");
    server.cut();
    tokio::time::sleep(PAUSE).await;
    let duration = get_branches(&client, 32).await;
    assert!(duration < SOON, "{duration:?}");
    assert_eq!(server.connections(), 64);
    let (requests, _) = client.policy().limiter().request_and_throttle_counts();
    assert_eq!(requests, 3 * 32, "none is retried");
}

#[tokio::test]
async fn a_retry_after_a_lost_answer_takes_a_new_connection() {
    let server = PersistentServer::start(Cut::Closed).await;
    let client = Retrying::new(SdkCodeCommit::new(&server.aws), RetryPolicy::new(32));
    get_branches(&client, 32).await;
    server.cut();
    let duration = get_branches(&client, 1).await;
    assert!(duration < SOON, "{duration:?}");
    let (requests, _) = client.policy().limiter().request_and_throttle_counts();
    assert_eq!(requests, 32 + 2, "the first retry gets an answer");
}

fn git(server: &PersistentServer) -> SmartHttp {
    let settings = HttpSettings {
        answer_timeout: Duration::from_secs(1),
        idle_timeout: Duration::from_secs(1),
        ..HttpSettings::default()
    };
    let url = RepositoryUrl::new(&server.url).unwrap();
    let client = SmartHttp::new(git_http(&settings).unwrap(), url, Arc::new(NoCredentials));
    client.with_version(Version::V0)
}

/// Requests the refs `count` times at once; returns the number of failures.
async fn get_refs(client: &SmartHttp, count: usize) -> usize {
    let calls = (0..count).map(|_| client.upload_pack(&[]));
    let results = futures_util::future::join_all(calls).await;
    results.iter().filter(|result| result.is_err()).count()
}

#[tokio::test]
async fn git_uses_no_earlier_connection_after_a_pause() {
    let server = PersistentServer::start(Cut::Silent).await;
    let client = git(&server);
    assert_eq!(get_refs(&client, 4).await, 0);
    assert_eq!(get_refs(&client, 4).await, 0);
    assert_eq!(server.connections(), 4, "connections are kept");
    server.cut();
    tokio::time::sleep(PAUSE).await;
    assert_eq!(get_refs(&client, 4).await, 0);
    assert_eq!(server.connections(), 8);
}

#[tokio::test]
async fn git_takes_a_new_connection_after_an_answer_that_did_not_arrive() {
    let server = PersistentServer::start(Cut::Silent).await;
    let client = git(&server);
    assert_eq!(get_refs(&client, 4).await, 0);
    server.cut();
    assert_eq!(get_refs(&client, 1).await, 1, "the connection is dead");
    assert_eq!(get_refs(&client, 4).await, 0, "the others are not used");
}
