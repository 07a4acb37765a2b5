//! A git server that says what it is told to, without a socket.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use aws_smithy_runtime_api::client::http::{
    HttpConnector, HttpConnectorFuture, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_types::body::SdkBody;
use branchline_core::git::smart_http::{
    Http, HttpSettings, NoCredentials, RepositoryUrl, SmartHttp,
};
use bytes::Bytes;

/// Where the server is said to be.
pub(crate) const URL: &str = "https://user:s3cret@git.example/r.git";

/// One answer.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    /// 200 of the type that git expects.
    Git(Bytes),
    /// The same, said to be gzip.
    Gzip(Bytes),
    /// A redirect to there.
    Redirect(Bytes),
}

/// A request as it was made.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) uri: String,
    pub(crate) authorized: bool,
}

#[derive(Debug, Default)]
struct State {
    answers: VecDeque<Answer>,
    asked: Vec<Asked>,
}

/// The server; it has nothing more to say when its answers are used up.
#[derive(Debug, Clone, Default)]
pub(crate) struct Canned(Arc<Mutex<State>>);

impl Canned {
    pub(crate) fn new(answers: impl IntoIterator<Item = Answer>) -> Self {
        let state = State {
            answers: answers.into_iter().collect(),
            asked: Vec::new(),
        };
        Self(Arc::new(Mutex::new(state)))
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.state().asked.clone()
    }

    pub(crate) fn client(&self) -> SmartHttp {
        let connector = SharedHttpConnector::new(self.clone());
        let http = Http::with_connector(connector, &HttpSettings::default());
        let url = RepositoryUrl::new(URL).expect("because it is valid");
        SmartHttp::new(http, url, Arc::new(NoCredentials))
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HttpConnector for Canned {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let uri = request.uri().to_owned();
        let service = if uri.contains("git-receive-pack") {
            "git-receive-pack"
        } else {
            "git-upload-pack"
        };
        let kind = if request.method() == "GET" {
            "advertisement"
        } else {
            "result"
        };
        let media_type = format!("application/x-{service}-{kind}");
        let authorized = request.headers().get("authorization").is_some();
        let mut state = self.state();
        state.asked.push(Asked { uri, authorized });
        let answer = state.answers.pop_front();
        let mut response = http::Response::builder().header("content-type", media_type);
        let body = match answer.unwrap_or(Answer::Git(Bytes::new())) {
            Answer::Git(body) => body,
            Answer::Gzip(body) => {
                response = response.header("content-encoding", "gzip");
                body
            }
            Answer::Redirect(to) => {
                response = response.status(302);
                // What cannot be a header cannot arrive.
                if let Ok(to) = http::HeaderValue::from_bytes(&to) {
                    response = response.header("location", to);
                }
                Bytes::new()
            }
        };
        let response = response
            .body(SdkBody::from(body))
            .expect("because its parts were made before");
        let response =
            HttpResponse::try_from(response).expect("because its headers are text or nothing");
        HttpConnectorFuture::ready(Ok(response))
    }
}
