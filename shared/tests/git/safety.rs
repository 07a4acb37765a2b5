//! Servers that try to get at credentials, or at services next to the function.

use std::sync::Arc;

use branchline_core::ErrorKind;
use branchline_core::aws::{HttpSettings, git_http};
use branchline_core::git::HashKind;
use branchline_core::git::smart_http::{
    CredentialSource, Credentials, NoCredentials, RepositoryUrl, SmartHttp,
};
use branchline_core::settings::Settings;

use super::http::{client_with, settings};
use branchline_test_support::git_server::{GitServer, Response};
use branchline_test_support::repo::Repo;

/// 169.254.169.254 as one number, which the system's resolver reads as an address.
const METADATA_AS_A_NAME: &str = "2852039166";

fn repo() -> Repo {
    Repo::with_history(HashKind::Sha1, 3, 1)
}

/// Requests the refs of `url`, and returns the report of the error.
async fn refused(url: &str, settings: &HttpSettings) -> String {
    let error = client_with(url, settings).upload_pack(&[]).await;
    let error = branchline_core::Error::from(error.expect_err(url));
    assert_eq!(error.kind(), ErrorKind::Config, "{}", error.report());
    error.report()
}

#[tokio::test]
async fn a_metadata_service_is_refused_as_an_address_a_name_and_a_redirect() {
    for host in [
        "169.254.169.254",
        "[::ffff:169.254.169.254]",
        "[fd00:ec2::254]",
        METADATA_AS_A_NAME,
    ] {
        let report = refused(&format!("http://{host}/r.git"), &settings()).await;
        assert!(report.contains("address"), "{report}");
        assert!(report.contains("hint:"), "{report}");
        let repo = repo();
        let to = format!("http://{host}/x/info/refs?service=git-upload-pack");
        let server = GitServer::with(&repo, move |_| Response::Redirect(302, to.clone()));
        refused(&server.url(), &settings()).await;
        assert_eq!(server.requests().len(), 1);
    }
}

#[tokio::test]
async fn a_loopback_server_gets_no_connection_where_loopback_is_refused() {
    let repo = repo();
    let server = GitServer::new(&repo);
    let strict = HttpSettings {
        loopback: false,
        ..settings()
    };
    let port = server.address().port();
    for host in [
        "127.0.0.1",
        "localhost",
        "2130706433",
        "0.0.0.0",
        "[::ffff:127.0.0.1]",
    ] {
        let report = refused(&format!("http://{host}:{port}/r.git"), &strict).await;
        assert!(report.contains("loopback"), "{host}: {report}");
    }
    assert_eq!(server.requests().len(), 0);
    let url = format!("http://localhost:{port}/r.git");
    client_with(&url, &settings())
        .upload_pack(&[])
        .await
        .unwrap();
}

#[tokio::test]
async fn the_operators_proxy_may_be_at_a_loopback_address() {
    let repo = repo();
    let proxy = GitServer::new(&repo);
    let strict = HttpSettings {
        loopback: false,
        http_proxy: Some(format!("http://localhost:{}", proxy.address().port())),
        ..settings()
    };
    let client = client_with("http://git.invalid/r.git", &strict);
    client.upload_pack(&[]).await.unwrap();
    refused("http://169.254.169.254/r.git", &strict).await;
    assert!(
        proxy.requests()[0]
            .target
            .starts_with("http://git.invalid/")
    );
    assert!(
        proxy
            .requests()
            .iter()
            .all(|seen| !seen.target.contains("169.254")),
        "the proxy is not asked for a metadata service"
    );
}

#[test]
fn loopback_is_refused_in_lambda_unless_the_services_of_aws_are_there_too() {
    let read = |variables: &[(&str, &str)]| {
        let settings: Settings = variables.iter().copied().collect();
        HttpSettings::read(&settings).loopback
    };
    let lambda = ("AWS_LAMBDA_RUNTIME_API", "127.0.0.1:9001");
    assert!(read(&[]));
    assert!(!read(&[lambda]));
    assert!(!read(&[
        lambda,
        ("AWS_ENDPOINT_URL", "https://vpce.example")
    ]));
    for endpoint in [
        "http://127.0.0.1:4566",
        "http://localhost:4566/",
        "http://[::1]:1",
    ] {
        assert!(
            read(&[lambda, ("AWS_ENDPOINT_URL", endpoint)]),
            "{endpoint}"
        );
    }
}

#[tokio::test]
async fn a_servers_message_is_cut_to_200_printable_characters() {
    let repo = repo();
    let body = format!("\u{1b}[31mroot:x:0:0\r\n\0{}SECRET", "\u{e9}".repeat(200));
    let server = GitServer::with(&repo, move |_| {
        Response::Fixed(500, "text/plain", body.clone().into_bytes())
    });
    let error = client_with(&server.url(), &settings())
        .upload_pack(&[])
        .await;
    let message = error.expect_err("the server fails").to_string();
    let shown = message
        .split_once("500 Internal Server Error: ")
        .expect(&message)
        .1;
    assert_eq!(shown.chars().count(), 200, "{shown}");
    assert!(shown.starts_with("[31mroot:x:0:0 \u{e9}\u{e9}"), "{shown}");
    assert!(!shown.contains("SECRET") && !shown.contains(char::is_control));
}

struct Always;

#[async_trait::async_trait]
impl CredentialSource for Always {
    async fn credentials(
        &self,
        _: &RepositoryUrl,
    ) -> branchline_core::git::Result<Option<Credentials>> {
        Ok(Some(Credentials::new("user", "hunter2")))
    }
}

#[tokio::test]
async fn a_password_is_never_sent_without_encryption() {
    let repo = repo();
    let proxy = GitServer::new(&repo);
    let settings = HttpSettings {
        http_proxy: Some(format!("http://{}", proxy.address())),
        ..settings()
    };
    let open = |url: &str, source: Arc<dyn CredentialSource>| {
        let url = RepositoryUrl::new(url).unwrap();
        SmartHttp::new(git_http(&settings).unwrap(), url, source)
    };
    for client in [
        open("http://git.invalid/r.git", Arc::new(Always)),
        open(
            "http://user:hunter2@git.invalid/r.git",
            Arc::new(NoCredentials),
        ),
    ] {
        let error = client.upload_pack(&[]).await.unwrap_err();
        assert!(
            error.report().contains("without encryption"),
            "{}",
            error.report()
        );
        assert!(!error.report().contains("hunter2"));
    }
    assert_eq!(proxy.requests().len(), 0);
    let open = open("http://git.invalid/r.git", Arc::new(NoCredentials));
    open.upload_pack(&[]).await.unwrap();
}
