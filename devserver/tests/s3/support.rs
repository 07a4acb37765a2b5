//! A server on a port that the system chooses, and clients for it.

use std::net::SocketAddr;

use aws_credential_types::Credentials;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{BehaviorVersion, Region};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{BucketVersioningStatus, VersioningConfiguration};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use branchline_dev::account::{self, Account};
use branchline_dev::s3::{S3Service, Store, service};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

pub(crate) const KEY_ID: &str = "AKIAEXAMPLE000000001";
pub(crate) const SECRET: &str = "a secret only for tests";
pub(crate) const BUCKET: &str = "artifacts";

/// A server that stops on drop.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) store: Store,
    pub(crate) account: Account,
    pub(crate) client: Client,
    pub(crate) folder: TempDir,
    accepting: JoinHandle<()>,
}

impl Server {
    /// Starts a server with the empty, unversioned bucket `artifacts`.
    pub(crate) async fn start() -> Self {
        let folder = TempDir::new().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let account = Account::new("123456789012", "eu-central-1");
        account.add(account::Credentials {
            access_key_id: KEY_ID.into(),
            secret_access_key: SECRET.into(),
            session_token: None,
            principal_arn: "arn:aws:iam::123456789012:user/dev".into(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let accepting = tokio::spawn(serve(listener, service(store.clone(), account.clone())));
        let client = client(
            address,
            Credentials::new(KEY_ID, SECRET, None, None, "test"),
        );
        client.create_bucket().bucket(BUCKET).send().await.unwrap();
        Self {
            address,
            store,
            account,
            client,
            folder,
            accepting,
        }
    }

    /// Like [`start`](Self::start), with versioning enabled.
    pub(crate) async fn versioned() -> Self {
        let server = Self::start().await;
        server.set_versioning(BucketVersioningStatus::Enabled).await;
        server
    }

    pub(crate) async fn set_versioning(&self, status: BucketVersioningStatus) {
        self.client
            .put_bucket_versioning()
            .bucket(BUCKET)
            .versioning_configuration(VersioningConfiguration::builder().status(status).build())
            .send()
            .await
            .unwrap();
    }

    /// Writes an object; returns its version.
    pub(crate) async fn put(&self, key: &str, body: &str) -> Option<String> {
        self.client
            .put_object()
            .bucket(BUCKET)
            .key(key)
            .body(ByteStream::from(body.as_bytes().to_vec()))
            .send()
            .await
            .unwrap()
            .version_id
    }

    /// Reads the current object as text.
    pub(crate) async fn text(&self, key: &str) -> String {
        let got = self.client.get_object().bucket(BUCKET).key(key).send();
        let bytes = got.await.unwrap().body.collect().await.unwrap().to_vec();
        String::from_utf8(bytes).unwrap()
    }

    /// Returns the number of blob files in the bucket's folder.
    pub(crate) fn blobs(&self) -> usize {
        let blobs = self
            .folder
            .path()
            .join("buckets")
            .join(BUCKET)
            .join("blobs");
        std::fs::read_dir(blobs).unwrap().count()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn serve(listener: TcpListener, service: S3Service) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let service = service.clone();
        tokio::spawn(async move {
            let answer = hyper::service::service_fn(move |request| {
                let service = service.clone();
                async move { Ok::<_, std::convert::Infallible>(service.call(request).await) }
            });
            // Errors are expected, because tests cut connections.
            let _ = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), answer)
                .await;
        });
    }
}

/// Creates a client with these credentials that does not retry.
pub(crate) fn client(address: SocketAddr, credentials: Credentials) -> Client {
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("eu-central-1"))
        .endpoint_url(format!("http://{address}"))
        .force_path_style(true)
        .credentials_provider(credentials)
        .retry_config(aws_sdk_s3::config::retry::RetryConfig::disabled())
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .build();
    Client::from_conf(config)
}

/// Returns the status and code of an error.
pub(crate) fn refusal<T: std::fmt::Debug, E: ProvideErrorMetadata + std::fmt::Debug>(
    result: Result<T, SdkError<E, HttpResponse>>,
) -> (u16, String) {
    match result.expect_err("the request must be refused") {
        SdkError::ServiceError(error) => (
            error.raw().status().as_u16(),
            error.err().code().unwrap_or_default().to_owned(),
        ),
        other => panic!("the server must answer, but: {other:?}"),
    }
}

/// Builds the expected value of [`refusal`].
pub(crate) fn code(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}
