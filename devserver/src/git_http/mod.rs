//! git over HTTP, as CodeCommit offers it.
//!
//! Protocol version 0, its capabilities only, Basic credentials signed by the `SigV4`
//! scheme "GIT", at `/v1/repos/<name>`. Requests are passed to real `git upload-pack` and
//! `git receive-pack` processes; their streams are never held whole in memory. Refs change
//! through [`CodeCommitService`] only, so that every push is reported to the observer once.

mod advertisement;
mod auth;
mod body;
mod pack_scanner;
mod pkt_line;
mod process;
mod receive;
mod upload;

use std::sync::Arc;

use branchline_core::codecommit::git_credentials::{Endpoint, GitCredentials, SigningKey, sign};
use bytes::Bytes;
use futures_util::TryStreamExt as _;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use jiff::Timestamp;
use tokio::io::AsyncReadExt as _;

use crate::account::{Account, Credentials};
use crate::codecommit::{CodeCommitService, Repository};
use crate::http_body::BoxError;

use advertisement::GitService;
use auth::Identity;
use body::RequestBody;
use process::GitProcess;

/// Body of an answer.
pub type BoxBody = UnsyncBoxBody<Bytes, std::io::Error>;

/// Start of all paths.
const PREFIX: &str = "/v1/repos/";

/// Serves git's smart HTTP protocol over the repositories of a [`CodeCommitService`].
#[derive(Debug, Clone)]
pub struct GitHttp {
    service: CodeCommitService,
    account: Account,
}

/// Operation that a request's path selects.
#[derive(Debug, PartialEq, Eq)]
struct Route<'a> {
    repository: &'a str,
    service: GitService,
    only_refs: bool,
}

impl GitHttp {
    /// Creates a server of the repositories of `service`, open to the credentials of `account`.
    pub fn new(service: CodeCommitService, account: Account) -> Self {
        Self { service, account }
    }

    /// Answers one request.
    pub async fn call<B>(&self, request: Request<B>) -> Response<BoxBody>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let (parts, body) = request.into_parts();
        let query = parts.uri.query().unwrap_or_default();
        let Some(route) = route(&parts.method, parts.uri.path(), query) else {
            return text(StatusCode::NOT_FOUND, "Not Found\n");
        };
        let path = format!("{PREFIX}{}", route.repository);
        let principal = match auth::identify(&parts.headers, &path, &self.account, Timestamp::now())
        {
            Identity::Principal(principal) => principal,
            Identity::None => return unauthorized(),
            Identity::Refused(why) => {
                tracing::info!(
                    repository.name = route.repository,
                    "git access denied: {why}"
                );
                return text(
                    StatusCode::FORBIDDEN,
                    "<AccessDeniedException><Message>Invalid request</Message>\
                     </AccessDeniedException>",
                );
            }
        };
        let Some(repository) = self.service.find(route.repository) else {
            return text(StatusCode::NOT_FOUND, "<RepositoryDoesNotExistException/>");
        };
        if route.only_refs {
            return answer(advertise(route.service, &repository).await);
        }
        let body = body.map_err(Into::into).boxed_unsync();
        let body = match RequestBody::new(&parts.headers, body) {
            Ok(body) => body,
            Err(error) => return text(StatusCode::UNSUPPORTED_MEDIA_TYPE, &error.to_string()),
        };
        answer(match route.service {
            GitService::UploadPack => fetch(&repository, body).await,
            GitService::ReceivePack => {
                let done = receive::serve(&self.service, &repository, &principal, body).await;
                done.map(|report| result(route.service, full(report)))
            }
        })
    }
}

/// Parses `path`; `None` for paths that CodeCommit does not serve (`<name>.git`,
/// dumb HTTP, a slash too many).
fn route<'a>(method: &Method, path: &'a str, query: &str) -> Option<Route<'a>> {
    let (repository, rest) = path.strip_prefix(PREFIX)?.split_once('/')?;
    branchline_core::name::RepositoryName::new(repository).ok()?;
    let (service, only_refs) = match (method, rest) {
        (&Method::GET, "info/refs") => {
            let mut pairs = query.split('&');
            let name = pairs.find_map(|pair| pair.strip_prefix("service="))?;
            (GitService::from_name(name)?, true)
        }
        (&Method::POST, name) => (GitService::from_name(name)?, false),
        _ => return None,
    };
    Some(Route {
        repository,
        service,
        only_refs,
    })
}

async fn advertise(
    service: GitService,
    repository: &Repository,
) -> Result<Response<BoxBody>, BoxError> {
    let (process, stdin, mut stdout) = GitProcess::start(service, &repository.dir, true)?;
    drop(stdin);
    let mut own = Vec::new();
    stdout.read_to_end(&mut own).await?;
    let (status, error_lines) = process.finish().await?;
    if !status.success() {
        return Err(format!("git {}: {error_lines}", service.command()).into());
    }
    let refs = advertisement::rewrite(service, &own).ok_or("git's refs have no known shape")?;
    let kind = format!("application/x-{}-advertisement", service.name());
    Ok(response(&kind, full(refs)))
}

