//! Servers whose responses have no end. The bytes that are read are counted, not timed.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use branchline_git::ObjectId;
use branchline_git::advertisement::Version;
use branchline_git::error::BoxError;
use branchline_git::smart_http::{
    ConnectError, FetchRequest, Http, HttpConnector, HttpTimeouts, NoCredentials, PushRequest,
    RefCommand, RepositoryUrl, RequestBody, ResponseStream, SmartHttp, TipNegotiator,
};
use branchline_git::{ErrorKind, Result};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use http::{Method, Request, Response};

/// The most bytes that are read from a server: the bound of 64 MiB, and frames.
const MAX_READ_BYTES: u64 = 80 << 20;

/// A start, and then one piece repeated without end.
#[derive(Debug, Clone)]
struct Endless {
    start: Option<Bytes>,
    again: Bytes,
    read: Arc<AtomicU64>,
}

impl Stream for Endless {
    type Item = Result<Bytes, BoxError>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let bytes = self.start.take().unwrap_or_else(|| self.again.clone());
        let read = self.read.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        assert!(read < MAX_READ_BYTES, "reading stops at the bound");
        Poll::Ready(Some(Ok(bytes)))
    }
}

/// Complete responses, and then an endless one.
#[derive(Debug, Clone)]
struct Server {
    whole: Arc<Mutex<Vec<Bytes>>>,
    endless: Endless,
    gzip: bool,
}

impl Server {
    fn new(whole: &[&str], start: impl Into<Bytes>, again: impl AsRef<[u8]>) -> Self {
        // Large frames, so that time goes into reading them.
        let count = 1 + 60_000 / again.as_ref().len();
        let mut whole: Vec<_> = whole
            .iter()
            .map(|text| Bytes::from((*text).to_owned()))
            .collect();
        whole.reverse();
        Self {
            whole: Arc::new(Mutex::new(whole)),
            endless: Endless {
                start: Some(start.into()),
                again: again.as_ref().repeat(count).into(),
                read: Arc::default(),
            },
            gzip: false,
        }
    }

    fn client(&self, version: Version) -> SmartHttp {
        let timeouts = HttpTimeouts {
            idle: Duration::from_mins(1),
            answer: Duration::from_mins(5),
        };
        let http = Http::new(Arc::new(self.clone()), timeouts);
        let url = RepositoryUrl::new("https://git.example/r.git").unwrap();
        SmartHttp::new(http, url, Arc::new(NoCredentials)).with_version(version)
    }

    async fn fetch(&self, version: Version) -> ErrorKind {
        let fetched = async {
            let upload = self.client(version).upload_pack(&[]).await?;
            let request = FetchRequest {
                wants: vec![id(1)],
                depth: Some(1),
                ..FetchRequest::default()
            };
            let mut tips = TipNegotiator::new((100..200).map(id));
            let mut fetched = upload.fetch(&request, &mut tips).await?;
            while fetched.pack.chunk().await?.is_some() {}
            Ok::<_, branchline_git::Error>(())
        };
        fetched.await.unwrap_err().kind()
    }

    async fn push(&self) -> ErrorKind {
        let receive = self.client(Version::V0).receive_pack().await.unwrap();
        let request = PushRequest {
            commands: vec![RefCommand::delete("refs/heads/x", id(1))],
            pack: None,
        };
        receive.push(request).await.unwrap_err().kind()
    }
}

#[async_trait]
impl HttpConnector for Server {
    async fn send(
        &self,
        request: Request<RequestBody>,
    ) -> Result<Response<ResponseStream>, ConnectError> {
        let uri = request.uri().to_string();
        let service = if uri.contains("git-receive-pack") {
            "git-receive-pack"
        } else {
            "git-upload-pack"
        };
        let kind = match *request.method() {
            Method::GET => "advertisement",
            _ => "result",
        };
        let media_type = format!("application/x-{service}-{kind}");
        let mut response = Response::builder().header("content-type", media_type);
        let body = match self.whole.lock().unwrap().pop() {
            Some(bytes) => futures_util::stream::iter([Ok(bytes)]).boxed(),
            None => self.endless.clone().boxed(),
        };
        if self.gzip {
            response = response.header("content-encoding", "gzip");
        }
        Ok(response.body(body).unwrap())
    }
}

fn id(n: u8) -> ObjectId {
    ObjectId::from_bytes_or_panic(&[n; 20])
}

