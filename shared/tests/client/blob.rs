//! Admission of blobs: the body of an answer is not read before it is admitted, and its
//! permit is released meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use branchline_core::ErrorKind;
use branchline_core::codecommit::client::SdkCodeCommit;
use branchline_core::codecommit::{BlobAdmission, CodeCommit, Unlimited};
use branchline_core::name::{BlobId, RepositoryName};
use branchline_core::retry::{RetryPolicy, Retrying};
use branchline_core::testkit::{Entry, Failing, FaultPlan, MemoryCodeCommit, When};
use tokio::io::AsyncWriteExt;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::client::canned_http_server::{Server, answer};

fn repository() -> RepositoryName {
    RepositoryName::new("repo").unwrap()
}

fn blob() -> BlobId {
    BlobId::new("0123456789012345678901234567890123456789").unwrap()
}

/// Admission that a test controls, and that records its calls.
struct Gatekeeper {
    asked: AtomicUsize,
    last_size: AtomicUsize,
    open: Semaphore,
}

impl Gatekeeper {
    fn new(open: usize) -> Self {
        Self {
            asked: AtomicUsize::new(0),
            last_size: AtomicUsize::new(0),
            open: Semaphore::new(open),
        }
    }

    async fn until_asked(&self, times: usize) {
        while self.asked.load(Ordering::SeqCst) < times {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

#[async_trait]
impl BlobAdmission for Gatekeeper {
    async fn admit(&self, size_bytes: u64) {
        let size = usize::try_from(size_bytes).unwrap();
        self.last_size.store(size, Ordering::SeqCst);
        self.asked.fetch_add(1, Ordering::SeqCst);
        self.open.acquire().await.unwrap().forget();
    }
}

/// Makes a JSON answer whose content decodes to `bytes` bytes, a multiple of 3.
fn content(bytes: usize) -> String {
    let body = format!(r#"{{"content":"{}"}}"#, "QUJD".repeat(bytes / 3));
    answer(200, &[], &body)
}

#[tokio::test]
async fn a_body_is_not_read_before_it_is_admitted() {
    // Larger than the buffers of two sockets, so that the server waits for the reader.
    const BYTES: usize = 24 << 20;
    let (done, sent) = tokio::sync::watch::channel(false);
    let server = Server::with(move |mut stream, _| {
        let done = done.clone();
        async move {
            if stream.write_all(content(BYTES).as_bytes()).await.is_ok() {
                done.send_replace(true);
            }
        }
    })
    .await;
    let client = SdkCodeCommit::new(&server.aws().with_idle_timeout(Duration::from_millis(200)));
    let keeper = Gatekeeper::new(0);
    let (repository, blob_id) = (repository(), blob());
    let mut call = client.get_blob(&repository, blob_id, &keeper);
    let waited = timeout(Duration::from_millis(600), &mut call).await;
    assert!(waited.is_err(), "the call waits for its admission");
    assert_eq!(keeper.asked.load(Ordering::SeqCst), 1);
    let size = keeper.last_size.load(Ordering::SeqCst);
    assert!(
        (BYTES..BYTES + 64).contains(&size),
        "the decoded size is asked for: {size}"
    );
    assert!(!*sent.borrow(), "the server has not sent the unread part");

    keeper.open.add_permits(1);
    let body = call.await.expect("a delayed answer is not cut");
    assert_eq!(body.len(), BYTES);
    assert!(body.starts_with(b"ABCABC"));
}

#[tokio::test]
async fn an_answer_without_a_length_is_admitted_as_the_largest() {
    let body = r#"{"content":"QUJD"}"#;
    let text = format!("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{body}");
    let server = Server::answering(text).await;
    let client = SdkCodeCommit::new(&server.aws());
    let keeper = Gatekeeper::new(1);
    let read = client.get_blob(&repository(), blob(), &keeper).await;
    assert_eq!(read.unwrap(), "ABC");
    assert_eq!(keeper.last_size.load(Ordering::SeqCst), 6 << 20);
}

#[tokio::test]
async fn a_refusal_is_not_admitted() {
    let body = r#"{"__type":"FileTooLargeException","message":"m"}"#;
    let server = Server::answering(answer(400, &[], body)).await;
    let client = SdkCodeCommit::new(&server.aws());
    let keeper = Gatekeeper::new(0);
    let error = client.get_blob(&repository(), blob(), &keeper).await;
    assert_eq!(error.unwrap_err().kind(), ErrorKind::FileTooLarge);
    assert_eq!(keeper.asked.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn an_answer_that_pauses_too_long_is_cut() {
    let server = Server::with(|mut stream, _| async move {
        let text = content(3000);
        let _ = stream.write_all(&text.as_bytes()[..1000]).await;
        std::future::pending::<()>().await;
    })
    .await;
    let client = SdkCodeCommit::new(&server.aws().with_idle_timeout(Duration::from_millis(50)));
    let repository = repository();
    let read = client.get_blob(&repository, blob(), &Unlimited);
    let read = timeout(Duration::from_secs(10), read).await;
    let error = read.expect("the silence ends the call").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transport);
    assert!(error.report().contains("paused"), "{}", error.report());
}

#[tokio::test]
async fn a_waiting_body_releases_its_permit() {
    let server = Server::answering(content(300)).await;
    let client = Retrying::new(SdkCodeCommit::new(&server.aws()), RetryPolicy::new(1));
    let keeper = Gatekeeper::new(0);
    let (repository, blob_id) = (repository(), blob());
    let waiting = client.get_blob(&repository, blob_id, &keeper);
    let other = async {
        keeper.until_asked(1).await;
        // The only permit is free, although the first call has not ended.
        let read = client.get_blob(&repository, blob_id, &Unlimited);
        let read = timeout(Duration::from_secs(10), read).await;
        keeper.open.add_permits(1);
        read.expect("a permit is free").unwrap()
    };
    let (first, second) = tokio::join!(waiting, other);
    assert_eq!(first.unwrap().len(), 300);
    assert_eq!(second.len(), 300);
}

#[tokio::test]
async fn a_body_admitted_at_once_keeps_its_permit() {
    let memory = Arc::new(MemoryCodeCommit::new());
    let repository = repository();
    let commit = memory.commit(&repository, "main", &[("a", Entry::file("abc"))]);
    let folder = memory.get_folder(&repository, commit, "").await.unwrap();
    let blob = folder.entries[0].id.into();
    memory.traffic().set_latency(Duration::from_millis(1));
    let client = Retrying::new(Arc::clone(&memory), RetryPolicy::new(2));
    let calls = (0..20).map(|_| client.get_blob(&repository, blob, &Unlimited));
    for read in futures_util::future::join_all(calls).await {
        assert_eq!(read.unwrap(), "abc");
    }
    assert_eq!(memory.traffic().peak(), 2, "no more in flight than allowed");
}

#[tokio::test(start_paused = true)]
async fn a_retried_blob_is_admitted_once() {
    let memory = Arc::new(MemoryCodeCommit::new());
    let repository = repository();
    let commit = memory.commit(&repository, "main", &[("a", Entry::file("abc"))]);
    let folder = memory.get_folder(&repository, commit, "").await.unwrap();
    let script = FaultPlan::new();
    script.fail_method("get_blob", 1, ErrorKind::Transport, When::After);
    script.fail_method("get_blob", 2, ErrorKind::Throttled, When::Before);
    let client = Retrying::new(Failing::new(memory, &script), RetryPolicy::new(1));
    let keeper = Gatekeeper::new(1);
    let read = client.get_blob(&repository, folder.entries[0].id.into(), &keeper);
    assert_eq!(read.await.unwrap(), "abc");
    assert_eq!(script.count("get_blob"), 3);
    assert_eq!(
        keeper.asked.load(Ordering::SeqCst),
        1,
        "the admission is kept"
    );
}
