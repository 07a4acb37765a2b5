//! Servers that fail or send wrong data.

use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use branchline_core::aws::{HttpSettings, git_http};
use branchline_core::git::HashKind;
use branchline_core::git::advertisement::Version;
use branchline_core::git::smart_http::{FetchRequest, RepositoryUrl, SmartHttp, TipNegotiator};
use branchline_core::{Error, ErrorKind, Result};

use super::http::{BOTH, all_tips, client, client_with, collect, impatient, settings, verify};
use branchline_test_support::git_server::{GitServer, Response};
use branchline_test_support::http::ReceivedRequest;
use branchline_test_support::repo::Repo;
use branchline_test_support::wrapped_remote::{CountingCredentials, NumberedPasswords};

fn small() -> Repo {
    Repo::with_history(HashKind::Sha1, 20, 10)
}

/// Clones in the given version; returns the first error, if any.
async fn attempt(client: &SmartHttp) -> Result<()> {
    let upload = client.upload_pack(&[]).await?;
    let request = FetchRequest {
        wants: all_tips(&upload.advertisement),
        ..FetchRequest::default()
    };
    let mut fetched = upload
        .fetch(&request, &mut TipNegotiator::default())
        .await?;
    collect(&mut fetched).await.map(drop)
}

async fn failure(server: &GitServer, settings: &HttpSettings, version: Version) -> Error {
    let client = client_with(&server.url(), settings).with_version(version);
    attempt(&client)
        .await
        .expect_err("the server does not serve")
}

#[tokio::test]
async fn http_statuses_become_error_kinds() {
    let repo = small();
    let xml = "<RepositoryDoesNotExistException/>";
    let denied = "<AccessDeniedException><Message>Invalid request</Message>";
    for (status, body, kind) in [
        (401, "", ErrorKind::AccessDenied),
        (403, denied, ErrorKind::AccessDenied),
        (403, xml, ErrorKind::NotFound),
        (404, "gone", ErrorKind::NotFound),
        (413, "", ErrorKind::FileTooLarge),
        (415, "", ErrorKind::Config),
        (429, "", ErrorKind::Throttled),
        (400, "Rate Exceeded", ErrorKind::Throttled),
        (500, "", ErrorKind::Transport),
        (503, "", ErrorKind::Transport),
        (204, "", ErrorKind::Config),
    ] {
        for method in ["GET", "POST"] {
            let server = GitServer::with(&repo, move |seen: &ReceivedRequest| {
                if seen.method == method {
                    Response::Fixed(status, "text/plain", body.into())
                } else {
                    Response::Git
                }
            });
            let error = failure(&server, &settings(), Version::V0).await;
            assert_eq!(error.kind(), kind, "{status} {body}: {}", error.report());
            assert!(error.hint().is_some());
        }
    }
}

#[tokio::test]
async fn an_html_page_is_reported_as_not_a_repository() {
    let repo = small();
    let page = b"<html>please log in</html>".to_vec();
    let server = GitServer::with(&repo, move |_| {
        Response::Fixed(200, "text/html", page.clone())
    });
    let error = failure(&server, &settings(), Version::V2).await;
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains("text/html"), "{error}");
    let dumb = GitServer::with(&repo, |_| Response::Fixed(200, "text/plain", b"x".to_vec()));
    assert_eq!(
        failure(&dumb, &settings(), Version::V2).await.kind(),
        ErrorKind::Config
    );
}

#[tokio::test]
async fn a_connection_cut_at_any_point_is_a_transport_error() {
    let repo = small();
    for method in ["GET", "POST"] {
        for bytes in [0, 1, 3, 30, 100, 120] {
            let server = GitServer::with(&repo, move |seen: &ReceivedRequest| {
                if seen.method == method {
                    Response::Cut(bytes)
                } else {
                    Response::Git
                }
            });
            for version in BOTH {
                let error = failure(&server, &settings(), version).await;
                assert_eq!(error.kind(), ErrorKind::Transport, "{}", error.report());
            }
        }
    }
}

#[tokio::test]
async fn a_well_formed_response_that_ends_early_is_a_transport_error() {
    let repo = small();
    let whole: &[u8] = b"001e# service=git-upload-pack\n0000";
    for (bytes, kind) in [
        (&b""[..], ErrorKind::Transport),
        (&whole[..20], ErrorKind::Transport),
        (whole, ErrorKind::Transport),
        (b"zzzz", ErrorKind::Corrupt),
        (b"001f# service=git-receive-pack\n0000", ErrorKind::Corrupt),
        (b"0010ERR go away\n", ErrorKind::Transport),
        (b"0016ERR Access denied\n", ErrorKind::AccessDenied),
        (b"001eERR Repository not found.\n", ErrorKind::NotFound),
    ] {
        let server = GitServer::with(&repo, move |_| Response::Bytes(bytes.to_vec()));
        let error = failure(&server, &settings(), Version::V0).await;
        assert_eq!(error.kind(), kind, "{}", error.report());
    }
}

