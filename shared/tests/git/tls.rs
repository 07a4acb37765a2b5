//! TLS with self-signed certificates.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use branchline_core::ErrorKind;
use branchline_core::aws::{HttpSettings, git_http};
use branchline_core::git::HashKind;
use branchline_core::git::smart_http::{FetchRequest, TipNegotiator};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::PrivatePkcs8KeyDer;

use super::http::{all_tips, client_with, collect, settings, verify};
use branchline_test_support::git_server::GitServer;
use branchline_test_support::repo::Repo;

/// Starts a TLS proxy in front of a plain server; returns its certificate (PEM) and port.
async fn terminate(server: SocketAddr) -> (Vec<u8>, u16) {
    let made =
        rcgen::generate_simple_self_signed(["127.0.0.1".to_owned(), "git.invalid".to_owned()])
            .unwrap();
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let config = ServerConfig::builder_with_provider(default_provider().into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into())
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    // The task ends with the test's runtime.
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut secure) = acceptor.accept(stream).await else {
                    return;
                };
                let mut plain = TcpStream::connect(server).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut secure, &mut plain).await;
            });
        }
    });
    (made.cert.pem().into_bytes(), port)
}

#[tokio::test]
async fn https_requires_a_trusted_certificate() {
    let repo = Repo::with_history(HashKind::Sha1, 20, 5);
    let server = GitServer::new(&repo);
    let (certificate, port) = terminate(server.address()).await;
    let url = format!("https://127.0.0.1:{port}/r.git");
    let trusting = HttpSettings {
        certificates: vec![certificate],
        ..settings()
    };
    let upload = client_with(&url, &trusting).upload_pack(&[]).await.unwrap();
    let request = FetchRequest {
        wants: all_tips(&upload.advertisement),
        ..FetchRequest::default()
    };
    let mut fetched = upload
        .fetch(&request, &mut TipNegotiator::default())
        .await
        .unwrap();
    let pack = collect(&mut fetched).await.unwrap();
    verify(&repo, &pack, &[]).await;

    for broken in [
        "",
        "no certificate",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    ] {
        let broken = HttpSettings {
            certificates: vec![broken.into()],
            ..settings()
        };
        assert_eq!(git_http(&broken).unwrap_err().kind(), ErrorKind::Config);
    }

    let seen = server.requests().len();
    let error = client_with(&url, &settings())
        .upload_pack(&[])
        .await
        .map_err(branchline_core::Error::from)
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transport, "{}", error.report());
    assert!(
        error.report().contains("UnknownIssuer"),
        "{}",
        error.report()
    );
    assert_eq!(
        server.requests().len(),
        seen,
        "an untrusted server receives no request"
    );
}

/// Starts a proxy that connects every tunnel to `port`; returns its own port and its log.
async fn tunnel(to: u16) -> (u16, Arc<Mutex<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked = Arc::new(Mutex::new(String::new()));
    let noted = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let noted = Arc::clone(&noted);
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(client.read_u8().await.unwrap());
                }
                noted
                    .lock()
                    .unwrap()
                    .push_str(&String::from_utf8(head).unwrap());
                client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
                let mut server = TcpStream::connect(("127.0.0.1", to)).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    (port, asked)
}

#[tokio::test]
async fn https_goes_through_a_proxy_that_learns_only_the_host() {
    let repo = Repo::with_history(HashKind::Sha1, 20, 5);
    let server = GitServer::new(&repo);
    let (certificate, port) = terminate(server.address()).await;
    let (proxy, asked) = tunnel(port).await;
    let settings = HttpSettings {
        certificates: vec![certificate],
        https_proxy: Some(format!("http://p:w0rd@127.0.0.1:{proxy}")),
        ..settings()
    };
    let url = "https://me:s3cret@git.invalid/r.git";
    let upload = client_with(url, &settings).upload_pack(&[]).await.unwrap();
    assert_eq!(
        upload.advertisement.find("HEAD").map(|r| r.id),
        Some(repo.id("main"))
    );
    let asked = asked.lock().unwrap().to_ascii_lowercase();
    assert!(asked.starts_with("connect git.invalid:443 "), "{asked}");
    assert!(
        asked.contains("proxy-authorization: basic cdp3mhjk"),
        "{asked}"
    );
    assert!(
        !asked.contains("r.git") && !asked.contains("\r\nauthorization"),
        "{asked}"
    );
    assert!(server.requests()[0].headers.contains_key("authorization"));
    assert!(
        !server.requests()[0]
            .headers
            .contains_key("proxy-authorization")
    );
}
