//! Servers whose answers have no end. What is read of them is counted, not timed.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use aws_smithy_runtime_api::client::http::{
    HttpConnector, HttpConnectorFuture, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_types::body::SdkBody;
use branchline_core::git::ObjectId;
use branchline_core::git::advertisement::Version;
use branchline_core::git::smart_http::{
    FetchRequest, Http, HttpSettings, NoCredentials, PushRequest, RefCommand, RepositoryUrl,
    SmartHttp, TipNegotiator,
};
use branchline_core::{ErrorKind, Result};
use bytes::Bytes;
use http_body::Frame;

/// Largest number of bytes read from a server before an error: the bound of 64 MiB, and frames.
const MOST: u64 = 80 << 20;

/// A prefix, followed by endless repetitions of a chunk.
#[derive(Debug, Clone)]
struct Endless {
    start: Option<Bytes>,
    again: Bytes,
    read: Arc<AtomicU64>,
}

impl http_body::Body for Endless {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let bytes = self.start.take().unwrap_or_else(|| self.again.clone());
        let read = self.read.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        assert!(read < MOST, "the server is given up before");
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }
}

/// Whole answers, and then an endless one.
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
        let connector = SharedHttpConnector::new(self.clone());
        let http = Http::with_connector(connector, &HttpSettings::default());
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
            Ok::<_, branchline_core::Error>(())
        };
        fetched.await.unwrap_err().kind()
    }

    async fn push(&self) -> ErrorKind {
        let receive = self.client(Version::V0).receive_pack().await.unwrap();
        let request = PushRequest {
            commands: vec![RefCommand::delete("refs/heads/x", id(1))],
            pack: None,
            atomic: false,
        };
        receive.push(request).await.unwrap_err().kind()
    }
}

impl HttpConnector for Server {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let service = branchline_test_support::http::service(request.uri());
        let kind = match request.method() {
            "GET" => "advertisement",
            _ => "result",
        };
        let media_type = format!("application/x-{service}-{kind}");
        let mut response = http::Response::builder().header("content-type", media_type);
        let body = match self.whole.lock().unwrap().pop() {
            Some(bytes) => SdkBody::from(bytes),
            None => SdkBody::from_body_1_x(self.endless.clone()),
        };
        if self.gzip {
            response = response.header("content-encoding", "gzip");
        }
        let response = HttpResponse::try_from(response.body(body).unwrap()).unwrap();
        HttpConnectorFuture::ready(Ok(response))
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