#[tokio::test]
async fn silence_ends_in_bounded_time() {
    let repo = small();
    let rules: [fn(&ReceivedRequest) -> Response; 3] = [
        |_| Response::Silence,
        |_| Response::Stall(100),
        |seen| match seen.method.as_str() {
            "POST" => Response::Stall(300),
            _ => Response::Git,
        },
    ];
    for rule in rules {
        let server = GitServer::with(&repo, rule);
        let start = Instant::now();
        let error = failure(&server, &impatient(), Version::V0).await;
        assert_eq!(error.kind(), ErrorKind::Transport, "{}", error.report());
        assert!(start.elapsed() < Duration::from_secs(10));
    }
    let nobody = client_with("http://127.0.0.1:1/r.git", &settings());
    assert_eq!(
        attempt(&nobody).await.unwrap_err().kind(),
        ErrorKind::Transport
    );
}

#[tokio::test]
async fn names_that_git_does_not_allow_are_ignored_as_git_does() {
    let repo = small();
    let id = "1".repeat(40);
    let packets = |lines: &[String]| -> Vec<u8> {
        let lines = lines
            .iter()
            .map(|line| format!("{:04x}{line}", line.len() + 4));
        let body: String = lines.chain(["0000".to_owned()]).collect();
        body.into_bytes()
    };
    for name in [
        "../x",
        "refs/heads/a.lock",
        "refs/heads/a\x01b",
        "refs/../x",
        "x",
        "",
    ] {
        let body = packets(&[
            format!("{id} refs/heads/a\0side-band-64k symref=HEAD:{name}\n"),
            format!("{id} {name}\n"),
            format!("{id} {name}^{{}}\n"),
            format!("{id} refs/heads/b\n"),
        ]);
        let server = GitServer::with(&repo, move |_| Response::Bytes(body.clone()));
        let client = client_with(&server.url(), &settings()).with_version(Version::V0);
        let read = client.upload_pack(&[]).await.unwrap().advertisement;
        // In version 2, as a ref and as a symref target.
        let body = packets(&[
            format!("{id} refs/heads/a\n"),
            format!("{id} {name} peeled:{id}\n"),
            format!("{id} HEAD symref-target:{name}\n"),
            format!("{id} refs/heads/b\n"),
        ]);
        let server = GitServer::with(&repo, move |seen: &ReceivedRequest| {
            match seen.method.as_str() {
                "GET" => Response::Bytes(b"000eversion 2\n000cls-refs\n0000".to_vec()),
                _ => Response::Bytes(body.clone()),
            }
        });
        let client = client_with(&server.url(), &settings()).with_version(Version::V2);
        let read_v2 = client.upload_pack(&[]).await.unwrap().advertisement;
        for read in [read, read_v2] {
            let names = read.refs.iter().filter(|found| found.name != "HEAD");
            let names: Vec<_> = names.map(|found| found.name.to_string()).collect();
            assert_eq!(names, ["refs/heads/a", "refs/heads/b"], "{name:?}");
            assert!(read.refs.iter().all(|found| found.symref_target.is_none()));
            let shown = branchline_core::git::escaped_excerpt(name.as_bytes());
            assert_eq!((read.ignored.count, read.ignored.names), (1, vec![shown]));
        }
    }
}

#[tokio::test]
async fn refs_of_a_hostile_server_are_corrupt() {
    let repo = small();
    let id = "1".repeat(40);
    // Refs without end.
    let line = format!("{id} refs/heads/{}\n", "x".repeat(1000));
    let line = format!("{:04x}{line}", line.len() + 4);
    let body = line.repeat((70 << 20) / line.len()).into_bytes();
    let server = GitServer::with(&repo, move |_| Response::Bytes(body.clone()));
    let error = failure(&server, &settings(), Version::V0).await;
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{}", error.report());
}

fn basic(text: &str) -> String {
    let encoded = base64::engine::general_purpose::STANDARD.encode(text);
    format!("Basic {encoded}")
}