async fn fetch(
    repository: &Arc<Repository>,
    mut body: RequestBody,
) -> Result<Response<BoxBody>, BoxError> {
    let answer = match upload::read_wants(&mut body).await? {
        upload::Wants::Accepted(read) => upload::serve(repository, read, body)?,
        upload::Wants::Refused(why) => {
            body.drain().await?;
            let mut line = Vec::new();
            pkt_line::write(&mut line, format!("ERR upload-pack: {why}\n").as_bytes());
            return Ok(result(GitService::UploadPack, full(line)));
        }
    };
    let body = StreamBody::new(answer.map_ok(Frame::data)).boxed_unsync();
    Ok(result(GitService::UploadPack, body))
}

fn result(service: GitService, body: BoxBody) -> Response<BoxBody> {
    response(&format!("application/x-{}-result", service.name()), body)
}

fn response(kind: &str, body: BoxBody) -> Response<BoxBody> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    if let Ok(kind) = HeaderValue::from_str(kind) {
        headers.insert(header::CONTENT_TYPE, kind);
    }
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

/// Converts a failure of the server to an answer, and logs its cause.
fn answer(result: Result<Response<BoxBody>, BoxError>) -> Response<BoxBody> {
    result.unwrap_or_else(|error| {
        tracing::warn!(error, "a git request failed");
        text(StatusCode::INTERNAL_SERVER_ERROR, "Internal Server Error\n")
    })
}

fn unauthorized() -> Response<BoxBody> {
    let mut response = text(StatusCode::UNAUTHORIZED, "Unauthorized\n");
    let realm = HeaderValue::from_static("Basic realm=\"AWS CodeCommit\"");
    response
        .headers_mut()
        .insert(header::WWW_AUTHENTICATE, realm);
    response
}

fn text(status: StatusCode, body: &str) -> Response<BoxBody> {
    let mut response = response("text/plain", full(body.as_bytes().to_vec()));
    *response.status_mut() = status;
    response
}

fn full(bytes: Vec<u8>) -> BoxBody {
    let body = Full::new(Bytes::from(bytes));
    body.map_err(|never| match never {}).boxed_unsync()
}

/// Signs a user name and password for `repository` on `host` (without a port), valid for
/// 15 minutes from `time`.
pub fn git_credentials(
    account: &Account,
    repository: &str,
    credentials: &Credentials,
    host: &str,
    time: Timestamp,
) -> GitCredentials {
    let key = SigningKey {
        id: &credentials.access_key_id,
        secret: &credentials.secret_access_key,
        session_token: credentials.session_token.as_deref(),
    };
    let endpoint = Endpoint {
        region: &account.region,
        host,
        path: &format!("{PREFIX}{repository}"),
    };
    sign(&key, &endpoint, time)
}

impl GitHttp {
    /// Returns a URL for stock git with credentials that are valid for 15 minutes from
    /// `time`. It starts with the value of `set_base_url`.
    pub fn git_url(&self, repository: &str, credentials: &Credentials, time: Timestamp) -> String {
        let url = self.service.clone_url(repository);
        let (scheme, rest) = url.split_once("://").unwrap_or(("http", &url));
        let authority = rest.split('/').next().unwrap_or_default();
        let host = authority
            .rsplit_once(':')
            .map_or(authority, |(host, _)| host);
        let signed = git_credentials(&self.account, repository, credentials, host, time);
        format!("{scheme}://{}@{rest}", signed.userinfo())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_codecommits_own_paths_are_known() {
        let refs = |path| route(&Method::GET, path, "service=git-upload-pack");
        let known = refs("/v1/repos/demo/info/refs").unwrap();
        assert_eq!((known.repository, known.only_refs), ("demo", true));
        for path in [
            "/v1/repos/demo.git/info/refs",
            "/v1/repos/demo//info/refs",
            "/v1/repos/demo/info/refs/",
            "/v1/repos/../info/refs",
            "/v1/repos/demo",
            "/v1/repos/demo/HEAD",
            "/demo/info/refs",
        ] {
            assert_eq!(refs(path), None, "{path} is not CodeCommit's");
        }
        assert_eq!(route(&Method::GET, "/v1/repos/demo/info/refs", ""), None);
        let push = route(&Method::POST, "/v1/repos/demo/git-receive-pack", "").unwrap();
        assert_eq!(
            (push.service, push.only_refs),
            (GitService::ReceivePack, false)
        );
        assert_eq!(route(&Method::POST, "/v1/repos/demo/info/refs", ""), None);
    }
}
