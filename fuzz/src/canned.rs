//! A git server with canned responses, without a socket.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use branchline_git::smart_http::{
    ConnectError, Http, HttpConnector, HttpTimeouts, NoCredentials, RepositoryUrl, RequestBody,
    ResponseStream, SmartHttp,
};
use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{Method, Request, Response, header};

/// The URL of the server.
pub(crate) const URL: &str = "https://user:s3cret@git.example/r.git";

/// A canned response.
#[derive(Debug, Clone)]
pub(crate) enum CannedResponse {
    /// Status 200 with the media type that git expects.
    Git(Bytes),
    /// Status 200 with the content encoding `gzip`.
    Gzip(Bytes),
    /// A redirect to a location.
    Redirect(Bytes),
}

/// A received request.
#[derive(Debug, Clone)]
pub(crate) struct CannedRequest {
    pub(crate) uri: String,
    pub(crate) authorized: bool,
}

#[derive(Debug, Default)]
struct State {
    answers: VecDeque<CannedResponse>,
    asked: Vec<CannedRequest>,
}

/// The server; it returns empty bodies after its last canned response.
#[derive(Debug, Clone, Default)]
pub(crate) struct Canned(Arc<Mutex<State>>);

impl Canned {
    pub(crate) fn new(answers: impl IntoIterator<Item = CannedResponse>) -> Self {
        let state = State {
            answers: answers.into_iter().collect(),
            asked: Vec::new(),
        };
        Self(Arc::new(Mutex::new(state)))
    }

    pub(crate) fn asked(&self) -> Vec<CannedRequest> {
        self.state().asked.clone()
    }

    pub(crate) fn client(&self) -> SmartHttp {
        let timeouts = HttpTimeouts {
            idle: Duration::from_mins(1),
            answer: Duration::from_mins(5),
        };
        let http = Http::new(Arc::new(self.clone()), timeouts);
        let url = RepositoryUrl::new(URL).expect("because it is valid");
        SmartHttp::new(http, url, Arc::new(NoCredentials))
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl HttpConnector for Canned {
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
        let kind = if *request.method() == Method::GET {
            "advertisement"
        } else {
            "result"
        };
        let media_type = format!("application/x-{service}-{kind}");
        let authorized = request.headers().contains_key(header::AUTHORIZATION);
        let mut state = self.state();
        state.asked.push(CannedRequest { uri, authorized });
        let answer = state.answers.pop_front();
        let mut response = Response::builder().header("content-type", media_type);
        let body = match answer.unwrap_or(CannedResponse::Git(Bytes::new())) {
            CannedResponse::Git(body) => body,
            CannedResponse::Gzip(body) => {
                response = response.header("content-encoding", "gzip");
                body
            }
            CannedResponse::Redirect(to) => {
                response = response.status(302);
                // A location that is not a valid header cannot arrive.
                if let Ok(to) = http::HeaderValue::from_bytes(&to) {
                    response = response.header("location", to);
                }
                Bytes::new()
            }
        };
        let body = futures_util::stream::iter([Ok(body)]).boxed();
        Ok(response
            .body(body)
            .expect("because its parts were made before"))
    }
}