#[tokio::test]
async fn credentials_are_new_for_each_request_and_stay_with_their_host() {
    let repo = small();
    let elsewhere = GitServer::new(&repo);
    let away = format!("{}/info/refs?service=git-upload-pack", elsewhere.url());
    let server = GitServer::with(&repo, move |seen: &ReceivedRequest| {
        if seen.target.starts_with("/old") {
            Response::Redirect(301, "/r.git/info/refs?service=git-upload-pack".into())
        } else if seen.target.starts_with("/away") {
            Response::Redirect(302, away.clone())
        } else if seen.target.starts_with("/loop") {
            Response::Redirect(307, seen.target.clone())
        } else if seen.target.starts_with("/login") {
            Response::Redirect(302, "/users/sign_in".into())
        } else {
            Response::Git
        }
    });
    let base = format!("http://{}", server.address());
    let source = Arc::new(CountingCredentials::new(NumberedPasswords::default()));
    let at = |path: &str| {
        let url = RepositoryUrl::new(&format!("{base}{path}")).unwrap();
        SmartHttp::new(git_http(&settings()).unwrap(), url, source.clone())
    };
    attempt(&at("/old")).await.unwrap();
    let sent: Vec<_> = server
        .requests()
        .iter()
        .map(|seen| seen.headers["authorization"].clone())
        .collect();
    let expected: Vec<_> = (0..sent.len())
        .map(|n| basic(&format!("user:s3cret-{n}")))
        .collect();
    assert_eq!(sent, expected);
    let asked = source.requests();
    assert_eq!(
        asked,
        [
            "127.0.0.1/old",
            "127.0.0.1/r.git",
            "127.0.0.1/r.git",
            "127.0.0.1/r.git"
        ]
    );

    attempt(&at("/away")).await.unwrap();
    for seen in elsewhere.requests() {
        assert!(
            !seen.headers.contains_key("authorization"),
            "another port, no credentials"
        );
    }
    for path in ["/loop", "/login"] {
        let error = attempt(&at(path)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Transport, "{}", error.report());
    }
    // A user in the URL takes precedence over the source, and is never printed.
    let url = RepositoryUrl::new(&format!("http://me:s3cret@{}/r.git", server.address())).unwrap();
    let client = SmartHttp::new(git_http(&settings()).unwrap(), url, source.clone());
    attempt(&client).await.unwrap();
    assert_eq!(
        server.requests().last().unwrap().headers["authorization"],
        basic("me:s3cret")
    );
    assert!(!format!("{client:?}").contains("s3cret"));
    let gone = GitServer::with(&repo, |_| Response::Fixed(500, "text/plain", Vec::new()));
    let url = format!("http://me:s3cret@{}/r.git", gone.address());
    let error = attempt(&client_with(&url, &settings())).await.unwrap_err();
    assert!(!format!("{error:?} {}", error.report()).contains("s3cret"));
}

#[tokio::test]
async fn a_redirected_post_is_refused() {
    let repo = small();
    let server = GitServer::with(&repo, |seen: &ReceivedRequest| match seen.method.as_str() {
        "POST" => Response::Redirect(307, "/r.git/git-upload-pack".into()),
        _ => Response::Git,
    });
    let error = failure(&server, &settings(), Version::V2).await;
    assert_eq!(error.kind(), ErrorKind::Transport);
}

#[tokio::test]
async fn proxies_are_used_as_given() {
    let repo = small();
    let proxy = GitServer::new(&repo);
    let with = |no_proxy: Option<&str>| HttpSettings {
        http_proxy: Some(format!("http://p:w0rd@{}", proxy.address())),
        no_proxy: no_proxy.map(str::to_owned),
        ..settings()
    };
    // A host name that only the proxy can resolve.
    attempt(&client_with("http://git.invalid/r.git", &with(None)))
        .await
        .unwrap();
    let seen = proxy.requests();
    assert!(
        seen[0]
            .target
            .starts_with("http://git.invalid/r.git/info/refs")
    );
    assert_eq!(seen[0].headers["proxy-authorization"], basic("p:w0rd"));
    let direct = GitServer::new(&repo);
    attempt(&client_with(&direct.url(), &with(Some("127.0.0.1"))))
        .await
        .unwrap();
    assert_eq!(
        proxy.requests().len(),
        seen.len(),
        "this host goes without a proxy"
    );
    assert!(!format!("{:?}", with(None)).contains("w0rd"));
    let broken = HttpSettings {
        https_proxy: Some("ftp://p:w0rd@x".into()),
        ..settings()
    };
    let error = git_http(&broken).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(!error.report().contains("w0rd"));
}

#[tokio::test]
async fn a_slow_reader_applies_back_pressure_and_receives_the_whole_pack() {
    let repo = Repo::with_history(HashKind::Sha1, 60, 40);
    let server = GitServer::new(&repo);
    let upload = client(&server.url(), Version::V2)
        .upload_pack(&[])
        .await
        .unwrap();
    let request = FetchRequest {
        wants: all_tips(&upload.advertisement),
        ..FetchRequest::default()
    };
    let mut fetched = upload
        .fetch(&request, &mut TipNegotiator::default())
        .await
        .unwrap();
    let mut pack = Vec::new();
    while let Some(chunk) = fetched.pack.chunk().await.unwrap() {
        pack.extend_from_slice(&chunk);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    verify(&repo, &pack.into(), &[]).await;
}