fn line(text: &str) -> String {
    format!("{:04x}{text}", text.len() + 4)
}

fn version_0() -> String {
    let words = "multi_ack_detailed side-band-64k shallow";
    let first = line(&format!("{} refs/heads/main\0{words}\n", id(1)));
    format!("001e# service=git-upload-pack\n0000{first}0000")
}

const VERSION_2: &str = "000eversion 2\n000cls-refs\n0012fetch=shallow\n0000";

fn refs() -> String {
    line(&format!("{} refs/heads/main\n", id(1))) + "0000"
}

#[tokio::test]
async fn refs_and_capabilities_without_end_are_corrupt() {
    for (start, again) in [
        ("000eversion 2\n", "0004"),
        ("000eversion 2\n", "0005x"),
        ("", "0004"),
    ] {
        let server = Server::new(&[], start, again);
        assert_eq!(
            server.fetch(Version::V2).await,
            ErrorKind::Corrupt,
            "{again}"
        );
    }
    let name = "x".repeat(1000);
    let line = line(&format!("{} refs/heads/{name}\n", id(1)));
    let server = Server::new(&[VERSION_2], "", line);
    assert_eq!(server.fetch(Version::V2).await, ErrorKind::Corrupt);
}

#[tokio::test]
async fn acknowledgments_without_end_are_corrupt() {
    let unknown = line(&format!("ACK {} common\n", id(9)));
    for again in ["0000", "0008NAK\n", &unknown] {
        // The refs, a first round; then without end.
        let server = Server::new(&[&version_0()], "0000", again);
        assert_eq!(
            server.fetch(Version::V0).await,
            ErrorKind::Corrupt,
            "{again}"
        );
    }
    let (known, unknown) = (
        line(&format!("ACK {}\n", id(100))),
        line(&format!("ACK {}\n", id(9))),
    );
    let start = line("acknowledgments\n");
    for again in [&known, &unknown, "00010014acknowledgments\n"] {
        let server = Server::new(&[VERSION_2, &refs()], start.clone(), again);
        assert_eq!(
            server.fetch(Version::V2).await,
            ErrorKind::Corrupt,
            "{again}"
        );
    }
}

#[tokio::test]
async fn ends_of_history_without_end_are_corrupt() {
    let sections = line("shallow-info\n") + "0001";
    let lines = line(&format!("shallow {}", id(7)));
    let server = Server::new(&[VERSION_2, &refs()], "", sections);
    assert_eq!(server.fetch(Version::V2).await, ErrorKind::Corrupt);
    let server = Server::new(&[VERSION_2, &refs()], line("shallow-info\n"), &lines);
    assert_eq!(server.fetch(Version::V2).await, ErrorKind::Corrupt);
}

#[tokio::test]
async fn endless_progress_without_a_pack_is_corrupt() {
    let start = line("packfile\n");
    let long = line(&format!("\u{2}{}", "x".repeat(60_000)));
    for again in ["0005\u{1}", "0009\u{2}50%\n", &long] {
        let server = Server::new(&[VERSION_2, &refs()], start.clone(), again);
        assert_eq!(server.fetch(Version::V2).await, ErrorKind::Corrupt);
    }
}

#[tokio::test]
async fn a_report_without_end_is_corrupt() {
    let advertised = |words: &str| {
        let first = line(&format!("{} refs/heads/x\0{words}\n", id(1)));
        format!("001f# service=git-receive-pack\n0000{first}0000")
    };
    let plain = advertised("report-status delete-refs");
    let server = Server::new(&[&plain], line("unpack ok\n"), line("option x\n"));
    assert_eq!(server.push().await, ErrorKind::Corrupt);
    let banded = advertised("report-status side-band-64k delete-refs");
    for again in ["0009\u{2}50%\n", "0009\u{1}0000"] {
        let server = Server::new(&[&banded], "", again);
        assert_eq!(server.push().await, ErrorKind::Corrupt);
    }
}

#[tokio::test]
async fn gzip_of_endless_empty_blocks_is_corrupt() {
    let start: &[u8] = &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
    // Stored blocks of no bytes.
    let mut server = Server::new(&[], start, [0, 0, 0, 0xff, 0xff]);
    server.gzip = true;
    assert_eq!(server.fetch(Version::V2).await, ErrorKind::Corrupt);
}
